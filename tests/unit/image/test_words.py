"""Variables, quotes and escapes of Dockerfile words."""

import contextlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from layerfs.errors import InvalidInput
from layerfs.image.words import expand, expand_words, split

VARIABLES = {"E1": "abc", "empty": "", "path": "/a/b/c.tar.gz", "sp": "x y"}


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("abc", "abc"),
        ('"a b"', "a b"),
        ("'q $E1'", "q $E1"),
        (r"a\ b", "a b"),
        ("${UNSET:-def}", "def"),
        ("${E1:+alt}", "alt"),
        ("${UNSET:+alt}", ""),
        ("${empty:-d}", "d"),
        ("${empty-d}", ""),
        ("${empty+s}", "s"),
        (r"\$E1", "$E1"),
        ("$E1$E1", "abcabc"),
        ("${E1}x", "abcx"),
        ("$E1-x", "abc-x"),
        ('"$E1 \\" \\n"', 'abc " \\n'),
        ("a$", "a$"),
        ("$ x", "$ x"),
        ("${UNSET:-${E1}}", "abc"),
        ('${UNSET:-"a }"}', "a }"),
        ("${path#*/}", "a/b/c.tar.gz"),
        ("${path##*/}", "c.tar.gz"),
        ("${path%.*}", "/a/b/c.tar"),
        ("${path%%.*}", "/a/b/c"),
        ("${path/a/X}", "/X/b/c.tar.gz"),
        ("${path//a/X}", "/X/b/c.tXr.gz"),
        ("${path//./}", "/a/b/ctargz"),
        ("${E1?no}", "abc"),
        ("$unknown", ""),
    ],
)
def test_a_value_is_expanded(text: str, value: str) -> None:
    assert expand(text, VARIABLES) == value


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("'a", "unexpected end"),
        ('"a', "unexpected end"),
        ("${E1", "bad substitution"),
        ("${E1:-x", "missing"),
        ("${}", "bad substitution"),
        ("${E1:x}", "unsupported modifier"),
        ("${B:?no}", "^B: no$"),
        ("${B?}", "^B: not allowed to be unset$"),
    ],
)
def test_a_bad_value_is_refused(text: str, words: str) -> None:
    with pytest.raises(InvalidInput, match=words):
        expand(text, VARIABLES)


def test_words_are_cut_outside_quotes_and_keep_them() -> None:
    assert split(r"""a="b c" 'd e' f\ g""") == ['a="b c"', "'d e'", r"f\ g"]
    assert split("   ") == []


def test_an_unquoted_variable_may_give_several_words() -> None:
    assert expand_words('$sp "$sp" z', VARIABLES) == ["x", "y", "x y", "z"]


@given(st.text(alphabet="a$ {}:-'\"\\/#%", max_size=30))
def test_any_text_is_expanded_or_refused(text: str) -> None:
    with contextlib.suppress(InvalidInput):
        expand(text, VARIABLES)
