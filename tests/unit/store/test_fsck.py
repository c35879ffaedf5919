from __future__ import annotations

import io
import os
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, BinaryIO

import pytest

from layerfs.digest import DiffID, Digest
from layerfs.layer import write_layer
from layerfs.native import hash_fd
from layerfs.store import Problem, StoreRoot, check, collect
from layerfs.store.format import FLAG_SPARSE, KIND_OBJECT, NewContent, pack_key
from layerfs.store.treefile import TreeFile
from tests.unit.store.content import identity_of
from tests.unit.store.layers import Wanted, add_layer, add_merged, tar_of

BIG = os.urandom(200_000)
FILES = {f"f{number}": b"%d" % number * 500 for number in range(20)} | {"big": BIG}
SMALL = FILES["f3"]
CHAIN = b"c" * 32


def overwrite(path: Path, at: int = 0) -> None:
    path.chmod(0o600)
    with path.open("r+b") as file:
        file.seek(at)
        file.write(b"\xde\xad\xbe\xef")


def replay_in(root: StoreRoot) -> Callable[[bytes, Any], None]:
    return lambda key, out: write_layer(root, DiffID(Digest.from_raw(key)), out)


def look(root: StoreRoot, *, quick: bool = False) -> list[Problem]:
    return check(root, replay=replay_in(root), quick=quick)


class Source:
    """The tars of known layers; counts what is asked for."""

    def __init__(self, *tars: dict[str, bytes]) -> None:
        self.tars = {identity_of(tar_of(tar)): tar_of(tar) for tar in tars}
        self.asked = 0

    def __call__(self, key: bytes) -> Iterator[BinaryIO]:
        self.asked += 1
        if key in self.tars:
            yield io.BytesIO(self.tars[key])


def mend(root: StoreRoot, source: Source) -> list[Problem]:
    problems = check(root, repair=source, replay=replay_in(root))
    assert problems
    assert [problem for problem in problems if not problem.repaired] == []
    assert look(root) == []
    return problems


@pytest.fixture
def layer(root: StoreRoot) -> bytes:
    return add_layer(root, FILES)


def small_pack(root: StoreRoot) -> Path:
    return root.contents.pack_path(root.contents.stat(identity_of(SMALL)).pack)


def test_a_whole_store_has_no_problems(root: StoreRoot, layer: bytes) -> None:
    add_merged(root, CHAIN, layer)
    root.blobs.put(b"{}", media_type="x")
    assert look(root) == []
    assert look(root, quick=True) == []


@pytest.mark.parametrize("quick", [False, True])
def test_a_flipped_bit_is_found(root: StoreRoot, layer: bytes, quick: bool) -> None:
    value = root.contents.stat(identity_of(SMALL))
    overwrite(small_pack(root), value.block * 4096)
    overwrite(root.contents.object_path(identity_of(BIG)))
    found = {(problem.kind, problem.key, problem.repairable) for problem in look(root, quick=quick)}
    assert found == {("content", identity_of(data).hex(), True) for data in (SMALL, BIG)}


def test_contents_are_mended_from_the_source_and_only_those(root: StoreRoot, layer: bytes) -> None:
    value = root.contents.stat(identity_of(SMALL))
    overwrite(small_pack(root), value.block * 4096)
    overwrite(root.contents.object_path(identity_of(BIG)))
    assert len(mend(root, Source(FILES))) == 2
    assert root.contents.stat(identity_of(SMALL)) == value
    assert root.contents.read(identity_of(SMALL)) == SMALL
    assert len(list((root.path / "packs").iterdir())) == 1


def test_a_missing_pack_and_object_are_made_anew(root: StoreRoot, layer: bytes) -> None:
    small_pack(root).unlink()
    root.contents.object_path(identity_of(BIG)).unlink()
    assert {problem.kind for problem in look(root)} == {"pack", "content"}
    mend(root, Source(FILES))
    assert all(root.contents.read(identity_of(data), verify=True) == data for data in FILES.values())


def test_a_truncated_pack_is_mended(root: StoreRoot, layer: bytes) -> None:
    os.truncate(small_pack(root), 20_000)
    mend(root, Source(FILES))


def test_without_a_source_the_damage_stays_and_nothing_else_is_touched(root: StoreRoot, layer: bytes) -> None:
    overwrite(root.contents.object_path(identity_of(BIG)))
    problems = check(root, repair=Source(), replay=replay_in(root))
    assert [problem.repaired for problem in problems] == [False]
    assert len(look(root)) == 1


def test_a_source_that_lies_mends_nothing(root: StoreRoot, layer: bytes) -> None:
    overwrite(root.contents.object_path(identity_of(BIG)))
    root.tree_path("layer", layer.hex()).unlink()
    source = Source()
    source.tars[layer] = tar_of({"other": b"tar"})
    assert not any(problem.repaired for problem in check(root, repair=source))


def test_a_damaged_tree_is_made_from_the_record_without_a_source(root: StoreRoot, layer: bytes) -> None:
    path = root.tree_path("layer", layer.hex())
    before = path.read_bytes()
    overwrite(path, 5000)
    source = Source(FILES)
    assert [problem.kind for problem in mend(root, source)] == ["tree"]
    assert path.read_bytes() == before
    assert source.asked == 0


def test_a_missing_tree_and_record_are_made_from_the_source(root: StoreRoot, layer: bytes) -> None:
    root.tree_path("layer", layer.hex()).unlink()
    root.split_path(layer.hex()).write_bytes(b"junk")
    mend(root, Source(FILES))
    out = io.BytesIO()
    write_layer(root, DiffID(Digest.from_raw(layer)), out)
    assert out.getvalue() == tar_of(FILES)


@pytest.mark.parametrize("with_tree", [False, True])
def test_a_record_that_could_not_be_tried_for_want_of_contents_is_mended_with_them(
    root: StoreRoot, layer: bytes, with_tree: bool
) -> None:
    small_pack(root).unlink()
    record = root.split_path(layer.hex())
    os.truncate(record, record.stat().st_size // 2)
    if with_tree:
        root.tree_path("layer", layer.hex()).unlink()
    mend(root, Source(FILES))


def test_a_record_of_another_layer_is_found_by_replay(root: StoreRoot, layer: bytes) -> None:
    other = add_layer(root, {"other": b"x"})
    root.split_path(layer.hex()).write_bytes(root.split_path(other.hex()).read_bytes())
    assert [problem.kind for problem in look(root)] == ["split"]
    mend(root, Source(FILES))


def test_the_tree_of_another_layer_is_found(root: StoreRoot, layer: bytes) -> None:
    other = add_layer(root, {"other": b"x"})
    path = root.tree_path("layer", layer.hex())
    path.unlink()
    path.write_bytes(root.tree_path("layer", other.hex()).read_bytes())
    assert [problem.kind for problem in look(root)] == ["tree"]


def test_a_tree_that_does_not_fit_its_row_is_found(root: StoreRoot, layer: bytes) -> None:
    with root.index.update() as txn:
        txn.put_json("layers", layer, txn.get_json("layers", layer) | {"entries": 7})
    mend(root, Source())


def test_a_damaged_merged_tree_is_dropped(root: StoreRoot, layer: bytes) -> None:
    add_merged(root, CHAIN, layer)
    overwrite(root.tree_path("merged", CHAIN.hex()), 5000)
    assert [problem.kind for problem in mend(root, Source())] == ["merged"]
    assert not root.tree_path("merged", CHAIN.hex()).exists()


def test_a_content_without_a_row_is_found_and_published_again(root: StoreRoot, layer: bytes) -> None:
    with root.index.update() as txn:
        txn.delete("contents", identity_of(SMALL))
        txn.delete("contents", identity_of(BIG))
    mend(root, Source(FILES))


def test_a_row_that_is_not_understood_is_replaced(root: StoreRoot, layer: bytes) -> None:
    with root.index.update() as txn:
        txn.put("contents", identity_of(SMALL), b"\xff" * 32)
    mend(root, Source(FILES))


def test_a_wrong_checksum_in_a_row_is_mended_without_a_source(root: StoreRoot, layer: bytes) -> None:
    with root.index.update() as txn:
        for data in (SMALL, BIG):
            value = root.contents.stat(identity_of(data))
            txn.put("contents", identity_of(data), value._replace(xxh64=1).encode())
    source = Source()
    assert len(mend(root, source)) == 2
    assert source.asked == 0


def test_the_private_copy_of_a_tree_is_checked_and_mended_from_the_other(root: StoreRoot) -> None:
    """Two imports of one content at once: the row shows one copy, the second tree the other."""
    first = add_layer(root, {"same": SMALL})
    rows = {}
    with root.index.update() as txn:
        rows[b"x"] = txn.get("contents", identity_of(SMALL))
        txn.delete("contents", identity_of(SMALL))
    second = add_layer(root, {"same": SMALL, "more": b"more"})
    with root.index.update() as txn:
        txn.put("contents", identity_of(SMALL), rows[b"x"] or b"")
    assert look(root) == []
    (place,) = [f for f in TreeFile(root.tree_path("layer", second.hex())).packed_files() if f.size == len(SMALL)]
    overwrite(root.contents.pack_path(place.pack), place.block * 4096)
    assert [problem.kind for problem in mend(root, Source())] == ["content"]
    assert root.tree_path("layer", first.hex()).exists()


def test_a_damaged_sparse_object_is_found(root: StoreRoot) -> None:
    path = root.path / "tmp/sparse"
    path.write_bytes(b"begin")
    os.truncate(path, 8 << 20)
    with path.open("rb") as file:
        identity, checksum = hash_fd(file.fileno(), True)
    content = NewContent(identity, 8 << 20, checksum, 0, KIND_OBJECT, FLAG_SPARSE)
    with root.leases.acquire("x") as lease, root.contents.writer(lease) as writer:
        writer.add_object(path, identity)
        writer.stage(content.encode(), 0)
        with root.index.update() as txn:
            writer.publish(txn)
    assert look(root) == []
    overwrite(root.contents.object_path(identity), 1 << 20)
    assert [problem.key for problem in look(root)] == [identity.hex()]


def test_blobs_are_checked_and_mended_from_a_source(root: StoreRoot) -> None:
    digest = root.blobs.put(b"{}", media_type="x")
    overwrite(root.blobs.blob_path(digest))
    assert [problem.kind for problem in look(root)] == ["blob"]
    root.blobs.blob_path(digest).unlink()
    assert [problem.kind for problem in look(root, quick=True)] == ["blob"]
    check(root, repair=lambda key: iter([io.BytesIO(b"{}")]))
    assert look(root) == []


def test_rows_that_point_nowhere_are_found(root: StoreRoot) -> None:
    with root.index.update() as txn:
        txn.put_json("references", b"docker.io/library/a:1", {"image": "ab" * 32, "manifest": None})
        txn.put_json("images", b"i" * 32, {"diff_ids": ["cd" * 32], "manifest": "ef" * 32})
        txn.put_json("containers", b"1" * 64, {"image": "ab" * 32})
        txn.put_json("trees", CHAIN, {"layers": ["cd" * 32], "created": 0})
        txn.put("names", b"box", b"2" * 64)
    found = [(problem.kind, problem.message) for problem in look(root)]
    assert len([kind for kind, _ in found if kind == "image"]) == 3
    assert {kind for kind, _ in found} == {"reference", "image", "container", "merged", "name"}
    mended = check(root, repair=Source())
    assert {problem.kind for problem in mended if problem.repaired} == {"reference", "merged", "name"}
    assert {problem.kind for problem in look(root)} == {"image", "container"}


def test_a_row_that_is_no_json_is_damage(root: StoreRoot) -> None:
    with root.index.update() as txn:
        txn.put("images", b"i" * 32, b"{")
    assert [problem.kind for problem in look(root)] == ["row"]


def test_orphans_are_information_only_when_asked_for(root: StoreRoot, layer: bytes) -> None:
    root.contents.pack_path(7).write_bytes(b"x")
    assert look(root) == []
    (problem,) = check(root, information=True)
    assert (problem.severity, problem.kind, problem.key) == ("info", "orphan", f"packs/{7:016x}")


def test_a_pack_row_says_how_long_the_pack_is(root: StoreRoot, layer: bytes) -> None:
    with root.index.update() as txn:
        (key,) = txn.keys("packs")
        txn.put_json("packs", key, {"blocks": 1000, "created": 0})
    assert key == pack_key(root.contents.stat(identity_of(SMALL)).pack)
    assert [problem.kind for problem in look(root)] == ["pack"]
    mend(root, Source())


def test_a_compacted_store_is_whole(root: StoreRoot) -> None:
    shared = {f"s{number}": os.urandom(3000) for number in range(5)}
    add_layer(root, shared | {f"d{number}": os.urandom(3000) for number in range(60)})
    layer = add_layer(root, shared)
    assert collect(root, Wanted(layer)).packs_compacted == 1
    assert look(root) == []


def test_check_runs_beside_imports(root: StoreRoot, layer: bytes) -> None:
    faults: list[BaseException] = []

    def work() -> None:
        try:
            for number in range(15):
                add_layer(root, {f"x{i}": b"%d" % (i + number) * 700 for i in range(20)})
        except BaseException as fault:
            faults.append(fault)

    thread = threading.Thread(target=work)
    thread.start()
    found = []
    while thread.is_alive():
        found += look(root)
    thread.join()
    assert (faults, found) == ([], [])
