"""Random Dockerfiles mean what BuildKit's own parser (`dockerfile`, in Go) and an independent port (e2b) say.

Both stop at the syntax tree: what ours refuses beyond that (unknown flags, bad stage names) is no difference.
LAYERFS_STEPS sets the number of examples.
"""

from __future__ import annotations

import os
from typing import Any

import dockerfile as go
import pytest
from e2b_dockerfile_utils import DockerfileSyntaxError, PatternMatcher, ShellLex, parse_dockerfile_ast
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st

from layerfs.build import instructions as i
from layerfs.build.expand import Rules, expand
from layerfs.build.ignore import Matcher, parse_ignore
from layerfs.build.parse import parse
from layerfs.errors import InvalidDockerfile

EXAMPLES = settings(max_examples=int(os.environ.get("LAYERFS_STEPS", "150")), deadline=None)

KEYWORDS = (
    "RUN",
    "run",
    "CMD",
    "ENTRYPOINT",
    "COPY",
    "ADD",
    "ENV",
    "LABEL",
    "ARG",
    "EXPOSE",
    "VOLUME",
    "WORKDIR",
    "USER",
)
KEYWORDS += ("SHELL", "ONBUILD RUN", "ONBUILD COPY", "HEALTHCHECK CMD", "STOPSIGNAL")
PIECES = (
    "a",
    "b=c",
    "=",
    "é",
    " ",
    "  ",
    "\t",
    '"',
    "'",
    "\\",
    "`",
    "$A",
    "${B:-c}",
    "<<E",
    "<<-E",
    '<<"E"',
    "<<E <<F",
    "E",
)
PIECES += (
    "F",
    "\\\n",
    "\\ \n",
    "`\n",
    "\n",
    "\n\n",
    "\r\n",
    "# x\n",
    "\n#y\n",
    "--chown=1",
    "--mount=a",
    "--",
    "[",
    "]",
    '["a", "b"]',
)
PIECES += ("/", "x y", "\u00a0")
LINE = st.builds(
    lambda word, rest: f"{word} {''.join(rest)}\n", st.sampled_from(KEYWORDS), st.lists(st.sampled_from(PIECES))
)
HEAD = st.sampled_from(("", "# escape=`\n", "# escape=\\\n# x\n", "#syntax = a b \n", "# x=y\n# escape=`\n"))
FILE = st.builds(lambda head, lines: f"{head}FROM a\n{''.join(lines)}", HEAD, st.lists(LINE, max_size=4))


@EXAMPLES
@given(FILE)
@example("FROM a\nRUN <<E cat <<-F\n\tx\nE\n\ty\n\tF\nENV b=c\n")
@example("# escape=`\nFROM a\nENV a=b`\n c=\\d\n")
def test_a_file_is_the_one_that_buildkit_reads(text: str) -> None:
    try:
        theirs = go.parse_string(text)
    except go.GoParseError:
        theirs = None
    try:
        ours = flat(parse(text))
    except InvalidDockerfile:
        return  # the other way round is another test
    assert theirs is not None
    assert [place(each) for each in ours] == [(each.cmd.upper(), each.start_line, each.end_line) for each in theirs]
    for mine, command in zip(ours, theirs, strict=True):
        if command.json and not is_exec(mine):
            return  # the older parser takes `["a"] b` for exec form, and looks for no heredocs then
        bodies = [(heredoc.name, heredoc.content) for heredoc in command.heredocs]
        assert heredocs(mine) in (None, bodies)
        assert words(mine) in (None, list(command.value)), command


@EXAMPLES
@given(FILE)
def test_what_buildkit_refuses_is_refused(text: str) -> None:
    try:
        go.parse_string(text)
    except go.GoParseError:
        with pytest.raises(InvalidDockerfile):
            parse(text)


@EXAMPLES
@given(FILE)
def test_a_file_is_the_one_that_the_port_reads(text: str) -> None:
    try:
        ours = flat(parse(text))
    except InvalidDockerfile:
        return
    theirs = parse_dockerfile_ast(text).instructions
    assert [(name.upper(), *lines) for name, *lines in map(place, ours)] == [
        (each.name, each.start_line, each.end_line) for each in theirs
    ]
    for mine, each in zip(ours, theirs, strict=True):
        bodies = [(heredoc.name, heredoc.content, heredoc.chomp, heredoc.expand) for heredoc in each.heredocs]
        if isinstance(mine, i.Run):
            assert [(h.name, h.body, h.chomp, h.expand) for h in mine.heredocs] == bodies


@EXAMPLES
@given(FILE)
def test_the_port_and_ours_refuse_the_same(text: str) -> None:
    try:
        parse_dockerfile_ast(text)
    except DockerfileSyntaxError:
        with pytest.raises(InvalidDockerfile):
            parse(text)


WORD = st.lists(
    st.sampled_from(
        ("a", " ", "'", '"', "\\", "$A", "${A}", "${N}", "${N:-x", "${A:+y", "${E-z", "}", "$", "<", "<< b", "é", "$N")
    )
).map("".join)


@EXAMPLES
@given(WORD, st.booleans(), st.booleans())
def test_a_word_expands_as_the_port_says(word: str, keep_quotes: bool, keep_unset: bool) -> None:
    variables = {"A": "v w", "E": ""}
    lexer = ShellLex("\\", raw_quotes=keep_quotes, env=variables, skip_unset_env=keep_unset)
    rules = Rules(keep_quotes=keep_quotes, keep_unset=keep_unset)
    try:
        theirs = lexer.process_word(word)
    except ValueError:
        with pytest.raises(InvalidDockerfile):
            expand(word, variables, rules)
        return
    assert expand(word, variables, rules).text == theirs
    if "{" not in word:  # the port forgets the beginning of a word there, as BuildKit does
        found = [each for each in lexer.process_words(word) if each]  # BuildKit has no empty words
        assert list(expand(word, variables, rules).words) == found


PIECE = st.lists(st.sampled_from(("a", "b", "*", "**", "?", "/", "[ab]", "[^a]", "\\", ".")), min_size=1, max_size=7)
PATTERN = st.builds(lambda sign, parts: sign + "".join(parts), st.sampled_from(("", "!")), PIECE)
PATH = st.lists(st.text("ab.", min_size=1, max_size=3), min_size=1, max_size=4).map("/".join)


@EXAMPLES
@given(st.lists(PATTERN, min_size=1, max_size=3), PATH)
def test_a_path_is_excluded_as_the_port_says(patterns: list[str], path: str) -> None:
    try:
        theirs = PatternMatcher(patterns)
    except ValueError:
        return
    read = parse_ignore("\n".join(patterns).encode())
    assume("!/" not in read)  # docker takes it for `!` alone, which is refused
    assert Matcher(read).excluded(path) == theirs.matches(path)


def flat(parsed: i.Dockerfile) -> list[Any]:
    found = [*parsed.global_args]
    for stage in parsed.stages:
        found += [stage.base, *stage.instructions]
    return found


def place(instruction: Any) -> tuple[str, int, int]:
    at = instruction.at
    return (at.keyword.upper(), at.first, at.last)


def is_exec(instruction: Any) -> bool:
    match instruction:
        case i.Run() | i.Cmd() | i.Entrypoint():
            return not instruction.command.shell
        case i.Copy() | i.Add():
            return not instruction.sources or not instruction.sources[0].startswith("[")
    return isinstance(instruction, i.Shell | i.Volume | i.Healthcheck)


def heredocs(instruction: Any) -> list[tuple[str, str]] | None:
    match instruction:
        case i.Run():
            return [(heredoc.name, heredoc.body) for heredoc in instruction.heredocs]
    return None


def words(instruction: Any) -> list[str] | None:
    """The words as the syntax tree has them, where a record still tells them."""
    match instruction:
        case i.Env() | i.Label():
            return [word for pair in instruction.pairs for word in (pair.key, pair.value)]
        case i.Arg():
            return [pair.name if pair.default is None else f"{pair.name}={pair.default}" for pair in instruction.pairs]
        case i.Run() | i.Cmd() | i.Entrypoint():
            return list(instruction.command.words)
        case i.Copy() | i.Add():
            return None if instruction.files else [*instruction.sources, instruction.destination]
        case i.Workdir():
            return [instruction.path]
        case i.User():
            return [instruction.user]
    return None
