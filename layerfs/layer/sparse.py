"""Holes: where a file may hold other bytes than zero."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Protocol

from layerfs.store.delta import data_extents as data_extents

Extents = tuple[tuple[int, int], ...]  # (offset, length) in order, not touching; everything else is zero

BLOCK = 4096  # zeros are looked for in blocks of this size
MAX_EXTENTS = 30_000  # keeps the map of a sparse tar member below 1 MiB, the limit of Go's reader


class _Readable(Protocol):
    @property
    def size(self) -> int: ...
    def pieces(self, extents: Extents) -> Iterator[bytes]: ...


def join_extents(extents: Iterable[tuple[int, int]], gap: int = 0) -> Iterator[tuple[int, int]]:
    """Ranges that are at most `gap` bytes apart become one."""
    start = end = -1
    for offset, length in extents:
        if start >= 0 and offset - end <= gap:
            end = offset + length
            continue
        if start >= 0:
            yield start, end - start
        start, end = offset, offset + length
    if start >= 0:
        yield start, end - start


def sparse_table(extents: Extents, size: int) -> bytes:
    """The map that stands before the data of a PAX sparse 1.0 member, padded to 512 bytes.

    A hole at the end is closed with an empty range, as GNU tar writes it.
    """
    end = extents[-1][0] + extents[-1][1] if extents else 0
    listed = extents if end == size and extents else (*extents, (size, 0))
    table = b"%d\n" % len(listed) + b"".join(b"%d\n%d\n" % extent for extent in listed)
    return table + bytes(-len(table) % 512)


def canonical_extents(content: _Readable, extents: Extents) -> Extents:
    """The ranges of 4 KiB blocks that are not all zero: what the bytes say, not how the host happens to keep them.

    Over MAX_EXTENTS ranges, those up to 16 KiB apart are joined, or 64 KiB, and so on. Memory stays bounded.
    """
    found: list[tuple[int, int]] = []
    gap = 0
    for offset, length in _nonzero_blocks(content, extents):
        if found and offset - sum(found[-1]) <= gap:
            found[-1] = (found[-1][0], offset + length - found[-1][0])
            continue
        found.append((offset, length))
        while len(found) > 4 * MAX_EXTENTS:
            gap = 4 * (gap or BLOCK)
            found = list(join_extents(found, gap))
    while len(found) > MAX_EXTENTS:
        gap = 4 * (gap or BLOCK)
        found = list(join_extents(found, gap))
    size = content.size
    return tuple((offset, min(length, size - offset)) for offset, length in found)


def _nonzero_blocks(content: _Readable, extents: Extents) -> Iterator[tuple[int, int]]:
    size = content.size
    aligned = []
    for offset, length in extents:
        start = offset - offset % BLOCK
        aligned.append((start, min(offset + length + -(offset + length) % BLOCK, size) - start))
    for extent in join_extents(aligned):
        at = extent[0]
        held = b""
        for piece in content.pieces((extent,)):
            held = held + piece if held else piece
            usable = len(held) - len(held) % BLOCK
            yield from _blocks_of(held[:usable], at)
            at, held = at + usable, held[usable:]
        yield from _blocks_of(held, at)


def _blocks_of(data: bytes, offset: int) -> Iterator[tuple[int, int]]:
    if not data.strip(b"\0"):
        return
    for at in range(0, len(data), BLOCK):
        if data[at : at + BLOCK].strip(b"\0"):
            yield offset + at, BLOCK
