"""Builds: nothing to do, and everything to do, beside podman's builder."""

from __future__ import annotations

import itertools
import statistics
import tarfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import layerfs
from benchmarks.conftest import LAYERFS
from benchmarks.inputs import small_files, write_layer

GROUP = "Build"
BUSYBOX = Path("/bin/busybox")
STEPS = 'FROM {base}\nENV A=1\nWORKDIR /app\nCOPY . /app\nLABEL a=b\nCMD ["true"]\n'
RUNS = "FROM {base}\n" + "".join(
    f"RUN for i in 0 1 2 3 4 5 6 7 8 9; do echo TURN > /root/step{step}-$i; done\n" for step in range(5)
)


@pytest.fixture
def context(tmp_path: Path) -> Callable[[int], Path]:
    def make(count: int) -> Path:
        place = tmp_path / f"context{count}"
        for name, data in small_files("files", count):
            (place / name).parent.mkdir(parents=True, exist_ok=True)
            (place / name).write_bytes(data)
        (place / "Dockerfile").write_text(STEPS.format(base="base:1"))
        return place

    return make


@pytest.fixture
def base_archive(tmp_path: Path, scale: Callable[[int], int]) -> Path:
    """A root file system of busybox and many files."""

    def files() -> Iterator[tuple[str, bytes]]:
        yield "bin/sh", BUSYBOX.read_bytes()
        yield "bin/true", BUSYBOX.read_bytes()
        yield "root/kept", b""
        yield "tmp/kept", b""
        yield "etc/passwd", b"root:x:0:0::/root:/bin/sh\n"
        yield from small_files("data", scale(30_000))

    archive = write_layer(tmp_path / "base.tar", files())
    _with_modes(archive)
    return archive


def _with_modes(archive: Path) -> None:
    """Programs in the archive may be run."""
    made = archive.with_suffix(".new")
    with tarfile.open(archive) as old, tarfile.open(made, "w") as new:
        for member in old:
            member.mode = 0o755 if member.isdir() or member.name.startswith("bin/") else 0o644
            new.addfile(member, old.extractfile(member) if member.isreg() else None)
    made.replace(archive)


def test_nothing_to_do(
    pair: Any, podman: Any, run: Any, context: Any, scale: Any, base_archive: Path, tmp_path: Path
) -> None:
    place = context(scale(30_000))
    run(*podman("import", "-q", str(base_archive), "base:1", root="noop"))
    ours = [LAYERFS, "--store", tmp_path / "store"]
    run(*ours, "import", base_archive, "base:1")
    theirs = podman("build", "--layers", "--pull=never", "-q", "-t", "app:1", str(place), root="noop")
    run(*ours, "build", "-q", "-t", "app:1", place)
    run(*theirs)
    pair(
        "build again, nothing changed, 5 steps, 30k files",
        lambda: run(*ours, "build", "-q", "-t", "app:1", place),
        lambda: run(*theirs),
        peer_name="podman build (whole command)",
        bar=0.3,
    )


def test_nothing_to_do_in_the_library(pair: Any, context: Any, tmp_path: Path) -> None:
    place = context(100)
    (place / "Dockerfile").write_text(STEPS.format(base="scratch"))
    times = []
    with layerfs.Store(tmp_path / "store") as store:
        store.build(place, tag="app:1")
        for _ in range(11):
            began = time.perf_counter()
            store.build(place, tag="app:1")
            times.append(time.perf_counter() - began)
    pair.figure("build again in the library, 100 files, median", statistics.median(times) * 1000, "ms", bar=150)


def test_five_steps(pair: Any, podman: Any, run: Any, base_archive: Path, tmp_path: Path) -> None:
    """Each turn has a text of its own, so that nothing is cached."""
    run(*podman("import", "-q", str(base_archive), "base:1", root="cold"))
    ours = [LAYERFS, "--store", tmp_path / "store"]
    run(*ours, "import", base_archive, "base:1")
    context, turn = tmp_path / "runs", itertools.count()
    context.mkdir()

    def write() -> None:
        text = RUNS.format(base="base:1").replace("TURN", str(next(turn)))
        (context / "Dockerfile").write_text(text)

    network = ("--network", "none")
    isolation = ("--isolation", "chroot")  # its quickest; crun does not run where both kinds of control groups are
    theirs = podman("build", "--layers", "--pull=never", *isolation, "-q", "-t", "app:1", str(context), root="cold")
    pair(
        "build of five RUNs of ten files each, on 30k files",
        lambda: run(*ours, "build", *network, "-q", "-t", "app:1", context),
        lambda: run(*theirs),
        peer_name="podman build (whole command)",
        bar=0.25,
        prepare=write,
        prepare_peer=write,
    )
