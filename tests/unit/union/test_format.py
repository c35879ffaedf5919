"""overlayfs's marks: escaping and origins."""

from __future__ import annotations

import os

from hypothesis import given
from hypothesis import strategies as st

from layerfs.union.format import TRUSTED, USER, decode_origin, encode_origin, is_whiteout

names = st.sampled_from([b"trusted.overlay.", b"user.overlay.", b"trusted.", b"user."])
# Taken from an upper directory of Linux 6.18 (uuid 11223344-5566-7788-99aa-bbccddeeff00, nid 0x29).
KERNELS = bytes.fromhex("00fb210081112233445566778899aabbccddeeff00000000002900000000000000")
UUID = bytes.fromhex("112233445566778899aabbccddeeff00")


def test_origins_are_the_kernels() -> None:
    assert encode_origin(UUID, 0x29) == KERNELS
    assert decode_origin(KERNELS, UUID) == 0x29


@given(st.integers(0, (1 << 62) - 1))
def test_origins_come_back(nid: int) -> None:
    assert decode_origin(encode_origin(UUID, nid), UUID) == nid


@given(st.binary(max_size=40))
def test_other_origins_are_nobodys(value: bytes) -> None:
    assert decode_origin(value, UUID) is None
    assert decode_origin(KERNELS, bytes(16)) is None


@given(names, st.binary(max_size=20))
def test_users_names_come_back_and_never_look_private(prefix: bytes, rest: bytes) -> None:
    name = prefix + rest
    for marks in (TRUSTED, USER):
        stored = marks.escape(name)
        assert marks.unescape(stored) == name
        assert not stored.startswith(marks.prefix) or stored.startswith(marks.prefix + b"overlay.")


def test_private_names_are_hidden() -> None:
    assert TRUSTED.unescape(b"trusted.overlay.opaque") is None
    assert USER.unescape(b"trusted.overlay.opaque") == b"trusted.overlay.opaque"


def test_only_device_0_0_is_a_whiteout() -> None:
    assert is_whiteout(0o020000, 0)
    assert not is_whiteout(0o020000, os.makedev(1, 3))
    assert not is_whiteout(0o100000, 0)
