"""Checks that need more than the file: base images, .dockerignore, the options of the directive."""

from __future__ import annotations

import pytest

from layerfs.build.ignore import Matcher
from layerfs.build.lint import RULES, Options, check, check_text
from layerfs.build.parse import parse
from layerfs.build.stages import plan
from layerfs.errors import InvalidDockerfile
from layerfs.oci import ContainerConfig, Platform

AMD, ARM = Platform("linux", "amd64"), Platform("linux", "arm64")


def names(text: str, config: ContainerConfig | None = None, ignore: Matcher | None = None) -> list[str]:
    report = check(plan(parse(text)), base_config=lambda image, platform: config, ignore=ignore)
    return [warning.rule.name for warning in report.warnings]


def test_the_images_environment_and_shell_count() -> None:
    text = "FROM a\nENV B=$A\nCMD x\n"
    assert names(text) == ["UndefinedVar", "JSONArgsRecommended"]
    assert names(text, ContainerConfig(env=("A=1",), shell=("/bin/bash", "-c"))) == []


def test_what_a_stage_set_counts_for_the_next() -> None:
    text = 'FROM a AS b\nENV A=1\nARG C\nWORKDIR /w\nSHELL ["/s"]\nFROM b\nENV D=$A$C\nWORKDIR x\nCMD y\n'
    assert names(text) == []


def test_exceptions_in_dockerignore_end_the_check_of_sources() -> None:
    text = "FROM a\nCOPY x y/z /\n"
    assert names(text, ignore=Matcher(["x"])) == ["CopyIgnoredFile"]
    assert names(text, ignore=Matcher(["x", "!q"])) == []


@pytest.mark.parametrize(("source", "found"), [(".", True), ("https://h/x", False)])
def test_the_whole_context_and_urls(source: str, found: bool) -> None:
    assert bool(names(f"FROM a\nADD {source} /\n", ignore=Matcher(["*"]))) is found


def test_an_error_comes_with_the_warnings_before_it() -> None:
    report = check(plan(parse("FROM a as b\nENV A=${\n")))
    assert [warning.rule.name for warning in report.warnings] == ["FromAsCasing"]
    assert report.error is not None and report.error.line == 2


@pytest.mark.parametrize(
    ("text", "found", "reason"),
    [
        ("FROM a AS B\nMAINTAINER m\nBAD c\n", ["StageNameCasing", "MaintainerDeprecated"], "unknown instruction"),
        ("FROM a AS B\nENV A=1 \\\n B\n", ["StageNameCasing"], "can't find ="),
        ("FROM --platform=$NO a\n", ["UndefinedArgInFrom"], "empty platform value"),
        ("ARG I\nFROM $I\n", ["InvalidDefaultArgInFrom"], "should not be blank"),
        ("", [], "cannot be empty"),
    ],
)
def test_a_file_that_cannot_be_planned_is_checked_as_far_as_it_goes(text: str, found: list[str], reason: str) -> None:
    report = check_text(text.encode())
    assert [warning.rule.name for warning in report.warnings] == found
    assert report.error is not None and reason in report.error.message


def test_unneeded_stages_are_left_out_on_request() -> None:
    made = plan(parse("FROM a AS b\nCMD x\nFROM a\n"))
    assert len(check(made).warnings) == 1
    assert check(made, all_stages=False).warnings == ()


def test_a_warning_reads_as_docker_prints_it() -> None:
    (warning,) = check(plan(parse("FROM a\nMAINTAINER m\n"))).warnings
    assert str(warning) == "MaintainerDeprecated: Maintainer instruction is deprecated in favor of using label (line 2)"
    assert warning.rule.url == "https://docs.docker.com/go/dockerfile/rule/maintainer-deprecated/"
    assert RULES["JSONArgsRecommended"].url.endswith("/json-args-recommended/")


@pytest.mark.parametrize("text", ["skip", "error=perhaps", "what=1"])
def test_bad_options_are_refused(text: str) -> None:
    with pytest.raises(InvalidDockerfile, match="failed to parse check options"):
        Options.parse(text)


def test_options_are_read() -> None:
    assert Options.parse("skip=A, B;error=true;experimental=all") == Options(
        frozenset(("A", "B")), experimental_all=True, error=True
    )
