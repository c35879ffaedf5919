from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from layerfs._pure import pax
from layerfs.errors import InvalidArchive
from tests.trees import record, records

keys = st.binary(min_size=1, max_size=20).filter(lambda key: b"=" not in key and not key.startswith(b"GNU.sparse"))


@given(st.dictionaries(keys, st.binary(max_size=200), max_size=5))
def test_records_come_back(pairs: dict[bytes, bytes]) -> None:
    assert pax.parse_records(records(pairs)) == pairs


@pytest.mark.parametrize(
    "data",
    [
        *(b"x", b"9", b" 9 a=b\n", b"+6 a=b\n", b"7 a=b\n", b"5 a=b\n", b"6 a=bc", b"5 =a\n", b"4 a\n", b"0 a=b\n"),
        *(b"2 \n", b"99999999999999999999 a=b\n", record(b"a", b"b") + b"\0"),
    ],
)
def test_bad_records(data: bytes) -> None:
    with pytest.raises(InvalidArchive):
        pax.parse_records(data)


def test_the_last_of_equal_keys_counts() -> None:
    assert pax.parse_records(record(b"path", b"a") + record(b"path", b"b")) == {b"path": b"b"}


@pytest.mark.parametrize(
    ("text", "value"),
    [
        (b"0", 0),
        (b"1.5", 1_500_000_000),
        (b"1.", 1_000_000_000),
        (b"-1.5", -1_500_000_000),
        (b"-0.0000000019", -1),
        (b"12.123456789987", 12_123_456_789),
        (b"00000000000000000000007", 7_000_000_000),
        (b"9223372036854775807", 9223372036854775807 * 10**9),
    ],
)
def test_times(text: bytes, value: int) -> None:
    assert pax.time_ns(text) == value


@pytest.mark.parametrize("text", [b"", b".5", b"+1", b"1e3", b"--1", b"1.5.5", b" 1", b"9223372036854775808"])
def test_bad_times(text: bytes) -> None:
    with pytest.raises(InvalidArchive):
        pax.time_ns(text)


def test_schily_wins_and_libarchive_is_decoded() -> None:
    found = pax.xattrs(
        {b"SCHILY.xattr.user.a": b"1", b"LIBARCHIVE.xattr.user.a": b"Mg", b"LIBARCHIVE.xattr.user.%62": b"Mw=="}
    )
    assert dict(found) == {b"user.a": b"1", b"user.b": b"3"}


@pytest.mark.parametrize("value", [b"*", b"Y", b"YQ=", b"YQ===", b"Y=Q=", b"YWJj="])
def test_bad_base64(value: bytes) -> None:
    with pytest.raises(InvalidArchive):
        pax.xattrs({b"LIBARCHIVE.xattr.user.a": value})


def test_empty_values_take_keys_away_but_not_xattrs() -> None:
    below = {b"uid": b"1", b"SCHILY.xattr.user.a": b"1"}
    assert pax.overlaid(below, {b"uid": b"", b"SCHILY.xattr.user.a": b""}) == {b"SCHILY.xattr.user.a": b""}


def test_global_records_are_bounded() -> None:
    many = {b"k%d" % number: b"v" for number in range(257)}
    with pytest.raises(InvalidArchive):
        pax.global_records({}, many)
    with pytest.raises(InvalidArchive):
        pax.global_records({b"a": b"x" * 700_000}, {b"b": b"x" * 700_000})


@pytest.mark.parametrize(
    ("pieces", "size", "stored"),
    [([(0, 5), (4, 1)], 10, 6), ([(0, 11)], 10, 11), ([(0, 5)], 10, 6), ([(11, 0)], 10, 0), ([(0, 1)] * 2, 10, 2)],
)
def test_maps_that_lie(pieces: pax.Pieces, size: int, stored: int) -> None:
    with pytest.raises(InvalidArchive):
        pax.check_map(pieces, size, stored)


def test_pairs_make_a_map() -> None:
    data = b"".join(record(b"GNU.sparse.offset", b"%d" % at) + record(b"GNU.sparse.numbytes", b"2") for at in (0, 8))
    assert pax.map_of_records(pax.parse_records(data)) == [(0, 2), (8, 2)]
    with pytest.raises(InvalidArchive):
        pax.parse_records(record(b"GNU.sparse.numbytes", b"2"))
