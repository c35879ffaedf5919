"""`layerfs bench`: what the calls of this library take on this machine and this store's disk.

All happens in a store of its own below the real one's `tmp/`, which goes at the end; a killed run's goes with `gc`.
"""

from __future__ import annotations

import contextlib
import os
import statistics
import time
from collections.abc import Callable, Generator, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from layerfs._record import dataclass
from layerfs.engine.mounts import check_engine
from layerfs.errors import InvalidInput, LayerfsError
from layerfs.layer.progress import Progress
from layerfs.mount import detach, mount_table
from layerfs.runtime.resources import parse_size
from layerfs.store.durable import writing

if TYPE_CHECKING:
    from layerfs.engine.container import Container
    from layerfs.engine.image import Image
    from layerfs.engine.store import Store
    from layerfs.layer.progress import Report

T = TypeVar("T")

_PURPOSE = "bench"
_FILES_IN_A_DIRECTORY = 100
_PIECE = 1 << 20


@dataclass(frozen=True, slots=True)
class BenchRow:
    """One step: the median of its `seconds`, and the `amount` of files or bytes (its `unit`); "" is one call."""

    step: str
    seconds: float
    amount: int = 1
    unit: str = ""

    @property
    def rate(self) -> float:
        """Entries or bytes a second."""
        return self.amount / max(self.seconds, 1e-9)


def bench(
    store: Store, *, engine: str | None, files: int, size: int | str, rounds: int, progress: Report | None
) -> list[BenchRow]:
    """See Store.bench."""
    if engine is not None:
        check_engine(engine)
    size = parse_size(size)
    if files < 1 or size < 1 or rounds < 1:
        raise InvalidInput("bench: files, size and rounds are 1 at least")
    clear_killed(store)
    times: dict[str, list[BenchRow]] = {}
    with store.root.leases.acquire(_PURPOSE) as lease:
        with writing("what bench measures"):
            _make_files(lease.tmp / "files", files, size)
        for number in range(rounds):
            with _inner_store(lease.tmp / f"store-{number}") as inner:
                for row in _Round(inner, lease.tmp / "files", engine, files, size).rows():
                    times.setdefault(row.step, []).append(row)
                    if progress is not None:
                        progress(Progress("bench", row.step, number + 1, rounds))
    return [
        BenchRow(step, statistics.median(row.seconds for row in rows), rows[0].amount, rows[0].unit)
        for step, rows in times.items()
    ]


def clear_killed(store: Store) -> None:
    """Unmounts what a killed run has left; its files go with those of all dead leases."""
    tmp = os.fsencode(store.root.leases.path.resolve()) + b"/"
    living = {record.id for record in store.root.leases.living()}
    for entry in reversed(mount_table(part=tmp.rstrip(b"/").rpartition(b"/")[2])):
        if entry.target.startswith(tmp) and os.fsdecode(entry.target[len(tmp) :].split(b"/")[0]) not in living:
            with contextlib.suppress(LayerfsError, OSError):
                detach(Path(os.fsdecode(entry.target)), lazy=True)


@contextlib.contextmanager
def _inner_store(path: Path) -> Iterator[Store]:
    from layerfs.engine.store import Store

    with Store(path) as inner:
        try:
            yield inner
        finally:
            for box in inner.containers():
                box.remove(force=True)


def _make_files(place: Path, files: int, size: int) -> None:
    """Small files of 100 bytes to 8 KiB, no two alike, and one big one that does not compress."""
    for number in range(files):
        directory = place / f"small/{number // _FILES_IN_A_DIRECTORY}"
        directory.mkdir(parents=True, exist_ok=True)
        text = f"{number} of {files}\n".encode()
        (directory / f"file-{number}").write_bytes((text * (8192 // len(text)))[: 100 + number * 997 % 8092])
    with (place / "big").open("wb") as big:
        for start in range(0, size, _PIECE):
            big.write(os.urandom(min(_PIECE, size - start)))


class _Round:
    """Every step once, in the order that a user would take them."""

    def __init__(self, store: Store, source: Path, engine: str | None, files: int, size: int) -> None:
        self._store, self._source, self._engine = store, source, engine
        self._files, self._size = files, size
        self._new = max(1, files // 10)

    def rows(self) -> Iterator[BenchRow]:
        image: Image = yield from self._timed("import", self._import, self._files, "files")
        yield from self._timed("import, known", self._import, self._files, "files")
        box: Container = yield from self._timed("create", lambda: self._store.create(image, name="bench"))
        handle = yield from self._timed("mount", lambda: box.mount(engine=self._engine))
        root: Path = handle.path
        try:
            yield from self._timed("walk and stat", lambda: _walk(root / "small"), self._files, "files")
            yield from self._timed("read small files", lambda: _read_all(root / "small"), self._files, "files")
            yield from self._timed("read the big file", lambda: _read(root / "big"), self._size, "bytes")
            yield from self._timed("make small files", lambda: _make(root / "new", self._new), self._new, "files")
            yield from self._timed("remove image files", lambda: _remove(root / "small/0"), *self._removed())
            yield from self._timed("chmod the big file", lambda: (root / "big").chmod(0o600))
            yield from self._timed("its first changed byte", lambda: _change(root / "big"))
        finally:
            yield from self._timed("unmount", handle.unmount)
        yield from self._timed("diff", box.diff)
        yield from self._timed("commit", lambda: box.commit("bench:2"))
        snapshot = yield from self._timed("snapshot", box.snapshot)
        yield from self._timed("fork", lambda: box.fork("bench-fork"))
        yield from self._timed("roll back", lambda: box.rollback(snapshot))

    def _import(self) -> Image:
        return self._store.import_archive(self._source, tag="bench:1")

    def _removed(self) -> tuple[int, str]:
        return min(self._files, _FILES_IN_A_DIRECTORY), "files"

    def _timed(
        self, step: str, action: Callable[[], T], amount: int = 1, unit: str = ""
    ) -> Generator[BenchRow, None, T]:
        start = time.perf_counter()
        result = action()
        yield BenchRow(step, time.perf_counter() - start, amount, unit)
        return result


def _walk(place: Path) -> None:
    for directory, _, names in os.walk(place):
        for name in names:
            os.lstat(f"{directory}/{name}")  # pathlib would be most of what is measured


def _read_all(place: Path) -> None:
    for directory, _, names in os.walk(place):
        for name in names:
            _read(Path(directory, name))


def _read(path: Path) -> None:
    with path.open("rb", buffering=0) as file:
        while file.read(_PIECE):
            pass


def _make(place: Path, count: int) -> None:
    place.mkdir()
    for number in range(count):
        (place / str(number)).write_bytes(b"new\n")


def _remove(place: Path) -> None:
    for name in os.listdir(place):  # noqa: PTH208
        (place / name).unlink()


def _change(path: Path) -> None:
    with path.open("r+b", buffering=0) as file:
        file.write(b"!")
