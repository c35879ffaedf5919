from __future__ import annotations

from pathlib import Path

import pytest

from layerfs._pure import merge_trees, remap_tree, verify_tree
from layerfs.errors import InvalidArchive, InvalidInput
from layerfs.layer.tree import Tree
from tests.trees import Shelf, entry, layer


@pytest.fixture
def shelf(tmp_path: Path) -> Shelf:
    return Shelf(tmp_path)


def paths(tree: Tree) -> list[bytes]:
    return [path for path, _ in tree.walk() if path]


def chain(length: int) -> bytes:
    """Symlinks s0 -> s1 -> ... -> the directory `end`."""
    links = [entry(f"s{number}", b"2", link=b"s%d" % (number + 1)) for number in range(length - 1)]
    return layer(entry("end", b"5"), *links, entry(f"s{length - 1}", b"2", link=b"end"))


def test_an_empty_stack_has_an_empty_tree(tmp_path: Path) -> None:
    result = merge_trees([], str(tmp_path / "tree"), bytes(32))
    assert result == (0, 0)
    assert paths(Tree.open(tmp_path / "tree")) == []


def test_forty_symlinks_are_followed_and_no_more(shelf: Shelf, tmp_path: Path) -> None:
    shelf.read(chain(40))
    shelf.read(layer(entry("s0/x")))
    assert b"end/x" in paths(shelf.merge())
    other = Shelf(tmp_path / "other")
    other.read(chain(41))
    other.read(layer(entry("s0/x")))
    with pytest.raises(InvalidArchive):
        other.merge()


def test_only_the_first_may_be_merged(shelf: Shelf) -> None:
    shelf.read(layer(entry("a")))
    merged = shelf.merge()
    with pytest.raises(InvalidInput):
        merge_trees([shelf.trees[0], merged.path], str(shelf.folder / "out"), bytes(32))


def test_a_path_cannot_grow_without_end_through_symlinks(shelf: Shelf) -> None:
    deep, deeper = (b"/".join([letter * 200] * 15) for letter in (b"d", b"e"))
    shelf.read(layer(entry("x", b"5", pax={b"path": deep}), entry("s", b"2", pax={b"linkpath": deep})))
    shelf.read(layer(entry("x", pax={b"path": b"s/" + deeper})))
    with pytest.raises(InvalidArchive):
        shelf.merge()


def test_a_link_to_a_file_keeps_it_when_its_own_name_goes(shelf: Shelf) -> None:
    shelf.read(layer(entry("f", data=b"x")))
    shelf.read(layer(entry("g", b"1", link=b"f"), entry(".wh.f")))
    tree = shelf.merge()
    assert paths(tree) == [b"g"]
    inode = tree.resolve(b"g")
    assert inode is not None
    assert inode.nlink == 1
    assert shelf.data(tree, inode) == b"x"


def test_remapping_moves_what_it_is_told(shelf: Shelf) -> None:
    shelf.read(layer(entry("a", data=b"1"), entry("b", data=b"2"), entry("big", data=b"3" * 200_000)))
    tree = shelf.merge()
    move = (
        (1).to_bytes(8, "little")
        + (1).to_bytes(4, "little")
        + (9).to_bytes(4, "little")
        + (77).to_bytes(8, "little")
        + bytes(8)
    )
    out = shelf.folder / "moved"
    remap_tree(tree.path, str(out), move)
    moved = Tree.open(out)
    places = {path: tuple(moved.place(inode)) for path, inode in moved.walk() if path}
    assert places == {b"a": (1, 1, 0), b"b": (1, 77, 9), b"big": (2, 0, 0)}
    assert moved.packs == (1, 77)
    assert (moved.subject, moved.contents()) == (tree.subject, tree.contents())
    assert verify_tree(str(out))
    with pytest.raises(InvalidInput):
        remap_tree(tree.path, str(shelf.folder / "bad"), move[:-1])
