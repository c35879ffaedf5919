"""Every Dockerfile of the corpus builds to the history that its JSON tells, or is refused with its error."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

import layerfs
from layerfs.errors import InvalidDockerfile
from tests.dockerfiles import NAMES, PLACE, PLATFORM, expected

pytestmark = pytest.mark.root


@pytest.fixture(scope="module")
def images(shared_store: layerfs.Store, base: Path) -> None:
    """What the files stand on: `base`, and `other:1` with a file of its own."""
    (base / "etc/name").write_text("other\n")
    shared_store.import_archive(base, tag="base")
    shared_store.import_archive(base, tag="other:1")
    (base / "etc/name").unlink()


@pytest.mark.parametrize("name", [name for name in NAMES if expected(name).get("builds", True)])
def test_a_dockerfile_builds_to_its_history(name: str, store: layerfs.Store, images: None) -> None:
    wanted = expected(name)
    if "error" in wanted:
        with pytest.raises(InvalidDockerfile) as caught:
            _build(store, name, wanted)
        error = caught.value
        assert (f"Dockerfile:{error.line}: " if error.line else "") + error.message == wanted["error"]
        return
    texts = _history(wanted, wanted["order"][-1])
    rows = _build(store, name, wanted).config.history
    assert [row.created_by for row in rows[len(rows) - len(texts) :]] == texts


def _build(store: layerfs.Store, name: str, wanted: dict[str, Any]) -> layerfs.Image:
    return store.build(
        PLACE / "context",
        PLACE / f"{name}.Dockerfile",
        build_args=wanted.get("args"),
        target=wanted.get("target", ""),
        platform=str(PLATFORM),
        network="none",
    )


def _history(wanted: dict[str, Any], number: int) -> list[str]:
    """Of a stage and of those below it; WORKDIR shows the directory made absolute."""
    stage = wanted["stages"][number]
    kind, _, below = stage["base"].partition(" ")
    texts = _history(wanted, int(below)) if kind == "stage" else []
    directory = Path("/")
    for step in stage["steps"]:
        if "WORKDIR" in step:
            directory = Path("/", *_parts(directory / step["WORKDIR"]["path"]))
            texts.append(f"WORKDIR {directory}")
        elif "history" in step:
            texts.append(step["history"])
    return texts


def _parts(path: Path) -> list[str]:
    parts: list[str] = []
    for part in path.parts[1:]:
        parts = parts[:-1] if part == ".." else [*parts, part]
    return parts
