from __future__ import annotations

import os
import threading
import time
from pathlib import Path

import pytest

from layerfs.digest import Digest
from layerfs.errors import Corrupt
from layerfs.native import verify_tree
from layerfs.store import Roots, StoreRoot, collect
from layerfs.store.treefile import TreeFile
from tests.unit.store.content import identity_of, store
from tests.unit.store.layers import Wanted, add_layer, add_merged

SMALL = {f"f{number}": b"%d" % number * 500 for number in range(20)}
BIG = os.urandom(200_000)
NOBODY = Wanted()


def files(root: StoreRoot) -> set[str]:
    """Every file of the store but the index and the locks."""
    found = {str(path.relative_to(root.path)) for path in root.path.rglob("*")}
    return {name for name in found if not name.startswith(("index/", "locks/"))}


def readable(root: StoreRoot, contents: dict[str, bytes]) -> bool:
    return all(root.contents.read(identity_of(data), verify=True) == data for data in contents.values())


def test_after_removing_everything_the_store_is_at_its_empty_size(root: StoreRoot) -> None:
    root.blobs.put(b"{}", media_type="x")
    collect(root, NOBODY)
    empty = files(root)
    layer = add_layer(root, SMALL | {"big": BIG})
    add_merged(root, b"c" * 32, layer)
    root.blobs.put(b"{}", media_type="x")
    result = collect(root, NOBODY)
    assert files(root) == empty
    assert (result.layers, result.trees, result.blobs, result.contents, result.packs) == (1, 1, 1, 21, 1)
    assert result.bytes > 200_000
    with root.index.view() as txn:
        assert [txn.count(name) for name in ("layers", "contents", "packs", "trees", "blobs", "leases")] == [0] * 6


def test_a_dry_run_says_the_same_and_removes_nothing(root: StoreRoot) -> None:
    add_layer(root, SMALL | {"big": BIG})
    root.blobs.put(b"{}", media_type="x")
    before = files(root)
    said = collect(root, NOBODY, dry_run=True)
    assert files(root) == before
    done = collect(root, NOBODY)
    assert said.dry_run
    assert (said.layers, said.blobs, said.contents, said.packs, said.bytes) == (
        done.layers,
        done.blobs,
        done.contents,
        done.packs,
        done.bytes,
    )


def test_what_roots_name_stays(root: StoreRoot) -> None:
    kept, gone = add_layer(root, SMALL), add_layer(root, {"other": b"other" * 100})
    blob = root.blobs.put(b"{}", media_type="x")
    wanted = Wanted(kept)
    wanted.blobs.add(blob.raw)
    wanted.chains.add(add_merged(root, b"c" * 32, kept))
    collect(root, wanted)
    assert readable(root, SMALL)
    assert root.blobs.read(blob) == b"{}"
    assert root.tree_path("merged", (b"c" * 32).hex()).exists()
    assert not root.tree_path("layer", gone.hex()).exists()
    assert not root.split_path(gone.hex()).exists()


def test_contents_shared_with_a_live_layer_stay(root: StoreRoot) -> None:
    add_layer(root, SMALL)
    second = add_layer(root, SMALL | {"more": b"more"})
    collect(root, Wanted(second))
    assert readable(root, SMALL | {"more": b"more"})


def test_the_blob_that_a_live_layer_keeps_stays(root: StoreRoot) -> None:
    layer, blob = add_layer(root, SMALL), root.blobs.put(b"compressed", media_type="x")
    with root.index.update() as txn:
        row = txn.get_json("layers", layer)
        row["blob"] = {"digest": str(blob), "mediaType": "x", "size": 10}
        txn.put_json("layers", layer, row)
    collect(root, Wanted(layer))
    assert root.blobs.has(blob)


def test_image_rows_that_roots_do_not_name_go_with_their_sources(root: StoreRoot) -> None:
    with root.index.update() as txn:
        for key in (b"i" * 32, b"j" * 32):
            txn.put_json("images", key, {})
        txn.put_json("sources", b"s" * 32, [])
    result = collect(root, lambda txn: Roots(images=frozenset({b"i" * 32})))
    with root.index.view() as txn:
        assert txn.keys("images") == [b"i" * 32]
        assert txn.keys("sources") == []
    assert result.images == 1


def test_a_pinned_content_stays_until_the_lease_ends(root: StoreRoot) -> None:
    store(root, b"small", BIG)
    with root.leases.acquire("import") as lease:
        root.contents.lookup(identity_of(b"small") + identity_of(BIG), lease)
        collect(root, NOBODY)
        assert readable(root, {"a": b"small", "b": BIG})
    collect(root, NOBODY)
    with root.index.view() as txn:
        assert txn.count("contents") == 0


def test_pinned_layers_chains_and_blobs_stay(root: StoreRoot) -> None:
    layer = add_layer(root, SMALL)
    chain = add_merged(root, b"c" * 32, layer)
    blob = root.blobs.put(b"{}", media_type="x")
    time.sleep(0.05)
    with root.leases.acquire("import") as lease:
        lease.pin(layer + chain + blob.raw)
        collect(root, NOBODY)
        assert readable(root, SMALL)
        assert root.tree_path("merged", chain.hex()).exists()
        assert root.blobs.has(blob)


def test_the_prefix_that_a_running_merge_may_use_stays(root: StoreRoot) -> None:
    layer = add_layer(root, SMALL)
    chain = add_merged(root, b"c" * 32, layer)
    with root.leases.acquire("merge") as lease:
        lease.pin(layer)
        collect(root, NOBODY)
        assert root.tree_path("merged", chain.hex()).exists()


def test_what_is_published_while_a_lease_is_held_stays(root: StoreRoot) -> None:
    with root.leases.acquire("load"):
        add_layer(root, SMALL)
        blob = root.blobs.put(b"{}", media_type="x")
        collect(root, NOBODY)
        assert readable(root, SMALL)
        assert root.blobs.has(blob)


def test_putting_an_old_blob_again_makes_it_young(root: StoreRoot) -> None:
    digest = root.blobs.put(b"{}", media_type="x")
    os.utime(root.blobs.blob_path(digest), (1, 1))
    with root.leases.acquire("load"):
        root.blobs.put(b"{}", media_type="x")
        collect(root, NOBODY)
        assert root.blobs.has(digest)


def test_staged_but_unpublished_files_are_not_orphans(root: StoreRoot) -> None:
    from tests.unit.store.content import Filler

    with root.leases.acquire("import") as lease, root.contents.writer(lease) as writer:
        filler = Filler(writer)
        filler.add(b"small")
        filler.add(BIG)
        for path in filler.stage():
            os.utime(path, (1, 1))
        collect(root, NOBODY)
        with root.index.update() as txn:
            writer.publish(txn)
    assert readable(root, {"a": b"small", "b": BIG})


def orphan_paths(root: StoreRoot) -> list[Path]:
    name = "ab" * 32
    return [
        root.contents.object_path(b"o" * 32),
        root.contents.pack_path(7),
        root.tree_path("layer", name),
        root.tree_path("merged", name),
        root.split_path(name),
        root.blobs.blob_path(Digest(name)),
        root.container_path(name) / "upper/file",
        root.path / ".format.dead",
    ]


def test_orphans_of_every_kind_go(root: StoreRoot) -> None:
    collect(root, NOBODY)
    empty = files(root)
    for path in orphan_paths(root):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"x")
    os.utime(root.container_path("ab" * 32), (1, 1))
    result = collect(root, NOBODY)
    assert files(root) - {"blobs/sha256"} == empty
    assert result.orphans == 8


def test_a_container_that_is_just_being_made_is_no_orphan(root: StoreRoot) -> None:
    (root.container_path("ab" * 32) / "upper").mkdir(parents=True)
    collect(root, NOBODY)
    assert root.container_path("ab" * 32).is_dir()


def test_a_container_with_a_row_stays(root: StoreRoot) -> None:
    path = root.container_path("ab" * 32)
    path.mkdir()
    os.utime(path, (1, 1))
    with root.index.update() as txn:
        txn.put_json("containers", b"ab" * 32, {})
    collect(root, NOBODY)
    assert path.is_dir()


def test_a_deep_orphan_is_removed(root: StoreRoot) -> None:
    path = root.container_path("ab" * 32)
    path.mkdir()
    here = os.open(path, os.O_RDONLY)
    for _ in range(1200):
        os.mkdir("d", dir_fd=here)
        there = os.open("d", os.O_RDONLY, dir_fd=here)
        os.close(here)
        here = there
    os.close(here)
    os.utime(path, (1, 1))
    collect(root, NOBODY)
    assert not path.exists()
    assert list((root.path / "tmp").iterdir()) == []


@pytest.mark.root
def test_an_orphan_with_a_mount_in_it_is_left_alone(root: StoreRoot) -> None:
    import ctypes

    path = root.container_path("ab" * 32)
    (path / "merged").mkdir(parents=True)
    libc = ctypes.CDLL(None, use_errno=True)
    assert libc.mount(b"tmpfs", bytes(path / "merged"), b"tmpfs", 0, b"size=1m") == 0
    try:
        (path / "merged/precious").write_text("x")
        os.utime(path, (1, 1))
        collect(root, NOBODY)
        assert (path / "merged/precious").exists()
    finally:
        libc.umount2(bytes(path / "merged"), 2)


def test_an_unreadable_tree_stops_the_contents_from_being_swept(root: StoreRoot) -> None:
    layer = add_layer(root, SMALL)
    root.tree_path("layer", layer.hex()).unlink()
    result = collect(root, Wanted(layer))
    assert result.damage
    assert result.contents == 0
    assert readable(root, SMALL)


def mostly_dead(root: StoreRoot) -> tuple[bytes, dict[str, bytes]]:
    """A live layer that uses a little of a dead layer's pack."""
    shared = {f"s{number}": os.urandom(3000) for number in range(5)}
    add_layer(root, shared | {f"d{number}": os.urandom(3000) for number in range(60)})
    return add_layer(root, shared | {"own": b"own"}), shared | {"own": b"own"}


def test_a_mostly_dead_pack_is_compacted_and_the_trees_follow(root: StoreRoot) -> None:
    layer, contents = mostly_dead(root)
    chain = add_merged(root, b"c" * 32, layer)
    wanted = Wanted(layer)
    wanted.chains.add(chain)
    before = sum(path.stat().st_size for path in (root.path / "packs").iterdir())
    result = collect(root, wanted)
    assert result.packs_compacted == 1
    assert sum(path.stat().st_size for path in (root.path / "packs").iterdir()) < before / 5
    assert readable(root, contents)
    for path in (root.tree_path("layer", layer.hex()), root.tree_path("merged", chain.hex())):
        assert verify_tree(str(path))
        for file in TreeFile(path).packed_files():
            data = root.contents.pack_path(file.pack).read_bytes()[file.block * 4096 :][: file.size]
            assert identity_of(data) == file.identity
    assert collect(root, wanted).bytes == 0


def test_no_compaction_while_a_lease_lives_or_a_server_uses_the_pack(root: StoreRoot) -> None:
    layer, contents = mostly_dead(root)
    with root.leases.acquire("export"):
        assert collect(root, Wanted(layer)).packs_compacted == 0
    wanted = Wanted(layer)
    chain = add_merged(root, b"c" * 32, layer)
    wanted.chains.add(chain)
    wanted.mounted.add(chain)
    assert collect(root, wanted).packs_compacted == 0
    assert readable(root, contents)


def test_an_open_reader_survives_compaction(root: StoreRoot) -> None:
    layer, contents = mostly_dead(root)
    with root.contents.open(identity_of(contents["s1"])) as reader:
        assert collect(root, Wanted(layer)).packs_compacted == 1
        assert reader.read() == contents["s1"]


def test_a_damaged_pack_is_not_compacted(root: StoreRoot) -> None:
    layer, contents = mostly_dead(root)
    path = root.contents.pack_path(root.contents.stat(identity_of(contents["s1"])).pack)
    path.chmod(0o600)
    with path.open("r+b") as file:
        file.write(b"\xff" * 40960)
    assert collect(root, Wanted(layer)).packs_compacted == 0


def test_a_pack_that_only_a_tree_uses_stays_and_gets_its_row_back(root: StoreRoot) -> None:
    layer = add_layer(root, SMALL)
    with root.index.update() as txn:
        keys = txn.keys("packs")
        for table in ("packs", "contents"):
            for key in txn.keys(table):
                txn.delete(table, key)
    for path in (root.path / "packs").iterdir():
        os.utime(path, (1, 1))
    collect(root, Wanted(layer))
    with root.index.view() as txn:
        assert txn.keys("packs") == keys
    assert len(list((root.path / "packs").iterdir())) == 1


def test_progress_is_told(root: StoreRoot) -> None:
    kinds: list[str] = []
    collect(root, NOBODY, progress=lambda step: kinds.append(step.kind))
    assert kinds == ["rows", "mark", "contents", "packs", "orphans", "compact"]


def test_gc_beside_imports_and_lookups_breaks_nothing(root: StoreRoot) -> None:
    wanted, guard = Wanted(), threading.Lock()
    faults: list[BaseException] = []
    end = time.monotonic() + 3

    def importer(number: int) -> None:
        try:
            count = 0
            while time.monotonic() < end:
                count += 1
                made = {f"x{i}": b"%d" % (i % 7 + count % 3) * 700 for i in range(30)} | {"n": b"%d" % number}
                with root.leases.acquire("import") as lease:
                    layer = add_layer(root, made, lease)
                    with guard:
                        wanted.layers.add(layer)
                assert readable(root, made)
                with guard:
                    wanted.layers.discard(layer)
        except BaseException as fault:
            faults.append(fault)

    def collector() -> None:
        try:
            while time.monotonic() < end:
                collect(root, lambda txn: Roots(layers=frozenset(wanted.layers)))
        except BaseException as fault:
            faults.append(fault)

    threads = [threading.Thread(target=importer, args=(number,)) for number in (1, 2)]
    threads.append(threading.Thread(target=collector))
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert faults == []
    collect(root, NOBODY)
    with root.index.view() as txn:
        assert txn.count("contents") == 0


def test_treefile_refuses_what_is_no_tree(tmp_path: Path) -> None:
    for content in (b"", b"x" * 100, b"x" * 8192):
        (tmp_path / "t").write_bytes(content)
        with pytest.raises(Corrupt):
            TreeFile(tmp_path / "t")
