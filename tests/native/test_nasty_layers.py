"""The public set of hostile and awkward images, at the level of trees, through both implementations."""

from __future__ import annotations

import os
import stat
from pathlib import Path
from typing import Any

import pytest

from layerfs import _pure
from layerfs.errors import InvalidArchive
from layerfs.layer.tree import Inode, Tree
from tests.conftest import PROJECT
from tests.trees import Shelf, load_module, native

SUITE = PROJECT.parent / "shared" / "suites" / "nasty_layers.py"
CASES: dict[str, Any] = load_module(SUITE).C if SUITE.is_file() else {}
OF_TREES = sorted(name for name, case in CASES.items() if not case.get("bad"))
MODULES = {"pure": _pure, "native": native()}


@pytest.fixture(params=MODULES)
def shelf(request: pytest.FixtureRequest, tmp_path: Path) -> Shelf:
    if MODULES[request.param] is None:
        pytest.skip("the compiled part is not built")
    return Shelf(tmp_path, MODULES[request.param])


def describe(shelf: Shelf, tree: Tree) -> dict[str, str]:
    """A tree in the suite's words."""
    return {os.fsdecode(path): _describe(shelf, tree, inode) for path, inode in tree.walk() if path}


def _describe(shelf: Shelf, tree: Tree, inode: Inode) -> str:
    if stat.S_ISDIR(inode.mode):
        return "d"
    if stat.S_ISLNK(inode.mode):
        return "l:" + os.fsdecode(tree.readlink(inode))
    if stat.S_ISCHR(inode.mode):
        return f"c:{os.major(inode.rdev)},{os.minor(inode.rdev)}"
    if stat.S_ISFIFO(inode.mode):
        return "p"
    text = shelf.data(tree, inode).decode()
    return f"h:{inode.nlink}:{text}" if inode.nlink > 1 else f"f:{text}"


def build(shelf: Shelf, layers: list[bytes]) -> Tree:
    for layer in layers:
        shelf.read(layer)
    return shelf.merge()


@pytest.mark.skipif(not CASES, reason="no shared/ beside the project: the public suite is not here")
@pytest.mark.parametrize("name", OF_TREES or ["none"])
def test_gives_the_tree_of_the_specification(shelf: Shelf, name: str) -> None:
    case = CASES[name]
    if case["expect"] == "error":
        with pytest.raises(InvalidArchive):
            build(shelf, case["layers"])
        return
    try:
        found = describe(shelf, build(shelf, case["layers"]))
    except InvalidArchive:
        assert case.get("kind") == "any"
        return
    assert found == case["expect"]


@pytest.mark.skipif(not CASES, reason="no shared/ beside the project: the public suite is not here")
def test_xattrs_and_odd_times_are_kept(shelf: Shelf) -> None:
    tree = shelf.read(CASES["xattr_caps"]["layers"][0])
    inode = tree.resolve(b"f")
    assert inode is not None and tree.xattrs(inode) == {b"user.k": b"v"}
    odd = shelf.read(CASES["mtime_frac_negative"]["layers"][0]).resolve(b"f")
    assert odd is not None and odd.mtime_ns == -1_500_000_000
