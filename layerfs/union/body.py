"""Open files: one body for each open inode, whatever the number of descriptors, so that they all see the same bytes.

A body starts on lower bytes and moves to the upper file when a copy-up happens; descriptors opened before see what is
written after (unlike overlayfs's mappings). It outlives its names.
"""

from __future__ import annotations

import os
from collections.abc import Callable

from layerfs.union.layerview import attributes_of
from layerfs.union.node import Attributes, Content


class Body:
    """The bytes of an open inode; `references` counts the open descriptors."""

    def __init__(self, attributes: Attributes, content: Content | None, fd: int = -1) -> None:
        self.ino = attributes.ino
        self._attributes = attributes
        self._content = content
        self._fd = fd
        self.references = 0

    @property
    def fd(self) -> int:
        """The upper file, -1 while there is none."""
        return self._fd

    @property
    def complete(self) -> bool:
        """Whether the upper file has the bytes."""
        return self._content is None

    def move(self, fd: int, *, complete: bool) -> None:
        """From now on this is the upper file, open for writing (fd is owned); it has the bytes when `complete`."""
        if self._fd >= 0:
            os.close(self._fd)
        self._fd = fd
        if complete:
            self._drop_content()

    def _drop_content(self) -> None:
        if self._content is not None:
            self._content.close()
            self._content = None

    def close(self) -> None:
        self._drop_content()
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    def attributes(self) -> Attributes:
        """Of an inode without names. nlink counts what is left of them."""
        if self._fd < 0:
            return self._attributes._replace(nlink=max(0, self._attributes.nlink - 1))
        return attributes_of(os.fstat(self._fd), self.ino)

    def read(self, count: int, offset: int) -> bytes:
        if self._content is not None:
            return self._content.pread(count, offset)
        return os.pread(self._fd, count, offset)

    def write(self, data: bytes, offset: int) -> int:
        done = 0
        view = memoryview(data)
        while done < len(data):
            done += os.pwrite(self._fd, view[done:], offset + done)
        return done

    def truncate(self, size: int) -> None:
        os.ftruncate(self._fd, size)

    def sync(self, *, data_only: bool) -> None:
        if self._fd >= 0:
            (os.fdatasync if data_only else os.fsync)(self._fd)

    def materialise(self, make: Callable[[], int], fill: Callable[[int, Content], None]) -> int:
        """Gives a nameless lower file an upper one without a name, so that it can change. Returns its fd (borrowed)."""
        if self._fd < 0:
            fd = make()
            os.fchown(fd, self._attributes.uid, self._attributes.gid)
            os.fchmod(fd, self._attributes.mode & 0o7777)
            self._fd = fd
        if self._content is not None:
            fill(self._fd, self._content)
            os.utime(self._fd, ns=(self._attributes.atime_ns, self._attributes.mtime_ns))
            self._drop_content()
        return self._fd
