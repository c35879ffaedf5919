"""Random lives of a big file over commits, snapshots, kills and collections, against byte arrays.

LAYERFS_STEPS: about how many steps in all.
"""

from __future__ import annotations

import contextlib
import ctypes
import itertools
import os
import random
import signal
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

import layerfs
from layerfs import mount
from layerfs.errors import LayerfsError
from layerfs.image.removal import Conflict
from layerfs.snapshot.table import MountTable

pytestmark = [pytest.mark.root, pytest.mark.timeout(36_000)]

STEPS = int(os.environ.get("LAYERFS_STEPS", "240"))
IN_EXAMPLE = 30
BLOCK = 4096
SIZE = 400 * BLOCK + 1234  # over what is copied up as a whole
LIMIT = SIZE + 40 * BLOCK
DATA = random.Random(3).randbytes(SIZE)
_LIBC = ctypes.CDLL(None, use_errno=True)
_numbers = itertools.count()

places = st.one_of(
    st.integers(0, SIZE + 3 * BLOCK),
    st.builds(lambda block, near: max(0, block * BLOCK + near), st.integers(0, 410), st.integers(-2, 2)),
)
counts = st.one_of(st.sampled_from([1, BLOCK, 2 * BLOCK]), st.integers(1, 60 * BLOCK))
steps = st.one_of(
    st.tuples(st.just("write"), places, counts),
    st.tuples(st.just("write"), places, counts),
    st.tuples(st.just("cut"), places),
    st.tuples(st.just("zero"), places, counts),
    st.tuples(st.just("commit"), st.booleans()),
    st.tuples(st.just("commit"), st.booleans()),
    st.tuples(st.just("snapshot")),
    st.tuples(st.just("back"), st.integers(0, 9)),
    st.tuples(st.just("fork"), st.booleans()),
    st.tuples(st.just("kill")),
    st.tuples(st.just("gc")),
    st.tuples(st.just("drop"), st.integers(0, 9)),
    st.tuples(st.just("look"), st.integers(0, 9), st.sampled_from(["native", "native", "python", "kernel"])),
)


class Life:
    """A container, its file's bytes, and images with theirs."""

    def __init__(self, store: layerfs.Store, source: Path) -> None:
        self.store = store
        self.images = [(store.import_archive(source), DATA)]
        self.points: list[tuple[str, bytes]] = []
        self.others: list[tuple[layerfs.Container, bytes]] = []
        self.fresh = itertools.count(1)
        self.box = store.create(self.images[0][0])
        self.body = bytearray(DATA)
        self.mounted: Any = None

    def file(self) -> Path:
        if self.mounted is None:
            self.mounted = self.box.mount(engine="native")
        return Path(self.mounted.path) / "big"

    def rest(self) -> None:
        if self.mounted is not None:
            self.mounted.unmount()
        self.mounted = None

    def write(self, at: int, count: int) -> None:
        data = (b"<%d>" % next(self.fresh) * count)[: min(count, LIMIT - at)]
        with self.file().open("r+b", buffering=0) as out:
            assert os.pwrite(out.fileno(), data, at) == len(data)
        self.body.extend(bytes(max(0, at + len(data) - len(self.body))))
        self.body[at : at + len(data)] = data

    def cut(self, size: int) -> None:
        os.truncate(self.file(), size)
        self.body.extend(bytes(max(0, size - len(self.body))))
        del self.body[size:]

    def zero(self, at: int, count: int) -> None:
        with self.file().open("r+b", buffering=0) as out:
            assert _LIBC.fallocate(out.fileno(), 3, ctypes.c_long(at), ctypes.c_long(count)) == 0
        end = min(at + count, len(self.body))
        self.body[at:end] = bytes(max(0, end - at))

    def commit(self, go_on: bool) -> None:
        """go_on: with a container of the new image."""
        self.rest()
        self.images.append((self.box.commit(), bytes(self.body)))
        if go_on:
            self.box.remove()
            self.box, self.points = self.store.create(self.images[-1][0]), []

    def snapshot(self) -> None:
        self.rest()
        name = f"s{next(_numbers)}"
        self.box.snapshot(name)
        self.points.append((name, bytes(self.body)))

    def fork(self, go_on: bool) -> None:
        """go_on: with the child."""
        self.rest()
        child = self.box.fork(f"f{next(_numbers)}")
        self.others.append((self.box if go_on else child, bytes(self.body)))
        if go_on:
            self.box, self.points = child, []

    def back(self, number: int) -> None:
        if self.points:
            self.rest()
            name, body = self.points[number % len(self.points)]
            self.box.rollback(name)
            self.body = bytearray(body)

    def kill(self) -> None:
        if self.mounted is None:
            return
        (record,) = [each for each in MountTable(self.store.root).records() if each.id == self.mounted.id]
        os.kill(record.pid, signal.SIGKILL)
        while mount.entry_of(self.mounted.path) is not None:
            mount.detach(self.mounted.path, lazy=True)
        with contextlib.suppress(LayerfsError):
            self.mounted.unmount()
        self.mounted = None

    def gc(self) -> None:
        self.store.gc()

    def drop(self, number: int) -> None:
        image = self.images[number % len(self.images)][0]
        if image.id != self.box.image.id:
            with contextlib.suppress(Conflict):  # it has children
                self.store.remove_image(image.id, force=True)
                self.images = [each for each in self.images if each[0].id != image.id]
            self.store.gc()

    def look(self, number: int, engine: str) -> None:
        image, body = self.images[number % len(self.images)]
        if engine == "kernel" and len(body) == 0:
            return
        with image.mount(engine=engine) as root:
            assert (root / "big").read_bytes() == body

    def check(self) -> None:
        assert self.file().read_bytes() == self.body
        self.rest()
        for box, body in self.others:
            with box.mount(engine="native") as root:
                assert (root / "big").read_bytes() == body
        for number in range(len(self.images)):
            self.look(number, "native")
        assert [problem for problem in self.store.fsck() if problem.severity == "error"] == []


def test_random_lives(tmp_path: Path) -> None:
    source = tmp_path / "source"
    source.mkdir()
    (source / "big").write_bytes(DATA)

    @settings(
        max_examples=max(1, STEPS // IN_EXAMPLE),
        deadline=None,
        suppress_health_check=list(HealthCheck),
        phases=[Phase.explicit, Phase.reuse, Phase.generate],
        print_blob=True,
    )
    @given(st.lists(steps, min_size=IN_EXAMPLE // 2, max_size=IN_EXAMPLE))
    def run(todo: list[tuple[Any, ...]]) -> None:
        with layerfs.Store(tmp_path / f"store-{next(_numbers)}") as store:
            life = Life(store, source)
            try:
                for name, *arguments in todo:
                    getattr(life, name)(*arguments)
                life.check()
            finally:
                life.rest()

    run()
