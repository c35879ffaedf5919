from __future__ import annotations

import pytest

from layerfs._pure.header import number, parse_header
from layerfs.errors import InvalidArchive
from tests.trees import entry, sealed


@pytest.mark.parametrize(
    ("field", "value"),
    [
        (b"0000644\0", 0o644),
        (b"   644 \0", 0o644),
        (b"\0\0\0\0\0\0\0\0", 0),
        (b"        ", 0),
        (b"17\0junk!", 0o17),
        (b"77777777", 0o77777777),
        (b"\x80\0\0\0\0\0\1\2", 258),
        (b"\xff\xff\xff\xff\xff\xff\xff\xff", -1),
        (b"\xff\xff\xff\xff\xff\xff\xff\0", -256),
    ],
)
def test_numbers(field: bytes, value: int) -> None:
    assert number(field) == value


@pytest.mark.parametrize("field", [b"8", b"-1", b"0x1", b"1 1", b"a\0"])
def test_bad_numbers(field: bytes) -> None:
    with pytest.raises(InvalidArchive):
        number(field)


def changed(at: int, data: bytes) -> bytes:
    block = bytearray(entry("name", b"3", device=(1, 2))[:512])
    block[at : at + len(data)] = data
    return sealed(block)


def test_a_signed_checksum_counts_too() -> None:
    block = bytearray(changed(0, b"\xff\xfe"))
    signed = sum(byte - 256 if byte > 127 else byte for byte in block[:148] + b" " * 8 + block[156:])
    block[148:156] = b"%06o\0 " % signed
    assert parse_header(bytes(block)).name == b"\xff\xfeme"


@pytest.mark.parametrize(
    ("magic", "prefix", "tail", "name"),
    [
        (b"ustar\x0000", b"p" * 155, b"", b"p" * 155 + b"/name"),
        (b"ustar\x0000", b"p" * 155, b"tar\0", b"p" * 131 + b"/name"),
        (b"ustar  \0", b"words", b"", b"words/name"),
        (b"ustar  \0", b"12345670123\00012345670123\0", b"", b"name"),
        (b"ustar  \0", b"w\xff", b"", b"name"),
        (bytes(8), b"ignored", b"", b"name"),
    ],
)
def test_prefixes(magic: bytes, prefix: bytes, tail: bytes, name: bytes) -> None:
    block = bytearray(changed(257, magic))
    block[345:500] = prefix.ljust(155, b"\0")
    block[508 : 508 + len(tail)] = tail
    assert parse_header(sealed(block)).name == name


def test_devices_need_a_magic() -> None:
    assert parse_header(changed(0, b"n")).device == (1, 2)
    assert parse_header(changed(257, bytes(8))).device == (0, 0)


@pytest.mark.parametrize(
    ("at", "data"), [(108, b"\xff" * 8), (124, b"\xff" * 12), (136, b"\x80\xff"), (329, b"0010000\0")]
)
def test_numbers_out_of_range(at: int, data: bytes) -> None:
    with pytest.raises(InvalidArchive):
        parse_header(changed(at, data))
