"""The FUSE server's request parser under sanitizers: the fuzzer's program over good requests, cut short and damaged."""

from __future__ import annotations

import os
import random
import subprocess
from pathlib import Path

import pytest

from tests.native.fuse_requests import make_store, sequences
from tests.native.sanitized import NATIVE, compile_sanitized

TREE_READER = ("error", "erofs_directory", "erofs_read", "erofs_xattr")
ROUNDS = int(os.environ.get("LAYERFS_STEPS", "4"))


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("fuzz") / "fuzz_requests"
    make_store(out.parent / "store")
    sources = [NATIVE / "fuzz" / "fuzz_requests.c", NATIVE / "fuzz" / "fuzz_files.c"]
    sources += [source for source in sorted(NATIVE.glob("fuse/*.c")) if source.name != "main.c"]
    sources += [NATIVE / "core" / f"{name}.c" for name in TREE_READER]
    return compile_sanitized(out, sources)


def damaged(data: bytes, dice: random.Random) -> bytes:
    changed = bytearray(data)
    for _ in range(dice.randint(1, 12)):
        changed[dice.randrange(len(changed))] = dice.choice([0, 1, 127, 128, 255, dice.randrange(256)])
    return bytes(changed)


def test_no_request_trips_a_sanitizer(program: Path, tmp_path: Path) -> None:
    """Bad sizes, names without an end, nodes and handles that never were: errors, and no leak."""
    dice = random.Random(5)
    for number, data in enumerate(sequences()):
        (tmp_path / f"{number}-whole").write_bytes(data)
        (tmp_path / f"{number}-short").write_bytes(data[: dice.randrange(1, len(data))])
        for turn in range(ROUNDS):
            (tmp_path / f"{number}-damaged{turn}").write_bytes(damaged(data, dice))
    files = sorted(map(str, tmp_path.iterdir()))
    run = subprocess.run([program, *files], capture_output=True, text=True)
    assert run.returncode == 0, run.stderr[-3000:]
