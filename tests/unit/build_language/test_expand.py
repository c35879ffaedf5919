"""Words: quotes, escapes, variables with their modifiers, and their bounds."""

from __future__ import annotations

import pytest

from layerfs.build.expand import EXPANSION_MAX, Rules, expand
from layerfs.errors import InvalidDockerfile

VARIABLES = {"A": "abc", "E": "", "P": "/usr/lib/x.tar.gz", "S": "a  b", "L": "one\ntwo"}


@pytest.mark.parametrize(
    ("word", "text"),
    [
        ("plain", "plain"),
        ("$A${A}x", "abcabcx"),
        ("'$A'\"$A\"\\$A", "$Aabc$A"),
        ('"a\\"b\\$\\n"', 'a"b$\\n'),
        ("a\\", "a"),
        ("$", "$"),
        ("$.", "$."),
        ("$$A", "A"),  # `$$` is a parameter of the shell, and is not set
        ("${A:-x}${E:-x}${N:-x}", "abcxx"),
        ("${A-x}${E-x}${N-x}", "abcx"),
        ("${A:+x}${E:+x}${N:+x}", "x"),
        ("${A+x}${E+x}${N+x}", "xx"),
        ("${A:?no}${E?no}", "abc"),
        ("${N:-'a}b'}", "a}b"),
        ("${N:-a\\}b}", "a}b"),
        ("${P#*/}|${P##*/}", "usr/lib/x.tar.gz|x.tar.gz"),
        ("${P%.*}|${P%%.*}", "/usr/lib/x.tar|/usr/lib/x"),
        ("${P/\\//_}|${P//\\//_}", "_usr/lib/x.tar.gz|_usr_lib_x.tar.gz"),
        ("${A/b}", None),
        ("${A//?/x}", "xxx"),
        ("${A/*/x}", "x"),
        ("${A//*/x}", "x"),
        ("${E//*/x}", "x"),
        ("${A//\\?/x}", "abc"),
        ("${A/b/$1\\&}", "a\\&c"),
        ("${L#*}|${L##*}", "one\ntwo|\ntwo"),  # a star stays on its line
        ("${A", None),
        ("${}", None),
        ("${:x}", None),
        ("${A:x}", None),
        ("${A:#x}", None),
        ("${A#\\x}", None),
        ("'a", None),
        ('"a', None),
    ],
)
def test_a_word_expands(word: str, text: str | None) -> None:
    if text is None:
        with pytest.raises(InvalidDockerfile, match="failed to process"):
            expand(word, VARIABLES)
    else:
        assert expand(word, VARIABLES).text == text


@pytest.mark.parametrize(
    ("word", "words"),
    [
        ("a b", ("a", "b")),
        ("$S", ("a", "b")),
        ('"$S"', ("a  b",)),
        ("x${S}y", ("xa", "by")),
        ("a\\ b", ("a b",)),
        ("''", ()),
        ("a${N:-b}", ("ab",)),
        ("<< EOF x", ("<< EOF", "x")),
    ],
)
def test_a_word_splits_outside_of_quotes(word: str, words: tuple[str, ...]) -> None:
    assert expand(word, VARIABLES).words == words


def test_names_that_were_there_and_that_were_not() -> None:
    found = expand("$A ${N:-$M} ${E:+$Q}", VARIABLES)
    assert (found.used, found.missing) == ({"A", "E"}, {"N", "M", "Q"})


def test_bodies_of_heredocs_keep_their_quotes() -> None:
    assert expand("'$A' \"$A\" \\$A", VARIABLES, Rules(quotes=False)).text == "'abc' \"abc\" $A"


def test_a_backtick_can_be_the_escape() -> None:
    assert expand("`$A \\$A", VARIABLES, Rules(escape="`")).text == "$A \\abc"


def test_results_are_bounded() -> None:
    big = {"A": "x" * (EXPANSION_MAX // 2)}
    assert len(expand("$A", big).text) == EXPANSION_MAX // 2
    for word in ("$A" * 3, "${A//x/yyy}", '"${A}$A$A"'):
        with pytest.raises(InvalidDockerfile, match="larger than"):
            expand(word, big)


def test_nesting_is_bounded() -> None:
    assert expand("${N:-" * 60 + "x" + "}" * 60, {}).text == "x"
    with pytest.raises(InvalidDockerfile, match="nested deeper"):
        expand("${N:-" * 5000 + "}" * 5000, {})


@pytest.mark.parametrize("word", ["${A##*a*a*a*a*a*a*b}", "${A//a*a*a*a*a*b/x}", "${A%%b*a*a*a*a*a*}"])
def test_patterns_with_many_stars_take_no_time(word: str) -> None:
    value = "a" * 50_000
    assert expand(word, {"A": value}).text == value
