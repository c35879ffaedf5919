"""What the corpus does not say of parsing: places of errors, carets, lines, triggers, bounds."""

from __future__ import annotations

import dataclasses

import pytest

from layerfs.build.instructions import Add, Copy, Env, Run
from layerfs.build.parse import FILE_MAX, INSTRUCTIONS_MAX, LINE_MAX, parse, parse_trigger
from layerfs.errors import InvalidDockerfile


def failure(text: str | bytes, file: str = "Dockerfile") -> InvalidDockerfile:
    with pytest.raises(InvalidDockerfile) as caught:
        parse(text, file)
    return caught.value


@pytest.mark.parametrize(
    ("text", "line", "caret"),
    [
        ("FROM a\nRUNN b\n", 2, "   2 | RUNN b\n     | ^^^^"),
        ("FROM a\n\nCOPY --form=b c d\n", 3, "   3 | COPY --form=b c d\n     |      ^^^^^^"),
        ("FROM a\nENV A=1 \\\n  B=2 \\\n  C\n", 4, "   2 | ENV A=1 \\\n   3 |   B=2 \\\n   4 |   C\n     |   ^"),
        ("FROM a AS 1x\n", 1, "   1 | FROM a AS 1x\n     |           ^^"),
    ],
)
def test_an_error_shows_its_line_and_a_caret(text: str, line: int, caret: str) -> None:
    error = failure(text)
    assert (error.line, error.excerpt) == (line, caret)


def test_an_error_names_the_file_and_is_one_line() -> None:
    wrong = "dir/Containerfile:2: unknown instruction: FOO (did you mean FROM?)"
    assert str(failure("FROM a\nFOO\tb\n", "dir/Containerfile")) == wrong


def test_a_caret_stays_in_its_column_behind_control_characters() -> None:
    *_, shown, caret = failure("FROM a\n\t \x0bCOPY --nope=\x1b[31m a b\n").excerpt.split("\n")
    assert shown[caret.index("^") :] == "--nope= [31m a b"


def test_an_instruction_knows_its_lines_and_comments() -> None:
    (stage,) = parse("FROM a\n# A is\n# a thing\nRUN <<E \\\n  x\nbody\nE\nENV B=1\n").stages
    run, env = stage.instructions
    assert (run.at.first, run.at.last, run.at.comments) == (4, 7, ("A is", "a thing"))
    assert (env.at.first, env.at.last, env.at.comments) == (8, 8, ())


def test_flags_lose_quotes_and_escapes() -> None:
    (copy,) = parse("FROM a\nCOPY --chown=\"a b\":'c' --chmod=\\7 x y\n").stages[0].instructions
    assert isinstance(copy, Copy)
    assert (copy.chown, copy.chmod) == ("a b:c", "7")


@pytest.mark.parametrize(("flag", "value"), [("--unpack", True), ("--unpack=false", False), ("--link", None)])
def test_a_switch_that_is_not_given_is_told_apart(flag: str, value: bool | None) -> None:
    (add,) = parse(f"FROM a\nADD {flag} x y\n").stages[0].instructions
    assert isinstance(add, Add)
    assert add.unpack is value


@pytest.mark.parametrize(
    ("flag", "reason"),
    [
        ("--link=maybe", "expecting boolean value for flag --link, not: maybe"),
        ("--link=", "missing a value on flag: --link"),
        ("--chown", "missing a value on flag: --chown"),
    ],
)
def test_flags_are_checked(flag: str, reason: str) -> None:
    assert failure(f"FROM a\nCOPY {flag} x y\n").message == reason


@pytest.mark.parametrize(
    ("word", "lone"), [("<<EOF", True), ("<<-'E'", True), ("3<<E", True), ("<<E cat", False), ("cat <<E", False)]
)
def test_a_heredoc_alone_is_told_from_one_behind_a_command(word: str, lone: bool) -> None:
    name = "EOF" if "EOF" in word else "E"
    (run,) = parse(f"FROM a\nRUN {word}\nx\n{name}\n").stages[0].instructions
    assert isinstance(run, Run)
    assert (run.lone_heredoc, len(run.heredocs)) == (lone, 1)


def test_what_looks_like_a_heredoc_in_quotes_is_none() -> None:
    (run,) = parse("FROM a\nRUN echo '<<EOF' \"x <<EOF\" $((1<<2))\n").stages[0].instructions
    assert isinstance(run, Run)
    assert run.heredocs == ()


def test_a_trigger_is_parsed_like_a_line() -> None:
    trigger = parse_trigger("COPY <<EOF /f\nx\nEOF")
    assert isinstance(trigger, Copy)
    assert trigger.files[0].text == "x\n"


@pytest.mark.parametrize("text", ["", "FROM a", "ONBUILD RUN x", "RUN a\nRUN b", "NOPE", "# comment"])
def test_bad_triggers_are_refused(text: str) -> None:
    with pytest.raises(InvalidDockerfile):
        parse_trigger(text)


def test_lines_have_buildkits_limit() -> None:
    most = "ENV A=" + "a" * (LINE_MAX - 6)
    (env,) = parse(f"FROM a\n{most}\n").stages[0].instructions
    assert isinstance(env, Env)
    assert len(env.pairs[0].value) == LINE_MAX - 6
    error = failure(f"FROM a\n{most}a\n")
    assert (error.message, error.line) == (f"dockerfile line greater than max allowed size of {LINE_MAX}", 2)
    assert len(error.excerpt) < 500


def test_files_are_bounded() -> None:
    assert "larger than" in failure(b"#" * (FILE_MAX + 1)).message
    assert f"more than {INSTRUCTIONS_MAX} instructions" in failure("FROM a\n" * (INSTRUCTIONS_MAX + 1)).message


def test_a_parsed_file_is_frozen() -> None:
    parsed = parse("FROM a\n")
    with pytest.raises(dataclasses.FrozenInstanceError):
        parsed.stages = ()  # type: ignore[misc]
