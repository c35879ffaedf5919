"""Names and attributes of an image of over 30,000 files, in a writable mount."""

from __future__ import annotations

import os
import random
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from benchmarks.conftest import cold
from benchmarks.inputs import write_list
from benchmarks.systems import OURS, Place, Stack

GROUP = "Metadata: a Debian image of 36k entries, writable mount"


@pytest.fixture(scope="module")
def stack(stacks: Any, real: Any) -> Stack:
    archive = real("image")
    stack: Stack = stacks("real", lambda: [archive.parent / "debian.tar", archive.parent / "upper-0.tar"])
    return stack


@pytest.fixture(scope="module")
def places(stack: Stack) -> Iterator[dict[str, Place]]:
    with stack.open() as places:
        yield places


@pytest.fixture(scope="module")
def paths(places: dict[str, Place], scale: Any) -> list[str]:
    """Files of the image, in no order."""
    root = places[OURS].root
    found = [os.path.relpath(f"{place}/{name}", root) for place, _, names in os.walk(root) for name in names]
    random.Random(1).shuffle(found)
    return found[: scale(20000)]


def test_find(versus: Any, places: Any) -> None:
    def find(place: Place) -> None:
        subprocess.run(["find", place.root], check=True, stdout=subprocess.DEVNULL)

    versus("find, warm", find, places, overlay=0.6, rounds=15, warm=True)


def test_list(versus: Any, places: Any, workload: Any) -> None:
    versus("all names, warm", lambda p: workload("list", p.root), places, overlay=0.6, rounds=15, warm=True)


def test_walk(versus: Any, places: Any, workload: Any) -> None:
    versus("walk + stat, warm", lambda p: workload("walk", p.root), places, overlay=0.95, rounds=15, warm=True)


def test_stat(versus: Any, places: Any, workload: Any, paths: list[str], base: Path) -> None:
    some = write_list(base / "stat", paths)
    versus(
        "stat by path, 20k files, warm",
        lambda p: workload("stat", p.root, some),
        places,
        overlay=0.8,
        rounds=15,
        warm=True,
    )


def test_missing(versus: Any, places: Any, workload: Any, paths: list[str], base: Path) -> None:
    missing = write_list(base / "missing", [f"{path}.missing" for path in paths])
    versus(
        "20k missing names, warm",
        lambda p: workload("missing", p.root, missing),
        places,
        overlay=1.1,
        rounds=15,
        warm=True,
    )


def test_cold_walk(versus: Any, places: Any, workload: Any) -> None:
    versus("walk + stat, cold", lambda p: workload("walk", p.root), places, overlay=0.8, rounds=7, prepare=cold)


def test_cold_stat(versus: Any, places: Any, workload: Any, paths: list[str], base: Path) -> None:
    some = write_list(base / "scattered", paths[: len(paths) // 4])
    versus(
        "stat of 5k scattered files, cold",
        lambda p: workload("stat", p.root, some),
        places,
        overlay=1.5,
        rounds=7,
        prepare=cold,
    )


def test_cold_tar(versus: Any, places: Any) -> None:
    def tar(place: Place) -> None:  # tar reads nothing when it sees /dev/null
        subprocess.run(["sh", "-c", "tar cf - -C $0 . 2>/dev/null | cat >/dev/null", place.root], check=True)

    versus("tar cf - of everything, cold", tar, places, overlay=1.2, rounds=3, prepare=cold)
