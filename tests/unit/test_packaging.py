"""What a wheel and an sdist hold, and that the extension keeps to Python's stable ABI."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest

PROJECT = Path(__file__).resolve().parents[2]
NOT_SOURCE = shutil.ignore_patterns("__pycache__", "*.so", "libexec", "tests", "docs", ".*", "shared")
PURE = {"py.typed", "_native.pyi"}
EXECUTABLES = {path.name for path in (PROJECT / "layerfs/libexec").glob("layerfs-*")}


def _left_out(directory: str, names: list[str]) -> set[str]:
    """Not `layerfs/build`, but what building leaves at the top."""
    return NOT_SOURCE(directory, names) | ({"build"} if Path(directory) == PROJECT else set())


@pytest.fixture(scope="module")
def dist(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the sources with a wheel and an sdist beside."""
    place = tmp_path_factory.mktemp("dist")
    source = place / "source"
    shutil.copytree(PROJECT, source, ignore=_left_out, symlinks=True)
    code = f"from setuptools import build_meta as b; b.build_wheel({str(place)!r}); b.build_sdist({str(place)!r})"
    done = subprocess.run([sys.executable, "-c", code], cwd=source, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return place


def test_the_wheel_is_for_all_pythons_from_3_11(dist: Path) -> None:
    (wheel,) = dist.glob("*.whl")
    assert wheel.name.endswith(f"-cp311-abi3-linux_{os.uname().machine}.whl")


def test_the_wheel_holds_the_compiled_parts_and_types(dist: Path) -> None:
    (wheel,) = dist.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        modes = {info.filename: info.external_attr >> 16 for info in archive.infolist()}
    extensions = [name for name in modes if name.endswith(".so")]
    assert sorted(extensions) == ["layerfs/_native.abi3.so", "layerfs/_server.abi3.so"]
    assert {f"layerfs/{name}" for name in PURE} | {"layerfs/build/parse.py"} <= modes.keys()
    executables = {name.rpartition("/")[2]: mode for name, mode in modes.items() if "/libexec/" in name}
    assert executables.keys() == EXECUTABLES
    assert all(mode & 0o777 == 0o755 for mode in executables.values())
    assert not [name for name in modes if not name.startswith(("layerfs/", "layerfs-"))]


def test_the_sdist_can_be_built(dist: Path, tmp_path: Path) -> None:
    (sdist,) = dist.glob("*.tar.gz")
    with tarfile.open(sdist) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
        there = {str(path.relative_to(PROJECT)) for path in (PROJECT / "layerfs_native").rglob("*.[ch]")}
    assert there <= names
    assert {"Makefile", "LICENSE", "README.md", "CHANGELOG.md", "setup.py", "tools/system.sh"} <= names


def test_the_extension_asks_for_the_stable_abi_alone() -> None:
    """Names with an underscore are private unless the stable ABI lists them."""
    tool = shutil.which("nm")
    extension = PROJECT / "layerfs/_native.abi3.so"
    if tool is None or not extension.exists():
        pytest.skip("needs nm and the compiled extension")
    out = subprocess.run([tool, "-D", "--undefined-only", extension], capture_output=True, text=True, check=True).stdout
    names = {line.split()[-1] for line in out.splitlines()}
    private = {name for name in names if name.startswith("_Py")}
    listed = {"_Py_NoneStruct", "_Py_TrueStruct", "_Py_FalseStruct", "_Py_Dealloc", "_Py_NotImplementedStruct"}
    sized = {name for name in private if name.endswith("_SizeT")}  # what "#" in format strings turns calls into
    assert private - listed - sized == set()
