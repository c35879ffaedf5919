"""One 512-byte tar header and the numbers in it (docs/format.md, "Reading a layer tar")."""

from __future__ import annotations

from dataclasses import dataclass

from layerfs.errors import InvalidArchive

BLOCK = 512
MAX_NUMBER = (1 << 63) - 1
_OCTAL = frozenset(b"01234567")


@dataclass(frozen=True, slots=True)
class Header:
    """The fields as they stand in the block; names cut at the first NUL, the prefix joined."""

    type: bytes
    name: bytes
    link: bytes
    mode: int
    uid: int
    gid: int
    mtime: int
    size: int
    device: tuple[int, int]
    block: bytes


def number(field: bytes) -> int:
    """Octal text, or base 256 (two's complement) when the first byte has its high bit; nothing is 0."""
    if field[0] & 0x80:
        bits = 8 * len(field) - 1
        value = int.from_bytes(field, "big") & ((1 << bits) - 1)
        return value - (1 << bits) if field[0] & 0x40 else value
    text = field.strip(b" \0").split(b"\0", 1)[0]
    if not _OCTAL.issuperset(text):
        raise InvalidArchive(f"bad number {field!r} in a tar header")
    return int(text, 8) if text else 0


def number_within(field: bytes, what: str, low: int, high: int) -> int:
    value = number(field)
    if not low <= value <= high:
        raise InvalidArchive(f"{what} {value} out of range")
    return value


def text(field: bytes) -> bytes:
    return field.split(b"\0", 1)[0]


def _check(block: bytes) -> None:
    wanted = -1 if block[148] & 0x80 else number(block[148:156])
    blanked = block[:148] + b" " * 8 + block[156:]
    unsigned = sum(blanked)
    if wanted not in (unsigned, unsigned - 256 * sum(byte >> 7 for byte in blanked)):
        raise InvalidArchive("bad checksum of a tar header")


def _is_number(field: bytes) -> bool:
    try:
        number(field)
    except InvalidArchive:
        return False
    return True


def _prefix(block: bytes) -> bytes:
    if block[257:262] != b"ustar":
        return b""
    if block[262:263] != b" ":
        return text(block[345 : 476 if block[508:511] == b"tar" else 500])
    if _is_number(block[345:357]) and _is_number(block[357:369]):
        return b""
    prefix = text(block[345:500])  # GNU; writers before Go 1.8 took the times' place for it
    return prefix if prefix.isascii() else b""


def parse_header(block: bytes) -> Header:
    """Raises InvalidArchive for a bad checksum or number."""
    _check(block)
    kind, magic = block[156:157], block[257:262]
    name, prefix = text(block[:100]), _prefix(block)
    device = (0, 0)
    if kind in (b"3", b"4") and magic == b"ustar":
        device = (
            number_within(block[329:337], "device number", 0, 4095),
            number_within(block[337:345], "device number", 0, 1048575),
        )
    return Header(
        type=kind,
        name=prefix + b"/" + name if prefix else name,
        link=text(block[157:257]),
        mode=number(block[100:108]) & 0o7777,
        uid=number_within(block[108:116], "owner", 0, 0xFFFFFFFF),
        gid=number_within(block[116:124], "group", 0, 0xFFFFFFFF),
        mtime=number_within(block[136:148], "time", -MAX_NUMBER - 1, MAX_NUMBER),
        size=number_within(block[124:136], "size", 0, MAX_NUMBER),
        device=device,
        block=block,
    )
