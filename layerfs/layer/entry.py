"""One member of a layer, whatever it came from, and where the bytes of a regular file are."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Protocol

from layerfs.errors import InUse
from layerfs.layer.host import open_at
from layerfs.layer.sparse import Extents, data_extents

PIECE = 1 << 20


class Content(Protocol):
    """The bytes of a regular file."""

    @property
    def size(self) -> int: ...

    def extents(self) -> Extents:
        """Where there may be other bytes than zero; `((0, size),)` for a dense file, `()` for an empty one."""
        ...

    def pieces(self, extents: Extents) -> Iterator[bytes]:
        """The bytes of these ranges, one after the other, in pieces of at most 1 MiB."""
        ...


@dataclass(frozen=True, slots=True)
class Entry:
    """A member of a layer.

    A character device 0:0 is a whiteout of `path`; `opaque` directories hide what lower layers have in them. A hard
    link carries the attributes of its inode and comes after the entry named by `link`.
    """

    path: bytes  # no leading or trailing slash; b"" is the root
    mode: int  # with type bits
    uid: int = 0
    gid: int = 0
    mtime_ns: int = 0
    size: int = 0
    target: bytes = b""  # symlink
    link: bytes | None = None
    rdev: int = 0
    xattrs: tuple[tuple[bytes, bytes], ...] = ()
    content: Content | None = None
    opaque: bool = False

    @property
    def whiteout(self) -> bool:
        return stat.S_ISCHR(self.mode) and self.rdev == 0

    def linked(self, path: bytes, to: bytes) -> Entry:
        """The same inode under one more name."""
        return replace(self, path=path, link=to, xattrs=(), content=None)


def whiteout(path: bytes) -> Entry:
    return Entry(path, stat.S_IFCHR)


@dataclass(frozen=True, slots=True)
class BytesContent:
    data: bytes

    @property
    def size(self) -> int:
        return len(self.data)

    def extents(self) -> Extents:
        return ((0, len(self.data)),) if self.data else ()

    def pieces(self, extents: Extents) -> Iterator[bytes]:
        for offset, length in extents:
            for at in range(offset, offset + length, PIECE):
                yield self.data[at : min(at + PIECE, offset + length)]


@dataclass(frozen=True, slots=True)
class FileContent:
    """A file of the host, named below an open directory; good as long as that stays open.

    Reading raises InUse when the file is not, or does not stay, what `status` says.
    """

    directory: int
    name: bytes
    status: os.stat_result
    path: bytes  # for messages
    own: bool = False  # see open_at

    @property
    def size(self) -> int:
        return self.status.st_size

    def open(self) -> int:
        """An owned descriptor of the file that `status` describes."""
        fd = open_at(self.name, self.directory, os.O_RDONLY | os.O_NONBLOCK, own=self.own)
        try:
            self._check(fd)
        except BaseException:
            os.close(fd)
            raise
        return fd

    def is_dense(self) -> bool:
        """Whether the host keeps all of its bytes: no holes, also none that were only promised room."""
        if self.status.st_blocks * 512 < self.size:
            return False
        fd = self.open()
        try:
            return next(data_extents(fd, self.size), None) == (0, self.size)
        finally:
            os.close(fd)

    def extents(self) -> Extents:
        if not self.size:
            return ()
        if self.status.st_blocks * 512 >= self.size:
            return ((0, self.size),)
        fd = self.open()
        try:
            return tuple(data_extents(fd, self.size))
        finally:
            os.close(fd)

    def pieces(self, extents: Extents) -> Iterator[bytes]:
        fd = self.open()
        try:
            for offset, length in extents:
                end = offset + length
                while offset < end:
                    data = os.pread(fd, min(PIECE, end - offset), offset)
                    if not data:
                        raise self._changed()
                    offset += len(data)
                    yield data
            self._check(fd)
        finally:
            os.close(fd)

    def _check(self, fd: int) -> None:
        now, then = os.fstat(fd), self.status
        if (now.st_ino, now.st_dev, now.st_size, now.st_mtime_ns) != (
            then.st_ino,
            then.st_dev,
            then.st_size,
            then.st_mtime_ns,
        ):
            raise self._changed()

    def _changed(self) -> InUse:
        return InUse("the file changed while it was read", path=b"/" + self.path)
