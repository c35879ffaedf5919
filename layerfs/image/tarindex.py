"""The members of an image archive's own tar: names, places, links; no data is read, and memory is bounded.

Layers are read by the core; this is only for the outer tar, whose few members are looked up by name. ustar, V7, GNU
long names and PAX (path, linkpath, size) are understood; a sparse member is listed and cannot be opened.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

from layerfs.errors import InvalidArchive

BLOCK = 512
LONG_MAX = 1 << 20  # bytes of a PAX header or a GNU long name, as for layers
_FILES, _LINK, _SYMLINK, _DIRECTORY = b"0\x007", b"1", b"2", b"5"

ReadAt = Callable[[int, int], bytes]  # (offset, count) -> count bytes, fewer at the end


@dataclass(frozen=True, slots=True)
class Member:
    """`link`: the target as it stands there, for links; `is_symlink` tells which kind. `offset`: of the data."""

    name: str
    offset: int
    size: int
    is_file: bool = False
    link: str | None = None
    is_symlink: bool = False


def read_index(read_at: ReadAt, total: int) -> Iterator[Member]:
    """The members in order, up to the first all-zero header or the end.

    Raises:
        InvalidArchive: no tar, a damaged or over-long header, or a member that goes past the end.
    """
    at, extra = 0, dict[str, str]()
    while at < total:
        header = read_at(at, BLOCK)
        if len(header) == BLOCK and not header.strip(b"\0"):
            break
        if len(header) < BLOCK or not _is_sound(header):
            raise InvalidArchive("not a readable tar archive" + (f": bad header at byte {at}" if at else ""))
        kind, size = header[156:157], _number(header[124:136], at)
        data = at + BLOCK
        if kind in b"xgLK":
            if size > LONG_MAX:
                raise InvalidArchive(f"not a readable tar archive: a header of {size} bytes at byte {at}")
            extra |= _extra(kind, _whole(read_at, data, size), at)
        else:
            more = kind == b"S" and header[482]
            while more:  # the map of a GNU sparse file goes on
                more = _whole(read_at, data, BLOCK)[504]
                data += BLOCK
            member = _member(header, kind, data, size, extra)
            extra, size = {}, member.size
            if data + size > total:
                raise InvalidArchive(f"not a readable tar archive: {member.name!r} goes past the end")
            yield member
        at = data + -(-size // BLOCK) * BLOCK
    if at == 0:
        raise InvalidArchive("not a readable tar archive: it has no members")


def _member(header: bytes, kind: bytes, data: int, size: int, extra: dict[str, str]) -> Member:
    name = _text(header[:100])
    prefix = _text(header[345:500]) if header[257:263] == b"ustar\0" else ""
    name = extra.get("path") or (f"{prefix}/{name}" if prefix else name)
    target = extra.get("linkpath") or _text(header[157:257])
    if "size" in extra:
        size = _decimal(extra["size"])
    if kind in (_LINK, _SYMLINK, _DIRECTORY):
        link = None if kind == _DIRECTORY else target
        return Member(name, data, 0, link=link, is_symlink=kind == _SYMLINK)
    sparse = any(key.startswith("GNU.sparse.") for key in extra)
    return Member(name, data, size, is_file=kind in _FILES and not sparse and not name.endswith("/"))


def _is_sound(header: bytes) -> bool:
    try:
        stated = int(header[148:156].strip(b" \0") or b"0", 8)
    except ValueError:
        return False
    rest = header[:148] + b" " * 8 + header[156:]
    return stated in (sum(rest), sum(byte - 256 if byte > 127 else byte for byte in rest))


def _number(field: bytes, at: int) -> int:
    if field[0] & 0x80:  # base 256
        value = int.from_bytes(bytes([field[0] & 0x7F]) + field[1:], "big")
        if field[0] & 0x40:
            raise InvalidArchive(f"not a readable tar archive: a negative size at byte {at}")
        return value
    try:
        digits = field.strip(b" \0")
        if not digits.isdigit() and digits:
            raise ValueError(digits)
        return int(digits or b"0", 8)
    except ValueError:
        raise InvalidArchive(f"not a readable tar archive: a bad size at byte {at}") from None


def _extra(kind: bytes, data: bytes, at: int) -> dict[str, str]:
    """What a long-name or PAX header says of the next member; global headers say nothing of interest."""
    if kind == b"g":
        return {}
    if kind in b"LK":
        return {"path" if kind == b"L" else "linkpath": _text(data)}
    found: dict[str, str] = {}
    while data:
        length, blank, _ = data.partition(b" ")
        if not blank or not length.isdigit() or not len(length) + 3 <= int(length[:8]) <= len(data):
            raise InvalidArchive(f"not a readable tar archive: a bad PAX record at byte {at}")
        record, data = data[: int(length)], data[int(length) :]
        key, equals, value = record[len(length) + 1 :].partition(b"=")
        if not equals or not value.endswith(b"\n"):
            raise InvalidArchive(f"not a readable tar archive: a bad PAX record at byte {at}")
        found[_text(key)] = value[:-1].decode("utf-8", "surrogateescape")
    return found


def _decimal(text: str) -> int:
    if not (text.isascii() and text.isdecimal() and len(text) < 20):
        raise InvalidArchive(f"not a readable tar archive: a bad PAX size {text[:20]!r}")
    return int(text)


def _whole(read_at: ReadAt, at: int, size: int) -> bytes:
    data = read_at(at, size)
    if len(data) < size:
        raise InvalidArchive("not a readable tar archive: it ends in a header")
    return data


def _text(field: bytes) -> str:
    return field.partition(b"\0")[0].decode("utf-8", "surrogateescape")
