"""Random stacks of layers against a model of the OCI rules, and reading that does not depend on chunks."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from layerfs import _pure
from layerfs.errors import InvalidArchive
from layerfs.layer.tree import Tree
from layerfs.layer.tree_text import parse_tree_text, tree_text
from tests.oracle.applier import apply
from tests.oracle.applier import listing as oracle_listing
from tests.trees import Shelf, cut, layer, listing, member, native, tar
from tests.trees import entry as raw_entry

MODULES = {"pure": _pure, "native": native()}
NAMES = ["a", "b", "c", ".d", "a.b"]


@pytest.fixture(params=MODULES, scope="module")
def module(request: pytest.FixtureRequest) -> Any:
    if MODULES[request.param] is None:
        pytest.skip("the compiled part is not built")
    return MODULES[request.param]


@contextmanager
def new_shelf(module: Any) -> Iterator[Shelf]:
    with tempfile.TemporaryDirectory(prefix="layerfs-test-") as folder:
        yield Shelf(Path(folder), module)


# --- a dict model of whiteouts and replacing, for stacks without links ---

paths = st.lists(st.sampled_from(NAMES), min_size=1, max_size=4).map("/".join)
operations = st.one_of(
    st.tuples(st.just("file"), paths, st.text("xyz", max_size=3)),
    st.tuples(st.just("directory"), paths, st.integers(0, 0o777)),
    st.tuples(st.just("whiteout"), paths, st.none()),
    st.tuples(st.just("opaque"), paths, st.none()),
)
stacks = st.lists(st.lists(operations, max_size=6), min_size=1, max_size=4)


def model(stack: list[list[tuple[str, str, Any]]]) -> dict[str, Any]:
    """path -> mode of a directory, or data: image-spec layer.md, applied layer by layer.

    A layer's whiteouts go first, as they hide only what is below it; then its entries in order.
    """
    tree: dict[str, Any] = {}
    for layer_ in stack:
        for kind, path, _ in layer_:
            if kind in ("whiteout", "opaque"):
                remove(tree, path, itself=kind == "whiteout")
        for kind, path, value in layer_:
            if kind in ("file", "directory"):
                make_parents(tree, path)
                if kind == "file" or not isinstance(tree.get(path), int):
                    remove(tree, path)
                tree[path] = value
    return tree


def remove(tree: dict[str, Any], path: str, *, itself: bool = True) -> None:
    for found in [other for other in tree if other.startswith(path + "/") or (itself and other == path)]:
        del tree[found]


def make_parents(tree: dict[str, Any], path: str) -> None:
    parts = path.split("/")[:-1]
    for depth in range(1, len(parts) + 1):
        parent = "/".join(parts[:depth])
        if not isinstance(tree.get(parent), int):
            tree[parent] = 0o755


def sensible(layer_: list[tuple[str, str, Any]]) -> list[tuple[str, str, Any]]:
    """Without what the specification leaves open: two kinds of file on one path of one layer, markers below files."""
    kept: list[tuple[str, str, Any]] = []
    for operation in layer_:
        kind, path, _ = operation
        files = {other for name, other, _ in kept if name == "file"}
        parents = {path.rsplit("/", count)[0] for count in range(1, path.count("/") + 1)}
        if kind != "file" and path in files:
            continue
        if parents & files:
            continue
        if kind == "file" and any(other == path or other.startswith(path + "/") for _, other, _ in kept):
            continue
        kept.append(operation)
    return kept


def written(operation: tuple[str, str, Any]) -> bytes:
    kind, path, value = operation
    parent, _, name = path.rpartition("/")
    if kind == "file":
        return raw_entry(path, data=value.encode())
    if kind == "directory":
        return raw_entry(path, b"5", mode=value)
    if kind == "opaque":
        return raw_entry(f"{path}/.wh..wh..opq")
    return raw_entry(f"{parent}/.wh.{name}" if parent else f".wh.{name}")


@given(stack=stacks)
@settings(deadline=None, max_examples=40)
def test_merged_trees_equal_the_model(module: Any, stack: list[list[tuple[str, str, Any]]]) -> None:
    stack = [sensible(layer_) for layer_ in stack]
    with new_shelf(module) as shelf:
        for layer_ in stack:
            shelf.read(layer(*map(written, layer_)))
        tree = shelf.merge()
        found = {
            path.decode(): inode.mode & 0o777 if inode.mode & 0o040000 else shelf.data(tree, inode).decode()
            for path, inode in tree.walk()
            if path
        }
        assert found == model(stack)


# --- all kinds of entries against the other reader of layers in these tests ---

kinds = st.one_of(
    st.tuples(st.just("f"), paths, st.binary(max_size=20)),
    st.tuples(st.just("d"), paths, st.none()),
    st.tuples(st.just("l"), paths, st.sampled_from(["a", "b/c", "../a", "/c", "missing/x"])),
    st.tuples(st.just("p"), paths, st.none()),
    st.tuples(st.just("h"), paths, st.just("")),
    st.tuples(st.just("w"), paths, st.none()),
)
attributes = st.fixed_dictionaries(
    {"mode": st.integers(0, 0o7777), "uid": st.integers(0, 1 << 21), "mtime": st.integers(0, 1 << 33)}
)
rich_layers = st.lists(st.tuples(kinds, attributes), max_size=7)


def rich_tar(operations_: list[Any], seen: list[str]) -> bytes:
    members = []
    for (kind, path, value), fields in operations_:
        if kind == "w":
            parent, _, name = path.rpartition("/")
            if parent:  # as whiteouts come from real tools; without it they may have no effect at all
                members.append(member(parent, "d"))
            members.append(member(f"{parent}/.wh.{name}" if parent else f".wh.{name}"))
        elif kind == "h":
            if seen:
                members.append(member(path, "h", seen[-1], **fields))
        else:
            if kind == "l":
                fields = fields | {"mode": 0o777}
            members.append(member(path, kind, value, **fields))
            if kind == "f":
                seen.append(path)
    return tar(*members)


@given(stack=st.lists(rich_layers, min_size=1, max_size=3))
@settings(deadline=None, max_examples=40)
def test_merged_trees_equal_the_other_applier(module: Any, stack: list[Any]) -> None:
    """The applier refuses by AssertionError or RecursionError; a stack that either side refuses tells nothing."""
    seen: list[str] = []
    layers = [rich_tar(operations_, seen) for operations_ in stack]
    try:
        wanted = oracle_listing(apply(layers))
    except (AssertionError, RecursionError):
        wanted = None
    with new_shelf(module) as shelf:
        try:
            for tar_ in layers:
                shelf.read(tar_)
            tree = shelf.merge()
        except InvalidArchive:
            return
        if wanted is not None:
            assert listing(shelf, tree) == wanted


@given(operations_=rich_layers, data=st.data())
@settings(deadline=None, max_examples=40)
def test_chunks_do_not_matter(module: Any, operations_: list[Any], data: st.DataObject) -> None:
    whole = rich_tar(operations_, [])
    sizes = data.draw(st.lists(st.integers(0, 1500), max_size=30))
    assert b"".join(cut(whole, sizes)) == whole
    with new_shelf(module) as one, new_shelf(module) as many:
        try:
            first = one.read(whole)
        except InvalidArchive:
            with pytest.raises(InvalidArchive):
                many.read(whole, chunks=sizes)
            return
        second = many.read(whole, chunks=sizes)
        assert Path(first.path).read_bytes() == Path(second.path).read_bytes()
        assert one.splits == many.splits
        assert one.replay(0) == whole


@given(stack=st.lists(rich_layers, min_size=1, max_size=2))
@settings(deadline=None, max_examples=40)
def test_text_and_back_is_the_same_tree(stack: list[Any]) -> None:
    with new_shelf(_pure) as shelf:
        trees: list[Tree] = []
        try:
            trees += [shelf.read(rich_tar(operations_, [])) for operations_ in stack]
            trees.append(shelf.merge())
        except InvalidArchive:
            pass
        for tree in trees:
            again = shelf.folder / "again"
            parse_tree_text(list(tree_text(tree)), str(again))
            assert again.read_bytes() == Path(tree.path).read_bytes()
            again.unlink()


@given(stack=st.lists(rich_layers, min_size=2, max_size=3))
@settings(deadline=None, max_examples=40)
def test_folding_onto_a_merged_tree_is_folding_all(module: Any, stack: list[Any]) -> None:
    with new_shelf(module) as shelf:
        seen: list[str] = []
        try:
            for operations_ in stack:
                shelf.read(rich_tar(operations_, seen))
            whole = shelf.merge("whole")
        except InvalidArchive:
            return
        below = str(shelf.folder / "below")
        shelf.module.merge_trees(shelf.trees[:-1], below, bytes(32))
        out = str(shelf.folder / "out")
        shelf.module.merge_trees([below, shelf.trees[-1]], out, bytes(range(32)))
        assert Path(out).read_bytes() == Path(whole.path).read_bytes()


@given(stack=st.lists(rich_layers, min_size=2, max_size=3))
@settings(deadline=None, max_examples=40)
def test_a_fold_that_goes_on_writes_each_stack(module: Any, stack: list[Any]) -> None:
    with new_shelf(module) as shelf:
        seen: list[str] = []
        fold, once = module.Fold(), str(shelf.folder / "once")
        try:
            for number, operations_ in enumerate(stack):
                shelf.read(rich_tar(operations_, seen))
                shelf.module.merge_trees(shelf.trees, f"{once}{number}", bytes(32))
        except InvalidArchive:
            return
        for number, tree in enumerate(shelf.trees):
            fold.add(tree)
            grown = shelf.folder / f"grown{number}"
            fold.write(str(grown), bytes(32))
            assert grown.read_bytes() == Path(f"{once}{number}").read_bytes()
