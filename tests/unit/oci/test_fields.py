"""Untrusted JSON: wrong types name their field, times are exact."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from layerfs.errors import InvalidArchive, InvalidInput
from layerfs.oci.fields import Fields, dump, format_time, load, load_object, parse_time


@pytest.mark.parametrize(
    "raw",
    [b"", b"{", b"\xff", b"NaN", b'{"a": Infinity}', b"[" * 200_000, b"1" * 5000, "\ufeff{}".encode(), b"{} {}"],
)
def test_what_is_not_json_is_refused_with_its_name(raw: bytes) -> None:
    with pytest.raises(InvalidArchive, match=r"^index\.json is not valid JSON"):
        load(raw, "index.json")


def test_a_long_document_is_refused_before_it_is_parsed() -> None:
    with pytest.raises(InvalidArchive, match="more than the 10 allowed"):
        load(b" " * 11, "manifest", limit=10)


@pytest.mark.parametrize("raw", [b"null", b"[]", b'"x"', b"1", b"true", b"1.5"])
def test_a_document_that_is_no_object_is_refused(raw: bytes) -> None:
    with pytest.raises(InvalidArchive, match=r"manifest is .*, not a JSON object"):
        load_object(raw, "manifest")


@pytest.mark.parametrize(
    ("read", "value"),
    [
        (lambda f: f.text("k"), 1),
        (lambda f: f.flag("k"), "yes"),
        (lambda f: f.integer("k"), 1.5),
        (lambda f: f.integer("k"), True),
        (lambda f: f.integer("k"), 1 << 63),
        (lambda f: f.child("k"), []),
        (lambda f: f.children("k"), {}),
        (lambda f: f.children("k"), [None]),
        (lambda f: f.texts("k"), ["a", 1]),
        (lambda f: f.pairs("k"), {"a": 1}),
        (lambda f: f.keys("k"), ["80/tcp"]),
        (lambda f: f.digest("k"), "sha512:00"),
        (lambda f: f.digests("k"), ["sha256:x"]),
        (lambda f: f.time_ns("k"), "yesterday"),
    ],
)
def test_a_wrong_type_names_the_field(read, value) -> None:
    with pytest.raises(InvalidArchive, match=r"^config\.k"):
        read(Fields({"k": value}, "config"))


def test_null_is_an_absent_field() -> None:
    fields = Fields(dict.fromkeys("abcdefg"), "x")
    assert (fields.text("a"), fields.flag("b"), fields.integer("c"), fields.child("d")) == ("", False, 0, None)
    assert (fields.children("e"), fields.texts("f"), fields.pairs("g"), fields.time_ns("a")) == ([], None, (), None)


def test_lone_surrogates_become_replacement_characters() -> None:
    assert load_object(rb'{"a": "x\ud800y"}', "x").text("a") == "x\ufffdy"


@pytest.mark.parametrize(
    ("text", "ns"),
    [
        ("1970-01-01T00:00:00Z", 0),
        ("2015-10-31T22:22:56.015925234Z", 1446330176015925234),
        ("2020-01-01T01:00:00+01:00", 1577836800_000000000),
        ("2020-01-01t00:00:00.5z", 1577836800_500000000),
        ("0001-01-01T00:00:00Z", -62135596800_000000000),
        ("1969-12-31T23:59:59.25Z", -750000000),
        ("2020-01-01T00:00:00.1234567899Z", 1577836800_123456789),
    ],
)
def test_times_are_read_to_the_nanosecond(text: str, ns: int) -> None:
    assert parse_time(text) == ns


@pytest.mark.parametrize(
    "text",
    ["", "2020", "2020-13-01T00:00:00Z", "2020-01-01T00:00:00", "2020-01-01T00:00:00+25:00", "2020-01-01 00:00Z"],
)
def test_other_times_are_refused(text: str) -> None:
    with pytest.raises(InvalidInput, match="RFC 3339"):
        parse_time(text)


@given(st.integers(-62135596800_000000000, 253402300799_999999999))
def test_a_printed_time_reads_back_the_same(ns: int) -> None:
    assert parse_time(format_time(ns)) == ns


def test_json_is_written_compact_and_as_utf8() -> None:
    assert dump({"b": "é", "a": [1]}) == '{"b":"é","a":[1]}'.encode()
    assert json.loads(dump({"x": "\n"})) == {"x": "\n"}
