"""SIGKILL at any moment leaves the store whole: the next command works, fsck is clean, nothing half-made is seen."""

from __future__ import annotations

import io
import os
from pathlib import Path

import pytest

from layerfs.digest import DiffID, Digest
from layerfs.layer import write_layer
from layerfs.store import Roots, StoreRoot, check, collect
from tests.crash.harness import crash_rounds
from tests.unit.store.content import identity_of
from tests.unit.store.layers import Wanted, add_layer, add_merged, tar_of

BIG = os.urandom(300_000)


def files(number: int) -> dict[str, bytes]:
    """A layer's files: half are those of every round."""
    common = {f"c{i}": b"common%d" % i * 300 for i in range(100)} | {"big": BIG}
    return common | {f"o{i}": b"%d-%d" % (number, i) * 300 for i in range(100)} | {"own": b"%d" % number * 150_000}


def assert_whole(path: Path) -> None:
    with StoreRoot.open(path) as root:
        problems = check(root, replay=lambda key, out: write_layer(root, DiffID(Digest.from_raw(key)), out))
        assert problems == []


def leftovers(path: Path) -> set[str]:
    found = {str(each.relative_to(path)) for each in path.rglob("*")}
    return {name for name in found if not name.startswith(("index/", "locks/"))}


def assert_empties(path: Path) -> None:
    """After gc of everything nothing is left, whatever the crashes left behind."""
    with StoreRoot.open(path) as root:
        collect(root, Wanted())
        collect(root, Wanted())
    assert [name for name in leftovers(path) if "/" in name and name != "blobs/sha256"] == []


@pytest.fixture
def path(tmp_path: Path) -> Path:
    StoreRoot.open(tmp_path / "store").close()
    return tmp_path / "store"


def test_import_killed(path: Path) -> None:
    def work(number: int) -> None:
        with StoreRoot.open(path) as root:
            add_layer(root, files(number))

    outcome = crash_rounds(work, lambda number: assert_whole(path), rounds=20)
    assert outcome.killed > 5
    with StoreRoot.open(path) as root:
        layer = add_layer(root, files(7))
        out = io.BytesIO()
        write_layer(root, DiffID(Digest.from_raw(layer)), out)
        assert out.getvalue() == tar_of(files(7))
    assert_empties(path)


def test_gc_killed(path: Path) -> None:
    with StoreRoot.open(path) as root:
        kept = add_layer(root, files(-1))

    def prepare(number: int) -> None:
        with StoreRoot.open(path) as root:
            layer = add_layer(root, files(number))
            add_merged(root, b"c" * 32, kept, layer)
            root.blobs.put(b"%d" % number, media_type="x")

    def work(number: int) -> None:
        with StoreRoot.open(path) as root:
            collect(root, Wanted(kept))

    def verify(number: int) -> None:
        assert_whole(path)
        with StoreRoot.open(path) as root:
            assert root.contents.read(identity_of(BIG), verify=True) == BIG

    assert crash_rounds(work, verify, prepare=prepare, rounds=15).killed > 2
    assert_empties(path)


def test_compaction_killed(path: Path) -> None:
    kept: set[bytes] = set()

    def prepare(number: int) -> None:
        with StoreRoot.open(path) as root:
            shared = {f"s{i}": b"%d+%d" % (number, i) * 800 for i in range(5)}
            add_layer(root, shared | {f"d{i}": os.urandom(3000) for i in range(60)})
            kept.add(add_layer(root, shared))

    def work(number: int) -> None:
        with StoreRoot.open(path) as root:
            collect(root, lambda txn: Roots(layers=frozenset(kept)))

    crash_rounds(work, lambda number: assert_whole(path), prepare=prepare, rounds=20)
    with StoreRoot.open(path) as root:
        collect(root, lambda txn: Roots(layers=frozenset(kept)))
        packs = list((root.path / "packs").iterdir())
        assert sum(pack.stat().st_size for pack in packs) < 21 * 2 * 5 * 4096 + 65536
    assert_whole(path)
    assert_empties(path)


def test_blobs_and_rows_killed(path: Path) -> None:
    def work(number: int) -> None:
        with StoreRoot.open(path) as root:
            for count in range(30):
                with root.index.update() as txn:
                    digest = root.blobs.put(b"%d.%d" % (number, count), media_type="x", txn=txn)
                    txn.put_json("images", digest.raw, {"diff_ids": [], "manifest": None})
                    txn.put_json("references", digest.raw[:8], {"image": digest.hex, "manifest": None})

    assert crash_rounds(work, lambda number: assert_whole(path), rounds=10).killed > 2
    with StoreRoot.open(path) as root, root.index.view() as txn:
        assert txn.count("images") == txn.count("references") == txn.count("blobs")


def test_repair_killed(path: Path) -> None:
    with StoreRoot.open(path) as root:
        layer = add_layer(root, files(0))

    def prepare(number: int) -> None:
        with StoreRoot.open(path) as root:
            if number % 3 == 0:
                root.tree_path("layer", layer.hex()).unlink(missing_ok=True)
            elif number % 3 == 1:
                root.contents.object_path(identity_of(BIG)).unlink(missing_ok=True)
            for pack in (root.path / "packs").iterdir():
                pack.chmod(0o600)
                with pack.open("r+b") as file:
                    file.seek(4096 * number)
                    file.write(b"\xff" * 64)

    def work(number: int) -> None:
        with StoreRoot.open(path) as root:
            check(root, repair=lambda key: iter([io.BytesIO(tar_of(files(0)))]))

    def verify(number: int) -> None:
        work(number)
        assert_whole(path)

    crash_rounds(work, verify, prepare=prepare, rounds=12)


def test_creation_killed(tmp_path: Path) -> None:
    def work(number: int) -> None:
        with StoreRoot.open(tmp_path / str(number)) as root, root.index.update() as txn:
            txn.put("meta", b"a", b"b")

    crash_rounds(work, lambda number: assert_whole(tmp_path / str(number)), rounds=20)
