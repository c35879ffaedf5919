"""Work of one round trip to the server for each file: opening, creating and removing small ones."""

from __future__ import annotations

import itertools
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from benchmarks.inputs import names, small_files, write_layer, write_list
from benchmarks.systems import FUSE_OVERLAY, OVERLAY, SYSTEMS, URING, Place, Stack, uring_offered

GROUP = "Small files: 10k of up to 8 KiB"
ROUNDS = 3


@pytest.fixture(scope="module")
def stack(stacks: Any, scale: Any, tmp_path_factory: pytest.TempPathFactory) -> Stack:
    """A tree to read, and one to remove for each round."""

    def layers() -> list[Path]:
        base = tmp_path_factory.mktemp("small")
        trees = [small_files("read", scale(10000))]
        trees += [small_files(f"remove{turn}", scale(10000), largest=64) for turn in range(ROUNDS)]
        return [write_layer(base / "small.tar", itertools.chain(*trees))]

    made: Stack = stacks("small", layers)
    return made


@pytest.fixture(scope="module")
def places(stack: Stack) -> Iterator[dict[str, Place]]:
    """With FUSE over io_uring as a system of its own, where there is that."""
    with stack.open(*SYSTEMS, *([URING] if uring_offered() else [])) as places:
        yield places


class Turn:
    """Which round each system is in."""

    def __init__(self) -> None:
        self._turns: dict[str, int] = {}

    def next(self, place: Place) -> int:
        self._turns[place.name] = self._turns.get(place.name, -1) + 1
        return self._turns[place.name]


def test_read(versus: Any, places: Any, workload: Any, base: Path, scale: Any) -> None:
    listed = write_list(base / "read", names("read", scale(10000)))
    versus(
        "open + read + close, writable mount, warm",
        lambda p: workload("read", p.root, listed),
        places,
        fuse=0.5,
        uring=3.0,
        rounds=9,
        warm=True,
    )


def test_read_only(versus: Any, stack: Stack, workload: Any, base: Path, scale: Any) -> None:
    listed = write_list(base / "read", names("read", scale(10000)))
    with stack.open(writable=False) as places:
        versus(
            "open + read + close, read-only mount, warm",
            lambda p: workload("read", p.root, listed),
            places,
            overlay=1.2,
            rounds=9,
            warm=True,
        )


def test_create_and_unlink(versus: Any, places: Any, workload: Any, base: Path, scale: Any) -> None:
    turn = Turn()
    per_directory = 1000

    def lists(number: int) -> Path:
        lines = [f"new{number}/{at // per_directory}/f{at}" for at in range(scale(10000))]
        return write_list(base / f"create{number}", lines)

    def prepare(place: Place) -> None:
        number = turn.next(place)
        for folder in range(-(-scale(10000) // per_directory)):
            (place.root / f"new{number}/{folder}").mkdir(parents=True)
        lists(number)
        os.sync()

    def create(place: Place) -> float:
        return float(workload("create", place.root, base / f"create{turn._turns[place.name]}"))

    versus("create + write 4 KiB + close", create, places, overlay=1.4, uring=1.4, rounds=ROUNDS, prepare=prepare)
    again = Turn()

    def unlink(place: Place) -> float:
        return float(workload("unlink", place.root, base / f"create{again.next(place)}"))

    versus(
        "unlink of upper files",
        unlink,
        places,
        overlay=4.0,
        uring=4.0,
        rounds=ROUNDS,
    )


def test_whiteouts(versus: Any, places: Any, workload: Any, base: Path, scale: Any) -> None:
    turn = Turn()
    listed = [write_list(base / f"remove{at}", names(f"remove{at}", scale(10000))) for at in range(ROUNDS)]

    def walk(place: Place) -> None:
        workload("walk", place.root)

    def unlink(place: Place) -> float:
        return float(workload("unlink", place.root, listed[turn.next(place)]))

    for place in places.values():
        walk(place)
    versus("unlink of lower files (whiteouts)", unlink, places, overlay=1.2, uring=1.2, rounds=ROUNDS)
    assert {OVERLAY, FUSE_OVERLAY} <= set(places)
