"""Detach keys: found however they are typed, and nothing that is typed besides them is lost."""

import pytest

from layerfs.cli.terminal import Keys, parse_keys
from layerfs.errors import InvalidInput


def test_names_of_keys():
    assert parse_keys("ctrl-p,ctrl-q") == b"\x10\x11"
    assert parse_keys("ctrl-@,a,ctrl-_,ctrl-[") == b"\x00a\x1f\x1b"
    assert parse_keys("") == b""


@pytest.mark.parametrize("text", ["ctrl-", "ctrl-pp", "ctrl-1", "é", "ab", "ctrl-p,,x"])
def test_what_is_no_key(text):
    with pytest.raises(InvalidInput, match="invalid detach keys"):
        parse_keys(text)


@pytest.mark.parametrize("pieces", [[b"ab\x10\x11"], [b"ab\x10", b"\x11"], [b"a", b"b", b"\x10", b"\x11later"]])
def test_the_keys_are_found_in_any_pieces(pieces):
    keys, passed = Keys(b"\x10\x11"), b""
    for piece in pieces:
        more, found = keys.feed(piece)
        passed += more
    assert (passed, found) == (b"ab", True)


@pytest.mark.parametrize("data", [b"\x10x\x11", b"\x10\x10x", b"plain", b"\x11\x10z"])
def test_half_of_them_is_passed_on(data):
    assert Keys(b"\x10\x11").feed(data) == (data, False)


def test_the_keys_behind_a_first_half():
    assert Keys(b"\x10\x11").feed(b"\x10\x10\x11") == (b"\x10", True)
    assert Keys(b"").feed(b"\x10\x11") == (b"\x10\x11", False)
