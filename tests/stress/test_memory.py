"""Memory does not follow the size of a layer: 5 GiB stay under 200 MiB (LAYERFS_GIB: the size, default 5)."""

from __future__ import annotations

import os
import random
import subprocess
import sys
import tarfile
from collections.abc import Iterator
from pathlib import Path

import pytest

import layerfs

pytestmark = pytest.mark.slow

GIB = float(os.environ.get("LAYERFS_GIB", "5"))
FILE = 96 << 20


def big_layer() -> Iterator[bytes]:
    """Copies of two big files and of a few small ones under many names, so that the store stays small."""
    chance = random.Random(3)
    contents = [chance.randbytes(FILE), chance.randbytes(FILE - 4097)]
    small = [chance.randbytes(700 + 900 * n) for n in range(20)]
    for number in range(int(GIB * (1 << 30) / FILE)):
        yield from member(f"big/{number}", contents[number % 2])
        for count in range(100):
            yield from member(f"small/{number}/{count}", small[count % 20])
    yield bytes(1024)


def member(name: str, data: bytes) -> Iterator[bytes]:
    info = tarfile.TarInfo(name)
    info.size = len(data)
    yield info.tobuf(tarfile.USTAR_FORMAT)
    yield data
    yield bytes(-len(data) % 512)


PROGRAM = """
import re, sys
from layerfs.cli.app import run
code = run(sys.argv[2:])
open(sys.argv[1], "w").write(re.search(r"VmHWM:\\s*(\\d+) kB", open("/proc/self/status").read())[1])
sys.exit(code)
"""


def peak(store: Path, stream: Iterator[bytes]) -> int:
    """MiB that `layerfs import -` had in memory at most, by its own account (wait4's begins with pytest's size)."""
    answer = store.parent / "peak"
    command = [sys.executable, "-c", PROGRAM, answer, "--store", store, "import", "-", "big:1"]
    child = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL)
    assert child.stdin is not None
    with child.stdin as pipe:
        for piece in stream:
            pipe.write(piece)
    assert child.wait() == 0
    return int(answer.read_text()) // 1024


def test_a_huge_layer_is_read_in_little_memory(tmp_path: Path) -> None:
    assert peak(tmp_path / "store", big_layer()) < 200
    assert sum(place.stat().st_blocks * 512 for place in tmp_path.rglob("*")) < 300 << 20
    with layerfs.Store(tmp_path / "store") as store:
        assert store.image("big:1").layers[0].tar_size > GIB * (1 << 30) * 0.9
