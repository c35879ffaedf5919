"""One tree of files in 1, 20 and 500 layers."""

from __future__ import annotations

import contextlib
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from benchmarks.conftest import cold
from benchmarks.inputs import names, small_files, write_layer, write_list
from benchmarks.systems import OURS, SYSTEMS, Place

GROUP = "Depth: 10k files in 1, 20 and 500 layers"
DEPTHS = (1, 20, 500)
FIRST, *DEEPER = (f"{OURS}, {depth} layers" for depth in DEPTHS)
BARS = [(deep, FIRST, 1.05) for deep in DEEPER]


@pytest.fixture(scope="module")
def places(stacks: Any, scale: Any, tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Place]]:
    """Every system on every depth."""
    files = list(small_files("tree", scale(10000), per_directory=20, largest=64))
    random.Random(2).shuffle(files)

    def layers(depth: int) -> list[Path]:
        base = tmp_path_factory.mktemp(f"depth{depth}")
        return [write_layer(base / f"{number}.tar", sorted(files[number::depth])) for number in range(depth)]

    with contextlib.ExitStack() as stack:
        places = {}
        for depth in DEPTHS:
            opened = stack.enter_context(stacks(f"depth{depth}", lambda depth=depth: layers(depth)).open())
            places |= {f"{name}, {depth} layers": opened[name] for name in SYSTEMS}
        yield places


def _one_by_one(versus: Any, what: str, work: Any, places: dict[str, Place], rounds: int, **more: Any) -> None:
    """Depths of ours in turns; then the peers' beside ours."""
    ours = {name: place for name, place in places.items() if name.startswith(OURS)}
    versus(f"{what}, layerfs", work, ours, bars=BARS, rounds=5 * rounds + 1, **more)
    for depth in DEPTHS[1:]:
        some = {name: places[f"{name}, {depth} layers"] for name in SYSTEMS}
        versus(f"{what}, {depth} layers", work, some, rounds=rounds, **more)


def test_cold_walk(versus: Any, places: Any, workload: Any) -> None:
    _one_by_one(versus, "walk + stat, cold", lambda p: workload("walk", p.root), places, 2, prepare=cold)


def test_cold_stat(versus: Any, places: Any, workload: Any, base: Path, scale: Any) -> None:
    some = names("tree", scale(10000))
    random.Random(3).shuffle(some)
    listed = write_list(base / "depth", [f"tree/d{int(n[-5:]) // 20:03}/f{n[-5:]}" for n in some[: len(some) // 4]])
    work = lambda p: workload("stat", p.root, listed)  # noqa: E731
    _one_by_one(versus, "stat of 2.5k scattered files, cold", work, places, 2, prepare=cold)


def test_warm_walk(versus: Any, places: Any, workload: Any) -> None:
    _one_by_one(versus, "walk + stat, warm", lambda p: workload("walk", p.root), places, 7, warm=True)
