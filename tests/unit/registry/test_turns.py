"""Tasks that take turns."""

from __future__ import annotations

import os

import pytest

from layerfs.registry.turns import Begun, Task, finished, in_turns


def step(told: list[str], name: str, fd: int | None = None) -> Task[str]:
    told.append(f"{name} sent")
    yield fd
    told.append(f"{name} answered")
    return name


def test_all_is_sent_before_the_first_answer_is_waited_for() -> None:
    told: list[str] = []
    assert in_turns([step(told, "a"), step(told, "b")]) == ["a", "b"]
    assert told == ["a sent", "b sent", "a answered", "b answered"]


def test_no_more_than_a_few_are_on_their_way() -> None:
    told: list[str] = []
    assert in_turns([step(told, name) for name in "abc"], at_once=2) == ["a", "b", "c"]
    assert told[:3] == ["a sent", "b sent", "a answered"]


def test_what_is_answered_first_goes_on_first() -> None:
    told: list[str] = []
    (silent, _), (ready, answer) = os.pipe(), os.pipe()
    os.write(answer, b"!")
    assert in_turns([step(told, "slow", silent), step(told, "quick", ready)]) == ["slow", "quick"]
    assert told[2] == "quick answered"


def test_a_task_that_fails_ends_all() -> None:
    def fails() -> Task[str]:
        yield None
        raise LookupError

    told: list[str] = []
    with pytest.raises(LookupError):
        in_turns([fails(), step(told, "b")])
    assert told == ["b sent"]


def test_what_was_begun_ends_later_and_once() -> None:
    told: list[str] = []
    begun = Begun(step(told, "a"))
    assert told == ["a sent"]
    assert finished(begun.rest()) == "a"


def test_a_task_without_requests_is_over_at_once() -> None:
    def nothing() -> Task[int]:
        yield from ()
        return 7

    assert finished(Begun(nothing()).rest()) == 7
