"""Patterns and moments of `images -f`."""

import pytest

from layerfs.image.filters import glob, parse_moment


@pytest.mark.parametrize(
    ("pattern", "text", "matches"),
    [
        ("a*", "abc", True),
        ("a*", "ab/c", False),
        ("*/x", "ab/x", True),
        ("a?c", "abc", True),
        ("[a-c]x", "bx", True),
        ("[^a]x", "ax", False),
        (r"a\*", "a*", True),
        (r"a\*", "ab", False),
        ("a.c", "abc", False),
        ("[]a]x", "]x", True),
    ],
)
def test_patterns_are_gos(pattern: str, text: str, matches: bool) -> None:
    assert bool(glob(pattern).match(text)) is matches


@pytest.mark.parametrize(
    ("text", "ns"),
    [
        ("5s", 95 * 10**9),
        ("10", 10 * 10**9),
        ("1.5", 1_500_000_000),
        ("1970-01-02", 86400 * 10**9),
        ("1970-01-01T00:01", 60 * 10**9),
        ("1970-01-01T00:00:01.5Z", 1_500_000_000),
        ("1970-01-01T01:00:00+01:00", 0),
    ],
)
def test_moments(text: str, ns: int) -> None:
    assert parse_moment(text, 100 * 10**9) == ns
