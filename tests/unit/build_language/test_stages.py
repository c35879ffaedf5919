"""Plans: what the corpus does not say of stages, build contexts and triggers."""

from __future__ import annotations

import pytest

from layerfs.build.instructions import Run
from layerfs.build.parse import parse
from layerfs.build.stages import Root, context_named, plan
from layerfs.errors import InvalidDockerfile

TWO = "FROM base AS one\nRUN a\nFROM base\nCOPY --from=one /a /b\n"


def test_triggers_of_an_image_come_first() -> None:
    made = plan(parse(TWO)).with_triggers(1, ["RUN t", "COPY --from=one /x /y"])
    stage = made.stages[1]
    assert [each.at.keyword for each in stage.instructions] == ["RUN", "COPY", "COPY"]
    assert (stage.triggers, stage.roots[1]) == (2, (Root("stage", "one", 0),))


def test_triggers_may_need_stages_that_nobody_needed() -> None:
    made = plan(parse("FROM base AS one\nFROM base\n"))
    assert made.order == (1,)
    assert made.with_triggers(1, ["COPY --from=one /a /b"]).order == (0, 1)


def test_an_error_in_a_trigger_is_told_at_the_from() -> None:
    with pytest.raises(InvalidDockerfile, match="unknown instruction: NOPE") as caught:
        plan(parse(TWO)).with_triggers(1, ["NOPE x"])
    assert caught.value.line in (1, 3)


def test_a_trigger_cannot_copy_from_a_later_stage() -> None:
    made = plan(parse("FROM base AS a\nFROM base AS b\nFROM a\n"))
    with pytest.raises(InvalidDockerfile, match="cannot copy from stage"):
        made.with_triggers(0, ["COPY --from=b /a /b"])


def test_a_trigger_of_a_stage_is_that_of_the_next_one_only() -> None:
    made = plan(parse("FROM base AS a\nONBUILD RUN t\nFROM a AS b\nFROM b\n"))
    assert [len(stage.instructions) for stage in made.stages] == [1, 1, 0]
    assert isinstance(made.stages[1].instructions[0], Run)


@pytest.mark.parametrize(
    ("name", "found"),
    [
        ("debian", "debian"),
        ("debian:latest", "debian"),
        ("docker.io/library/debian", "debian"),
        ("debian:12", ""),
        ("STAGE", "stage"),
        ("scratch", ""),
        ("context", ""),
    ],
)
def test_a_build_context_stands_for_a_name(name: str, found: str) -> None:
    assert context_named(name, ["debian", "stage", "scratch", "context"]) == found


@pytest.mark.parametrize(("image", "meant"), [("buidler", "builder"), ("debain", "debian"), ("nothing/like", "")])
def test_an_image_that_is_not_found_may_be_a_stage(image: str, meant: str) -> None:
    assert plan(parse("FROM base AS builder\n")).suggestion(image) == meant


def test_an_error_in_an_unused_stage_is_no_error() -> None:
    assert plan(parse("FROM base AS a\nCOPY --from=b /x /y\nFROM base AS b\nFROM base\n")).order == (2,)


def test_numbers_are_stages_for_copy_and_images_for_mounts() -> None:
    made = plan(parse("FROM base\nFROM base\nCOPY --from=0 /a /b\nRUN --mount=from=0,target=/m x\n"))
    assert made.stages[1].roots == ((Root("stage", "0", 0),), (Root("image", "0"),))
