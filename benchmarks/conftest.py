"""Ratios, measured in turns: ours, peer, ours, peer … in one run, medians; pytest-benchmark keeps and prints them.

Each benchmark is one hot path beside a baseline. `pair` runs both sides alternately (the machine's speed drifts),
records the medians
and the ratio in `extra_info`, and collects a row for the table that `make bench` writes to docs/performance.md.
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

PROJECT = Path(__file__).resolve().parents[1]
LAYERFS = Path(sys.executable).parent / "layerfs"
ROWS: list[dict[str, Any]] = []


def _timed(action: Callable[[], Any], prepare: Callable[[], Any] | None) -> float:
    if prepare is not None:
        prepare()
    began = time.perf_counter()
    action()
    return time.perf_counter() - began


class Pair:
    """Runs and records one comparison."""

    def __init__(self, benchmark: Any, node: str) -> None:
        self._benchmark, self._node = benchmark, node

    def __call__(
        self,
        what: str,
        ours: Callable[[], Any],
        peer: Callable[[], Any],
        *,
        peer_name: str,
        bar: float | None,
        rounds: int = 5,
        prepare: Callable[[], Any] | None = None,
        prepare_peer: Callable[[], Any] | None = None,
    ) -> float:
        """Alternate `rounds` times; returns the ratio of the medians, ours to the peer's. `bar`: the ratio promised,
        if one is.
        """
        mine, theirs = [], []
        for turn in range(rounds):
            order = [(mine, ours, prepare), (theirs, peer, prepare_peer)]
            for times, action, ready in order if turn % 2 == 0 else order[::-1]:
                times.append(_timed(action, ready))
        ratio = statistics.median(mine) / statistics.median(theirs)
        ROWS.append(
            {
                "what": what,
                "peer": peer_name,
                "ours_ms": statistics.median(mine) * 1000,
                "peer_ms": statistics.median(theirs) * 1000,
                "ours_range_ms": [min(mine) * 1000, max(mine) * 1000],
                "peer_range_ms": [min(theirs) * 1000, max(theirs) * 1000],
                "ratio": ratio,
                "bar": bar,
                "rounds": rounds,
            }
        )
        self._benchmark.extra_info.update(ROWS[-1])
        if prepare is not None:
            prepare()
        self._benchmark.pedantic(ours, rounds=1)
        return ratio

    def figure(self, what: str, value: float, unit: str, *, bar: float | None, base: str = "") -> None:
        """Record a figure that is no time, such as bytes against bytes."""
        ROWS.append({"what": what, "value": value, "unit": unit, "bar": bar, "peer": base})
        self._benchmark.extra_info.update(ROWS[-1])
        self._benchmark.pedantic(lambda: None, rounds=1)


@pytest.fixture
def pair(benchmark: Any, request: pytest.FixtureRequest) -> Pair:
    return Pair(benchmark, request.node.name)


@pytest.fixture(scope="session")
def real() -> Callable[[str], Path]:
    """Real input by name (tools/real_input.py), made on first use."""

    def get(name: str) -> Path:
        done = subprocess.run(
            [sys.executable, PROJECT / "tools/real_input.py", name], capture_output=True, text=True, check=True
        )
        return Path(done.stdout.strip())

    return get


@pytest.fixture
def run() -> Callable[..., None]:
    """Run a whole command, quietly."""

    def call(*command: str | Path) -> None:
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)

    return call


@pytest.fixture(scope="session")
def podman(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[..., list[str]]]:
    """A podman command line on a store of its own; stores are removed at the end."""
    base = tmp_path_factory.mktemp("podman")
    options = ["--runtime", "runc", "--cgroup-manager", "cgroupfs", "--events-backend", "none"]

    def command(*arguments: str, root: str = "store") -> list[str]:
        return ["podman", "--root", str(base / root), "--runroot", str(base / f"{root}.run"), *options, *arguments]

    yield command
    for root in sorted(p for p in base.iterdir() if not p.name.endswith(".run")):
        subprocess.run(command("system", "reset", "-f", root=root.name), check=False, capture_output=True)


def drop_caches() -> None:
    """Start cold: nothing of the page, entry and inode caches stays."""
    os.sync()
    Path("/proc/sys/vm/drop_caches").write_text("3")


def _verdict(row: dict[str, Any]) -> str:
    if row["bar"] is None:
        return ""
    value = row.get("ratio", row.get("value"))
    return "met" if value <= row["bar"] else "NOT met"


def pytest_terminal_summary(terminalreporter: Any) -> None:
    if not ROWS:
        return
    terminalreporter.section("ours against the peer, medians in turns")
    for row in ROWS:
        bar = f"bar {row['bar']:g}: {_verdict(row)}" if row["bar"] is not None else ""
        if "ratio" in row:
            text = f"{row['ours_ms']:9.1f} ms against {row['peer_ms']:9.1f} ms ({row['peer']}) = {row['ratio']:.3f}"
        else:
            text = f"{row['value']:9.3f} {row['unit']} {row['peer']}"
        terminalreporter.write_line(f"{row['what']:52} {text}   {bar}")
    if place := os.environ.get("LAYERFS_BENCH_OUT"):
        Path(place).write_text(json.dumps(ROWS, indent=1))
