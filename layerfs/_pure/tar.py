"""A streaming tar reader that is pushed bytes (docs/format.md, "Reading a layer tar"): the specification in code.

The reader is a coroutine: it asks for bytes and goes on when they have come, so memory does not depend on sizes.
What it finds goes to a Sink: every byte of the archive once, either as `raw` or as `data` of a regular member.
"""

from __future__ import annotations

from collections.abc import Generator
from dataclasses import dataclass
from typing import Protocol

from layerfs._pure import header, pax
from layerfs._pure.header import BLOCK, Header
from layerfs._pure.pax import Pieces
from layerfs.errors import InvalidArchive

MAX_EXTENSION = 1 << 20
_ZERO = bytes(BLOCK)
_PLAIN = (b"0", b"\0", b"7")
_DATALESS = (b"1", b"2", b"3", b"4", b"5", b"6")


@dataclass(frozen=True, slots=True)
class Member:
    """One member with all extensions applied. `type` is one of 0 (regular) 1 2 3 4 5 6; `pieces` a sparse one's map."""

    type: bytes
    path: bytes
    link: bytes
    mode: int
    uid: int
    gid: int
    mtime_ns: int
    size: int
    device: tuple[int, int]
    xattrs: list[tuple[bytes, bytes]]
    pieces: Pieces | None = None


class Sink(Protocol):
    """What a TarReader talks to. A regular member is begin, data..., end; another one only begin."""

    def raw(self, data: bytes) -> None: ...
    def begin(self, member: Member) -> None: ...
    def data(self, data: bytes) -> None: ...
    def end(self) -> None: ...


Steps = Generator[int, bytes, None]
"""Yields how many bytes it wants, gets exactly so many; a negative number means at most so many, but at least one."""


class TarReader:
    """feed() any chunks, then close(). Raises InvalidArchive; the reader is then of no further use."""

    def __init__(self, sink: Sink, max_size: int = 1 << 44) -> None:
        self._sink = sink
        self._max_size = max_size
        self._global: dict[bytes, bytes] = {}
        self._forget()
        self._between = True  # the archive may end here
        self._buffer = bytearray()
        self._steps = self._archive()
        self._want = next(self._steps)

    def feed(self, data: bytes | bytearray | memoryview) -> None:
        self._buffer += data
        at = 0
        while len(self._buffer) > at and (self._want < 0 or len(self._buffer) - at >= self._want):
            end = min(at + abs(self._want), len(self._buffer))
            chunk = bytes(memoryview(self._buffer)[at:end])
            at = end
            self._want = self._steps.send(chunk)
        del self._buffer[:at]

    def close(self) -> None:
        """The stream is over: it must be where an archive may end."""
        if not self._between or self._buffer:
            raise InvalidArchive("truncated archive")

    def _forget(self) -> None:
        """Extensions are for one member."""
        self._records: dict[bytes, bytes] | None = None
        self._long_name: bytes | None = None
        self._long_link: bytes | None = None

    def _pending(self) -> bool:
        return any(found is not None for found in (self._records, self._long_name, self._long_link))

    def _archive(self) -> Steps:
        while True:
            self._between = not self._pending()
            block = yield BLOCK
            self._between = False
            if block == _ZERO:
                break
            head = header.parse_header(block)
            self._sink.raw(block)
            yield from self._entry(head)
        if self._pending():
            raise InvalidArchive("truncated archive: an extended header without a member")
        self._between = True
        while True:
            self._sink.raw(block)
            block = yield -BLOCK * 128

    def _entry(self, head: Header) -> Steps:
        if head.type in (b"x", b"X"):
            self._records = pax.parse_records((yield from self._extension(head)))
        elif head.type == b"g":
            records = pax.parse_records((yield from self._extension(head)))
            self._global = pax.global_records(self._global, records)
        elif head.type == b"L":
            self._long_name = header.text((yield from self._extension(head)))
        elif head.type == b"K":
            self._long_link = header.text((yield from self._extension(head)))
        else:
            yield from self._member(head)
            self._forget()

    def _extension(self, head: Header) -> Generator[int, bytes, bytes]:
        if head.size > MAX_EXTENSION:
            raise InvalidArchive("extended header over 1 MiB")
        text = b""
        if head.size:
            text = yield head.size
            self._sink.raw(text)
        yield from self._padding(head.size, may_end=head.type == b"g" and not self._pending())
        return text

    def _padding(self, size: int, *, may_end: bool = True) -> Steps:
        """What fills the last block of `size` bytes; a writer that was not closed leaves it out."""
        self._between = may_end
        yield from self._passed(-size % BLOCK)
        self._between = False

    def _skip(self, size: int) -> Steps:
        yield from self._passed(size)
        yield from self._padding(size)

    def _passed(self, left: int) -> Steps:
        while left:
            data = yield -min(left, 1 << 20)
            self._sink.raw(data)
            left -= len(data)

    def _member(self, head: Header) -> Steps:
        records = pax.overlaid(self._global, self._records or {})
        path = records.get(b"path") or (head.name if self._long_name is None else self._long_name)
        size = pax.decimal(records[b"size"], "size") if b"size" in records else head.size
        if head.type in _DATALESS:
            self._sink.begin(self._made(head, head.type, path, records, 0))
        elif head.type == b"D" or (head.type == b"\0" and path.endswith(b"/")):
            self._sink.begin(self._made(head, b"5", path, records, 0))
            yield from self._skip(size)
        elif head.type == b"S":
            yield from self._old_sparse(head, path, records, size)
        elif head.type == b"V":
            yield from self._skip(size)
        elif head.type in _PLAIN:
            yield from self._regular(head, path, records, size)
        else:
            raise InvalidArchive(f"unknown type {head.type!r} of a tar member", path=path)

    def _regular(self, head: Header, path: bytes, records: dict[bytes, bytes], stored: int) -> Steps:
        version = pax.sparse_version(records)
        if version is None:
            yield from self._contents(self._made(head, b"0", path, records, stored), stored)
            return
        path = records.get(b"GNU.sparse.name") or path
        declared = records.get(b"GNU.sparse.realsize") or records.get(b"GNU.sparse.size")
        size = pax.decimal(declared, "size") if declared else stored
        if version == b"data":
            pieces, used = yield from self._map_in_data(stored)
            stored -= used
        else:
            pieces = pax.map_of_records(records)
        pax.check_map(pieces, size, stored)
        yield from self._contents(self._made(head, b"0", path, records, size, pieces), stored)

    def _old_sparse(self, head: Header, path: bytes, records: dict[bytes, bytes], stored: int) -> Steps:
        pieces = pax.map_of_header(pax.old_fields(head.block, 386, 4))
        more = head.block[482]
        while more:
            block = yield BLOCK
            self._sink.raw(block)
            pieces += pax.map_of_header(pax.old_fields(block, 0, 21))
            more = block[504]
            if len(pieces) > pax.MAX_PIECES:
                raise InvalidArchive("sparse map too long", path=path)
        size = pax.real_size(head.block)
        pax.check_map(pieces, size, stored)
        yield from self._contents(self._made(head, b"0", path, records, size, pieces), stored)

    def _map_in_data(self, stored: int) -> Generator[int, bytes, tuple[Pieces, int]]:
        """The map of sparse format 1.0: decimal lines in blocks before the data; and the bytes it takes."""
        lines: list[bytes] = []
        text, used, wanted = b"", 0, 1
        while len(lines) < wanted:
            if used + BLOCK > min(stored, pax.MAX_MAP):
                raise InvalidArchive("bad sparse map before a member's data")
            block = yield BLOCK
            self._sink.raw(block)
            used += BLOCK
            *found, text = (text + block).split(b"\n")
            lines += found
            if lines and wanted == 1:
                wanted = 1 + 2 * pax.decimal(lines[0], "sparse map", pax.MAX_PIECES)
        numbers = [pax.decimal(line, "sparse map") for line in lines[1:wanted]]
        return list(zip(numbers[::2], numbers[1::2], strict=True)), used

    def _contents(self, member: Member, stored: int) -> Steps:
        """A regular member's bytes and their padding."""
        self._sink.begin(member)
        left = stored
        while left:
            data = yield -min(left, 1 << 20)
            self._sink.data(data)
            left -= len(data)
        self._sink.end()
        yield from self._padding(stored)

    def _made(
        self,
        head: Header,
        kind: bytes,
        path: bytes,
        records: dict[bytes, bytes],
        size: int,
        pieces: Pieces | None = None,
    ) -> Member:
        if size > self._max_size:
            raise InvalidArchive(f"a file of {size} bytes is over the limit of {self._max_size}", path=path)
        return Member(
            type=kind,
            path=path,
            link=records.get(b"linkpath") or (head.link if self._long_link is None else self._long_link),
            mode=head.mode,
            uid=pax.decimal(records[b"uid"], "owner", 0xFFFFFFFF) if b"uid" in records else head.uid,
            gid=pax.decimal(records[b"gid"], "group", 0xFFFFFFFF) if b"gid" in records else head.gid,
            mtime_ns=pax.time_ns(records[b"mtime"]) if b"mtime" in records else head.mtime * 1_000_000_000,
            size=size,
            device=head.device,
            xattrs=pax.xattrs(records),
            pieces=pieces,
        )
