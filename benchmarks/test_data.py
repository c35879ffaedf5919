"""Bytes of big files: read from a lower layer, and written to the upper one."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from benchmarks.inputs import write_layer
from benchmarks.systems import OVERLAY, Place

GROUP = "Data: a file of 256 MiB, in the page cache"
MIB = 1 << 20
BLOCK = 128 << 10


@pytest.fixture(scope="module")
def places(stacks: Any, scale: Any, tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Place]]:
    def layers() -> list[Path]:
        return [write_layer(tmp_path_factory.mktemp("big") / "big.tar", [("big", os.urandom(scale(256 * MIB)))])]

    with stacks("big", layers).open() as places:
        yield places


@pytest.fixture
def written(places: dict[str, Place], workload: Any, scale: Any) -> dict[str, Place]:
    """Every place has an upper file `new`, all of it on the disk."""
    for place in places.values():
        workload("sequential-write", place.root / "new", BLOCK, scale(256 * MIB))
    os.sync()
    return places


def test_sequential_read(versus: Any, places: Any, workload: Any) -> None:
    def read(place: Place) -> float:
        return float(workload("sequential-read", place.root / "big", BLOCK))

    versus("sequential read, 128 KiB", read, places, overlay=1.05, rounds=15, warm=True)


def test_first_read(versus: Any, places: Any, workload: Any) -> None:
    def read(place: Place) -> float:
        return float(workload("sequential-read", place.root / "big", BLOCK))

    versus("first read in a fresh mount", read, places, overlay=1.05, rounds=9, prepare=Place.remount, warm=True)


def test_random_read(versus: Any, places: Any, workload: Any, scale: Any) -> None:
    def read(place: Place) -> float:
        return float(workload("random-read", place.root / "big", scale(100_000)))

    versus("100k random reads, 4 KiB", read, places, overlay=1.05, rounds=15, warm=True)


def test_map_read(versus: Any, places: Any, workload: Any) -> None:
    def read(place: Place) -> float:
        return float(workload("map-read", place.root / "big"))

    versus("mmap, one byte of each page", read, places, overlay=0.2, rounds=15, warm=True)


def test_sequential_write(versus: Any, places: Any, workload: Any, scale: Any) -> None:
    def write(place: Place) -> float:
        return float(workload("sequential-write", place.root / "new", BLOCK, scale(256 * MIB)))

    def prepare(place: Place) -> None:
        (place.root / "new").unlink(missing_ok=True)
        os.sync()

    versus("sequential write of a new file, 128 KiB", write, places, overlay=1.05, rounds=7, prepare=prepare)


def test_overwrite(versus: Any, written: Any, workload: Any, scale: Any) -> None:
    def write(place: Place) -> float:
        return float(workload("sequential-write", place.root / "new", BLOCK, scale(256 * MIB)))

    versus("sequential overwrite, 128 KiB", write, written, overlay=1.05, rounds=9, warm=True)


def test_random_write(versus: Any, written: Any, workload: Any, scale: Any) -> None:
    def write(place: Place) -> float:
        return float(workload("random-write", place.root / "new", scale(50_000)))

    versus("50k random writes, 4 KiB", write, written, overlay=1.05, rounds=9, warm=True)


def test_map_write(versus: Any, written: Any, workload: Any) -> None:
    def write(place: Place) -> float:
        return float(workload("map-write", place.root / "new"))

    versus("mmap, one byte of each page written", write, written, overlay=1.05, rounds=9, warm=True)


def test_first_write(versus: Any, stacks: Any, places: Any, workload: Any) -> None:
    """What a first change of a big lower file costs: overlayfs copies it."""

    def append(place: Place) -> None:
        with (place.root / "big").open("r+b") as file:
            file.write(b"!")

    versus("first byte written to a lower file", append, places, overlay=1.0, rounds=1)
    assert OVERLAY in places
