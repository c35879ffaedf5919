"""Fork, snapshot and rollback take no time and no space, whatever the container holds."""

from __future__ import annotations

import shutil
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import layerfs

GROUP = "Snapshots"
MB = 1 << 20


@pytest.fixture
def store(base: Path) -> Any:
    with layerfs.Store(base / "snapshots") as store:
        plain = base / "plain"
        (plain / "etc").mkdir(parents=True)
        store.import_archive(plain, tag="small:1")
        yield store
    shutil.rmtree(base / "snapshots")
    shutil.rmtree(base / "plain")


def median(action: Callable[[], object], before: Callable[[], object], rounds: int) -> float:
    """Milliseconds of the library call alone."""
    times = []
    for _ in range(rounds):
        before()
        began = time.perf_counter()
        action()
        times.append((time.perf_counter() - began) * 1000)
    return statistics.median(times)


@pytest.mark.parametrize(("files", "size"), [(10, 100_000), (30_000, 1000), (100, 10 * MB)])
def test_calls_are_flat(pair: Any, scale: Callable[[int], int], store: Any, files: int, size: int) -> None:
    box = store.create("small:1")
    count = max(1, scale(files))
    with box.mount() as root:
        for number in range(count):
            (root / f"{number % 100}").mkdir(exist_ok=True)
            (root / f"{number % 100}/f{number}").write_bytes(bytes(size))
    what = f"of a container with {count} files, {count * size // MB} MB"
    names = iter(range(10**6))
    rounds = 1 if pair.quick else 30

    def touched() -> None:  # else there would be nothing to keep
        (box.upper / f"new{next(names)}").touch()

    times = median(lambda: box.snapshot(f"s{next(names)}"), touched, rounds)
    pair.figure(f"snapshot {what}", times, "ms", bar=1)
    pair.figure(f"fork {what}", median(lambda: box.fork(), touched, rounds), "ms", bar=1)
    box.snapshot("back")
    pair.figure(f"rollback {what}", median(lambda: box.rollback("back"), touched, rounds), "ms", bar=1)


def allocated(path: Path) -> int:
    """With the directories."""
    return sum(each.lstat().st_blocks * 512 for each in path.rglob("*"))


def test_a_thousand_forks(pair: Any, scale: Callable[[int], int], store: Any) -> None:
    box = store.create("small:1")
    with box.mount() as root:
        (root / "data").write_bytes(bytes(100 * MB))
    before = allocated(store.path)
    for _ in range(scale(1000)):
        box.fork()
    pair.figure("disk of 1,000 forks", (allocated(store.path) - before) / MB, "MB", bar=50)
