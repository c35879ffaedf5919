"""Blobs on their way in. What has come so far outlives its process; one at a time works on each.

`partial/<64 hex>` has the first bytes of a blob and is locked (flock) by who fetches it. Without a lock it waits a day
for somebody who goes on with it; then gc removes it.
"""

from __future__ import annotations

import fcntl
import os
from pathlib import Path
from typing import TYPE_CHECKING

from layerfs.digest import Digest
from layerfs.store.durable import write_all, writing

if TYPE_CHECKING:
    from layerfs.store.root import StoreRoot

DIRECTORY = "partial"


class Partial:
    """A claimed blob: ours alone until `close` or `drop`. Appended to by one thread; read by any."""

    def __init__(self, path: Path, fd: int) -> None:
        self.path, self._fd = path, fd
        self.size = os.fstat(fd).st_size

    def write(self, data: bytes) -> None:
        """The next bytes. Raises NoSpace."""
        with writing("a blob"):
            write_all(self._fd, data)
        self.size += len(data)

    def read(self, count: int, offset: int) -> bytes:
        return os.pread(self._fd, count, offset)

    def restart(self) -> None:
        """Forgets what has come."""
        with writing("a blob"):
            os.ftruncate(self._fd, 0)
        os.lseek(self._fd, 0, os.SEEK_SET)
        self.size = 0

    def drop(self) -> None:
        """Ends the claim and removes the file, unless it has become a blob already. Idempotent."""
        if self._fd >= 0 and _is_at(self._fd, self.path):
            self.path.unlink(missing_ok=True)
        self._release()

    def close(self) -> None:
        """Ends the claim and keeps what has come. Idempotent."""
        if self._fd >= 0 and self.size == 0:
            self.drop()
        self._release()

    def _release(self) -> None:
        fd, self._fd = self._fd, -1
        if fd >= 0:
            fcntl.flock(fd, fcntl.LOCK_UN)  # a child forked meanwhile has the descriptor too
            os.close(fd)


def claim(root: StoreRoot, digest: Digest) -> Partial | None:
    """Makes a blob ours, with what an earlier process has left of it; None while somebody else has it.

    Pin the digest in a lease before, and look afterwards whether the blob, or what was made of it, is there by now.
    """
    path = root.path / DIRECTORY / digest.hex
    while True:
        fd = _open(path)
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(fd)
            return None
        if _is_at(fd, path):
            os.lseek(fd, 0, os.SEEK_END)
            return Partial(path, fd)
        os.close(fd)  # who had it has moved or removed the file


def _open(path: Path) -> int:
    with writing("a blob"):
        try:
            return os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        except FileNotFoundError:
            path.parent.mkdir(0o700, exist_ok=True)
            return os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)


def _is_at(fd: int, path: Path) -> bool:
    try:
        there = path.lstat()
    except FileNotFoundError:
        return False
    own = os.fstat(fd)
    return (there.st_dev, there.st_ino) == (own.st_dev, own.st_ino)
