"""Mounts in the making. Between its row and its mount there is a while in which others must not take it for a dead one;
so who mounts locks one byte of `locks/mounts`, told by the mount's id. The lock belongs to an open file: threads
exclude each other like processes, and a crash frees it.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import struct
import time
from collections.abc import Collection, Iterator

from layerfs.errors import InUse
from layerfs.store.durable import writing
from layerfs.store.root import StoreRoot

__all__ = ["await_mounted", "pending", "pending_of"]

_FLOCK = "hhqqi4x"  # struct flock with 64 bit offsets
_PATIENCE = 35  # seconds; longer than a server may take to start


@contextlib.contextmanager
def pending(root: StoreRoot, id: str) -> Iterator[None]:
    """For the body the mount counts as alive. Take it before its row is written."""
    with writing("a lock file"):
        fd = os.open(_path(root), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.fcntl(fd, fcntl.F_OFD_SETLK, _range(fcntl.F_WRLCK, id))
        try:
            yield
        finally:
            fcntl.fcntl(fd, fcntl.F_OFD_SETLK, _range(fcntl.F_UNLCK, id))  # a child forked meanwhile holds it too
    finally:
        os.close(fd)


def pending_of(root: StoreRoot, ids: Collection[str]) -> set[str]:
    """Those of the ids that are being mounted now."""
    if not ids:
        return set()
    try:
        fd = os.open(_path(root), os.O_RDWR | os.O_CLOEXEC)
    except OSError:  # nothing was ever mounted, or nobody can mount: a read-only store
        return set()
    try:
        return {id for id in ids if _taken(fd, id)}
    finally:
        os.close(fd)


def await_mounted(root: StoreRoot, id: str) -> None:
    """Returns when the mount is not in the making (any more). Raises InUse when that takes too long."""
    deadline = time.monotonic() + _PATIENCE
    while pending_of(root, [id]):
        if time.monotonic() > deadline:
            raise InUse("it is being mounted")
        time.sleep(0.01)


def _path(root: StoreRoot) -> str:
    return f"{root.path}/locks/mounts"


def _taken(fd: int, id: str) -> bool:
    answer = fcntl.fcntl(fd, fcntl.F_OFD_GETLK, _range(fcntl.F_WRLCK, id))
    return bool(struct.unpack(_FLOCK, answer)[0] != fcntl.F_UNLCK)


def _range(kind: int, id: str) -> bytes:
    return struct.pack(_FLOCK, kind, os.SEEK_SET, int(id[:15], 16), 1, 0)
