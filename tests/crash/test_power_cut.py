"""Power cuts after each step of snapshots, forks, rollbacks, removals and writes, in the worst order of the disk's
writes: all that was done to files is there, of the index only what had to be before the last commit returned. What
containers hold is never lost, nor what is older than that commit.

LAYERFS_STEPS: how many steps.
"""

from __future__ import annotations

import os
import random
import subprocess
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

import layerfs
from layerfs.store.environment import Environment
from layerfs.store.index import _Transaction
from layerfs.store.root import StoreRoot

pytestmark = pytest.mark.root
STEPS = int(os.environ.get("LAYERFS_STEPS", "40"))
BESIDE = threading.local()  # `on` in a thread that does something beside
METAS = 8192  # LMDB's two meta pages: the later one counts
Contents = dict[str, dict[str, bytes]]


class Power:
    """Knows what of the index is on the disk: a commit flushes its pages and all before, its meta page when durable."""

    def __init__(self, store: layerfs.Store, monkeypatch: pytest.MonkeyPatch) -> None:
        self._store, self._index, self._before = store, store.path / "index", b""
        self.late = False  # what is dropped beside goes after the cut
        self._on = threading.Event()
        commit, sync = _Transaction._commit, Environment.sync

        def committing(txn: _Transaction) -> None:
            if txn._environment.path == self._index:
                self._before = (self._index / "data.mdb").read_bytes()[:METAS]
            commit(txn)

        def syncing(environment: Environment) -> None:
            if getattr(BESIDE, "on", False) and self.late:
                self._on.wait()
            sync(environment)
            if environment.path == self._index:
                self._before = b""

        beside = StoreRoot.beside

        def marking(root: StoreRoot, action: Callable[[], object]) -> None:
            def act() -> None:
                BESIDE.on = True
                action()

            beside(root, act)

        monkeypatch.setattr(StoreRoot, "beside", marking)
        monkeypatch.setattr(_Transaction, "_commit", committing)
        monkeypatch.setattr(Environment, "sync", syncing)

    def _copy(self, target: Path) -> None:
        subprocess.run(["cp", "-a", self._store.path, target], check=True)

    def cut(self, target: Path) -> layerfs.Store:
        """The store as the next boot finds it."""
        before = self._before
        if self.late:
            self._copy(target)
        self._on.set()
        for each in self._store.root._beside:
            each.wait()
        self._on.clear()
        if not self.late:
            before = self._before
            self._copy(target)
        with (target / "index/data.mdb").open("r+b") as file:
            file.write(before)
        store = layerfs.Store(target)
        with store.root.index.update() as txn:
            for key, row in list(txn.scan_json("mounts")):
                txn.put_json("mounts", key, row | {"boot": "another"})
        return store


def files(root: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in root.iterdir() if path.is_file()}


def contents(store: layerfs.Store) -> Contents:
    found = {}
    for box in store.containers():
        with box.mount(engine="native", read_only=True) as root:
            found[box.name] = files(root)
        for snapshot in box.snapshots():
            with snapshot.mount(engine="native") as root:
                found[f"{box.name}@{snapshot.name}"] = files(root)
    return found


class World:
    """Random steps, and what containers and snapshots should hold after them."""

    def __init__(self, store: layerfs.Store, seed: int) -> None:
        self._store, self._random, self._count = store, random.Random(seed), 0
        self.holds: Contents = {store.create("small:1", name="box").name: {}}

    def step(self) -> None:
        self._count, self.rolled_back = self._count + 1, False
        name = self._random.choice([key for key in self.holds if "@" not in key])
        steps = (self.write, self.snapshot, self.snapshot, self.fork, self.live, self.rollback, self.remove)
        self._random.choice(steps)(name, self._store.container(name))

    def write(self, name: str, box: layerfs.Container) -> None:
        with box.mount(engine="native") as root:
            self._put(name, root)

    def _put(self, name: str, root: Path) -> None:
        file, data = f"f{self._random.randrange(4)}", b"%d" % self._count
        (root / file).write_bytes(data)
        self.holds[name] = self.holds[name] | {file: data}

    def snapshot(self, name: str, box: layerfs.Container) -> None:
        taken = box.snapshot(f"s{self._count}")
        self.holds[f"{name}@{taken.name}"] = self.holds[name]

    def live(self, name: str, box: layerfs.Container) -> None:
        with box.mount(engine="native") as root:
            self._put(name, root)
            self.snapshot(name, box)
            self._put(name, root)

    def fork(self, name: str, box: layerfs.Container) -> None:
        if taken := self._taken(name):
            child = box.fork(snapshot=taken)
            self.holds[child.name] = self.holds[f"{name}@{taken}"]
        else:
            self.holds[box.fork().name] = self.holds[name]

    def rollback(self, name: str, box: layerfs.Container) -> None:
        taken = self._taken(name)
        if not taken:
            return self.write(name, box)  # so that each step commits
        box.rollback(taken)
        self.rolled_back = True
        self.holds[name] = self.holds[f"{name}@{taken}"]
        return None

    def remove(self, name: str, box: layerfs.Container) -> None:
        taken = self._taken(name)
        if not taken:
            return self.write(name, box)
        box.find_snapshot(taken).remove()
        del self.holds[f"{name}@{taken}"]
        self._store.gc()
        return None

    def _taken(self, name: str) -> str:
        return self._random.choice(["", *(key.partition("@")[2] for key in self.holds if key.startswith(f"{name}@"))])


@pytest.mark.parametrize("seed", range(2))
def test_only_what_nothing_stands_on_is_undone(seed: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "plain").mkdir()
    with layerfs.Store(tmp_path / "store") as store:
        store.import_archive(tmp_path / "plain", tag="small:1")
        power, world = Power(store, monkeypatch), World(store, seed)
        power.late = seed % 2 == 1
        for number in range(STEPS // 2):
            before = dict(world.holds)
            world.step()
            with power.cut(tmp_path / f"cut-{number}") as after:
                found, undone = contents(after), set[str]()
                assert after.fsck() == []
            for name, held in world.holds.items():
                if name in found:
                    assert found[name] in (held, before.get(name) if world.rolled_back else held), (number, name)
                else:
                    undone.add(name)
            assert not undone & before.keys() and found.keys() <= world.holds.keys(), (number, undone)
            subprocess.run(["rm", "-r", tmp_path / f"cut-{number}"], check=True)


@pytest.mark.parametrize("how", ["sync", "close", "mount"])
def test_what_was_synced_is_not_undone(how: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "plain").mkdir()
    with layerfs.Store(tmp_path / "store") as store:
        store.import_archive(tmp_path / "plain", tag="small:1")
        power, box = Power(store, monkeypatch), store.create("small:1", name="box")
        box.snapshot("one", sync=how == "sync")
        if how == "mount":
            box.mount().unmount()
        elif how == "close":
            store.close()
        with power.cut(tmp_path / "cut") as after:
            assert [each.name for each in after.container("box").snapshots()] == ["one"]
