"""Fork, snapshot and rollback take no time and no space, whatever the container holds."""

from __future__ import annotations

import os
import statistics
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import layerfs
from benchmarks.conftest import settle

GROUP = "Snapshots"
MB = 1 << 20


@pytest.fixture
def store(base: Path) -> Any:
    """Stays until all is measured: where many files were removed, ext4 takes ten times as long to make one."""
    home = Path(tempfile.mkdtemp(prefix="snapshots-", dir=base))
    (home / "plain/etc").mkdir(parents=True)
    with layerfs.Store(home / "store") as store:
        store.import_archive(home / "plain", tag="small:1")
        yield store


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
    settle()
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


@pytest.mark.parametrize(("files", "size"), [(10, 100_000), (300_000, 10), (10, 1 << 30)])
def test_a_mounted_child_is_flat(pair: Any, scale: Callable[[int], int], store: Any, files: int, size: int) -> None:
    """Whatever the parent holds, and however much of it was never absorbed."""
    box = store.create("small:1")
    count = max(1, scale(files)) if files > 10 else files
    fill(box.upper, count, scale(size) if size > MB else size)
    box.snapshot("held")
    settle()
    what = f"of {count} files, {count * size // MB} MB"
    times = []
    for _ in range(1 if pair.quick else 15):
        began = time.perf_counter()
        child = box.fork(snapshot="held")
        handle = child.mount(engine="native")
        times.append((time.perf_counter() - began) * 1000)
        assert len(list(handle.path.iterdir())) > 1
        handle.unmount()
        child.remove()
    pair.figure(f"fork {what}, mounted", statistics.median(times), "ms", bar=3)


def fill(upper: Path, count: int, size: int) -> None:
    """Past the mount, which would take its time; big files are allocated, not written."""
    for number in range(count):
        folder = upper / f"{number // 1000}"
        folder.mkdir(exist_ok=True)
        with (folder / f"f{number}").open("wb") as file:
            if size > MB:
                os.posix_fallocate(file.fileno(), 0, size)
            else:
                file.write(bytes(size))


@pytest.mark.parametrize("files", [10, 300, 10_000])
def test_a_live_snapshot_holds_nobody_up(pair: Any, scale: Callable[[int], int], store: Any, files: int) -> None:
    """Somebody writes all the time: no call of his fails, and none takes long."""
    box, failed, stop = store.create("small:1"), list[OSError](), threading.Event()
    with box.mount(engine="native") as root:
        for number in range(count := max(1, scale(files))):
            (root / f"f{number}").write_bytes(bytes(100))

        def write() -> None:
            with (root / "log").open("ab", buffering=0) as log:
                number = 0
                while not stop.is_set():
                    try:
                        log.write(b"a line\n")
                        (root / f"t{number % 50}").write_bytes(bytes(2000))
                    except OSError as error:
                        failed.append(error)
                    number += 1

        writer = threading.Thread(target=write)
        writer.start()
        pauses = []
        for _ in range(2 if pair.quick else 20):
            time.sleep(0.02)
            box.snapshot()
            pauses.append(box.store.mount_stats()[0]["frozen_us"] / 1000)
        stop.set()
        writer.join()
    assert failed == []
    pair.figure(f"pause of a live snapshot among {count} files", max(pauses), "ms", bar=5)


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


def test_absorbing_moves(pair: Any, scale: Callable[[int], int], store: Any) -> None:
    """Big files of a snapshot become objects: read once for their hashes, and not written again."""
    size = scale(1 << 30)
    box = store.create("small:1")
    with box.mount(engine="native") as root, (root / "data").open("wb") as file:
        for _ in range(size // MB):
            file.write(os.urandom(1 << 12) * 256)
        os.fsync(file.fileno())
    box.snapshot()
    before, began = allocated(store.path), time.perf_counter()
    store.absorb()
    seconds = time.perf_counter() - began
    pair.figure(f"absorbing a file of {size // MB} MB", size / seconds / 1e9, "GB/s", bar=None)
    pair.figure("new disk of that", (allocated(store.path) - before) / MB, "MB", bar=1)
