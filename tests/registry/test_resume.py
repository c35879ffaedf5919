"""Connections and processes that break off: the right content, and next to nothing fetched twice.

LAYERFS_CUTS: connections cut in one pull (default 60).
"""

from __future__ import annotations

import bisect
import os
import random
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from layerfs import Store
from layerfs.engine.registries import copy
from layerfs.registry.config import Settings
from layerfs.registry.transport import Limits
from tests.registry.hostile import Ask, Registry, wait_for
from tests.unit.image.make import tar

CUTS = int(os.environ.get("LAYERFS_CUTS", "60"))
QUICK = Settings(limits=Limits(connect=60, read=60, attempts=3, delay=0.01, delay_max=0.05))
CHANCE = random.Random(1)
LARGE = tar({f"d/{number}": CHANCE.randbytes(40_000) for number in range(200)})


@pytest.fixture
def registry() -> Iterator[Registry]:
    with Registry() as opened:
        opened.image("app:1", [LARGE, tar({"small": b"x"})])
        yield opened


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "store"


def size(registry: Registry) -> int:
    return sum(map(len, registry.blobs.values()))


def assert_whole(store: Store, registry: Registry) -> None:
    image = store.image(f"{registry.host}/app:1")
    assert store.fsck() == []
    assert sum(1 for line in store.tree_text(image.id) if line.startswith("/d/")) == 200


@pytest.mark.parametrize("reset", [False, True], ids=["fin", "rst"])
def test_cut_connections(registry: Registry, path: Path, reset: bool) -> None:
    (name,) = [name for name, data in registry.blobs.items() if len(data) > 1 << 20]
    chance = random.Random(2)
    offsets = sorted(chance.sample(range(1, len(registry.blobs[name])), CUTS // 10 if reset else CUTS))
    count = [0]

    def cut(ask: Ask) -> bool:
        following = bisect.bisect_right(offsets, ask.start)
        if not (ask.is_blob and ask.reference == name and following < len(offsets)):
            return False
        count[0] += 1
        return ask.cut(offsets[following], reset=reset)

    registry.tricks.append(cut)
    with Store(path) as store:
        store.pull(f"{registry.host}/app:1", settings=QUICK)
        assert_whole(store, registry)
    assert count[0] >= (1 if reset else CUTS)
    if not reset:
        assert registry.sent <= 1.05 * size(registry)


def test_a_copy_goes_on_where_a_connection_broke_off(registry: Registry, tmp_path: Path) -> None:
    (name,) = [name for name, data in registry.blobs.items() if len(data) > 1 << 20]
    registry.tricks.append(lambda ask: ask.reference == name and ask.start < 5 << 20 and ask.cut(ask.start + (1 << 20)))
    copy(f"docker://{registry.host}/app:1", f"oci:{tmp_path / 'out'}", settings=QUICK)
    assert (tmp_path / "out/blobs/sha256" / name[7:]).read_bytes() == registry.blobs[name]
    assert registry.sent <= 1.05 * size(registry)


@pytest.mark.parametrize("status", [400, 416, 501])
def test_a_registry_that_takes_few_ranges(registry: Registry, path: Path, status: int) -> None:
    """None without an end (go-containerregistry's own), or none at all."""
    (name,) = [name for name, data in registry.blobs.items() if len(data) > 1 << 20]
    ends = f"-{len(registry.blobs[name]) - 1}"
    cuts, asked = [3 << 20, 2 << 20], list[str]()

    def answer(ask: Ask) -> bool:
        if not (ask.is_blob and ask.reference == name):
            return False
        asked.append(ask.headers.get("Range", ""))
        if ask.start and not (status == 416 and asked[-1].endswith(ends)):
            ask.refuse(status, "RANGE_INVALID")
            return True
        return bool(cuts) and ask.cut(cuts.pop())

    registry.tricks.append(answer)
    with Store(path) as store:
        store.pull(f"{registry.host}/app:1", settings=QUICK)
        assert_whole(store, registry)
    assert any(asked)
    assert ("" in asked[1:]) == (status != 416)


def test_a_registry_without_ranges(registry: Registry, path: Path) -> None:
    left = iter(range(3))

    def whole(ask: Ask) -> bool:
        if not ask.is_layer:
            return False
        data = registry.blobs[ask.reference]
        if len(data) > 1 << 20 and next(left, None) is not None:
            return ask.cut(ask.start + 400_000)
        return ask.other(data)

    registry.tricks.append(whole)
    with Store(path) as store:
        store.pull(f"{registry.host}/app:1", settings=QUICK)
        assert_whole(store, registry)


def in_child(work: Callable[[], Any]) -> int:
    pid = os.fork()
    if pid == 0:
        try:
            work()
        finally:
            os._exit(1)
    return pid


def kill(pid: int) -> None:
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)


def test_a_killed_pull_is_gone_on_with(registry: Registry, path: Path) -> None:
    """kill -9 at several moments; each time a new process goes on, and at the end nothing came twice."""
    Store(path).close()

    def pull() -> None:
        with Store(path) as store:
            store.pull(f"{registry.host}/app:1", settings=QUICK)

    total, step = size(registry), size(registry) // 5
    pause = [step]

    def hold(ask: Ask) -> bool:
        """Sends up to the next stop and is silent then."""
        data = registry.blobs.get(ask.reference, b"")
        if not ask.is_blob or len(data) < 1 << 20 or pause[0] >= len(data):
            return False
        ask.blob(data, stop=pause[0])
        registry.closing.wait(60)
        return ask.drop()

    registry.tricks.append(hold)
    for number in range(1, 5):
        pause[0] = number * step
        registry.sent, before = registry.sent, registry.sent
        pid = in_child(pull)
        wait_for(lambda goal=before: registry.sent > goal and partial_size(path) >= pause[0])  # type: ignore[misc]
        kill(pid)
        with Store(path) as store:
            assert store.images() == []
            assert store.fsck() == []
    pause[0] = total
    with Store(path) as store:
        store.pull(f"{registry.host}/app:1", settings=QUICK)
        assert_whole(store, registry)
        assert not list((path / "partial").iterdir())
    assert registry.sent <= 1.05 * total


def partial_size(path: Path) -> int:
    sizes = [file.stat().st_size for file in (path / "partial").glob("*")]
    return max(sizes, default=0)


def test_a_partial_blob_that_is_damaged_is_fetched_anew(registry: Registry, path: Path) -> None:
    (name,) = [name for name, data in registry.blobs.items() if len(data) > 1 << 20]
    with Store(path) as store:
        (path / "partial").mkdir()
        for junk in (bytes(100_000), registry.blobs[name][:70_000] + b"x" * 100, bytes(len(registry.blobs[name]) + 5)):
            (path / "partial" / name.removeprefix("sha256:")).write_bytes(junk)
            store.pull(f"{registry.host}/app:1", settings=QUICK)
            assert_whole(store, registry)
            store.remove_image(f"{registry.host}/app:1", force=True)
            store.gc()


def test_a_complete_partial_blob_is_not_fetched(registry: Registry, path: Path) -> None:
    (name,) = [name for name, data in registry.blobs.items() if len(data) > 1 << 20]
    with Store(path) as store:
        (path / "partial").mkdir()
        (path / "partial" / name.removeprefix("sha256:")).write_bytes(registry.blobs[name])
        store.pull(f"{registry.host}/app:1", settings=QUICK)
        assert_whole(store, registry)
    assert name not in registry.fetched()


def test_a_pull_killed_at_any_moment_leaves_a_whole_store(registry: Registry, path: Path) -> None:
    from tests.crash.harness import crash_rounds

    def work(number: int) -> None:
        with Store(path) as store:
            store.pull(f"{registry.host}/app:1", settings=QUICK)

    def verify(number: int) -> None:
        with Store(path) as store:
            assert store.fsck() == []
            for image in store.images():
                assert "/small" in "".join(store.tree_text(image.id))
                store.remove_image(image.id, force=True)
            store.gc()

    rounds = int(os.environ.get("LAYERFS_ROUNDS", "10"))
    assert crash_rounds(work, verify, rounds=rounds).killed > rounds // 4


def ended(pid: int) -> bool:
    return os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None


def test_a_pull_of_many_layers_is_killed(registry: Registry, path: Path) -> None:
    """Layers that are published together are there or are not; what is there is not fetched again."""
    registry.image("many:1", [tar({f"file-{number}": CHANCE.randbytes(900), "all": b"x"}) for number in range(100)])
    chance, there = random.Random(3), set[str]()

    def pull() -> None:
        with Store(path) as store:
            store.pull(f"{registry.host}/many:1", settings=QUICK)

    Store(path).close()
    for _ in range(6):
        del registry.log[:]
        pid, some = in_child(pull), chance.randint(20, 60)
        wait_for(lambda pid=pid, some=some: len(registry.fetched()) >= some or ended(pid))  # type: ignore[misc]
        kill(pid)
        assert not there & set(registry.fetched())
        with Store(path) as store, store.root.index.view() as txn:
            assert store.fsck() == []
            there = {f"sha256:{key.hex()}" for key in txn.keys("blobs")}
    assert there
    with Store(path) as store:
        store.pull(f"{registry.host}/many:1", settings=QUICK)
        assert store.fsck() == []
        assert not list((path / "partial").iterdir())
