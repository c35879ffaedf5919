"""A full disk, or a read-only one: a clear error, nothing lost, and it works again afterwards."""

from __future__ import annotations

import os
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

import layerfs
from layerfs.engine.events import read_events
from layerfs.errors import NoSpace, StoreReadOnly
from layerfs.store import StoreRoot, check, collect
from tests.disks import filled, small_disk
from tests.unit.store.content import identity_of
from tests.unit.store.layers import Wanted, add_layer

pytestmark = pytest.mark.root


@pytest.fixture(params=["tmpfs", "ext4"])
def disk(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Path]:
    """A mounted file system of about 16 MiB."""
    with small_disk(request.param, tmp_path, size=16 << 20) as place:
        yield place


def test_an_import_onto_a_full_disk_fails_clearly_and_loses_nothing(disk: Path) -> None:
    with StoreRoot.open(disk / "store") as root:
        kept = add_layer(root, {"kept": b"kept" * 1000, "big": b"big" * 60_000})
        for leave in (1_200_000, 400_000, 60_000, 8_192, 0):
            with filled(disk, leave), pytest.raises(NoSpace):
                add_layer(root, {f"f{i}": os.urandom(60_000) for i in range(20)} | {"b": os.urandom(400_000)})
            assert check(root) == []
        collect(root, Wanted(kept))
        assert [path.name for path in (root.path / "tmp").iterdir()] == []
        add_layer(root, {f"f{i}": os.urandom(60_000) for i in range(20)})
        assert root.contents.read(identity_of(b"kept" * 1000)) == b"kept" * 1000
        assert check(root) == []


def test_blobs_and_rows_on_a_full_disk(disk: Path) -> None:
    with StoreRoot.open(disk / "store") as root:
        with filled(disk):
            with pytest.raises(NoSpace):
                root.blobs.put(os.urandom(500_000), media_type="x")
            with pytest.raises(NoSpace), root.index.update() as txn:
                for number in range(3000):
                    txn.put("meta", b"%d" % number, bytes(1000))
        with root.index.view() as txn:
            assert txn.count("meta") == 0
        root.blobs.put(b"{}", media_type="x")
        assert check(root) == []


def test_a_store_cannot_be_made_on_a_full_disk_but_later(disk: Path) -> None:
    with filled(disk), pytest.raises(NoSpace):
        StoreRoot.open(disk / "store")
    with StoreRoot.open(disk / "store") as root:
        root.blobs.put(b"{}", media_type="x")


def test_a_read_only_store_reads_and_says_why_it_does_not_write(disk: Path) -> None:
    with StoreRoot.open(disk / "store") as root:
        add_layer(root, {"f": b"data"})
    subprocess.run(["mount", "-o", "remount,ro", disk], check=True)
    with StoreRoot.open(disk / "store") as root:
        assert root.read_only
        assert root.contents.read(identity_of(b"data"), verify=True) == b"data"
        assert check(root) == []
        for write in (
            lambda: root.index.update().__enter__(),
            lambda: root.leases.acquire("x"),
            lambda: root.blobs.put(b"{}", media_type="x"),
            lambda: collect(root, Wanted()),
        ):
            with pytest.raises(StoreReadOnly, match="read-only"):
                write()


def test_all_that_writes_to_a_read_only_store_says_so(disk: Path) -> None:
    with layerfs.Store(disk / "store") as store:
        (disk / "files").mkdir()
        store.create(store.import_archive(disk / "files", tag="x:1"), name="box").fork("fork")
    subprocess.run(["mount", "-o", "remount,ro", disk], check=True)
    with layerfs.Store(disk / "store") as store:
        image, box, fork = store.image("x:1"), store.container("box"), store.container("fork")
        assert box.diff() == fork.diff() == []
        assert fork.sizes().writable == fork.usage().bytes == 0 and fork.inspect()["Name"] == "/fork"
        assert [event["Action"] for event in read_events(store, 0, time.time_ns())] == ["create"]
        for each in (box, fork):
            for write in (each.mount, each.remove, each.snapshot, each.fork, each.commit, each.start):
                with pytest.raises(StoreReadOnly, match="read-only"):
                    write()
            with pytest.raises(StoreReadOnly, match="read-only"):
                each.run(["x"])
        with pytest.raises(StoreReadOnly, match="read-only"):
            image.mount()
        with pytest.raises(StoreReadOnly):
            store.mount("x:1", store.mount_point())


def test_gc_makes_room_on_a_full_disk(disk: Path) -> None:
    with StoreRoot.open(disk / "store") as root:
        for number in range(4):
            add_layer(root, {f"f{i}": os.urandom(5000) for i in range(200)} | {"n": b"%d" % number})
        with filled(disk):
            result = collect(root, Wanted())
        assert result.layers == 4
        assert result.bytes > 3_000_000
        add_layer(root, {"f": b"data"})
        assert check(root) == []
