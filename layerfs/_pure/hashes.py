"""Hashes and identities of contents (docs/format.md, "Identity of contents")."""

from __future__ import annotations

import errno
import hashlib
import os
import stat
import struct

import xxhash

from layerfs._pure.disk import BLOCK
from layerfs.errors import InvalidInput

_CHUNK = 1 << 20
_ZERO = bytes(BLOCK)
SPARSE_TAG = b"layerfs-sparse\0"


def sha256(data: bytes | bytearray | memoryview, /) -> bytes:
    return hashlib.sha256(data).digest()


def xxh64(data: bytes | bytearray | memoryview, /) -> int:
    return int(xxhash.xxh64_intdigest(data))


class Hasher:
    """The identity and the scrub checksum of one content, fed in order."""

    def __init__(self) -> None:
        self._sha256 = hashlib.sha256()
        self._xxh64 = xxhash.xxh64()

    def update(self, data: bytes | bytearray | memoryview) -> None:
        self._sha256.update(data)
        self._xxh64.update(data)

    def result(self) -> tuple[bytes, int]:
        return self._sha256.digest(), int(self._xxh64.intdigest())


class SparseHasher:
    """The sparse identity: fed the blocks that may hold data, in order, each once; the last may be short."""

    def __init__(self, size: int) -> None:
        self._hasher = Hasher()
        self._hasher.update(SPARSE_TAG + struct.pack("<Q", size))

    def block(self, offset: int, data: bytes) -> bool:
        """Count the block at `offset`; False when it is all zero and so does not count."""
        data = data.ljust(BLOCK, b"\0")
        if data == _ZERO:
            return False
        self._hasher.update(struct.pack("<Q", offset) + data)
        return True

    def result(self) -> tuple[bytes, int]:
        return self._hasher.result()


class PieceHasher:
    """The identity of a content that comes in pieces, in order; what lies between them is zeros."""

    def __init__(self, size: int, *, sparse: bool) -> None:
        self._size, self._at = size, 0
        self._dense = None if sparse else Hasher()
        self._blocks, self._block = SparseHasher(size), bytearray()  # of a sparse one; the block at `_at`

    def write(self, offset: int, data: bytes) -> None:
        if self._dense is None:
            self._put(offset, data)
            return
        self._zeros(self._dense, offset)
        self._dense.update(data)
        self._at = offset + len(data)

    def _zeros(self, hasher: Hasher, end: int) -> None:
        while self._at < end:
            count = min(_CHUNK, end - self._at)
            hasher.update(bytes(count))
            self._at += count

    def _put(self, offset: int, data: bytes) -> None:
        at = 0
        while at < len(data):
            start = (offset + at) // BLOCK * BLOCK
            if start != self._at:
                self._flush()
                self._at = start
            within = offset + at - start
            part = data[at : at + BLOCK - within]
            self._block[len(self._block) :] = bytes(within - len(self._block)) + part
            at += len(part)

    def _flush(self) -> None:
        if self._block:
            self._blocks.block(self._at, bytes(self._block))
        self._block.clear()

    def result(self) -> tuple[bytes, int]:
        if self._dense is None:
            self._flush()
            return self._blocks.result()
        self._zeros(self._dense, self._size)
        return self._dense.result()


def hash_fd(fd: int, sparse: bool, /) -> tuple[bytes, int]:
    """(identity, xxh64) of an open regular file, by pread; the sparse one reads only where SEEK_DATA says data is."""
    status = os.fstat(fd)
    if not stat.S_ISREG(status.st_mode):
        raise InvalidInput("not a regular file")
    size = status.st_size
    return _hash_sparse(fd, size) if sparse else _hash_dense(fd)


def _hash_dense(fd: int) -> tuple[bytes, int]:
    hasher, offset = Hasher(), 0
    while data := os.pread(fd, _CHUNK, offset):
        hasher.update(data)
        offset += len(data)
    return hasher.result()


def _hash_sparse(fd: int, size: int) -> tuple[bytes, int]:
    hasher, offset = SparseHasher(size), 0
    while offset < size:
        try:
            start = max(offset, os.lseek(fd, offset, os.SEEK_DATA) // BLOCK * BLOCK)
        except OSError as error:
            if error.errno == errno.ENXIO:  # only a hole is left
                break
            raise
        end = os.lseek(fd, start, os.SEEK_HOLE) if start >= offset else size
        end = min(size, -(-max(end, start + 1) // BLOCK) * BLOCK)
        for at in range(start, end, BLOCK):
            hasher.block(at, os.pread(fd, min(BLOCK, size - at), at))
        offset = max(end, start + BLOCK)
    return hasher.result()


def _crc32c_table() -> tuple[int, ...]:
    table = []
    for value in range(256):
        for _ in range(8):
            value = (value >> 1) ^ (0x82F63B78 if value & 1 else 0)
        table.append(value)
    return tuple(table)


_TABLE = _crc32c_table()


def crc32c(data: bytes | bytearray | memoryview, crc: int = 0xFFFFFFFF) -> int:
    """Castagnoli's CRC without inversion at either end, as EROFS uses it."""
    for byte in bytes(data):
        crc = _TABLE[(crc ^ byte) & 0xFF] ^ (crc >> 8)
    return crc
