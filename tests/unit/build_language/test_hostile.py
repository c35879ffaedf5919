"""No Dockerfile makes the language raise anything but its own error, or take much memory. LAYERFS_STEPS: examples."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from layerfs.build.historytext import buildkit, classic
from layerfs.build.ignore import Matcher, parse_ignore
from layerfs.build.lint import check
from layerfs.build.parse import parse, parse_trigger
from layerfs.build.stages import plan
from layerfs.errors import InvalidDockerfile

EXAMPLES = settings(max_examples=int(os.environ.get("LAYERFS_STEPS", "200")), deadline=None)

KEYWORDS = (
    "FROM",
    "from",
    "RUN",
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
)
KEYWORDS += (
    "USER",
    "SHELL",
    "ONBUILD",
    "HEALTHCHECK",
    "STOPSIGNAL",
    "MAINTAINER",
    "#",
    "# escape=",
    "# check=",
    "XX",
    "",
)
PIECES = (
    "a",
    "A=b",
    " ",
    "\t",
    '"',
    "'",
    "\\",
    "`",
    "$A",
    "${A",
    ":-",
    "}",
    "//",
    "%",
    "##",
    "*",
    "?",
    "<<E",
    "<<-'E'",
    "\nE\n",
)
PIECES += (
    "\\\n",
    "\n",
    "\r",
    "\0",
    "\ufeff",
    "\u2028",
    "--from=",
    "--mount=type=",
    "--chown",
    "--interval=",
    "1",
    "s",
    ",",
    "=",
)
PIECES += (
    "[",
    '["a"]',
    "]",
    "as",
    "AS",
    "0",
    ":",
    "/",
    "..",
    "scratch",
    "NONE",
    "CMD",
    "skip",
    ";",
    "all",
    "1-2",
    "udp",
    "\ud800",
)
LINE = st.builds(
    lambda word, rest: f"{word} {''.join(rest)}\n", st.sampled_from(KEYWORDS), st.lists(st.sampled_from(PIECES))
)


@EXAMPLES
@given(st.lists(LINE, max_size=8).map("".join), st.booleans())
@example("FROM a\n" + "ONBUILD " * 5000 + "RUN x\n", False)
@example("\\\n", False)
@example("ENV A\\", True)
def test_any_text_is_read_or_refused(text: str, headed: bool) -> None:
    evaluate(("FROM a AS b\n" if headed else "") + text)


@EXAMPLES
@given(st.binary(max_size=200))
def test_any_bytes_are_read_or_refused(data: bytes) -> None:
    evaluate(b"FROM a\nRUN x\n" + data)
    evaluate(data)


@EXAMPLES
@given(st.binary(max_size=60), st.text("ab/.*\udcff", min_size=1, max_size=12))
def test_any_ignore_file_is_read_or_refused(data: bytes, path: str) -> None:
    try:
        Matcher(parse_ignore(data)).excluded(path)
    except InvalidDockerfile as error:
        assert "\n" not in str(error)


def evaluate(text: str | bytes) -> None:
    """All that happens to a file before a build begins; an error is one line with its place."""
    try:
        made = plan(parse(text), build_args={"A": "b"})
        for stage in made.stages:
            scope = made.globals.enter()
            for instruction in stage.instructions:
                with made.dockerfile.place(instruction.at):
                    done, after = scope.step(instruction)
                buildkit(done, scope, (), "/")
                classic(done, scope, ())
                scope = after
        check(made, ignore=Matcher(["a"]))
    except InvalidDockerfile as error:
        assert error.line >= 1
        assert "\n" not in str(error)


HOSTILE = {
    "many lines that continue": "b'FROM a\\nRUN a' + b'\\\\\\n' * 1_900_000",
    "one word of megabytes": "b'FROM a\\nENV A=' + b'aaaaaaaa\\\\\\n' * 380_000",
    "many comments": "b'#a\\n' * 1_390_000",
    "many instructions": "b'FROM a\\n' + b'RUN a\\n' * 690_000",
    "a long line": "b'FROM a\\nRUN ' + b'a' * 4_000_000",
    "an endless heredoc": "b'FROM a\\nRUN <<E\\n' + b'a\\n' * 2_000_000",
    "many heredocs": "b'FROM a\\nRUN ' + b'<<E ' * 16_000",
    "deep triggers": "b'FROM a\\n' + b'ONBUILD ' * 8_000 + b'RUN a'",
    "deep JSON": "b'FROM a\\nRUN ' + b'[' * 60_000",
    "values that double": "b'FROM scratch\\nENV A=aaaaaaaa\\n' + b'ENV A=$A$A\\n' * 10_000",
    "a word that doubles": "b'FROM scratch\\nENV A=' + b'a' * 60_000 + b'\\nENV B=' + b'$A' * 30_000",
    "replacements that grow": "b'FROM scratch\\nENV A=' + b'a' * 60_000 + b'\\nENV B=${A//a/' + b'b' * 60_000 + b'}'",
    "deep substitutions": "b'FROM scratch\\nENV A=' + b'${A:-' * 12_000 + b'}' * 1000",
    "all ports many times": "b'FROM scratch\\nEXPOSE ' + b'0-65535 ' * 8_000",
}
RUNNER = """
import resource, sys
resource.setrlimit(resource.RLIMIT_AS, (1 << 30, 1 << 30))
sys.path.insert(0, {here!r})
from test_hostile import evaluate
from layerfs.errors import InvalidDockerfile
import test_hostile
failed = []
for name, text in test_hostile.HOSTILE.items():
    try:
        test_hostile.evaluate(eval(text))
    except BaseException as error:
        failed.append(f"{{name}}: {{type(error).__name__}} {{str(error)[:200]}}")
print("\\n".join(failed) or "all refused or read")
"""


@pytest.mark.timeout(120)
def test_hostile_files_take_little_memory() -> None:
    here = os.path.dirname(__file__)  # noqa: PTH120
    code = RUNNER.format(here=here)
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout.strip()) == (0, "all refused or read"), done.stderr


@pytest.mark.parametrize("text", ["ONBUILD " * 50_000 + "x", "[" * 100_000, "RUN <<E\n" + "a" * 70_000])
def test_hostile_triggers_are_refused(text: str) -> None:
    with pytest.raises(InvalidDockerfile):
        parse_trigger(text)
