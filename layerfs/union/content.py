"""Contents as the union reads them: packed, in files of their own, or none."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterable, Iterator
from pathlib import Path

from layerfs.errors import Corrupt
from layerfs.layer.blocks import Delta, Whole, open_object
from layerfs.layer.sparse import data_extents
from layerfs.layer.tree import Inode, Tree

_BLOCK = 4096
_PACK, _OBJECT = 1, 2


class Packed:
    """A small file inside a pack. The pack's fd is borrowed."""

    def __init__(self, fd: int, start: int, size: int) -> None:
        self._fd, self._start, self.size = fd, start, size

    def pread(self, count: int, offset: int) -> bytes:
        count = min(count, self.size - offset)
        if count <= 0:
            return b""
        data = os.pread(self._fd, count, self._start + offset)
        if len(data) < count:
            raise Corrupt("a pack ends too early")
        return data

    def extents(self) -> Iterator[tuple[int, int]]:
        if self.size:
            yield 0, self.size

    def close(self) -> None:
        pass


class OpenFile:
    """A whole file; the fd is owned. Holes are the host's (SEEK_DATA). Without `size` it is the host's."""

    def __init__(self, fd: int, size: int | None = None) -> None:
        self.fd, self._size = fd, size

    @property
    def size(self) -> int:
        return os.fstat(self.fd).st_size if self._size is None else self._size

    def pread(self, count: int, offset: int) -> bytes:
        if self._size is not None:
            count = min(count, self._size - offset)
        return os.pread(self.fd, count, offset) if count > 0 else b""

    def extents(self) -> Iterator[tuple[int, int]]:
        return data_extents(self.fd, self.size)

    def close(self) -> None:
        os.close(self.fd)


class Nothing:
    """An empty file."""

    size = 0

    def pread(self, count: int, offset: int) -> bytes:
        return b""

    def extents(self) -> Iterator[tuple[int, int]]:
        return iter(())

    def close(self) -> None:
        pass


class Contents:
    """Opens the contents that trees name. All packs are opened at once, so that a garbage collection that moves
    packed files does not disturb what is mounted."""

    def __init__(self, objects: Path, packs: Iterable[tuple[int, Path]]) -> None:
        self._packs: dict[int, int] = {}
        self._objects = -1
        try:
            self._objects = os.open(objects, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
            for number, path in packs:
                self._packs[number] = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
        except OSError as error:
            self.close()
            raise Corrupt(f"contents are missing from the store: {error.strerror}", path=error.filename) from error

    def open(self, tree: Tree, inode: Inode) -> Packed | OpenFile | Delta | Nothing:
        """Raises Corrupt (EIO) when the store has lost the bytes, never ENOENT."""
        place = tree.place(inode)
        if place.kind == _PACK:
            if place.pack_id not in self._packs:
                raise Corrupt(f"pack {place.pack_id:016x} is missing")
            return Packed(self._packs[place.pack_id], place.block * _BLOCK, inode.size)
        identity = tree.content(inode)
        if identity is None:
            return Nothing()
        found = self.object(identity)
        return OpenFile(found.fd, inode.size) if isinstance(found, Whole) else found

    def object(self, identity: bytes) -> Whole | Delta:
        """An object, to be closed. Raises Corrupt."""
        try:
            return open_object(self._objects, identity)
        except FileNotFoundError as error:
            raise Corrupt(f"object {identity.hex()} is missing") from error

    def close(self) -> None:
        for fd in [self._objects, *self._packs.values()]:
            if fd >= 0:
                with contextlib.suppress(OSError):
                    os.close(fd)
        self._objects, self._packs = -1, {}
