"""Builds the C extension and the small executables beside it: in parallel, and only what has changed.

LAYERFS_SANITIZE=address,undefined (or thread) builds with sanitizers; `make sanitize` does, in directories of its own.
"""

from __future__ import annotations

import fcntl
import os
import sys
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from setuptools import Extension, setup
from setuptools.command.build_ext import build_ext

HERE = Path(__file__).parent
NATIVE = Path("layerfs_native")
CFLAGS = ["-std=gnu11", "-O2", "-g", "-fvisibility=hidden", "-pthread", "-Wall", "-Wextra", "-Wno-unused-parameter"]
# An implicit declaration would link against what the stable ABI does not have.
CFLAGS += ["-Werror=implicit-function-declaration", "-Werror=incompatible-pointer-types", "-Werror=int-conversion"]
LDFLAGS = ["-pthread"]
if SANITIZE := os.environ.get("LAYERFS_SANITIZE"):
    CFLAGS += [f"-fsanitize={SANITIZE}", "-fno-sanitize-recover=undefined", "-fno-omit-frame-pointer", "-O1", "-Werror"]
    CFLAGS += ["-fno-wrapv"]  # Python's own flags say -fwrapv, which hides overflows
    LDFLAGS += [f"-fsanitize={SANITIZE}"]


def sources(*folders: str) -> list[str]:
    return sorted(str(path) for folder in folders for path in (NATIVE / folder).glob("*.c"))


TREE_READER = ("error", "erofs_directory", "erofs_read", "erofs_xattr")  # what the FUSE server needs of core
EXECUTABLES = {  # each becomes layerfs/libexec/NAME, package data of the wheel
    "layerfs-run": sources("runtime"),
    "layerfs-fuse": [*sources("fuse"), *(f"{NATIVE}/core/{name}.c" for name in TREE_READER)],
}
SERVER = [name for name in EXECUTABLES["layerfs-fuse"] if not name.endswith("/main.c")]


def extension(name: str, files: Sequence[str]) -> Extension:
    return Extension(
        name,
        sources=list(files),
        depends=sorted(map(str, [*NATIVE.rglob("*.h"), "setup.py"])),
        include_dirs=[str(NATIVE / "include")],
        extra_compile_args=CFLAGS,
        extra_link_args=LDFLAGS,
        define_macros=[("Py_LIMITED_API", "0x030b0000")],
        py_limited_api=True,
    )


EXTENSION = extension("layerfs._native", sources("core", "module"))
EMBEDDED = extension("layerfs._server", [*sources("embed"), *SERVER])


def newer(target: Path, needed: Sequence[str]) -> bool:
    """Whether the target is there and newer than all it is made of."""
    return target.exists() and target.stat().st_mtime_ns > max(Path(name).stat().st_mtime_ns for name in needed)


class BuildNative(build_ext):
    """build_ext with one thread a processor and object files kept between builds; executables go to layerfs/libexec."""

    def finalize_options(self) -> None:
        super().finalize_options()
        if self.editable_mode:  # it would compile all into a temporary directory each time
            self.build_temp = str(Path("build", f"temp.{self.plat_name}-{sys.implementation.cache_tag}"))

    def run(self) -> None:
        Path("build").mkdir(exist_ok=True)
        with Path("build", "lock").open("w") as lock:  # two builds at once would write the same files
            fcntl.flock(lock, fcntl.LOCK_EX)
            super().run()

    def build_extensions(self) -> None:
        self.compiler.compile = self.stale_at_once(self.compiler.compile)
        super().build_extensions()
        for name, files in EXECUTABLES.items():
            if files:
                self.build_executable(name, files)

    def stale_at_once(self, compile_: Callable[..., list[str]]) -> Callable[..., list[str]]:
        """compiler.compile over the stale ones of many sources at once."""

        def run(files: Sequence[str], output_dir: str, depends: Sequence[str] = (), **options: Any) -> list[str]:
            settings = repr([self.compiler.compiler_so, sorted(options.items())])
            stamp = Path(output_dir, "settings")
            same = not self.force and stamp.exists() and stamp.read_text() == settings
            stamp.unlink(missing_ok=True)
            objects = self.compiler.object_filenames(list(files), output_dir=output_dir)
            pairs = zip(files, map(Path, objects), strict=True)
            stale = [file for file, target in pairs if not (same and newer(target, [file, *depends]))]
            with ThreadPoolExecutor(len(os.sched_getaffinity(0))) as pool:
                list(pool.map(lambda file: compile_([file], output_dir=output_dir, **options), stale))
            stamp.parent.mkdir(parents=True, exist_ok=True)
            stamp.write_text(settings)
            return objects

        return run

    def build_executable(self, name: str, files: Sequence[str]) -> None:
        target = Path(self.build_lib, "layerfs", "libexec", name)
        if not self.force and newer(target, [*files, *EXTENSION.depends]):
            return
        objects = self.compiler.compile(
            files,
            output_dir=self.build_temp,
            macros=EXTENSION.define_macros,
            include_dirs=EXTENSION.include_dirs,
            debug=self.debug,
            extra_postargs=CFLAGS,
            depends=EXTENSION.depends,
        )
        self.compiler.link_executable(objects, name, output_dir=str(target.parent), extra_postargs=LDFLAGS)

    def copy_extensions_to_source(self) -> None:
        super().copy_extensions_to_source()
        folder = HERE / "layerfs" / "libexec"
        folder.mkdir(exist_ok=True)
        for name in EXECUTABLES:
            built = Path(self.build_lib, "layerfs", "libexec", name)
            if built.exists() and not newer(folder / name, [str(built)]):
                temporary = folder / f".{name}.{os.getpid()}"
                self.copy_file(str(built), str(temporary), preserve_times=False)
                temporary.rename(folder / name)  # one that runs may not be written to


setup(
    ext_modules=[EXTENSION, EMBEDDED],
    cmdclass={"build_ext": BuildNative},
    options={"bdist_wheel": {"py_limited_api": "cp311"}},
)
