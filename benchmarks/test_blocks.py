"""Changes of a big lower file: overlayfs and fuse-overlayfs copy it first, layerfs stores the blocks that change."""

from __future__ import annotations

import os
import random
import sqlite3
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from benchmarks.inputs import write_layer
from benchmarks.systems import FUSE_OVERLAY, OURS, OVERLAY, SYSTEMS, VOLATILE, Place, Stack
from layerfs.store.sweep import disk_usage

GROUP = "Changes of a lower file of 1 GiB, in the page cache"
MIB = 1 << 20
BLOCK = 4096
SECONDS = 10  # of transactions
Work = Callable[[Place], float]


@pytest.fixture(scope="module")
def size(scale: Any) -> int:
    return int(scale(1024 * MIB)) & -MIB


@pytest.fixture(scope="module")
def stack(stacks: Any, size: int, tmp_path_factory: pytest.TempPathFactory) -> Stack:
    def layers() -> list[Path]:
        home = tmp_path_factory.mktemp("blocks")
        database = make_database(home / "database", size)
        files = [("big", os.urandom(size)), ("database", database.read_bytes())]
        return [write_layer(home / "layer.tar", files)]

    made: Stack = stacks("blocks", layers)
    return made


def make_database(path: Path, size: int) -> Path:
    db = sqlite3.connect(path, isolation_level=None)
    db.execute("CREATE TABLE t (id INTEGER PRIMARY KEY, value BLOB)")
    db.execute("BEGIN")
    chance = random.Random(1)
    db.executemany("INSERT INTO t VALUES (?, ?)", ((row, chance.randbytes(1000)) for row in range(size // 1040)))
    db.execute("COMMIT")
    db.close()
    return path


@pytest.fixture
def fresh(versus: Any, stack: Stack) -> Callable[..., None]:
    """Times work in containers that nobody has written to, a new one for each time."""

    def once(name: str, work: Work) -> float:
        with stack.open(name) as places:
            for file in ("big", "database"):
                read_all(places[name].root / file)
            os.sync()
            return work(places[name])

    def run(what: str, work: Work, bars: list[tuple[str, str, float]], rounds: int = 3) -> None:
        sides = {name: lambda name=name: once(name, work) for name in SYSTEMS}
        versus.compare(what, sides, bars, rounds=rounds)

    return run


def read_all(path: Path) -> None:
    with path.open("rb", buffering=0) as file:
        while file.read(MIB):
            pass


def first_byte(place: Place) -> float:
    began = time.perf_counter()
    fd = os.open(place.root / "big", os.O_RDWR)
    os.pwrite(fd, b"!", 12345)
    took = time.perf_counter() - began
    os.close(fd)
    return took


def random_blocks(fd: int, count: int, size: int, seed: int) -> None:
    chance = random.Random(seed)
    block = chance.randbytes(BLOCK)
    for _ in range(count):
        os.pwrite(fd, block, chance.randrange(size // BLOCK) * BLOCK)


def upper_of(stack: Stack, place: Place) -> Path:
    record = next(record for record in stack.store.mounts() if record.target == str(place.root))
    return Path(stack.store.container(record.container).upper)


def test_first_byte(fresh: Any) -> None:
    fresh("open, first byte", first_byte, [(OURS, OVERLAY, 1 / 500), (OURS, FUSE_OVERLAY, 1 / 500)], rounds=5)


def test_what_is_stored(versus: Any, stack: Stack) -> None:
    """Times are medians of new containers'."""
    opened, changed = [], []
    for _ in range(1 if versus.quick else 9):
        with stack.open(OURS) as places:
            place = places[OURS]
            names = [place.root / name for name in ("big", "database")]
            assert all(name.stat().st_size for name in names)
            opened.append(first_byte(place))
            began = time.perf_counter()
            names[1].chmod(0o600)
            changed.append(time.perf_counter() - began)
            stored = [(upper_of(stack, place) / name.name).stat().st_blocks // 2 for name in names]
    versus.figure("open, first byte: time", statistics.median(opened) * 1000, "ms", bar=1.0)
    versus.figure("open, first byte: stored, with xattrs", stored[0], "KiB", bar=64)
    versus.figure("chmod: time", statistics.median(changed) * 1000, "ms", bar=0.2)
    versus.figure("chmod: stored, xattrs alone", stored[1], "KiB", bar=4)


def test_random_blocks(fresh: Any, size: int) -> None:
    def work(place: Place) -> float:
        began = time.perf_counter()
        fd = os.open(place.root / "big", os.O_RDWR)
        random_blocks(fd, 1000, size, 3)
        os.close(fd)
        return time.perf_counter() - began

    fresh("open, 1000 random blocks, close", work, [(OURS, OVERLAY, 0.1), (OURS, FUSE_OVERLAY, 0.1)])


WAYS = pytest.mark.parametrize(("flags", "how"), [(os.O_RDWR, ""), (os.O_WRONLY, ", opened to write alone")])


@WAYS
def test_rewriting(fresh: Any, size: int, flags: int, how: str) -> None:
    def work(place: Place) -> float:
        piece = random.Random(4).randbytes(MIB)
        began = time.perf_counter()
        fd = os.open(place.root / "big", flags)
        for at in range(0, size, MIB):
            os.pwrite(fd, piece, at)
        os.close(fd)
        return time.perf_counter() - began

    fresh("rewriting all of it, front to back" + how, work, [(OURS, OVERLAY, 1.0), (OURS, FUSE_OVERLAY, 1.0)])


@WAYS
def test_random_writes(fresh: Any, size: int, scale: Any, flags: int, how: str) -> None:
    """After the first one, without what opening costs."""

    def work(place: Place) -> float:
        fd = os.open(place.root / "big", flags)
        os.pwrite(fd, b"!", 0)
        began = time.perf_counter()
        random_blocks(fd, scale(20_000), size, 5)
        took = time.perf_counter() - began
        os.close(fd)
        return took

    fresh("20k random writes, 4 KiB, after the first" + how, work, [(OURS, FUSE_OVERLAY, 0.6)])


def transactions(database: Path, seconds: float, seed: int = 6) -> float:
    """Seconds for each transaction, in the first ones from opening on. A row that has its value already is not written:
    the same database takes another seed each time.
    """
    began, count = time.perf_counter(), 0
    chance = random.Random(seed)
    db = sqlite3.connect(database, isolation_level=None)
    rows = db.execute("SELECT max(id) FROM t").fetchone()[0]
    while time.perf_counter() - began < seconds:
        db.execute("UPDATE t SET value = ? WHERE id = ?", (chance.randbytes(1000), chance.randrange(rows)))
        count += 1
    db.close()
    return seconds / count


def test_transactions(fresh: Any, versus: Any) -> None:
    seconds = 1 if versus.quick else SECONDS
    work = lambda place: transactions(place.root / "database", seconds)  # noqa: E731
    fresh("SQLite, a transaction in the first 10 s", work, [(OURS, OVERLAY, 0.5)])


def test_least_of_a_transaction(versus: Any, stack: Stack, base: Path, size: int) -> None:
    """What no union can do without: the same where nothing has to be copied, the three fdatasyncs by themselves, and
    what is left when nobody waits for the disk.
    """
    seconds, rounds = (1, 1) if versus.quick else (SECONDS, 3)
    whole, syncs, rest, files = [], [], [], base / "least"
    files.mkdir()
    database = make_database(files / "database", size)
    for seed in range(rounds):
        os.sync()
        whole.append(transactions(database, seconds, seed))
        syncs.append(3 * sync_of_written_blocks(database, seconds / 3))
        with stack.open(VOLATILE) as places:
            read_all(places[VOLATILE].root / "database")
            os.sync()
            rest.append(transactions(places[VOLATILE].root / "database", seconds))
    versus.figure("SQLite, a transaction on a plain file of the host", statistics.median(whole) * 1000, "ms", bar=None)
    versus.figure("three fdatasyncs of blocks it has", statistics.median(syncs) * 1000, "ms", bar=None)
    what = "SQLite, a transaction in layerfs that waits for no disk (volatile)"
    versus.figure(what, statistics.median(rest) * 1000, "ms", bar=None)


def sync_of_written_blocks(path: Path, seconds: float) -> float:
    """Two random blocks that are allocated, and fdatasync: seconds for each time."""
    began, count = time.perf_counter(), 0
    chance, size = random.Random(7), path.stat().st_size
    fd = os.open(path, os.O_RDWR)
    while time.perf_counter() - began < seconds:
        for _ in range(2):
            at = chance.randrange(size // BLOCK) * BLOCK
            os.pwrite(fd, os.pread(fd, BLOCK, at), at)
        os.fdatasync(fd)
        count += 1
    os.close(fd)
    return seconds / count


def test_commit(versus: Any, stack: Stack, size: int) -> None:
    """Of a container in which one byte was written; every commit hashes the whole file."""
    took, stored = [], []
    for number in range(1 if versus.quick else 3):
        with stack.open(OURS) as places:
            place = places[OURS]
            fd = os.open(place.root / "big", os.O_RDWR)
            os.pwrite(fd, b"%d" % number, number * MIB)
            os.close(fd)
            record = next(record for record in stack.store.mounts() if record.target == str(place.root))
            before = disk_usage(stack.store.root.path)
            began = time.perf_counter()
            image = stack.store.container(record.container).commit()
            took.append(time.perf_counter() - began)
            stored.append(disk_usage(stack.store.root.path) - before)
        stack.store.remove_image(image.id, force=True)
    versus.figure("commit of one byte: new disk use", statistics.median(stored) / 1024, "KiB", bar=256)
    versus.figure("commit of one byte: hashing 1 GB takes", statistics.median(took) / size * 1e12, "ms", bar=1000)
