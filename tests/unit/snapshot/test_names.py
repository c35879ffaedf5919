"""Container names: docker's rules."""

from __future__ import annotations

import pytest

from layerfs.errors import InvalidInput
from layerfs.snapshot.names import check_name, generate_name


@pytest.mark.parametrize("name", ["ab", "a1", "web.1", "A_b-c", "/leading", "x" * 100])
def test_good_names(name: str) -> None:
    assert check_name(name) == name.removeprefix("/")


@pytest.mark.parametrize("name", ["", "a", "-ab", ".ab", "a b", "a/b", "ä1", "ab\n", "//ab", "a:b"])
def test_bad_names(name: str) -> None:
    with pytest.raises(InvalidInput, match="only \\[a-zA-Z0-9\\]"):
        check_name(name)


def test_generated_names_are_valid_and_avoid_what_is_taken() -> None:
    taken: set[str] = set()
    for _ in range(300):
        name = generate_name(taken.__contains__)
        assert check_name(name) == name and name not in taken and name != "boring_wozniak"
        taken.add(name)


def test_when_all_tries_are_taken_there_is_still_a_name() -> None:
    assert check_name(generate_name(lambda name: True))
