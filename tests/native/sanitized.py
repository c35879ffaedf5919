"""Programs of layerfs_native/fuzz that take files, compiled with the address and undefined-behaviour sanitizers."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path

import pytest

from tests.conftest import PROJECT

NATIVE = PROJECT / "layerfs_native"
SANITIZE = ["-fsanitize=address,undefined", "-fno-sanitize-recover=undefined"]
FLAGS = ["-std=gnu11", "-g", "-O1", f"-I{NATIVE / 'include'}", "-pthread"]


def compile_sanitized(out: Path, sources: Sequence[Path], *flags: str) -> Path:
    """The program `out`. Without a compiler or its sanitizers the test is skipped."""
    compiler = shutil.which("gcc") or shutil.which("cc")
    if compiler is None:
        pytest.skip("no C compiler")
    command = [compiler, *FLAGS, *flags, *SANITIZE, *map(str, sources), "-o", str(out)]
    built = subprocess.run(command, capture_output=True)
    if built.returncode and b"cannot find" in built.stderr:
        pytest.skip("the compiler has no sanitizers")
    assert not built.returncode, built.stderr.decode()
    return out
