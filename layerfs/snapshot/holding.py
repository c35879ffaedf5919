"""The lock of a container: one byte of `locks/containers`, told by its id. Who mounts it, takes a snapshot or rolls
back holds it meanwhile, and a server as long as it lives. The lock belongs to an open file: threads exclude each other
like processes, a server inherits it, and a crash frees it. No container has a file for it, which would have to be made.

An older layerfs has an flock on a file of the container's, and makes that before it looks for rows of mounts. So such a
file is locked as well; and who finds it made after his own row was written gives way (`Held.outpaced`).
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import struct
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from layerfs.errors import InUse
from layerfs.snapshot.table import MountTable
from layerfs.store.durable import writing
from layerfs.store.root import StoreRoot

__all__ = ["PATIENCE", "Held", "hold_container", "open_locks"]

PATIENCE = 2.0
_FLOCK = "hhqqi4x"  # struct flock with 64 bit offsets


class Held:
    """A container's lock, taken. `fd`: who has it open, or inherits it, holds the lock too."""

    __slots__ = ("_older", "_place", "_seen", "fd")

    def __init__(self, fd: int, place: int, older: str, seen: bool) -> None:
        self.fd, self._place, self._older, self._seen = fd, place, older, seen

    def let_go(self) -> None:
        """For all who have it: closing it does not free it while a child that was forked meanwhile lives."""
        fcntl.fcntl(self.fd, fcntl.F_OFD_SETLK, _byte(fcntl.F_UNLCK, self._place))

    def outpaced(self) -> bool:
        """Whether an older layerfs has begun to use the container since, which did not see us."""
        return not self._seen and os.path.exists(self._older)  # noqa: PTH110 (in every mount)


def open_locks(root: StoreRoot) -> int:
    """What `hold_container` locks: a descriptor for each, to be closed."""
    path = f"{root.path}/locks/containers"
    with writing("the lock of a container"):
        try:
            return os.open(path, os.O_RDWR | os.O_CLOEXEC)
        except FileNotFoundError:
            return _make_locks(path)


def _make_locks(path: str) -> int:
    """It belongs to whom the store does, also when root is the first to need it."""
    fd, owner = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600), os.stat(os.path.dirname(path))  # noqa: PTH116, PTH120
    if owner.st_uid != os.geteuid():
        with contextlib.suppress(PermissionError):
            os.fchown(fd, owner.st_uid, owner.st_gid)
    return fd


@contextlib.contextmanager
def hold_container(root: StoreRoot, home: Path, container: str, fd: int = -1) -> Iterator[Held]:
    """For the body. `home`: its own directory; `fd`: of `open_locks`, by default one that is opened and closed here.

    Raises:
        InUse: somebody else has it.
    """
    own, place = open_locks(root) if fd < 0 else -1, _place(container)
    try:
        _take(lambda: fcntl.fcntl(max(own, fd), fcntl.F_OFD_SETLK, _byte(fcntl.F_WRLCK, place)), container, root)
        with _older(root, older := f"{home}/lock", container) as seen:
            yield Held(max(own, fd), place, older, seen)
    finally:
        if own >= 0:
            os.close(own)


@contextlib.contextmanager
def _older(root: StoreRoot, path: str, container: str) -> Iterator[bool]:
    """Takes the lock of older versions where there is one; whether there is."""
    try:
        with writing("the lock of a container"):
            fd = os.open(path, os.O_RDWR | os.O_CLOEXEC)
    except FileNotFoundError:
        yield False
        return
    try:
        _take(lambda: fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB), container, root)
        yield True
    finally:
        os.close(fd)


def _take(lock: Callable[[], object], container: str, root: StoreRoot) -> None:
    """A mount in progress is over soon; a server's lock stays, unless who started it was killed before its row told of
    it: that mount is dead, and goes."""
    deadline = time.monotonic() + PATIENCE
    while True:
        try:
            lock()
            return
        except BlockingIOError:
            if time.monotonic() > deadline:
                raise InUse(f"container {container[:12]} is mounted already") from None
            MountTable(root).clean_dead()
            time.sleep(0.02)


def _place(container: str) -> int:
    return int(container[:15], 16)


def _byte(kind: int, place: int) -> bytes:
    return struct.pack(_FLOCK, kind, os.SEEK_SET, place, 1, 0)
