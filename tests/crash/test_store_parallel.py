"""Many processes on one store at once: imports, look-ups, checks and collections, some of them killed."""

from __future__ import annotations

import os
import random
import signal
import time
from pathlib import Path

from layerfs.store import Roots, StoreRoot, Txn, check, collect
from tests.crash.harness import finish, start
from tests.unit.store.content import identity_of
from tests.unit.store.layers import Wanted, add_layer

SECONDS = 2.5


def roots(txn: Txn) -> Roots:
    """Live are the layers that a row of `meta` names: the stand-in for images."""
    return Roots(layers=frozenset(txn.keys("meta")))


def files(chance: random.Random) -> dict[str, bytes]:
    """Few distinct contents, so that imports meet each other's and gc's."""
    made = {f"f{i}": b"%d" % chance.randrange(60) * 900 for i in range(25)}
    return made | {"big": b"%d" % chance.randrange(4) * 150_000}


def importer(path: Path, seed: int, end: float) -> None:
    chance = random.Random(seed)
    with StoreRoot.open(path) as root:
        while time.monotonic() < end:
            made = files(chance) | {"own": b"%d %d" % (seed, chance.randrange(1 << 40))}
            with root.leases.acquire("import") as lease:
                layer = add_layer(root, made, lease)
                with root.index.update() as txn:
                    txn.put("meta", layer, b"x")
            for data in made.values():
                assert root.contents.read(identity_of(data), verify=True) == data
            if chance.random() < 0.7:
                with root.index.update() as txn:
                    txn.delete("meta", layer)


def collector(path: Path, end: float) -> None:
    with StoreRoot.open(path) as root:
        while time.monotonic() < end:
            assert collect(root, roots).damage is None


def checker(path: Path, end: float) -> None:
    with StoreRoot.open(path) as root:
        while time.monotonic() < end:
            assert check(root) == []


def test_imports_gc_and_fsck_in_many_processes(tmp_path: Path) -> None:
    path = tmp_path / "store"
    StoreRoot.open(path).close()
    end = time.monotonic() + SECONDS
    children = [start(lambda seed: importer(path, seed, end), seed) for seed in range(3)]
    children.append(start(lambda _: collector(path, end), 0))
    children.append(start(lambda _: checker(path, end), 0))
    assert [finish(*child) for child in children] == [0] * 5
    assert_whole_and_emptied(path)


def test_the_same_with_kills(tmp_path: Path) -> None:
    path = tmp_path / "store"
    StoreRoot.open(path).close()
    end, chance = time.monotonic() + SECONDS, random.Random(5)
    seed = 0
    while time.monotonic() < end:
        seed += 1
        doomed = start(lambda seed: importer(path, seed, end + 60), seed)
        doomed_gc = start(lambda _: collector(path, end + 60), 0)
        steady = start(lambda seed: importer(path, seed, time.monotonic() + 0.4), 1000 + seed)
        time.sleep(chance.uniform(0.05, 0.4))
        for pid, _ in (doomed, doomed_gc):
            os.kill(pid, signal.SIGKILL)
        assert (finish(*doomed), finish(*doomed_gc), finish(*steady)) == (-9, -9, 0)
    assert_whole_and_emptied(path)


def assert_whole_and_emptied(path: Path) -> None:
    with StoreRoot.open(path) as root:
        assert check(root) == []
        collect(root, roots)
        assert check(root) == []
        collect(root, Wanted())
        left = [each for name in ("packs", "objects", "trees", "tmp") for each in (path / name).rglob("*")]
        assert left == []
