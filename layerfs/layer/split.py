"""Replaying a layer's tar-split record: the tar that was read, byte for byte (docs/format.md, "tar-split record")."""

from __future__ import annotations

import hashlib
import io
import struct
from collections.abc import Iterator

from layerfs._lazy import TYPE_CHECKING
from layerfs.digest import DiffID
from layerfs.errors import Corrupt, InvalidArchive, NotFound
from layerfs.layer.codec import Decompressed
from layerfs.layer.progress import Progress, Report
from layerfs.store.durable import pread_all
from layerfs.store.format import BLOCK, KIND_NONE, KIND_PACK

if TYPE_CHECKING:
    from typing import BinaryIO

    from layerfs.store import StoreRoot
    from layerfs.store.contents import ContentReader

MAGIC = b"LFSPLIT1"
PIECE = 1 << 20
AHEAD = 1 << 19  # bytes of a pack read at once when contents are asked for in its order
_CONTENT = struct.Struct("<32sQQ")
_END = struct.Struct("<Q32s")
_VALUE = struct.Struct("<BxxxIQQ8x")  # kind, block, pack, size of an index value
_ZEROS = bytes(PIECE)

Record = bytes | tuple[bytes, int, int]  # raw bytes, or (identity, offset, length)


def write_layer(
    root: StoreRoot, diff_id: DiffID, out: BinaryIO, *, size: int | None = None, progress: Report | None = None
) -> None:
    """Writes the layer's uncompressed tar, byte-identical to the one that was read, in pieces of about 1 MiB.

    size: of the tar, for the progress.

    Raises:
        NotFound: no such layer.
        Corrupt: the record or a content is damaged or missing, or the whole does not have the diff ID (known only
            after the last byte: take what was written as bad then).
    """
    written = 0
    for piece in _pieces(root, diff_id):
        out.write(piece)
        written += len(piece)
        if progress is not None:
            progress(Progress("write", str(diff_id), written, size))


def open_layer(root: StoreRoot, diff_id: DiffID) -> BinaryIO:
    """The same as a readable stream. `read` raises what `write_layer` raises, at the end at the latest."""
    return io.BufferedReader(_LayerStream(_pieces(root, diff_id)), PIECE)


class _LayerStream(io.RawIOBase):
    def __init__(self, pieces: Iterator[bytes]) -> None:
        self._pieces = pieces
        self._rest = memoryview(b"")

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: memoryview) -> int:  # type: ignore[override]
        if not self._rest:
            self._rest = memoryview(next(self._pieces, b""))
        count = min(len(buffer), len(self._rest))
        buffer[:count] = self._rest[:count]
        self._rest = self._rest[count:]
        return count

    def close(self) -> None:
        if not self.closed and hasattr(self._pieces, "close"):
            self._pieces.close()
        super().close()


def _pieces(root: StoreRoot, diff_id: DiffID) -> Iterator[bytes]:
    """The tar in pieces; the last comes only after the whole has been verified."""
    digest, size, held = hashlib.sha256(), 0, b""
    end: tuple[int, bytes] | None = None
    with _Contents(root) as contents:
        parts: list[bytes] = []
        room = PIECE
        for batch in _batches(root, diff_id):
            if isinstance(batch, tuple):
                end = batch
                break
            for part in contents.resolve(batch):
                parts.append(part)
                room -= len(part)
                if room <= 0:
                    if held:
                        yield held
                    held, parts, room = b"".join(parts), [], PIECE
                    digest.update(held)
                    size += len(held)
        last = b"".join(parts)
    digest.update(last)
    if end != (size + len(last), digest.digest()) or digest.digest() != diff_id.raw:
        raise Corrupt(f"the stored layer {diff_id} gives a tar with another digest")
    yield held + last


def _batches(root: StoreRoot, diff_id: DiffID) -> Iterator[list[Record] | tuple[int, bytes]]:
    """The record's parts, many at a time; the end as (tar size, digest)."""
    try:
        file = root.split_path(diff_id.hex).open("rb")
    except FileNotFoundError:
        raise NotFound(f"no layer {diff_id} in the store") from None
    with file:
        try:
            yield from _parse(Decompressed(file).pieces(), diff_id)
        except InvalidArchive as error:
            raise Corrupt(f"the tar-split record of layer {diff_id} is damaged: {error.message}") from error


def _parse(pieces: Iterator[bytes], diff_id: DiffID) -> Iterator[list[Record] | tuple[int, bytes]]:
    data, at, started = b"", 0, False
    for piece in pieces:
        data, at = data[at:] + piece, 0
        if not started:
            if len(data) < len(MAGIC):
                continue
            if not data.startswith(MAGIC):
                break
            started, at = True, len(MAGIC)
        batch: list[Record] = []
        at = _parse_some(data, at, batch)
        if batch:
            yield batch
        if at < len(data) and data[at] == 0 and len(data) - at >= 1 + _END.size:
            yield _END.unpack_from(data, at + 1)
            return
    raise InvalidArchive(f"no end in the record of {diff_id}")


def _parse_some(data: bytes, at: int, batch: list[Record]) -> int:
    """Appends the whole records from `at`; where they end."""
    size, content = len(data), _CONTENT
    while at < size:
        kind = data[at]
        if kind == 1:
            if size - at < 5:
                break
            end = at + 5 + int.from_bytes(data[at + 1 : at + 5], "little")
            if end > size:
                break
            batch.append(data[at + 5 : end])
            at = end
        elif kind == 2:
            if size - at < 1 + content.size:
                break
            batch.append(content.unpack_from(data, at + 1))
            at += 1 + content.size
        elif kind == 0:
            break
        else:
            raise InvalidArchive(f"record of kind {kind}")
    return at


class _Contents:
    """Turns content records into bytes. Contents of a pack asked for in its order are read ahead."""

    def __init__(self, root: StoreRoot) -> None:
        self._contents = root.contents
        self._pack = -1  # whose window is held
        self._reader: ContentReader | None = None
        self._window, self._start, self._skip = b"", 0, 0

    def __enter__(self) -> _Contents:
        return self

    def __exit__(self, *_: object) -> None:
        self._close()

    def resolve(self, batch: list[Record]) -> Iterator[bytes]:
        wanted = list({record[0] for record in batch if isinstance(record, tuple)})
        values = _VALUE.iter_unpack(self._contents.lookup(b"".join(wanted)))
        found = dict(zip(wanted, values, strict=True))
        for record in batch:
            if isinstance(record, bytes):
                yield record
                continue
            identity, offset, length = record
            kind, block, pack, size = found[identity]
            if kind == KIND_NONE:
                raise Corrupt(f"content {identity.hex()} is missing from the store")
            if offset + length > size:
                raise Corrupt(f"the record wants more of content {identity.hex()} than its {size} bytes")
            if kind == KIND_PACK:
                data = self._packed(identity, pack, block * BLOCK, size)
                yield data if length == size else data[offset : offset + length]
            else:
                yield from self._object(identity, offset, length)

    def _packed(self, identity: bytes, pack: int, start: int, size: int) -> bytes:
        at = start - self._start
        if pack == self._pack and at >= 0 and at + size <= len(self._window):
            return self._window[at : at + size]
        ahead = pack == self._pack and 0 <= at <= len(self._window) + BLOCK
        data = pread_all(self._open(pack, identity), max(size, AHEAD) if ahead else size, start)
        if len(data) < size:
            raise Corrupt(f"content {identity.hex()} should end at {start + size}, its pack is too short")
        self._window, self._start = data, start
        return data[:size]

    def _open(self, pack: int, identity: bytes) -> int:
        if pack != self._pack or self._reader is None:
            self._close()
            try:
                self._reader = self._contents.open(identity)
            except NotFound as error:
                raise Corrupt(f"content {identity.hex()} is missing from the store") from error
            self._pack = pack
        return self._reader.fileno()

    def _object(self, identity: bytes, offset: int, length: int) -> Iterator[bytes]:
        try:
            reader = self._contents.open(identity)
        except NotFound as error:
            raise Corrupt(f"content {identity.hex()} is missing from the store") from error
        with reader:
            end = offset + length
            for start, size in reader.extents() if reader.sparse else ((0, reader.size),):
                if start + size <= offset:
                    continue
                if start >= end:
                    break
                yield from _zeros(min(start, end) - offset)
                offset = max(offset, start)
                stop = min(start + size, end)
                while offset < stop:
                    data = reader.pread(offset, min(PIECE, stop - offset))
                    offset += len(data)
                    yield data
            yield from _zeros(end - offset)

    def _close(self) -> None:
        reader, self._reader, self._pack = self._reader, None, -1
        self._window = b""
        if reader is not None:
            reader.close()


def _zeros(count: int) -> Iterator[bytes]:
    while count > 0:
        yield _ZEROS[: min(count, PIECE)]
        count -= PIECE
