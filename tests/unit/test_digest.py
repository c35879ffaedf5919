"""Digests are parsed once and right."""

from __future__ import annotations

import hashlib
import io

import pytest
from hypothesis import given
from hypothesis import strategies as st

from layerfs.digest import ChainID, DiffID, Digest, VerifyingReader, chain_id
from layerfs.errors import Corrupt, InvalidInput


@given(st.binary())
def test_parse_and_print_are_inverse(data: bytes) -> None:
    digest = Digest.of(data)
    assert Digest.parse(str(digest)) == digest == Digest.from_raw(digest.raw)


@pytest.mark.parametrize(
    "text", ["", "sha256:", "sha256:" + "A" * 64, "sha512:" + "a" * 128, "a" * 64, "sha256:" + "a" * 64 + "\n"]
)
def test_bad_digests_are_refused(text: str) -> None:
    with pytest.raises(InvalidInput):
        Digest.parse(text)


def test_chain_id_is_the_formula_of_the_specification() -> None:
    first, second = DiffID(Digest.of(b"1")), DiffID(Digest.of(b"2"))
    assert chain_id([first]) == ChainID(first)
    assert str(chain_id([first, second])) == "sha256:" + hashlib.sha256(f"{first} {second}".encode()).hexdigest()


def test_an_empty_stack_has_no_chain_id() -> None:
    with pytest.raises(InvalidInput):
        chain_id([])


def test_verifying_reader_passes_what_fits() -> None:
    reader = VerifyingReader(io.BytesIO(b"abc"), Digest.of(b"abc"), 3)
    assert reader.read() == b"abc"
    assert reader.read() == b""


@pytest.mark.parametrize(("data", "digest", "size"), [(b"abc", b"abd", 3), (b"ab", b"ab", 3), (b"abcd", b"abcd", 3)])
def test_verifying_reader_refuses_the_rest(data: bytes, digest: bytes, size: int) -> None:
    reader = VerifyingReader(io.BytesIO(data), Digest.of(digest), size)
    with pytest.raises(Corrupt):
        while reader.read():
            pass


def test_a_digest_equals_its_text() -> None:
    digest = Digest.of(b"x")
    assert digest == str(digest) and str(digest) in {digest} and digest != digest.hex and digest != 5
