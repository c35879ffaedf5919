"""The few facts of a tree file that the store needs: subject, packs, identities, where packed files lie.

Trees belong to `layerfs.layer`, which stands above; gc and fsck read these fields themselves (docs/format.md).
"""

from __future__ import annotations

import mmap
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from layerfs.errors import Corrupt
from layerfs.store.format import BLOCK, ID_SIZE

KIND_LAYER, KIND_MERGED = 1, 2
_HEADER = struct.Struct("<8sIIQQ32s")
_INODE = struct.Struct("<HHHHQII")
_SUPERBLOCK, _DEVICES, _SLOT = 1024, 1152, 128
_MAGIC = 0xE0F5E1E2
_S_IFMT, _S_IFREG = 0o170000, 0o100000
_PLAIN, _INLINE, _CHUNKED = 0, 2, 4


class PackedFile(NamedTuple):
    """A regular file of a tree that lies in a pack."""

    pack: int
    block: int
    size: int
    identity: bytes


class TreeFile:
    """A mapped tree file. Raises Corrupt when it is missing or is not one."""

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            with path.open("rb") as file:
                self._data = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
            magic, version, self.kind, self._table, self.count, self.subject = _HEADER.unpack_from(self._data)
            self.entries, self.content_size = struct.unpack_from("<QQ", self._data, 72)
            inodes, _time, _nsec, _blocks, self._meta = struct.unpack_from("<QQIII", self._data, _SUPERBLOCK + 16)
            self._first = struct.unpack_from("<H", self._data, _SUPERBLOCK + 14)[0]
            devices = struct.unpack_from("<H", self._data, _SUPERBLOCK + 86)[0]
            super_magic = struct.unpack_from("<I", self._data, _SUPERBLOCK)[0]
        except FileNotFoundError as error:
            raise Corrupt("a tree file is missing", path=str(path)) from error
        except (struct.error, ValueError) as error:
            raise Corrupt("a tree file ends in its header", path=str(path)) from error
        end = self._table + self.count * ID_SIZE
        if magic != b"LAYERFS\0" or version != 1 or super_magic != _MAGIC or end > len(self._data):
            raise Corrupt("not a tree file", path=str(path))
        self._inodes = inodes
        self.packs = tuple(self._pack(number) for number in range(devices))

    def _pack(self, number: int) -> int:
        tag = self._data[_DEVICES + number * _SLOT :][:16]
        try:
            return int(tag, 16)
        except ValueError as error:
            raise Corrupt("a tree file names a pack that cannot be", path=str(self.path)) from error

    def identities(self) -> list[bytes]:
        """The content table: what the tree's files, and a layer's tar-split record, refer to."""
        table = self._data[self._table : self._table + self.count * ID_SIZE]
        return [table[at : at + ID_SIZE] for at in range(0, len(table), ID_SIZE)]

    def packed_files(self) -> Iterator[PackedFile]:
        """Every regular file in a pack, by walking the inodes in their order. Raises Corrupt."""
        try:
            yield from self._walk()
        except (struct.error, IndexError) as error:
            raise Corrupt("a tree file ends within its inodes", path=str(self.path)) from error

    def _walk(self) -> Iterator[PackedFile]:
        data, at = self._data, self._meta * BLOCK + 32 * self._first
        for _ in range(self._inodes):
            layout, xattrs, mode, _zero, size, _u, ino = _INODE.unpack_from(data, at)
            if not layout & 1:  # the gap before an inode whose tail would have crossed a block
                at = -(-at // BLOCK) * BLOCK
                layout, xattrs, mode, _zero, size, _u, ino = _INODE.unpack_from(data, at)
                if not layout & 1:
                    raise Corrupt("a tree file has an inode that cannot be", path=str(self.path))
            end = at + 64 + (12 + 4 * (xattrs - 1) if xattrs else 0)
            layout >>= 1
            if layout == _INLINE:
                end += size % BLOCK
            elif layout == _CHUNKED:
                end = -(-end // 8) * 8
                bits = struct.unpack_from("<H", data, at + 16)[0] & 0x1F
                _high, device, block = struct.unpack_from("<HHI", data, end)
                if mode & _S_IFMT == _S_IFREG and device:
                    yield PackedFile(self.packs[device - 1], block, size, self._identity(ino))
                end += 8 * -(-size // (BLOCK << bits))
            at = -(-end // 32) * 32

    def _identity(self, ino: int) -> bytes:
        at = self._table + (ino - 1) * ID_SIZE
        if not 1 <= ino <= self.count:
            raise Corrupt("a tree file has an inode number that cannot be", path=str(self.path))
        return self._data[at : at + ID_SIZE]
