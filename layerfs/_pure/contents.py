"""Where a layer's contents go: small ones into its pack, others into objects, none twice."""

from __future__ import annotations

import contextlib
import os
import struct
from collections.abc import Callable
from typing import Protocol

from layerfs._pure import disk
from layerfs._pure.hashes import Hasher, PieceHasher, SparseHasher
from layerfs._pure.host import no_space, write_at
from layerfs._pure.tree import Content

PACK_MAX = 131072
_NEW = struct.Struct("<32sQQQBB6x")
_KNOWN = struct.Struct("<BBHIQQQ")


class Contents:
    """Where contents go: each one that the store does not know, into the pack or an object of its own."""

    def __init__(self, pack_fd: int, pack_id: int, objects_fd: int, lookup: Callable[[bytes], bytes]) -> None:
        self._pack_fd, self._pack_id, self._objects_fd, self._lookup = pack_fd, pack_id, objects_fd, lookup
        self.used: dict[bytes, Content] = {}
        self.new = bytearray()
        self.pack_blocks = 0
        self.delta: int | None = None  # the next big content is kept by the caller, in this file

    def writer(self, size: int, *, sparse: bool) -> Writer:
        if self.delta is not None and size > PACK_MAX:
            name, self.delta = f".delta-{self.delta}", None
            return _Delta(self, self._objects_fd, size, name, sparse=sparse)
        if sparse:
            return _SparseObject(self, self._objects_fd, size)
        return _Small(self, size) if size <= PACK_MAX else _BigObject(self, self._objects_fd, size)

    def find(self, identity: bytes, size: int) -> Content | None:
        """A content that this layer has used before or that the store has."""
        found = self.used.get(identity)
        if found is None:
            kind, _, _, block, pack, _, _ = _KNOWN.unpack(self._lookup(identity))
            if kind:
                found = self.used[identity] = Content(identity, kind, size, pack, block)
        return found

    def add_packed(self, identity: bytes, data: bytes, xxh64: int) -> Content:
        block, size = self.pack_blocks, len(data)
        write_at(self._pack_fd, data.ljust(disk.round_up(size, disk.BLOCK), b"\0"), block * disk.BLOCK)
        self.pack_blocks += disk.blocks_of(size)
        self.new += _NEW.pack(identity, size, xxh64, block, disk.KIND_PACK, 0)
        content = self.used[identity] = Content(identity, disk.KIND_PACK, size, self._pack_id, block)
        return content

    def add_object(self, identity: bytes, size: int, xxh64: int, *, sparse: bool, delta: bool = False) -> Content:
        self.new += _NEW.pack(identity, size, xxh64, 0, disk.KIND_OBJECT, sparse | delta << 1)
        content = self.used[identity] = Content(identity, disk.KIND_OBJECT, size)
        return content


class Writer(Protocol):
    """One content on its way in: `write` where there is data, in order, then `end`; `drop` on failure."""

    def write(self, offset: int, data: bytes) -> None: ...
    def end(self) -> Content: ...
    def drop(self) -> None: ...


class _Small:
    def __init__(self, contents: Contents, size: int) -> None:
        self._contents, self._data = contents, bytearray(size)

    def write(self, offset: int, data: bytes) -> None:
        self._data[offset : offset + len(data)] = data

    def end(self) -> Content:
        hasher = Hasher()
        hasher.update(self._data)
        identity, xxh64 = hasher.result()
        found = self._contents.find(identity, len(self._data))
        return found or self._contents.add_packed(identity, bytes(self._data), xxh64)

    def drop(self) -> None:
        pass


class _ObjectFile:
    """A file of its own in the objects' directory, named by its identity at the end."""

    def __init__(self, contents: Contents, directory: int, size: int) -> None:
        self._contents, self._directory, self._size = contents, directory, size
        self._name = f".new-{os.urandom(8).hex()}"
        flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
        with no_space():
            self._fd = os.open(self._name, flags, 0o400, dir_fd=directory)

    def drop(self) -> None:
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1
            with contextlib.suppress(OSError):
                os.unlink(self._name, dir_fd=self._directory)

    def __del__(self) -> None:
        if getattr(self, "_fd", -1) >= 0:
            os.close(self._fd)

    def _finish(self, identity: bytes, xxh64: int, *, sparse: bool) -> Content:
        found = self._contents.find(identity, self._size)
        if found:
            self.drop()
            return found
        os.fchmod(self._fd, 0o400)
        os.close(self._fd)
        self._fd = -1
        os.rename(self._name, identity.hex(), src_dir_fd=self._directory, dst_dir_fd=self._directory)
        return self._contents.add_object(identity, self._size, xxh64, sparse=sparse)


class _BigObject(_ObjectFile):
    def __init__(self, contents: Contents, directory: int, size: int) -> None:
        super().__init__(contents, directory, size)
        self._hasher, self._at = Hasher(), 0

    def write(self, offset: int, data: bytes) -> None:
        self._hasher.update(bytes(offset - self._at))  # holes of less than 1 MiB are zeros like others
        self._hasher.update(data)
        self._at = offset + len(data)
        write_at(self._fd, data, offset)

    def end(self) -> Content:
        self._hasher.update(bytes(self._size - self._at))
        with no_space():
            os.ftruncate(self._fd, self._size)
        return self._finish(*self._hasher.result(), sparse=False)


class _Delta:
    """Only hashed: the caller has made the file."""

    def __init__(self, contents: Contents, directory: int, size: int, name: str, *, sparse: bool) -> None:
        self._contents, self._directory, self._size, self._name = contents, directory, size, name
        self._sparse, self._hasher = sparse, PieceHasher(size, sparse=sparse)

    def write(self, offset: int, data: bytes) -> None:
        self._hasher.write(offset, data)

    def end(self) -> Content:
        identity, xxh64 = self._hasher.result()
        found = self._contents.find(identity, self._size)
        if found:
            os.unlink(self._name, dir_fd=self._directory)
            return found
        os.rename(self._name, identity.hex(), src_dir_fd=self._directory, dst_dir_fd=self._directory)
        return self._contents.add_object(identity, self._size, xxh64, sparse=self._sparse, delta=True)

    def drop(self) -> None:
        pass


class _SparseObject(_ObjectFile):
    """Blocks are put together from the pieces; all-zero ones stay holes."""

    def __init__(self, contents: Contents, directory: int, size: int) -> None:
        super().__init__(contents, directory, size)
        self._hasher = SparseHasher(size)
        self._at, self._block = 0, bytearray()  # the block that is being put together, and where it starts

    def write(self, offset: int, data: bytes) -> None:
        at = 0
        while at < len(data):
            start = (offset + at) // disk.BLOCK * disk.BLOCK
            if start != self._at:
                self._flush()
                self._at = start
            within = offset + at - start
            part = data[at : at + disk.BLOCK - within]
            self._block[len(self._block) :] = bytes(within - len(self._block)) + part
            at += len(part)

    def _flush(self) -> None:
        if self._block and self._hasher.block(self._at, bytes(self._block)):
            write_at(self._fd, self._block, self._at)
        self._block.clear()

    def end(self) -> Content:
        self._flush()
        with no_space():
            os.ftruncate(self._fd, self._size)
        return self._finish(*self._hasher.result(), sparse=True)
