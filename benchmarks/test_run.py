"""A program in a new container: the command line beside podman's and docker's, the library beside low-level runtimes.

Those get a bundle, or a root, that is prepared; layerfs makes the container, mounts its image, and takes both away.
"""

from __future__ import annotations

import contextlib
import json
import shutil
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

import layerfs
from benchmarks.conftest import LAYERFS, Recorder, void
from benchmarks.systems import OURS

GROUP = "Running containers"
BUSYBOX = Path("/bin/busybox")
Action = Callable[[], Any]
pytestmark = pytest.mark.skipif(not BUSYBOX.exists(), reason="needs busybox-static")


@pytest.fixture(scope="module")
def root(base: Path) -> Path:
    place = base / "run-root"
    (place / "bin").mkdir(parents=True)
    for name in ("etc", "proc", "sys", "dev"):
        (place / name).mkdir()
    shutil.copy(BUSYBOX, place / "bin")
    for name in ("sh", "true", "sleep", "echo", "cat"):
        (place / "bin" / name).symlink_to("busybox")
    return place


@pytest.fixture(scope="module")
def store(base: Path, root: Path) -> Iterator[layerfs.Store]:
    with layerfs.Store(base / "run-store") as store:
        store.import_archive(root, tag="bb:1")
        yield store
        for box in store.containers():
            box.remove(force=True)


def _quiet(*command: str | Path) -> Action:
    def run() -> None:
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)

    return run


def _works(action: Action) -> bool:
    try:
        action()
    except subprocess.CalledProcessError:
        return False
    return True


@pytest.fixture(scope="module")
def engines(base: Path, root: Path, podman: Callable[..., list[str]]) -> Iterator[Mapping[str, list[str]]]:
    """Command lines of the peers that work here, with the image `bb:1`."""
    archive = base / "run-root.tar"
    subprocess.run(["tar", "-C", root, "-cf", archive, "."], check=True)
    there: dict[str, list[str]] = {}
    candidates = {"docker": ["docker"], **({"podman": podman()} if shutil.which("podman") else {})}
    if shutil.which("runc") and "podman" in candidates:  # crun knows no hybrid control groups
        candidates["podman"] = podman("--runtime", "runc")
    for name, command in candidates.items():
        with contextlib.suppress(OSError, subprocess.CalledProcessError):
            subprocess.run([*command, "info"], check=True, capture_output=True, timeout=30)
            subprocess.run([*command, "import", archive, "bb:1"], check=True, capture_output=True)
            there[name] = command
    yield there
    if "docker" in there:
        subprocess.run(["docker", "rmi", "-f", "bb:1"], check=False, capture_output=True)


@pytest.fixture(scope="module")
def bundles(base: Path, root: Path) -> Mapping[str, Callable[..., list[str]]]:
    """For each low-level runtime that is here: what its command line is, from a container's name on."""
    there: dict[str, Callable[..., list[str]]] = {}
    for name in ("runc", "crun"):
        command = lambda *words, name=name: [name, "--root", str(base / f"{name}-state"), *words]  # noqa: E731
        if shutil.which(name):
            bundle = prepared(name, base / f"bundle-{name}", root, "true")
            if _works(_quiet(*command("run", "--bundle", str(bundle), f"try-{name}"))):  # crun knows no hybrid groups
                there[name] = command
    return there


def prepared(runtime: str, bundle: Path, root: Path, *command: str) -> Path:
    """A bundle whose program is `command`, without a terminal."""
    bundle.mkdir()
    subprocess.run([runtime, "spec"], cwd=bundle, check=True)
    config = json.loads((bundle / "config.json").read_text())
    config["process"] |= {"terminal": False, "args": list(command)}
    config["root"] |= {"readonly": False, "path": str(root)}
    (bundle / "config.json").write_text(json.dumps(config))
    return bundle


@pytest.fixture
def recorder(pair: Any) -> Recorder:
    return pair  # type: ignore[no-any-return]


def _command_line(recorder: Recorder, store: layerfs.Store, engines: Mapping[str, list[str]], network: str) -> None:
    words = ["run", "--rm", "--network", network]
    limits = [
        "--ulimit",
        "nofile=1024:1024",
        "--ulimit",
        "nproc=4096:4096",
    ]  # podman's own need more rights than some have
    sides = {OURS: _quiet(LAYERFS, "--store", store.path, *words, "bb:1", "true")}
    for name, command in engines.items():
        action = _quiet(*command, *words, *limits, "bb:1", "true")
        if _works(action):
            sides[name] = action
    bars = [(OURS, name, 0.6) for name in engines]
    recorder.compare(f"run --rm IMAGE true, command line, network {network}", sides, bars, rounds=9)


def test_command_line_without_a_network(recorder: Any, store: Any, engines: Any) -> None:
    _command_line(recorder, store, engines, "none")


def test_command_line_on_a_bridge(recorder: Any, store: Any, engines: Any) -> None:
    _command_line(recorder, store, engines, "bridge")


def _times(count: int, action: Action) -> None:
    for _ in range(count):
        action()


def _bwrap(root: Path) -> list[str]:
    return ["bwrap", "--unshare-all", "--bind", str(root), "/", "--proc", "/proc", "--dev", "/dev", "true"]


def _runtimes(bundles: Mapping[str, Callable[..., list[str]]], root: Path) -> dict[str, Action]:
    sides = {
        name: _quiet(*command("run", "--bundle", str(root.parent / f"bundle-{name}"), f"bench-{name}"))
        for name, command in bundles.items()
    }
    return sides | ({"bubblewrap": _quiet(*_bwrap(root))} if shutil.which("bwrap") else {})


def test_library(recorder: Any, store: Any, bundles: Any, root: Path) -> None:
    box = store.create("bb:1")
    sides: dict[str, Action] = {OURS: lambda: void(lambda: box.run(["true"])), **_runtimes(bundles, root)}
    sides[OURS]()
    recorder.compare("box.run(true), library; runtimes on a prepared bundle", sides, [(OURS, "runc", 0.5)], rounds=15)
    box.remove()


def test_one_after_the_other(recorder: Any, store: Any, bundles: Any, root: Path, scale: Callable[[int], int]) -> None:
    def ours() -> None:
        box = store.create("bb:1")
        box.run(["true"])
        box.remove()

    count = scale(100)
    sides = {OURS: ours, **_runtimes(bundles, root)}
    many = {name: lambda action=action: _times(count, action) for name, action in sides.items()}
    recorder.compare(f"{count} containers made, run and removed", many, [(OURS, "runc", 0.5)], rounds=3)


def test_programs_that_join(
    recorder: Any, store: Any, bundles: Any, engines: Any, base: Path, scale: Callable[[int], int]
) -> None:
    count = scale(1000)
    with contextlib.ExitStack() as stack:
        box = store.create("bb:1", command=["sleep", "100000"])
        box.start()
        stack.callback(box.remove, force=True)
        sides: dict[str, Action] = {OURS: lambda: box.exec(["true"])}
        for name, command in bundles.items():
            sides[name] = _joined(stack, name, command, base)
        many = {name: lambda action=action: _times(count, action) for name, action in sides.items()}
        recorder.compare(f"{count} programs that join a container, library", many, [(OURS, "runc", 0.5)], rounds=3)


def _joined(stack: contextlib.ExitStack, name: str, command: Callable[..., list[str]], base: Path) -> Action:
    """`exec` in a container of the runtime that sleeps meanwhile."""
    bundle = prepared(name, base / f"join-{name}", base / "run-root", "sleep", "100000")
    start = command("run", "--detach", "--bundle", str(bundle), f"join-{name}")
    subprocess.run(start, check=True, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    stack.callback(subprocess.run, command("delete", "--force", f"join-{name}"), check=False)
    return _quiet(*command("exec", f"join-{name}", "true"))


def test_lines_into_a_log(recorder: Any, store: Any, base: Path, scale: Callable[[int], int]) -> None:
    """From the start of the container to its end; the lines come from a file in the page cache."""
    size = scale(300_000_000)
    lines = base / "lines"
    lines.write_bytes((b"x" * 99 + b"\n") * (size // 100))
    times = []
    for _ in range(5):
        box = store.create("bb:1", command=["cat", "/lines"], volumes=[f"{lines}:/lines:ro"])
        began = time.perf_counter()
        box.start()
        box.wait()
        times.append(time.perf_counter() - began)
        assert sum(len(entry.data) for entry in box.logs()) == size
        box.remove()
    lines.unlink()
    what = f"{size // 1_000_000} MB of lines of 100 bytes into a container's log, to its end"
    recorder.figure(what, statistics.median(times), "s", bar=size / 300e6)


def test_start_up_without_running(recorder: Any, store: Any) -> None:
    """What is left to the command line when it does next to nothing."""
    recorder.compare(
        "container ls, command line; a bare interpreter",
        {OURS: _quiet(LAYERFS, "--store", store.path, "ps"), "python": _quiet(sys.executable, "-c", "pass")},
        [],
        rounds=9,
    )
