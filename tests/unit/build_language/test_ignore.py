"""`.dockerignore` and `--exclude`: patterns, exceptions, parents, walks."""

from __future__ import annotations

import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from layerfs.build.ignore import Matcher, clean, parse_ignore
from layerfs.errors import InvalidDockerfile


def test_a_file_is_read_as_docker_reads_it() -> None:
    text = b"\xef\xbb\xbf# no\n  # yes\n\n  /a/ \n./b/../c\n! /d \n!\n//e\n/\n\tf\r\n"
    assert parse_ignore(text) == ("# yes", "a", "c", "!d", "!", "e", "/", "f")


@pytest.mark.parametrize(
    ("pattern", "path", "excluded"),
    [
        ("*", "a", True),
        ("*", "a/b", True),  # by its parent
        ("a", "a/b/c", True),
        ("a", "b/a", False),
        ("*/b", "a/b", True),
        ("*/b", "b", False),
        ("*.log", "x.log", True),
        ("*.log", "d/x.log", False),
        ("**/*.log", "x.log", True),
        ("**/*.log", "d/e/x.log", True),
        ("**/foo", "foo", True),
        ("**/foo", "barfoo", False),
        ("**foo", "barfoo", True),
        ("foo/**", "foo", False),
        ("foo/**", "foo/a/b", True),
        ("a/**/b", "a/b", True),
        ("a/**/b", "a/x/y/b", True),
        ("a/**/b", "a/xb", False),
        ("a**", "abc/d", True),
        ("?", "é", True),
        ("?", "ab", False),
        ("[a-c]x", "bx", True),
        ("[^a-c]x", "bx", False),
        ("a\\*b", "a*b", True),
        ("a\\*b", "axb", False),
        ("a.b", "axb", False),
        ("a(b)+{c}|$^", "a(b)+{c}|$^", True),
        ("**", "anything/at/all", True),
        ("*a*a*a*b*", "xaxaxaxbx", True),
        ("*a*a*a*b*", "xaxaxaxcx", False),
        ("**/a/**/b/**/c/*", "a/b/c/d", True),
        ("**/a/**/b/**/c/*", "x/a/y/b/z/z/c/d", True),
        ("**/a/**/b/**/c/*", "xa/b/c/d", False),
    ],
)
def test_a_pattern_matches(pattern: str, path: str, excluded: bool) -> None:
    assert Matcher([pattern]).excluded(path) is excluded


@pytest.mark.parametrize(
    ("patterns", "path", "excluded"),
    [
        (["docs", "!docs/README.md"], "docs/README.md", False),
        (["docs", "!docs/README.md"], "docs/other", True),
        (["!a", "a"], "a", True),
        (["*", "!d", "d/x"], "d/x/y", True),
        (["*", "!d", "d/x"], "d/z", False),
        (["n/*", "!n/k", "**/*.log"], "n/k/a.log", True),
    ],
)
def test_the_last_pattern_that_matches_decides(patterns: list[str], path: str, excluded: bool) -> None:
    assert Matcher(patterns).excluded(path) is excluded


@pytest.mark.parametrize("pattern", ["[", "[]a]", "[-]", "[x-]", "a[", "\\", "[a-b-c]", "!", "[^", "[z-a]"])
def test_bad_patterns_are_refused(pattern: str) -> None:
    with pytest.raises(InvalidDockerfile):
        Matcher([pattern])


@pytest.mark.parametrize(
    ("pattern", "directory", "may"),
    [("!a/b", "a", True), ("!a/b", "c", False), ("!a", "a", False), ("!**/x", "a/b", True), ("!a/*/c", "a/b", True)],
)
def test_excluded_directories_need_no_look_unless_an_exception_points_there(
    pattern: str, directory: str, may: bool
) -> None:
    assert Matcher(["*", pattern]).may_keep_below(directory) is may


def test_bytes_that_are_no_text_stay_as_they_are() -> None:
    (pattern,) = parse_ignore(b"caf\xe9")
    assert Matcher([pattern]).excluded("caf\udce9")


def test_a_hostile_pattern_takes_no_time() -> None:
    matcher = Matcher(["**/a*a*a*a*a*a*a*a*b", "**/" * 30 + "x"])
    begin = time.process_time()
    assert not matcher.excluded("a" * 200 + "/" + "/".join("a" * 60))
    assert time.process_time() - begin < 10  # backtracking would take hours


PATTERN = st.text("ab*?/!", min_size=1, max_size=8)
PATH = st.lists(st.text("ab", min_size=1, max_size=3), min_size=1, max_size=4).map("/".join)


@given(st.lists(PATTERN, max_size=4), PATH)
def test_what_a_walk_may_leave_out_holds_nothing(patterns: list[str], path: str) -> None:
    try:
        matcher = Matcher(patterns)
    except InvalidDockerfile:
        return
    directory = path.rpartition("/")[0]
    if directory and matcher.excluded(directory) and not matcher.excluded(path):
        assert matcher.may_keep_below(directory)


def test_an_exception_for_a_directory_that_is_not_excluded_does_not_count_below() -> None:
    assert Matcher(["a/*", "!a"]).excluded("a/b")
    assert not Matcher(["a", "!a"]).excluded("a/b")


@given(st.text("./a", max_size=10))
def test_cleaned_paths_stay_as_they_are(path: str) -> None:
    assert clean(clean(path)) == clean(path)
