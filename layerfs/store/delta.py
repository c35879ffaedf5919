"""Objects as their readers see them: whole files, or deltas, which keep what differs from another object
(docs/format.md, "Delta objects").
"""

from __future__ import annotations

import bisect
import errno
import os
import struct
from collections.abc import Iterable, Iterator
from pathlib import Path

from layerfs._lazy import TYPE_CHECKING
from layerfs.errors import Corrupt
from layerfs.store.format import ID_SIZE, object_name

if TYPE_CHECKING:
    from typing import BinaryIO

__all__ = ["SUFFIX", "Delta", "DeltaHead", "Ranges", "Whole", "data_extents", "open_object", "write_delta"]

SUFFIX = ".delta"
Ranges = tuple[tuple[int, int], ...]  # (offset, length) in order, not touching
_MAGIC = b"LFSDELT1"
_HEAD = struct.Struct("<8s32sQQQ")
_RANGE = struct.Struct("<QQ")
_ALIGN = 4096
_PIECE = 1 << 20


class DeltaHead:
    """What the front of a delta says: its base, and how many of that one's bytes show; the ranges that are its own."""

    def __init__(self, base: bytes, size: int, valid: int, ranges: Ranges) -> None:
        self.base, self.size, self.valid, self.ranges = base, size, valid, ranges

    @property
    def data_at(self) -> int:
        """Where the bytes of the ranges begin, one after the other."""
        return -(-(_HEAD.size + _RANGE.size * len(self.ranges)) // _ALIGN) * _ALIGN

    @property
    def own(self) -> int:
        return sum(length for _, length in self.ranges)

    def encode(self) -> bytes:
        head = _HEAD.pack(_MAGIC, self.base, self.size, self.valid, len(self.ranges))
        return (head + b"".join(_RANGE.pack(*each) for each in self.ranges)).ljust(self.data_at, b"\0")

    @classmethod
    def read(cls, fd: int) -> DeltaHead:
        """Raises Corrupt for what is no delta, or one that cannot be."""
        front = os.pread(fd, _HEAD.size, 0)
        if len(front) != _HEAD.size or not front.startswith(_MAGIC):
            raise Corrupt("a damaged delta object")
        _, base, size, valid, count = _HEAD.unpack(front)
        length = os.fstat(fd).st_size
        if count > length // _RANGE.size or valid > size:
            raise Corrupt("a damaged delta object")
        table = os.pread(fd, count * _RANGE.size, _HEAD.size)
        if len(table) != count * _RANGE.size:
            raise Corrupt("a damaged delta object")
        head = cls(base, size, valid, tuple(_RANGE.iter_unpack(table)))
        end = 0
        for offset, each in head.ranges:
            if offset < end or not each or offset + each > size:
                raise Corrupt("a damaged delta object")
            end = offset + each
        if length != head.data_at + head.own:
            raise Corrupt("a delta object has a wrong length")
        return head


class Whole:
    """An object in a file of its own. Owns its descriptor."""

    def __init__(self, fd: int) -> None:
        self.fd = fd
        self.size = os.fstat(fd).st_size

    def pread(self, count: int, offset: int) -> bytes:
        return os.pread(self.fd, count, offset)

    def extents(self) -> Iterator[tuple[int, int]]:
        """(offset, length) of what is no hole."""
        return data_extents(self.fd, self.size)

    def close(self) -> None:
        os.close(self.fd)


class Delta:
    """An object that is kept as a delta. Owns its descriptors."""

    def __init__(self, fd: int, base: Whole, head: DeltaHead) -> None:
        self.fd, self.base, self.head = fd, base, head
        self.size = head.size
        self._starts = [offset for offset, _ in head.ranges]
        self._places = [head.data_at]
        for _, length in head.ranges:
            self._places.append(self._places[-1] + length)

    @classmethod
    def of(cls, objects: Path | int, fd: int) -> Delta:
        """`fd` is taken over. Raises Corrupt when the delta is damaged, or its base missing or too short."""
        try:
            head = DeltaHead.read(fd)
            try:
                base = Whole(_open(objects, object_name(head.base)))
            except FileNotFoundError as error:
                raise Corrupt(f"the base of a delta object is missing: object {head.base.hex()}") from error
            if base.size < head.valid:
                base.close()
                raise Corrupt("the base of a delta object is too short")
        except BaseException:
            os.close(fd)
            raise
        return cls(fd, base, head)

    def runs(self, at: int, end: int) -> Iterator[tuple[int, int, int]]:
        """(offset, length, place) of what lies in [at, end); place: in this file, -1: the base's, -2: zeros."""
        index = max(bisect.bisect_right(self._starts, at) - 1, 0)
        for number in range(index, len(self._starts) + 1):
            start, length = self.head.ranges[number] if number < len(self._starts) else (self.size, 0)
            for stop, place in ((min(start, self.head.valid), -1), (start, -2)):
                if at < min(stop, end):
                    yield at, min(stop, end) - at, place
                    at = min(stop, end)
            if at < min(start + length, end):
                yield at, min(start + length, end) - at, self._places[number] + at - start
                at = min(start + length, end)
            if at >= end:
                return

    def places(self, at: int, end: int) -> Iterator[tuple[int, int, int]]:
        """(descriptor, offset there, length) of the bytes of [at, end), in order; descriptor -1: zeros."""
        for start, length, place in self.runs(at, end):
            yield (
                (self.base.fd, start, length) if place == -1 else (self.fd if place >= 0 else -1, max(place, 0), length)
            )

    def pread(self, count: int, offset: int) -> bytes:
        parts = []
        for at, length, place in self.runs(offset, min(offset + count, self.size)):
            if place == -2:
                data = bytes(length)
            else:
                data = os.pread(self.fd if place >= 0 else self.base.fd, length, place if place >= 0 else at)
            if len(data) != length:
                raise Corrupt("a delta object or its base ends early")
            parts.append(data)
        return parts[0] if len(parts) == 1 else b"".join(parts)

    def extents(self) -> Iterator[tuple[int, int]]:
        """(offset, length) of what may be other bytes than zero."""
        start = end = 0
        for offset, length in self._extents():
            if offset == end:
                end = offset + length
                continue
            if start < end:
                yield start, end - start
            start, end = offset, offset + length
        if start < end:
            yield start, end - start

    def _extents(self) -> Iterator[tuple[int, int]]:
        for at, length, place in self.runs(0, self.size):
            if place >= 0:
                yield at, length
            elif place == -1:
                yield from data_extents(self.base.fd, at + length, at)

    def hash(self, *, sparse: bool) -> tuple[bytes, int]:
        """(identity, xxh64) of the bytes."""
        from layerfs.native import hash_pieces

        extents = self.extents() if sparse else ((0, self.size),)
        pieces = (
            (at, self.pread(min(_PIECE, start + length - at), at))
            for start, length in extents
            for at in range(start, start + length, _PIECE)
        )
        return hash_pieces(self.size, pieces, sparse=sparse)

    def close(self) -> None:
        os.close(self.fd)
        self.base.close()


def open_object(objects: Path | int, identity: bytes) -> Whole | Delta:
    """An object of `objects` (a path, or a descriptor of the directory).

    Raises:
        FileNotFoundError: it is not there. Corrupt: as Delta.of.
    """
    name = object_name(identity)
    for last in (False, True):
        try:
            return Whole(_open(objects, name))
        except FileNotFoundError:
            pass
        try:
            return Delta.of(objects, _open(objects, name + SUFFIX))
        except FileNotFoundError:
            if last:  # else it has become a whole one in between
                raise
    raise AssertionError


def write_delta(path: Path, head: DeltaHead, pieces: Iterable[bytes]) -> None:
    """A delta as a new file; `pieces` are the bytes of its ranges."""
    with path.open("xb") as out:
        _pour(out, [head.encode()])
        if _pour(out, pieces) != head.own:
            raise Corrupt("a file gave other bytes than it has")
        os.fchmod(out.fileno(), 0o400)


def _pour(out: BinaryIO, pieces: Iterable[bytes]) -> int:
    return sum(out.write(piece) for piece in pieces)


def data_extents(fd: int, size: int, at: int = 0) -> Iterator[tuple[int, int]]:
    """(offset, length) of what is no hole in [at, size) of an open file."""
    while at < size:
        try:
            start = os.lseek(fd, at, os.SEEK_DATA)
        except OSError as error:
            if error.errno == errno.ENXIO:
                return
            raise
        at = min(os.lseek(fd, start, os.SEEK_HOLE), size)
        if start < at:
            yield start, at - start


def _open(objects: Path | int, name: str) -> int:
    flags = os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW
    if isinstance(objects, int):
        return os.open(name, flags, dir_fd=objects)
    return os.open(objects / name, flags)


assert _HEAD.size == 32 + ID_SIZE
