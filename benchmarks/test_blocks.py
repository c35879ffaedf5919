"""Changes of a big lower file: overlayfs and fuse-overlayfs copy it first, layerfs stores the blocks that change."""

from __future__ import annotations

import os
import random
import sqlite3
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from benchmarks.inputs import write_layer
from benchmarks.systems import FUSE_OVERLAY, OURS, OVERLAY, Place

GROUP = "Changes of a lower file of 1 GiB, in the page cache"
MIB = 1 << 20
BLOCK = 4096


@pytest.fixture(scope="module")
def size(scale: Any) -> int:
    return int(scale(1024 * MIB))


@pytest.fixture(scope="module")
def stack(stacks: Any, size: int, tmp_path_factory: pytest.TempPathFactory) -> Any:
    def layers() -> list[Path]:
        home = tmp_path_factory.mktemp("blocks")
        piece = os.urandom(64 * MIB)
        data = (piece * (size // len(piece) + 1))[:size]
        database = make_database(home / "database", size)
        layer = write_layer(home / "layer.tar", [("big", data), ("database", database.read_bytes())])
        database.unlink()
        return [layer]

    return stacks("blocks", layers)


@pytest.fixture
def places(stack: Any) -> Iterator[dict[str, Place]]:
    with stack.open() as places:
        for place in places.values():
            for name in ("big", "database"):
                with (place.root / name).open("rb") as file:
                    while file.read(MIB):
                        pass
        yield places


def make_database(path: Path, size: int) -> Path:
    with sqlite3.connect(path, isolation_level=None) as db:
        db.execute("PRAGMA journal_mode=DELETE")
        db.execute("CREATE TABLE t (id INTEGER PRIMARY KEY, value BLOB)")
        db.execute("BEGIN")
        chance = random.Random(1)
        rows = size // 1100
        db.executemany("INSERT INTO t VALUES (?, ?)", ((row, chance.randbytes(1000)) for row in range(rows)))
        db.execute("COMMIT")
    db.close()
    return path


def first_byte(place: Place) -> float:
    began = time.perf_counter()
    fd = os.open(place.root / "big", os.O_RDWR)
    os.pwrite(fd, b"!", 12345)
    took = time.perf_counter() - began
    os.close(fd)
    return took


def again(stack: Any, versus: Any, what: str, work: Any, rounds: int, **bars: Any) -> None:
    """`work` on containers that nobody has written to: a set of them for each round."""
    times: dict[str, list[float]] = {}
    for turn in range(1 if versus.quick else rounds):
        with stack.open() as places:
            for name in list(places) if turn % 2 == 0 else list(places)[::-1]:
                with (places[name].root / "big").open("rb") as file:
                    while file.read(MIB):
                        pass
                os.sync()
                times.setdefault(name, []).append(work(places[name]))
    versus.record(what, times, **bars)


def test_first_byte(versus: Any, stack: Any, size: int) -> None:
    again(stack, versus, "first byte", first_byte, 5, bars=[(OURS, OVERLAY, 1 / 500), (OURS, FUSE_OVERLAY, 1 / 500)])
    with stack.open(OURS) as places:
        seconds = first_byte(places[OURS])
        versus.figure("first byte, time", seconds * 1000, "ms", bar=1.0)
        upper = next(box.upper for box in stack.store.containers() if str(places[OURS].root).startswith(""))
        versus.figure("first byte, stored", (upper / "big").stat().st_blocks / 2, "KiB", bar=64)
