"""PAX records and sparse maps (docs/format.md, "Reading a layer tar")."""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Iterable

from layerfs._pure.header import MAX_NUMBER, number_within
from layerfs.errors import InvalidArchive

SCHILY = b"SCHILY.xattr."
LIBARCHIVE = b"LIBARCHIVE.xattr."
OFFSET, LENGTH = b"GNU.sparse.offset", b"GNU.sparse.numbytes"
MAX_PIECES = 131072
MAX_GLOBAL = 256
MAX_MAP = 1 << 20

_TIME = re.compile(rb"(-?)([0-9]+)(?:\.([0-9]*))?\Z")
_PERCENT = re.compile(rb"%([0-9A-Fa-f]{2})?")

Pieces = list[tuple[int, int]]
"""A sparse member's data: (offset, length) in order."""


def parse_records(data: bytes) -> dict[bytes, bytes]:
    """The records of a PAX header. The pairs of sparse format 0.0 become one GNU.sparse.map, as 0.1 has it."""
    records: dict[bytes, bytes] = {}
    numbers: list[bytes] = []
    at = 0
    while at < len(data):
        key, value, at = _record(data, at)
        named = value if key in (b"path", b"linkpath", b"GNU.sparse.name") else b""
        if b"\0" in named or (b"\0" in key and key.startswith((SCHILY, LIBARCHIVE))):
            raise InvalidArchive("NUL in a PAX record")
        if key in (OFFSET, LENGTH):
            if (key == OFFSET) != (len(numbers) % 2 == 0):
                raise InvalidArchive("bad sparse map in a PAX header")
            numbers.append(value)
        records[key] = value
    if numbers:
        records[b"GNU.sparse.map"] = b",".join(numbers)
    return records


def _record(data: bytes, at: int) -> tuple[bytes, bytes, int]:
    """Key, value and end of the record at `at`: `length key=value\\n`."""
    space = data.find(b" ", at, at + 20)
    digits = data[at : max(space, at)]
    if not digits.isdigit():
        raise InvalidArchive("bad PAX record")
    end = at + int(digits)
    key, equals, value = data[space + 1 : end - 1].partition(b"=")
    if end > len(data) or end <= space + 1 or data[end - 1] != 10 or not equals or not key:
        raise InvalidArchive("bad PAX record")
    return key, value, end


def overlaid(below: dict[bytes, bytes], above: dict[bytes, bytes]) -> dict[bytes, bytes]:
    """Records of one header over those of another: an empty value takes a key away, but an xattr may be empty."""
    merged = below | above
    return {key: value for key, value in merged.items() if value or key.startswith(SCHILY)}


def global_records(below: dict[bytes, bytes], more: dict[bytes, bytes]) -> dict[bytes, bytes]:
    """The global records after one more `g` header."""
    merged = overlaid(below, more)
    if len(merged) > MAX_GLOBAL or sum(len(key) + len(value) for key, value in merged.items()) > 1 << 20:
        raise InvalidArchive("too many global PAX records")
    return merged


def decimal(value: bytes, what: str, limit: int = MAX_NUMBER) -> int:
    digits = value.lstrip(b"0") or value[-1:]
    if not value.isdigit() or len(digits) > 19 or int(digits) > limit:
        raise InvalidArchive(f"bad {what} {value[:32]!r} in a PAX header")
    return int(digits)


def time_ns(value: bytes) -> int:
    """Nanoseconds since the epoch, cut (towards zero) to whole ones."""
    match = _TIME.match(value)
    if not match:
        raise InvalidArchive(f"bad time {value[:32]!r} in a PAX header")
    sign, seconds, fraction = match.groups()
    seconds = seconds.lstrip(b"0") or b"0"
    if len(seconds) > 19 or int(seconds) > MAX_NUMBER:
        raise InvalidArchive("time out of range in a PAX header")
    total = int(seconds) * 1_000_000_000 + int((fraction or b"")[:9].ljust(9, b"0"))
    return -total if sign else total


def xattrs(records: dict[bytes, bytes]) -> list[tuple[bytes, bytes]]:
    """The extended attributes in PAX records; of one name's two spellings SCHILY's comes last, so it counts."""
    found = []
    for key, value in records.items():
        if key.startswith(LIBARCHIVE):
            found.append((_unquote(key[len(LIBARCHIVE) :]), _base64(value)))
    found += [(key[len(SCHILY) :], value) for key, value in records.items() if key.startswith(SCHILY)]
    return found


def _unquote(name: bytes) -> bytes:
    def decode(match: re.Match[bytes]) -> bytes:
        if match[1] is None:
            raise InvalidArchive("bad percent code in the name of an extended attribute")
        return bytes([int(match[1], 16)])

    plain = _PERCENT.sub(decode, name)
    if b"\0" in plain:
        raise InvalidArchive("NUL in the name of an extended attribute")
    return plain


def _base64(value: bytes) -> bytes:
    padding = b"" if b"=" in value else b"=" * (-len(value) % 4)
    try:
        if len(value + padding) % 4:
            raise binascii.Error
        return base64.b64decode(value + padding, validate=True)
    except binascii.Error:
        raise InvalidArchive("bad base64 in an extended attribute") from None


def sparse_version(records: dict[bytes, bytes]) -> bytes | None:
    """b"map" (0.0, 0.1: the map is in the records), b"data" (1.0: before the data) or None (not sparse)."""
    version = records.get(b"GNU.sparse.major"), records.get(b"GNU.sparse.minor")
    if version == (b"1", b"0"):
        return b"data"
    if version not in ((None, None), (b"0", b"0"), (b"0", b"1")):
        raise InvalidArchive("unknown version of the sparse format")
    return b"map" if version[0] or b"GNU.sparse.map" in records else None


def map_of_records(records: dict[bytes, bytes]) -> Pieces:
    """The map of formats 0.0 and 0.1: offset,length,offset,length..."""
    parts = records[b"GNU.sparse.map"].split(b",") if b"GNU.sparse.map" in records else []
    declared = records.get(b"GNU.sparse.numblocks")
    if declared is not None and 2 * decimal(declared, "sparse map") != len(parts):
        raise InvalidArchive("bad sparse map in a PAX header")
    if len(parts) % 2 or len(parts) > 2 * MAX_PIECES:
        raise InvalidArchive("bad sparse map in a PAX header")
    numbers = [decimal(part, "sparse map") for part in parts]
    return list(zip(numbers[::2], numbers[1::2], strict=True))


def map_of_header(fields: Iterable[bytes]) -> Pieces:
    """Pieces of an old GNU map, from 24-byte fields; an offset that starts with NUL ends the list."""
    pieces = []
    for field in fields:
        if not field[0]:
            break
        offset, length = (number_within(field[at : at + 12], "sparse map", 0, MAX_NUMBER) for at in (0, 12))
        pieces.append((offset, length))
    return pieces


def old_fields(block: bytes, start: int, count: int) -> list[bytes]:
    return [block[start + 24 * index : start + 24 * (index + 1)] for index in range(count)]


def real_size(block: bytes) -> int:
    return number_within(block[483:495], "size", 0, MAX_NUMBER)


def check_map(pieces: Pieces, size: int, stored: int) -> None:
    """Pieces lie in order, apart and inside the file, and are the stored bytes exactly."""
    end = 0
    for offset, length in pieces:
        if offset < end or offset + length > size:
            raise InvalidArchive("sparse map with pieces out of order or out of the file")
        end = offset + length
    if len(pieces) > MAX_PIECES or sum(length for _, length in pieces) != stored:
        raise InvalidArchive("sparse map does not fit the stored bytes")
