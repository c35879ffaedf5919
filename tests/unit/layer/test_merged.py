"""Merged trees: built once, from what is merged already, right for the oracle."""

import io
import stat
import threading
from pathlib import Path

import pytest

from layerfs import _pure
from layerfs.digest import Digest, chain_id, chain_ids
from layerfs.errors import InvalidArchive, NotFound
from layerfs.layer import BytesContent, Entry, merged_tree, read_layer, whiteout
from layerfs.layer import merged as module
from layerfs.layer.merged import GrowingTrees
from tests.oracle.applier import apply, listing


def file(path, data=b"x", **fields):
    return Entry(path, stat.S_IFREG | 0o644, size=len(data), content=BytesContent(data), **fields)


@pytest.fixture
def stack(root, lease, tar_of):
    """Three layers of the store and their tars."""
    tars = [
        tar_of(Entry(b"d", stat.S_IFDIR | 0o755), file(b"d/a"), file(b"d/b"), file(b"e")),
        tar_of(Entry(b"d", stat.S_IFDIR | 0o700), whiteout(b"d/a"), file(b"f", b"f" * 5000)),
        tar_of(Entry(b"d", stat.S_IFDIR | 0o711, opaque=True), file(b"d/c"), file(b"g").linked(b"d/h", b"d/c")),
    ]
    return [read_layer(root, io.BytesIO(tar), lease=lease).diff_id for tar in tars], tars


def names(tree):
    return {b"/" + path if path else b"" for path, _ in tree.walk()}


def test_a_merged_tree_is_what_the_oracle_says(root, stack):
    diff_ids, tars = stack
    for count in range(1, 4):
        tree, wanted = merged_tree(root, diff_ids[:count]), listing(apply(tars[:count]))
        assert names(tree) == set(wanted)
        assert tree.resolve(b"d").mode == wanted[b"/d"]["mode"]
        assert tree.subject == chain_id(diff_ids[:count]).raw


def test_it_is_built_once_and_from_the_longest_prefix(root, stack, monkeypatch):
    diff_ids, _ = stack
    calls = []
    merge = module.merge_trees
    monkeypatch.setattr(module, "merge_trees", lambda paths, *rest: calls.append(paths) or merge(paths, *rest))
    merged_tree(root, diff_ids[:2])
    merged_tree(root, diff_ids)
    merged_tree(root, diff_ids)
    assert [len(paths) for paths in calls] == [2, 2]
    assert "merged-" in calls[1][0] and "layer-" in calls[1][1]


def test_several_threads_get_the_same_tree(root, stack, monkeypatch):
    diff_ids, _ = stack
    calls, trees = [], []
    merge = module.merge_trees
    monkeypatch.setattr(module, "merge_trees", lambda paths, *rest: calls.append(1) or merge(paths, *rest))
    threads = [threading.Thread(target=lambda: trees.append(merged_tree(root, diff_ids))) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(calls) == 1 and len({tree.path for tree in trees}) == 1


def test_a_lost_file_is_built_again(root, stack):
    diff_ids, _ = stack
    first = names(merged_tree(root, diff_ids))
    root.tree_path("merged", chain_id(diff_ids).hex).unlink()
    assert names(merged_tree(root, diff_ids)) == first


def test_a_link_into_nothing_is_an_error_and_leaves_nothing(root, lease, stack, tar_of):
    tar = tar_of(file(b"x").linked(b"x", b"nowhere"))
    layer = read_layer(root, io.BytesIO(tar), lease=lease)
    assert layer.unresolved_links == 1
    with pytest.raises(InvalidArchive, match="nowhere"):
        merged_tree(root, [*stack[0], layer.diff_id])
    with root.index.view() as txn:
        assert txn.keys("trees") == []
    assert [path.name for path in (root.path / "tmp").iterdir()] == [lease.id]


def test_growing_trees_are_the_merged_ones_and_stay_out_of_the_store(root, lease, stack):
    diff_ids, _ = stack
    growing = GrowingTrees(root, lease)
    grown = [growing.tree(diff_ids[:count]) for count in range(1, 4)]
    assert [tree.path.startswith(str(lease.tmp)) for tree in grown] == [True] * 3
    with root.index.view() as txn:
        assert txn.keys("trees") == []
    for count, tree in enumerate(grown, 1):
        assert Path(tree.path).read_bytes() == Path(merged_tree(root, diff_ids[:count]).path).read_bytes()
    assert growing.tree(diff_ids) is grown[-1]


def test_growing_trees_go_on_from_what_was_read(root, lease, stack, monkeypatch):
    diff_ids, _ = stack
    read = []

    class Fold(_pure.Fold):
        def add(self, path):
            read.append(Path(path).name.partition("-")[0])
            super().add(path)

    monkeypatch.setattr(module, "Fold", Fold)
    growing = GrowingTrees(root, lease)
    for count in (1, 2, 3):
        growing.tree(diff_ids[:count])
    assert read == ["layer"] * 3
    growing.tree([*diff_ids[:1], diff_ids[2]])  # another stage on the first layer, of which only the tree is left
    assert read[3:] == ["merged", "layer"]


def test_a_missing_layer_is_named(root, stack):
    missing = Digest.of(b"missing")
    with pytest.raises(NotFound, match=missing.hex):
        merged_tree(root, [*stack[0], missing])


def test_an_empty_stack_has_an_empty_tree(root):
    assert names(merged_tree(root, [])) == {b""}


def test_chain_ids_of_all_prefixes(stack):
    assert chain_ids(stack[0]) == [chain_id(stack[0][:count]) for count in (1, 2, 3)]
