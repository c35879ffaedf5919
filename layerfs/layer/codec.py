"""Compression of layers: the one home of zlib, isal, zstandard, bz2 and lzma.

Reading detects the form by content, streams, and never holds more than a few MiB whatever the input claims:

* gzip: any number of members; zero padding after the last one is accepted (tape blocks, as gzip(1) has it), anything
  else there is an error (as Go's reader has it);
* zstd: any number of frames, skippable ones too (zstd:chunked, pzstd); a window over 128 MiB is refused, as by zstd(1);
* xz and bzip2: any number of streams; xz may use 256 MiB of memory;
* plain: bytes as they come.

A stream that ends early is an error in every form. Writing is deterministic: equal input gives equal bytes for the
same library versions, whatever the number of threads.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Callable, Iterator

from layerfs._lazy import TYPE_CHECKING, Protocol
from layerfs._record import dataclass
from layerfs.errors import InvalidArchive

if TYPE_CHECKING:
    import concurrent.futures
    from typing import Any, Literal

    Codec = Literal["plain", "gzip", "zstd", "bzip2", "xz"]

PIECE = 1 << 20  # largest piece handed on, bytes
READ = 1 << 18
ZSTD_WINDOW = 1 << 27
XZ_MEMORY = 1 << 28

_MAGIC: tuple[tuple[bytes, Codec], ...] = (
    (b"\x1f\x8b", "gzip"),
    (b"\x28\xb5\x2f\xfd", "zstd"),
    (b"BZh", "bzip2"),
    (b"\xfd7zXZ\x00", "xz"),
)
MEDIA_TYPES: dict[Codec, str] = {
    "plain": "application/vnd.oci.image.layer.v1.tar",
    "gzip": "application/vnd.oci.image.layer.v1.tar+gzip",
    "zstd": "application/vnd.oci.image.layer.v1.tar+zstd",
}


class Readable(Protocol):
    def read(self, count: int, /) -> bytes: ...


@dataclass(frozen=True, slots=True)
class Limits:
    """What a compressed stream may become: bytes in all, and the ratio once `free` bytes came out of it."""

    output: int = 1 << 44
    ratio: int = 10_000
    free: int = 64 << 30

    def check(self, read: int, written: int) -> None:
        if written > self.output:
            raise InvalidArchive(f"decompressed data is over the limit of {self.output} bytes")
        if written > self.free and written > read * self.ratio:
            raise InvalidArchive(f"decompressed data is over {self.ratio} times its compressed size")


def detect(head: bytes) -> Codec:
    """The form of a stream by its first bytes (six are enough)."""
    if len(head) >= 4 and head[1:4] == b"\x2a\x4d\x18" and 0x50 <= head[0] <= 0x5F:
        return "zstd"  # a skippable frame first
    return next((codec for magic, codec in _MAGIC if head.startswith(magic)), "plain")


class Decompressed:
    """A readable stream of what `stream` holds; `codec` says in what form it came.

    `read(n)` gives up to n bytes, b"" at the end. At the end the whole of `stream` has been read.

    Raises:
        InvalidArchive: damaged, truncated, over the limits, or followed by something else.
    """

    def __init__(self, stream: Readable, *, limits: Limits | None = None) -> None:
        self._source = _Source(stream)
        self._limits = limits or Limits()
        self.codec: Codec = detect(self._source.peek(6))
        self._pieces = self._checked(_READERS[self.codec](self._source))
        self._rest = memoryview(b"")

    def _checked(self, pieces: Iterator[bytes]) -> Iterator[bytes]:
        written = 0
        for piece in pieces:
            written += len(piece)
            if self.codec != "plain":
                self._limits.check(self._source.count, written)
            yield piece

    def pieces(self) -> Iterator[bytes]:
        """What is left, in pieces of at most 1 MiB."""
        if self._rest:
            yield bytes(self._rest)
            self._rest = memoryview(b"")
        yield from self._pieces

    def read(self, count: int = -1) -> bytes:
        if count is None or count < 0:
            return b"".join(self.pieces())
        if not self._rest:
            self._rest = memoryview(next(self._pieces, b""))
        data, self._rest = self._rest[:count], self._rest[count:]
        return bytes(data)


class _Source:
    """The compressed bytes, with look-ahead."""

    def __init__(self, stream: Readable) -> None:
        self._stream = stream
        self._buffer, self._at = b"", 0
        self.count = 0

    def _fill(self) -> bool:
        data = self._stream.read(READ)
        self.count += len(data)
        self._buffer, self._at = self._buffer[self._at :] + data, 0
        return bool(data)

    def peek(self, count: int) -> bytes:
        """The next bytes; fewer only at the end."""
        while len(self._buffer) - self._at < count and self._fill():
            pass
        return self._buffer[self._at : self._at + count]

    def take(self) -> bytes:
        """Some bytes, b"" at the end."""
        if self._at == len(self._buffer):
            self._fill()
        data, self._buffer, self._at = self._buffer[self._at :], b"", 0
        return data

    def exactly(self, count: int, what: str) -> bytes:
        data = self.peek(count)
        if len(data) < count:
            raise InvalidArchive(f"truncated {what} stream")
        self._at += count
        return data

    def give_back(self, data: bytes) -> None:
        self._buffer, self._at = data + self._buffer[self._at :], 0

    def skip_zeros(self, what: str) -> None:
        """Nothing but zero bytes may follow."""
        while data := self.take():
            if data.strip(b"\0"):
                raise InvalidArchive(f"garbage after the end of the {what} stream")


def _plain(source: _Source) -> Iterator[bytes]:
    while data := source.take():
        yield data


def _zlib() -> Any:
    try:
        from isal import isal_zlib  # twice as fast; no wheel on some machines

        return isal_zlib
    except ImportError:
        import zlib

        return zlib


def _gunzip(source: _Source) -> Iterator[bytes]:
    zlib = _zlib()
    while True:
        yield from _inflate_member(source, zlib.decompressobj(31), zlib.error)
        if source.peek(2) != b"\x1f\x8b":
            return source.skip_zeros("gzip")


def _inflate_member(source: _Source, inflater: Any, failure: type[Exception]) -> Iterator[bytes]:
    data = b""
    while not inflater.eof:
        try:
            piece = inflater.decompress(data, PIECE)
        except failure as error:
            raise InvalidArchive(f"damaged gzip stream ({error})") from None
        if piece:
            yield piece
        data = inflater.unconsumed_tail
        if not data and len(piece) < PIECE and not inflater.eof and not (data := source.take()):
            raise InvalidArchive("truncated gzip stream")
    source.give_back(inflater.unused_data)


def _bunzip(source: _Source) -> Iterator[bytes]:
    import bz2

    while True:
        yield from _drain(source, bz2.BZ2Decompressor(), OSError, "bzip2")
        if not source.peek(3):
            return
        if source.peek(3) != b"BZh":
            return source.skip_zeros("bzip2")


def _unxz(source: _Source) -> Iterator[bytes]:
    import lzma

    while True:
        yield from _drain(source, lzma.LZMADecompressor(lzma.FORMAT_XZ, memlimit=XZ_MEMORY), lzma.LZMAError, "xz")
        while source.peek(4) == bytes(4):  # stream padding
            source.exactly(4, "xz")
        if not source.peek(1):
            return


def _drain(source: _Source, decompressor: Any, failure: type[Exception], what: str) -> Iterator[bytes]:
    while not decompressor.eof:
        data = source.take() if decompressor.needs_input else b""
        if decompressor.needs_input and not data:
            raise InvalidArchive(f"truncated {what} stream")
        try:
            piece = decompressor.decompress(data, PIECE)
        except failure as error:
            raise InvalidArchive(f"damaged {what} stream ({error})") from None
        if piece:
            yield piece
    source.give_back(decompressor.unused_data)


def _unzstd(source: _Source) -> Iterator[bytes]:
    """Frames are walked block by block, as the library neither bounds its output nor notices a missing end."""
    import zstandard

    decompressor = zstandard.ZstdDecompressor(max_window_size=ZSTD_WINDOW)
    while source.peek(1):
        head = source.exactly(4, "zstd")
        if head[1:] == b"\x2a\x4d\x18" and 0x50 <= head[0] <= 0x5F:
            _skip_frame(source)
        elif head == b"\x28\xb5\x2f\xfd":
            try:
                yield from _unzstd_frame(source, decompressor.decompressobj(), head)
            except zstandard.ZstdError as error:
                raise InvalidArchive(f"damaged zstd stream ({error})") from None
        else:
            source.give_back(head)
            return source.skip_zeros("zstd")


def _skip_frame(source: _Source) -> None:
    left = struct.unpack("<I", source.exactly(4, "zstd"))[0]
    while left:
        left -= len(source.exactly(min(left, READ), "zstd"))


def _unzstd_frame(source: _Source, frame: Any, magic: bytes) -> Iterator[bytes]:
    """One frame (RFC 8878, 3.1.1): header, then blocks of at most 128 KiB each when unpacked."""
    descriptor = source.exactly(1, "zstd")
    flags = descriptor[0]
    single = flags >> 5 & 1
    size_bytes = (single, 2, 4, 8)[flags >> 6]
    rest = source.exactly((1 - single) + (0, 1, 2, 4)[flags & 3] + size_bytes, "zstd")
    parts, room, last = [magic, descriptor, rest], 8, 0
    while not last:
        head = source.exactly(3, "zstd")
        block = int.from_bytes(head, "little")
        last, kind, size = block & 1, block >> 1 & 3, block >> 3
        parts += head, source.exactly(1 if kind == 1 else size, "zstd")
        room -= 1
        if not room and not last:
            if piece := frame.decompress(b"".join(parts)):
                yield piece
            parts, room = [], 8
    if flags & 4:
        parts.append(source.exactly(4, "zstd"))
    if piece := frame.decompress(b"".join(parts)):
        yield piece
    if not frame.eof:
        raise InvalidArchive("truncated zstd stream")


_READERS: dict[Codec, Callable[[_Source], Iterator[bytes]]] = {
    "plain": _plain,
    "gzip": _gunzip,
    "zstd": _unzstd,
    "bzip2": _bunzip,
    "xz": _unxz,
}


class Compressor(Protocol):
    """`write` takes bytes and passes compressed ones on; `close` writes the end (not the sink's)."""

    def write(self, data: bytes | memoryview, /) -> int: ...
    def close(self) -> None: ...


def compressor(codec: Codec, write: Callable[[bytes], object], *, level: int | None = None) -> Compressor:
    """A deterministic compressor; default levels: gzip 6, zstd 3."""
    if codec == "gzip":
        return _GzipWriter(write, 6 if level is None else level)
    if codec == "zstd":
        return _ZstdWriter(write, 3 if level is None else level)
    if codec == "plain":
        return _PlainWriter(write)
    raise ValueError(f"layers are not written as {codec}")


class _PlainWriter:
    def __init__(self, write: Callable[[bytes], object]) -> None:
        self._write = write

    def write(self, data: bytes | memoryview, /) -> int:
        self._write(bytes(data))
        return len(data)

    def close(self) -> None:
        pass


class _ZstdWriter:
    """One frame with a checksum, by one thread: with more threads zstd's output depends on their number."""

    def __init__(self, write: Callable[[bytes], object], level: int) -> None:
        import zstandard

        self._write = write
        self._frame = zstandard.ZstdCompressor(level=level, write_checksum=True).compressobj()

    def write(self, data: bytes | memoryview, /) -> int:
        if packed := self._frame.compress(data):
            self._write(packed)
        return len(data)

    def close(self) -> None:
        self._write(self._frame.flush())


class _GzipWriter:
    """One gzip member of blocks that are deflated side by side, each with the 32 KiB before it as dictionary.

    zlib, not isal: the output of isal depends on the CPU. The header holds no name, time 0 and OS 255.
    """

    BLOCK = 1 << 20

    def __init__(self, write: Callable[[bytes], object], level: int) -> None:
        self._write, self._level = write, level
        self._workers = min(os.cpu_count() or 1, 8)
        self._pool: concurrent.futures.Executor | None = None  # made for the second block: most layers are small
        self._queue: list[concurrent.futures.Future[bytes]] = []
        self._buffer, self._before = bytearray(), b""
        self._crc, self._size = 0, 0
        write(b"\x1f\x8b\x08" + bytes(6) + b"\xff")

    def write(self, data: bytes | memoryview, /) -> int:
        self._buffer += data
        while len(self._buffer) > self.BLOCK:  # one byte more than a block: this one is not the last
            block = bytes(self._buffer[: self.BLOCK])
            del self._buffer[: self.BLOCK]
            self._submit(block, final=False)
        return len(data)

    def close(self) -> None:
        try:
            self._submit(bytes(self._buffer), final=True)
            while self._queue:
                self._write(self._queue.pop(0).result())
            self._write(struct.pack("<II", self._crc, self._size & 0xFFFFFFFF))
        finally:
            if self._pool is not None:
                self._pool.shutdown(cancel_futures=True)

    def _submit(self, block: bytes, *, final: bool) -> None:
        if final and self._pool is None:
            import zlib  # of a small layer: isal would take longer to load
        else:
            zlib = _zlib()
        self._crc = zlib.crc32(block, self._crc)
        self._size += len(block)
        if final and self._pool is None:
            self._write(_deflate(block, b"", self._level, final))
            return
        self._queue.append(self._threads().submit(_deflate, block, self._before, self._level, final))
        self._before = block[-32768:]
        if len(self._queue) > self._workers + 1:
            self._write(self._queue.pop(0).result())

    def _threads(self) -> concurrent.futures.Executor:
        if self._pool is None:
            from concurrent.futures import ThreadPoolExecutor

            self._pool = ThreadPoolExecutor(self._workers, thread_name_prefix="gzip")
        return self._pool


def _deflate(block: bytes, before: bytes, level: int, final: bool) -> bytes:
    import zlib

    deflater = zlib.compressobj(level, zlib.DEFLATED, -15, 9, zlib.Z_DEFAULT_STRATEGY, before)
    return deflater.compress(block) + deflater.flush(zlib.Z_FINISH if final else zlib.Z_SYNC_FLUSH)
