"""Upper files of which only the changed blocks are there (docs/format.md, "Block-level files").

Such a file is sparse and names a base, an object of the store. Below the length that its mark gives, allocated blocks
are the file's own and holes are the base's. The native engine makes them and works on them; whoever else reads an upper
directory goes through `BlockContent`, and other engines get it after `complete_upper`.
"""

from __future__ import annotations

import bisect
import contextlib
import errno
import hashlib
import itertools
import os
import stat
import struct
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from layerfs.errors import Corrupt
from layerfs.layer.entry import PIECE, FileContent
from layerfs.layer.host import Descent, open_at
from layerfs.layer.sparse import BLOCK, Extents, data_extents, join_extents
from layerfs.store.delta import Delta, DeltaHead, Ranges, Whole, open_object

__all__ = [
    "DELTA_FROM",
    "MARK",
    "Base",
    "BlockContent",
    "BlockReader",
    "Delta",
    "DeltaContent",
    "Whole",
    "bases_of",
    "complete_upper",
    "damaged_files",
    "open_object",
]

MARK = b"layerfs.blocks"  # behind the prefix of the upper's marks; on its root: there may be such files
DELTA_SHARE = 0.5  # a file with more of its own is stored whole
DELTA_FROM = 1 << 20  # bytes; below that as well
_VALUE = struct.Struct("<32sQ")


@dataclass(frozen=True, slots=True)
class Base:
    """The object that has the missing blocks, and how many of its bytes still show."""

    identity: bytes
    length: int

    @classmethod
    def parse(cls, value: bytes) -> Base:
        if len(value) != _VALUE.size:
            raise Corrupt("a block-level file with a damaged mark")
        return cls(*_VALUE.unpack(value))

    def open(self, objects: Path) -> Whole | Delta:
        """The object, to be closed. Raises Corrupt when the store lacks it."""
        try:
            return open_object(objects, self.identity)
        except FileNotFoundError as error:
            message = f"the base of a block-level file is missing: object {self.identity.hex()}"
            raise Corrupt(message) from error


class BlockReader:
    """All bytes of an open block-level file. Owns its descriptors; a context manager."""

    @classmethod
    def of(cls, fd: int, open_base: Callable[[], Whole | Delta], base: Base) -> BlockReader:
        """`fd` is taken over. Raises Corrupt when the base is gone or too short."""
        try:
            source = open_base()
        except BaseException:
            os.close(fd)
            raise
        reader = cls(fd, source, base)
        if source.size < reader.valid:
            reader.close()
            raise Corrupt("the base of a block-level file is too short")
        return reader

    def __init__(self, fd: int, source: Whole | Delta, base: Base) -> None:
        self._fd, self._base, self._identity = fd, source, base.identity
        self.size = os.fstat(fd).st_size
        self.valid = min(base.length, self.size)

    def runs(self, at: int = 0) -> Iterator[tuple[int, int, bool]]:
        """(offset, length, own) of what lies between `at` and the base's last byte; own: the file's blocks, else the
        base's.
        """
        for start, length in data_extents(self._fd, self.valid, at):
            if at < start:
                yield at, start - at, False
            yield start, length, True
            at = start + length
        if at < self.valid:
            yield at, self.valid - at, False

    def extents(self) -> Iterator[tuple[int, int]]:
        """Where there may be other bytes than zero."""
        return join_extents(self._extents())

    def _extents(self) -> Iterator[tuple[int, int]]:
        base = list(self._base.extents())
        for offset, length, own in self.runs():
            yield from [(offset, length)] if own else _within(base, offset, offset + length)
        for start, length in data_extents(self._fd, self.size):
            first = max(start, self.valid)
            if first < start + length:
                yield first, start + length - first

    def pieces(self, offset: int, length: int) -> Iterator[bytes]:
        """The bytes of a range, in pieces of at most 1 MiB."""
        end = min(offset + length, self.size)
        behind = max(offset, self.valid)
        for start, count, own in itertools.chain(self.runs(offset), [(behind, self.size - behind, True)]):
            at, stop = start, min(start + count, end)
            if at >= end:
                return
            while at < stop:
                count = min(PIECE, stop - at)
                data = os.pread(self._fd, count, at) if own else self._base.pread(count, at)
                if not data:
                    raise Corrupt("a block-level file or its base ends early")
                at += len(data)
                yield data

    def pieces_of(self, ranges: Iterable[tuple[int, int]]) -> Iterator[bytes]:
        for offset, length in ranges:
            yield from self.pieces(offset, length)

    def pread(self, count: int, offset: int) -> bytes:
        return b"".join(self.pieces(offset, count))

    def own_blocks(self) -> Iterator[tuple[bytes, bytes]]:
        """The file's own blocks beside what the base has there."""
        for offset, length, own in self.runs():
            for at in range(offset, offset + length, PIECE) if own else ():
                count = min(PIECE, offset + length - at)
                yield os.pread(self._fd, count, at), self._base.pread(count, at)

    def complete(self) -> None:
        """Writes what the file lacks; where the base has holes, the file keeps its own."""
        base = list(self._base.extents())
        for offset, length, own in list(self.runs()):
            for start, count in _within(base, offset, offset + length) if not own else ():
                _copy(self._base, self._fd, start, count)

    def own_ranges(self) -> Iterator[tuple[int, int]]:
        """Where the bytes are the file's, holes beyond the base left out."""
        for offset, length, own in self.runs():
            if own:
                yield offset, length
        yield from data_extents(self._fd, self.size, self.valid)

    def delta(self) -> DeltaHead | None:
        """The file as a delta of a whole object; None when it has too many bytes of its own for that."""
        base, ranges, valid = self._identity, list(self.own_ranges()), self.valid
        if isinstance(self._base, Delta):
            head = self._base.head
            base, valid = head.base, min(valid, head.valid)
            ranges += [(start, min(end, self.valid) - start) for start, end in _ends(head.ranges) if start < self.valid]
        head = DeltaHead(base, self.size, valid, _joined(ranges))
        return head if head.own <= self.size * DELTA_SHARE else None

    def close(self) -> None:
        os.close(self._fd)
        self._base.close()

    def __enter__(self) -> BlockReader:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


@dataclass(frozen=True, slots=True)
class BlockContent:
    """The content of a block-level file for a layer. Reading raises as FileContent, and Corrupt without its base."""

    file: FileContent
    base: Base
    objects: Path

    @property
    def size(self) -> int:
        return self.file.size

    def open(self) -> BlockReader:
        return BlockReader.of(self.file.open(), lambda: self.base.open(self.objects), self.base)

    def extents(self) -> Extents:
        with self.open() as reader:
            found = tuple(reader.extents())
        holes = self.size - sum(length for _, length in found)
        return found if holes else ((0, self.size),) if self.size else ()

    def pieces(self, extents: Extents) -> Iterator[bytes]:
        with self.open() as reader:
            yield from reader.pieces_of(extents)
        os.close(self.file.open())  # raises when it has changed meanwhile

    def is_same(self, identity: bytes | None, size: int) -> bool:
        """Whether these are the bytes of a stored content."""
        if self.size != size:
            return False
        with self.open() as reader:
            if self.base.identity == identity and reader.valid == size:
                return all(own == base for own, base in reader.own_blocks())
            if _dense(reader) == identity:
                return True
        return _sparse(self) == identity


@dataclass(frozen=True, slots=True)
class DeltaContent:
    """The content of a block-level file, read from the delta that was made of it. Reading raises as BlockContent."""

    file: FileContent
    delta: Path
    objects: Path

    @property
    def size(self) -> int:
        return self.file.size

    @contextlib.contextmanager
    def open(self) -> Iterator[Delta]:
        delta = Delta.of(self.objects, os.open(self.delta, os.O_RDONLY | os.O_CLOEXEC))
        try:
            yield delta
        finally:
            delta.close()

    def extents(self) -> Extents:
        with self.open() as delta:
            found = tuple(delta.extents())
        holes = self.size - sum(length for _, length in found)
        return found if holes else ((0, self.size),)

    def pieces(self, extents: Extents) -> Iterator[bytes]:
        with self.open() as delta:
            for offset, length in extents:
                for at in range(offset, offset + length, PIECE):
                    yield delta.pread(min(PIECE, offset + length - at), at)
        self.confirm()

    def confirm(self) -> None:
        """Raises InUse when the file has changed since the delta was made."""
        os.close(self.file.open())


def _within(ranges: Sequence[tuple[int, int]], offset: int, end: int) -> Iterator[tuple[int, int]]:
    """What of sorted ranges lies between two places."""
    at = max(0, bisect.bisect_right(ranges, (offset, 0)) - 1)
    for start, count in (ranges[index] for index in range(at, len(ranges))):
        if start >= end:
            return
        first, last = max(start, offset), min(start + count, end)
        if first < last:
            yield first, last - first


def _ends(ranges: Iterable[tuple[int, int]]) -> Iterator[tuple[int, int]]:
    return ((offset, offset + length) for offset, length in ranges)


def _joined(ranges: Iterable[tuple[int, int]]) -> Ranges:
    """In order, those that touch or overlap as one."""
    found: list[tuple[int, int]] = []
    for start, end in sorted(_ends(ranges)):
        if found and start <= found[-1][1]:
            found[-1] = (found[-1][0], max(end, found[-1][1]))
        else:
            found.append((start, end))
    return tuple((start, end - start) for start, end in found)


def _dense(reader: BlockReader) -> bytes:
    digest = hashlib.sha256()
    for piece in reader.pieces(0, reader.size):
        digest.update(piece)
    return digest.digest()


def _sparse(content: BlockContent) -> bytes:
    from layerfs._pure.hashes import SparseHasher
    from layerfs.layer.sparse import canonical_extents

    hasher = SparseHasher(content.size)
    extents = canonical_extents(content, content.extents())
    with content.open() as reader:
        for offset, length in extents:
            for at in range(offset, offset + length, BLOCK):
                hasher.block(at, b"".join(reader.pieces(at, min(BLOCK, offset + length - at))))
    return hasher.result()[0]


# --- completing ----------------------------------------------------------------------------------------------------


def complete_upper(upper: Path, objects: Path, prefix: bytes, *, sync: bool = True) -> int:
    """Gives all block-level files of an upper directory the bytes that they lack; how many there were.

    The caller holds the container's lock, and nothing is mounted. A crash changes nothing: the next call goes on.

    Raises:
        Corrupt: the store lacks a base. NoSpace and the like: as the host has it.
    """
    name, count = prefix + MARK, 0
    if _mark(upper, name) is None:
        return 0
    for place, entry, _, value in _block_files(upper, name):
        _complete(place, entry, Base.parse(value), objects, name, sync)
        count += 1
    os.removexattr(upper, name)
    return count


def bases_of(upper: Path, prefix: bytes) -> set[bytes]:
    """The objects that block-level files of an upper directory need. Raises Corrupt: a damaged mark."""
    name = prefix + MARK
    files = _block_files(upper, name) if _mark(upper, name) is not None else ()
    return {Base.parse(value).identity for _, _, _, value in files}


def damaged_files(upper: Path, objects: Path, prefix: bytes) -> Iterator[tuple[bytes, str]]:
    """Block-level files whose missing blocks cannot be had: path, and why."""
    name = prefix + MARK
    for place, entry, path, value in _block_files(upper, name) if _mark(upper, name) is not None else ():
        try:
            base = Base.parse(value)
            fd = open_at(entry, place.fd, os.O_RDONLY, own=place.own)
            BlockReader.of(fd, lambda base=base: base.open(objects), base).close()  # type: ignore[misc]
        except Corrupt as error:
            yield path, str(error)


def _block_files(upper: Path, name: bytes) -> Iterator[tuple[Descent, bytes, bytes, bytes]]:
    """(where, its name there, its path, its mark) of each one."""
    with Descent(upper, own=True) as place:
        stack = [(b"", iter(place.names()))]
        while stack:
            prefix, names = stack[-1]
            for entry in names:
                mode = place.status(entry).st_mode
                if stat.S_ISDIR(mode):
                    place.enter(entry)
                    stack.append((prefix + entry + b"/", iter(place.names())))
                    break
                value = place.xattrs(entry).get(name) if stat.S_ISREG(mode) else None
                if value is not None:
                    yield place, entry, prefix + entry, value
            else:
                stack.pop()
                if stack:
                    place.leave()


def _complete(place: Descent, entry: bytes, base: Base, objects: Path, name: bytes, sync: bool) -> None:
    fd = open_at(entry, place.fd, os.O_RDWR, own=place.own)
    with BlockReader.of(fd, lambda: base.open(objects), base) as reader:
        before = os.fstat(fd)
        reader.complete()
        os.utime(fd, ns=(before.st_atime_ns, before.st_mtime_ns))
        if sync:
            os.fsync(fd)  # before the mark says that nothing is missing
        os.removexattr(fd, name)


def _copy(source: Whole | Delta, target: int, offset: int, length: int) -> None:
    end = offset + length
    while offset < end:
        done = _share(source.fd, target, offset, end - offset) if isinstance(source, Whole) else None
        if done is None:
            done = os.pwrite(target, source.pread(min(PIECE, end - offset), offset), offset)
        if not done:
            raise Corrupt("the base of a block-level file ends early")
        offset += done


def _share(source: int, target: int, offset: int, count: int) -> int | None:
    try:
        return os.copy_file_range(source, target, count, offset, offset)
    except OSError as error:
        if error.errno not in (errno.EXDEV, errno.EINVAL, errno.EOPNOTSUPP, errno.ENOSYS):
            raise
        return None


def _mark(path: Path, name: bytes) -> bytes | None:
    try:
        return os.getxattr(path, name, follow_symlinks=False)
    except OSError as error:
        if error.errno in (errno.ENODATA, errno.ENOTSUP):
            return None
        raise
