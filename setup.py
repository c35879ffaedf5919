"""Builds the C extension and the small executables beside it."""

import os
import shutil
import subprocess
import sysconfig
from pathlib import Path

from setuptools import Extension, setup
from setuptools.command.build_ext import build_ext

HERE = Path(__file__).parent
NATIVE = Path("layerfs_native")
CFLAGS = ["-std=gnu11", "-O2", "-g", "-fvisibility=hidden", "-Wall", "-Wextra", "-Wno-unused-parameter", "-pthread"]
SANITIZE = os.environ.get("LAYERFS_SANITIZE", "")  # "address,undefined" or "thread": for the sanitizer builds of `make`
if SANITIZE:
    CFLAGS += [f"-fsanitize={SANITIZE}", "-fno-omit-frame-pointer", "-O1"]
LDFLAGS = ["-pthread"] + ([f"-fsanitize={SANITIZE}"] if SANITIZE else [])
EXECUTABLES = {"layerfs-run": sorted(map(str, (NATIVE / "runtime").glob("*.c")))}


class BuildNative(build_ext):
    """build_ext, plus plain executables into layerfs/libexec (they are package data of the wheel)."""

    def run(self) -> None:
        super().run()
        base = HERE if self.inplace else Path(self.build_lib)
        target = base / "layerfs" / "libexec"
        target.mkdir(parents=True, exist_ok=True)
        compiler = os.environ.get("CC") or sysconfig.get_config_var("CC").split()[0]
        compiler = compiler if shutil.which(compiler) else "cc"
        for name, sources in EXECUTABLES.items():
            if not sources:
                continue
            temporary = target / f".{name}.{os.getpid()}"
            subprocess.run(
                [compiler, *CFLAGS, f"-I{NATIVE / 'include'}", *sources, "-o", str(temporary), *LDFLAGS], check=True
            )
            temporary.rename(target / name)


setup(
    ext_modules=[
        Extension(
            "layerfs._native",
            sources=sorted(map(str, [*NATIVE.glob("core/*.c"), *NATIVE.glob("module/*.c")])),
            include_dirs=[str(NATIVE / "include")],
            depends=sorted(map(str, NATIVE.rglob("*.h"))),
            extra_compile_args=CFLAGS,
            extra_link_args=LDFLAGS,
            define_macros=[("Py_LIMITED_API", "0x030b0000")],
            py_limited_api=True,
        )
    ],
    cmdclass={"build_ext": BuildNative},
    options={"bdist_wheel": {"py_limited_api": "cp311"}},
)
