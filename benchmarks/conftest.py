"""Ratios, measured in turns: ours, peer, ours, peer … in one run, medians.

Each benchmark is one hot path beside a baseline: `pair` times two actions, `versus` the same work in the mounts of
several file systems (systems.py). Both run all sides alternately (the machine's speed drifts), and record a row for the
tables that `make bench` writes to docs/performance.md. A benchmark that fails loses its own rows only.

    pytest benchmarks --quick     a tenth of the files and bytes, one round: does everything run?
    LAYERFS_BENCH_OUT=FILE        where the rows go, as JSON
"""

from __future__ import annotations

import compileall
import contextlib
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from benchmarks import systems
from benchmarks.systems import FUSE_OVERLAY, OURS, OVERLAY, URING, Place, drop_caches
from tests.registry.servers import Registry, docker_registry

PROJECT = Path(__file__).resolve().parents[1]
LAYERFS = Path(sys.executable).parent / "layerfs"
RESULTS: dict[str, Any] = {"complete": True, "rows": [], "failed": []}
ROWS: list[dict[str, Any]] = RESULTS["rows"]


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--quick", action="store_true", help="a tenth of the work, one round")


def pytest_configure(config: pytest.Config) -> None:
    compileall.compile_dir(PROJECT / "layerfs", quiet=1)  # as in an installation
    RESULTS["complete"] = not config.getoption("--quick")
    config.option.benchmark_disable = True  # its own table would show what `_record` gives it; our rows are extra_info


def pytest_deselected(items: Sequence[pytest.Item]) -> None:
    RESULTS["complete"] = RESULTS["complete"] and not items


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    """What there is so far is kept after each benchmark: a session that ends badly loses nothing."""
    if report.failed:
        lines = [line for line in report.longreprtext.splitlines() if line.startswith("E ")]
        reason = lines[0][2:].strip() if lines else report.longreprtext.splitlines()[-1]
        RESULTS["failed"].append({"what": report.nodeid.split("::")[-1], "error": reason[:200]})
    place = os.environ.get("LAYERFS_BENCH_OUT")
    if place and report.when == "teardown":
        Path(place).parent.mkdir(parents=True, exist_ok=True)
        Path(place).write_text(json.dumps(RESULTS, indent=1))


def timed(action: Callable[[], float | None], prepare: Callable[[], Any] | None = None) -> float:
    """Seconds of the action, or what it returns when it has its own clock."""
    if prepare is not None:
        prepare()
    began = time.perf_counter()
    own = action()
    return time.perf_counter() - began if own is None else own


def fresh(*paths: Path) -> Callable[[], None]:
    """What prepares a turn that begins with none of these, and with nothing left to be written."""

    def clear() -> None:
        for path in paths:
            shutil.rmtree(path, ignore_errors=True)
        os.sync()

    return clear


class Recorder:
    """Runs one benchmark's sides in turns and records its rows."""

    def __init__(self, benchmark: Any, group: str, quick: bool) -> None:
        self._benchmark, self._group, self.quick = benchmark, group, quick
        benchmark.pedantic(lambda: None, rounds=1)  # pytest-benchmark wants to time something: the rows are ours

    def _record(self, **row: Any) -> None:
        ROWS.append({"group": self._group, **row})
        self._benchmark.extra_info.update({row["what"]: row})

    def _alternate(
        self,
        sides: Mapping[str, Callable[[], float | None]],
        prepare: Mapping[str, Callable[[], Any] | None],
        rounds: int,
    ) -> dict[str, list[float]]:
        times: dict[str, list[float]] = {name: [] for name in sides}
        names = list(sides)
        for turn in range(1 if self.quick else rounds):
            for name in names if turn % 2 == 0 else names[::-1]:
                times[name].append(timed(sides[name], prepare.get(name)))
        return times

    def compare(
        self,
        what: str,
        sides: Mapping[str, Callable[[], Any]],
        bars: Sequence[tuple[str, str, float]],
        *,
        rounds: int = 5,
        prepare: Mapping[str, Callable[[], Any] | None] | None = None,
    ) -> dict[str, float]:
        """Medians by side, in seconds. `bars`: (side, baseline, the ratio promised)."""
        times = self._alternate(sides, prepare or {}, rounds)
        medians = {name: statistics.median(values) for name, values in times.items()}
        self._record(
            what=what,
            times_ms={name: value * 1000 for name, value in medians.items()},
            range_ms={name: [min(values) * 1000, max(values) * 1000] for name, values in times.items()},
            bars=[list(bar) for bar in bars if bar[0] in sides and bar[1] in sides],
            rounds=len(next(iter(times.values()))),
        )
        return medians

    def figure(self, what: str, value: float, unit: str, *, bar: float | None, base: str = "") -> None:
        """Record a figure that is no comparison, such as bytes against bytes."""
        self._record(what=what, value=value, unit=unit, bar=bar, peer=base)


class Pair(Recorder):
    """Ours and one peer."""

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
        """Alternate `rounds` times; returns the ratio of the medians, ours to the peer's."""
        bars = [] if bar is None else [(OURS, peer_name, bar)]
        sides = {OURS: lambda: void(ours), peer_name: lambda: void(peer)}
        prepared = {OURS: prepare, peer_name: prepare_peer}
        medians = self.compare(what, sides, bars, rounds=rounds, prepare=prepared)
        return medians[OURS] / medians[peer_name]


def void(action: Callable[[], Any]) -> None:
    action()


class Versus(Recorder):
    """The same work in the mounts of several systems."""

    def __call__(
        self,
        what: str,
        work: Callable[[Place], float | None],
        places: Mapping[str, Place],
        *,
        overlay: float | None = None,
        fuse: float = 1.0,
        uring: float | None = None,
        bars: Sequence[tuple[str, str, float]] = (),
        rounds: int = 5,
        prepare: Callable[[Place], Any] | None = None,
        warm: bool = False,
    ) -> None:
        """`overlay`, `fuse`, `uring`: bars against kernel overlayfs, fuse-overlayfs, and overlayfs where FUSE over
        io_uring is on; `warm`: once without the clock before.
        """
        promised = [*bars, (OURS, FUSE_OVERLAY, fuse)]
        promised += [(OURS, OVERLAY, overlay)] if overlay is not None else []
        promised += [(URING, OVERLAY, uring)] if uring is not None else []
        if warm:
            for place in places.values():
                work(place)
        self.compare(
            what,
            {name: lambda place=place: work(place) for name, place in places.items()},  # type: ignore[misc]
            promised,
            rounds=rounds,
            prepare={name: lambda place=place: prepare(place) for name, place in places.items()} if prepare else {},  # type: ignore[misc]
        )


def cold(place: Place) -> None:
    """A fresh mount, and nothing in any cache."""
    place.remount()
    drop_caches()


def _group(request: pytest.FixtureRequest) -> str:
    return str(request.module.GROUP)


@pytest.fixture
def versus(benchmark: Any, request: pytest.FixtureRequest) -> Versus:
    return Versus(benchmark, _group(request), request.config.getoption("--quick"))


@pytest.fixture(scope="session")
def scale(request: pytest.FixtureRequest) -> Callable[[int], int]:
    """A number of files or bytes; a tenth of it with --quick."""
    return lambda number: number // 10 if request.config.getoption("--quick") else number


@pytest.fixture(scope="session")
def workload(base: Path) -> Callable[..., float]:
    """Runs a loop of workload.c; its own clock's seconds."""
    program = base / "workload"
    subprocess.run(["gcc", "-O2", "-o", program, PROJECT / "benchmarks/workload.c"], check=True)

    def call(operation: str, root: Path, *arguments: object) -> float:
        done = subprocess.run(
            [program, operation, root, *map(str, arguments)], check=True, capture_output=True, text=True
        )
        return int(done.stdout) / 1e9

    return call


@pytest.fixture(autouse=True)
def at_rest() -> None:
    settle()


def settle() -> None:
    """The disk has written, and discarded, what came before: that is not what is measured."""
    for _ in range(100):
        began = time.perf_counter()
        os.sync()
        if time.perf_counter() - began < 0.02:
            return
        time.sleep(0.1)


@pytest.fixture(scope="module")
def registry(base: Path) -> Iterator[Registry]:
    """Debian's docker-registry on loopback, empty."""
    with docker_registry(Path(tempfile.mkdtemp(prefix="registry-", dir=base))) as registry:
        yield registry


@pytest.fixture(scope="session")
def base() -> Iterator[Path]:
    """A directory on the disk for stacks and mounts; removed at the end, with whatever is still mounted in it."""
    path = Path(tempfile.mkdtemp(prefix="layerfs-bench-", dir="/var/tmp"))
    yield path
    systems.unmount_below(path)
    shutil.rmtree(path, ignore_errors=True)


@pytest.fixture(scope="session")
def stacks(base: Path) -> Iterator[Callable[..., systems.Stack]]:
    """Stacks by name, made when first asked for: stacks(name, layers) or stacks(name, archive=…, layers=…)."""
    import layerfs

    made: dict[str, systems.Stack] = {}
    with layerfs.Store(base / "store") as store, contextlib.ExitStack() as stack:

        def get(name: str, layers: Callable[[], Sequence[Path]]) -> systems.Stack:
            if name not in made:
                made[name] = systems.Stack.make(base / name, store, name, layers())
                stack.callback(shutil.rmtree, base / name, ignore_errors=True)
            return made[name]

        yield get
        systems.unmount_below(base)


@pytest.fixture
def pair(benchmark: Any, request: pytest.FixtureRequest) -> Pair:
    return Pair(benchmark, _group(request), request.config.getoption("--quick"))


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
def podman(base: Path) -> Iterator[Callable[..., list[str]]]:
    """A podman command line on a store of its own; stores are removed at the end."""
    base = base / "podman"
    base.mkdir()
    runtime = next((name for name in ("crun", "runc") if shutil.which(name)), "crun")
    options = ["--runtime", runtime, "--cgroup-manager", "cgroupfs", "--events-backend", "none"]

    def command(*arguments: str, root: str = "store") -> list[str]:
        return ["podman", "--root", str(base / root), "--runroot", str(base / f"{root}.run"), *options, *arguments]

    yield command
    for root in sorted(p for p in base.iterdir() if not p.name.endswith(".run")):
        subprocess.run(command("system", "reset", "-f", root=root.name), check=False, capture_output=True)
    systems.unmount_below(base)  # it leaves its store's own mount


def pytest_terminal_summary(terminalreporter: Any) -> None:
    from benchmarks.report import bars_text, times_text

    if not ROWS and not RESULTS["failed"]:
        return
    terminalreporter.section("medians in turns")
    for row in ROWS:
        terminalreporter.write_line(f"{row['what']:58} {times_text(row)}   {bars_text(row)}")
    for failed in RESULTS["failed"]:
        terminalreporter.write_line(f"FAILED {failed['what']}: {failed['error']}")
