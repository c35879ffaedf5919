"""Names: docker's grammar, defaults and words; parse(print(x)) = x."""

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from layerfs import reference
from layerfs.digest import Digest
from layerfs.errors import InvalidInput
from layerfs.reference import Reference, parse

HEX = "ab" * 32


@pytest.mark.parametrize(
    ("typed", "full", "familiar"),
    [
        ("debian", "docker.io/library/debian", "debian"),
        ("debian:12", "docker.io/library/debian:12", "debian:12"),
        ("docker.io/debian", "docker.io/library/debian", "debian"),
        ("index.docker.io/a/b:1", "docker.io/a/b:1", "a/b:1"),
        ("a/b", "docker.io/a/b", "a/b"),
        ("library/x", "docker.io/library/x", "x"),
        ("docker.io/library/a/b", "docker.io/library/a/b", "library/a/b"),
        ("localhost/x", "localhost/x", "localhost/x"),
        ("localhost:5000/x:1", "localhost:5000/x:1", "localhost:5000/x:1"),
        ("localhost:5000", "docker.io/library/localhost:5000", "localhost:5000"),
        ("127.0.0.1:5000/a/b/c", "127.0.0.1:5000/a/b/c", "127.0.0.1:5000/a/b/c"),
        ("[::1]:5000/x", "[::1]:5000/x", "[::1]:5000/x"),
        ("Upper/x", "Upper/x", "Upper/x"),
        ("docker.io/foo.bar/x", "docker.io/foo.bar/x", "docker.io/foo.bar/x"),
        ("docker.io/localhost/x", "docker.io/localhost/x", "docker.io/localhost/x"),
        (f"docker.io/library/{HEX}", f"docker.io/library/{HEX}", f"docker.io/library/{HEX}"),
        (f"x@sha256:{HEX}", f"docker.io/library/x@sha256:{HEX}", f"x@sha256:{HEX}"),
        (f"x:1@sha256:{HEX}", f"docker.io/library/x:1@sha256:{HEX}", f"x:1@sha256:{HEX}"),
        ("a__b/c-d--e.f_g", "docker.io/a__b/c-d--e.f_g", "a__b/c-d--e.f_g"),
    ],
)
def test_a_name_is_normalised_and_printed_short(typed: str, full: str, familiar: str) -> None:
    reference = parse(typed)
    assert (str(reference), reference.familiar) == (full, familiar)
    assert parse(familiar) == parse(full) == reference


@pytest.mark.parametrize(
    ("typed", "words"),
    [
        ("BAD", "invalid reference format: repository name (library/BAD) must be lowercase"),
        ("host.io/Bad:x", "invalid reference format: repository name (Bad) must be lowercase"),
        ("", "invalid reference format"),
        (":tag", "invalid reference format"),
        ("a//b", "invalid reference format"),
        ("a:" + "t" * 129, "invalid reference format"),
        ("a:b c", "invalid reference format"),
        ("a\n", "invalid reference format"),
        ("-a", "invalid reference format"),
        ("a___b", "invalid reference format"),
        ("a:tag\u0660x", "invalid reference format"),
        ("a@sha256:abcd", "invalid reference format"),
        ("a@md5:" + "a" * 32, "unsupported digest algorithm"),
        ("a@sha256:" + "a" * 63, "invalid checksum digest length"),
        ("a@sha256:" + "A" * 64, "invalid checksum digest format"),
        (HEX, f"invalid repository name ({HEX}), cannot specify 64-byte hexadecimal strings"),
        ("h.io/" + "a" * 251, "repository name must not be more than 255 characters"),
    ],
)
def test_a_bad_name_is_refused_in_dockers_words(typed: str, words: str) -> None:
    with pytest.raises(InvalidInput) as caught:
        parse(typed)
    assert caught.value.message == words


def test_a_name_of_255_characters_is_allowed() -> None:
    assert len(parse("h.io/" + "a" * 250).name) == 255


def test_the_key_is_the_digest_when_there_is_one_and_latest_when_nothing_is_said() -> None:
    assert parse("x").key == "docker.io/library/x:latest"
    assert parse(f"x:1@sha256:{HEX}").key == f"docker.io/library/x@sha256:{HEX}"
    assert str(parse("x").tagged()) == "docker.io/library/x:latest"


def test_with_tag_and_with_digest_replace_each_other() -> None:
    assert parse("x:1").with_digest(Digest(HEX)).with_tag("2") == parse("x:2")
    with pytest.raises(InvalidInput, match="invalid tag format"):
        parse("x").with_tag("a/b")


part = st.from_regex(r"[a-z0-9]{1,6}((\.|_|__|-{1,3})[a-z0-9]{1,4}){0,2}", fullmatch=True)
domains = st.sampled_from(["docker.io", "localhost", "localhost:5000", "a.b", "[::1]:80", "Host", "x:1"])
tags = st.none() | st.from_regex(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,20}", fullmatch=True)
digests = st.none() | st.binary(min_size=32, max_size=32).map(Digest.from_raw)


@given(domains, st.lists(part, min_size=1, max_size=4), tags, digests)
def test_parse_of_print_is_the_same_name(domain: str, parts: list[str], tag: str | None, digest: Digest | None) -> None:
    path = "/".join(parts if domain != "docker.io" or len(parts) > 1 else ["library", *parts])
    reference = Reference(domain, path, tag, digest)
    assert parse(str(reference)) == reference
    assert parse(reference.familiar) == reference


@given(st.text(max_size=40))
def test_any_text_parses_to_a_stable_name_or_is_refused(text: str) -> None:
    try:
        reference = parse(text)
    except InvalidInput:
        return
    assert parse(str(reference)) == reference == parse(reference.familiar)


def test_plain_names_are_read_as_the_grammar_has_them(monkeypatch):
    """Nearly all names do without the pattern; what is right and what it means is the same."""

    def read(text):
        try:
            return reference.parse.__wrapped__(text)
        except InvalidInput as error:
            return str(error)

    parts = ["a", "B", "-", "_", ".", "/", ":", "@", "9", "é", "bb", "library", "docker.io", "x" * 130]
    names = ["".join(each) for count in (1, 2, 3, 4) for each in itertools.product(parts, repeat=count)]
    quick = [read(name) for name in names]
    monkeypatch.setattr(reference, "_plain", lambda rest: None)
    assert quick == [read(name) for name in names]
