"""The store directory: made, opened, checked for its version; the parts hang from it."""

from __future__ import annotations

import contextlib
import errno
import functools
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from types import TracebackType

from layerfs._lazy import TYPE_CHECKING
from layerfs.errors import StoreError
from layerfs.store.blobs import Blobs
from layerfs.store.durable import make_durable, place_file, sync_file_system, writing
from layerfs.store.format import DIRECTORIES, FIRST_VERSION, check_hex, read_format
from layerfs.store.index import Index
from layerfs.store.leases import Leases
from layerfs.store.locks import hold
from layerfs.store.reserve import keep_reserve
from layerfs.store.version import raise_format, write_format

if TYPE_CHECKING:
    from layerfs.store.beside import Beside
    from layerfs.store.contents import Contents
    from layerfs.store.format import TreeKind

_PATH_MAX = 3840  # PATH_MAX, less the longest path in a store
_HARMLESS = {"lost+found"}  # what a fresh file system has


class StoreRoot:
    """One opened store directory. Safe from threads; usable in forked children (the index is opened anew there)."""

    def __init__(self, path: Path, *, read_only: bool = False) -> None:
        """Use `open`."""
        self.path, self.read_only = path, read_only
        self._containers = path / "containers"
        self._version = FIRST_VERSION  # or a later one
        self.index = Index(path / "index", read_only=read_only)
        self.leases = Leases(path / "tmp", self._shared_gc_lock)
        self._contents: dict[str, Contents] = {}  # one, once it was asked for
        self.blobs = Blobs(path, self.index, self._shared_gc_lock)
        self._beside: list[Beside] = []

    @classmethod
    def open(cls, path: Path, *, create: bool = True) -> StoreRoot:
        """Opens the store at `path`, or makes one in a directory that is missing or empty.

        On a read-only file system the store opens for reading only. Cleans up after processes that died.

        Raises:
            StoreVersionError: it was made by a newer layerfs.
            StoreError: no store there (with create=False), or a directory with something else in it.
            NoSpace: the disk is full.
        """
        path = Path(os.path.abspath(path))  # not resolved: messages show what the user gave  # noqa: PTH100
        if len(os.fsencode(path)) > _PATH_MAX:
            raise StoreError(f"the path of a store may have {_PATH_MAX} bytes at most", path=str(path))
        try:
            if read_format(path) is None:
                _create(path, create)
            read_only = _is_read_only(path)
            _check_index(path)
            if not read_only:
                _make_directories(path)
            root = cls(path, read_only=read_only)
        except PermissionError as error:
            raise StoreError("no permission to use the store", path=str(path)) from error
        try:
            if not read_only:
                root.leases.clean_dead()
        except BaseException:
            root.close()
            raise
        return root

    def close(self) -> None:
        """Idempotent. Waits for what goes on beside."""
        for each in self._beside:
            each.wait()
        for contents in self._contents.values():
            contents.forget_packs()
        self.index.close()

    def __enter__(self) -> StoreRoot:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def beside(self, action: Callable[[], object]) -> None:
        """Does it in a thread, which `close` waits for, and the interpreter at its end."""
        from layerfs.store.beside import Beside

        self._beside = [*(each for each in self._beside if each.going), Beside(action)]

    @property
    def contents(self) -> Contents:
        found = self._contents.get("")
        if found is None:
            from layerfs.store.contents import Contents  # which many commands are without

            found = self._contents.setdefault("", Contents(self.path, self.index, self._shared_gc_lock))
        return found

    def tree_path(self, kind: TreeKind, hex: str) -> Path:
        """Where a tree file is: kind `layer` (hex of the diff ID) or `merged` (hex of the chain ID)."""
        return self.path / f"trees/{check_hex(hex)[:2]}/{kind}-{hex}"

    def split_path(self, diff_hex: str) -> Path:
        """Where the tar-split record of a layer is."""
        return self.path / "trees" / check_hex(diff_hex)[:2] / f"split-{diff_hex}"

    def container_path(self, id: str) -> Path:
        return _container_path(self._containers, id)

    def place(self, source: Path, target: Path) -> None:
        """Renames a finished file to its final name, over an orphan of that name; makes its directory."""
        with writing(target.name):
            place_file(source, target)

    def durable(self, paths: Sequence[Path], *, below: str = "") -> None:
        """After return these files and their names survive a power cut: fsync when few, else one syncfs. `below`: the
        directory of the store that has them all; it is as durable as the index itself."""
        with writing("to the store"):
            make_durable(paths, self.path / below)

    def sync(self) -> None:
        """The index, and all files of the file systems that the store is on."""
        if self.read_only:
            return
        places = {place.stat().st_dev: place for place in (self.path, self._containers, self.path / "uppers")}
        with writing("to the store"):
            for place in places.values():
                sync_file_system(place)
        self.index.sync()

    def lock(self, name: str, *, exclusive: bool = True, wait: bool = True) -> contextlib.AbstractContextManager[None]:
        """An flock below `locks/` (`gc`, `trees`, `mounts`). BlockingIOError when taken and `wait` is false."""
        return hold(f"{self.path}/locks/{name}", exclusive=exclusive, wait=wait)

    def raise_format(self, version: int) -> None:
        """Before something is there that versions before would read wrongly."""
        if self._version < version:
            raise_format(self.path, version)
            self._version = version

    def _shared_gc_lock(self) -> contextlib.AbstractContextManager[None]:
        return self.lock("gc", exclusive=False)


@functools.lru_cache(maxsize=64)
def _container_path(containers: Path, id: str) -> Path:
    """Asked for some ten times by whoever does something with a container."""
    return containers / check_hex(id)


def _create(path: Path, create: bool) -> None:
    """Makes the format file, the first thing of a store: a crash after it leaves an empty store."""
    if not create:
        raise StoreError("there is no layerfs store", path=str(path))
    with writing("a new store"):
        try:
            path.mkdir(0o700, parents=True, exist_ok=True)
        except (FileExistsError, NotADirectoryError) as error:
            raise StoreError("not a directory, so no place for a store", path=str(path)) from error
        others = [n for n in os.listdir(path) if n not in _HARMLESS and not n.startswith(".format.")]  # noqa: PTH208
        if others and read_format(path) is None:
            raise StoreError("a directory that is not empty and no layerfs store: refused", path=str(path))
        write_format(path, FIRST_VERSION)


def _check_index(path: Path) -> None:
    """Refuses a store that lost its index: an empty one in its place would make garbage of everything else."""
    data = path / "index" / "data.mdb"

    def lost() -> bool:
        try:
            return data.stat().st_size == 0
        except FileNotFoundError:
            return True

    if lost() and _holds_anything(path) and lost():  # again: another process may have just made the store
        reason = "the store's index is missing, but it has contents: restore index/data.mdb, or begin a new store"
        raise StoreError(reason, path=str(data))


def _holds_anything(path: Path) -> bool:
    for name in ("objects", "packs", "blobs", "trees", "containers", "uppers"):
        with contextlib.suppress(FileNotFoundError):
            if any((path / name).iterdir()):
                return True
    return False


def _make_directories(path: Path) -> None:
    with writing("the store's directories"):
        for name in DIRECTORIES:
            with contextlib.suppress(FileExistsError):
                (path / name).mkdir(0o700)
    keep_reserve(path)


def _is_read_only(path: Path) -> bool:
    """Whether the file system is mounted read-only (a store without write permission is an error instead)."""
    try:
        return bool(os.statvfs(path).f_flag & os.ST_RDONLY)
    except OSError as error:
        if error.errno == errno.ENOSYS:
            return False
        raise
