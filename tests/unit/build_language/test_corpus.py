"""Each Dockerfile of the corpus means what its JSON says: expanded fields, history texts, warnings, or the error."""

from __future__ import annotations

import pytest

from layerfs.build.lint import RULES
from tests.dockerfiles import NAMES, PLACE, described, expected

OPTIONS = ("about", "args", "target", "contexts", "ignore", "builds")


@pytest.mark.parametrize("name", NAMES)
def test_a_dockerfile_means_what_is_written_beside_it(name: str) -> None:
    wanted = expected(name)
    options = {key: wanted.pop(key) for key in OPTIONS if key in wanted}
    assert described(name, options) == wanted


def test_every_rule_of_the_checks_is_in_the_corpus() -> None:
    seen = {line.split(" ")[0] for name in NAMES for line in expected(name).get("warnings", ())}
    needs_images = {"InvalidBaseImagePlatform"}
    assert seen | needs_images == set(RULES)


def test_the_corpus_is_whole() -> None:
    assert len(NAMES) >= 60
    assert sorted(path.stem for path in PLACE.glob("*.json")) == NAMES
