"""The 54 awkward images of shared/suites/nasty_layers.py give what its table expects, by load and merged tree."""

from __future__ import annotations

import importlib.util
import os
import stat
import sys
from pathlib import Path
from types import ModuleType

import pytest

from layerfs.errors import LayerfsError
from layerfs.image.images import Images
from layerfs.image.load import load_archive
from layerfs.layer.merged import merged_tree
from layerfs.layer.tree import Inode, Tree
from layerfs.store import StoreRoot

SUITE = Path(__file__).resolve().parents[3] / "shared/suites/nasty_layers.py"
pytestmark = pytest.mark.skipif(not SUITE.is_file(), reason="no shared/suites beside the project")


def _suite() -> ModuleType | None:
    if not SUITE.is_file():
        return None
    spec = importlib.util.spec_from_file_location("nasty_layers", SUITE)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    written, sys.dont_write_bytecode = sys.dont_write_bytecode, True
    try:
        spec.loader.exec_module(module)
    finally:
        sys.dont_write_bytecode = written
    return module


NASTY = _suite()
CASES = NASTY.C if NASTY else {}


def told(root: StoreRoot, tree: Tree, inode: Inode) -> str:
    """An inode as the suite writes it: `d`, `f:CONTENT`, `l:TARGET`, `h:N:CONTENT`, `c:MAJ,MIN`, `p`."""
    kind = stat.S_IFMT(inode.mode)
    if kind == stat.S_IFLNK:
        return "l:" + os.fsdecode(tree.readlink(inode))
    if kind == stat.S_IFCHR:
        return f"c:{os.major(inode.rdev)},{os.minor(inode.rdev)}"
    if kind != stat.S_IFREG:
        return {stat.S_IFDIR: "d", stat.S_IFIFO: "p"}[kind]
    identity = tree.content(inode)
    content = root.contents.read(identity).decode() if identity else ""
    return (f"h:{inode.nlink}:" if inode.nlink > 1 else "f:") + content


def shown(root: StoreRoot, tree: Tree) -> dict[str, str]:
    return {os.fsdecode(path): told(root, tree, inode) for path, inode in tree.walk() if path}


def test_there_are_as_many_cases_as_the_suite_says() -> None:
    assert len(CASES) == 54


@pytest.mark.parametrize("name", CASES)
def test_a_nasty_image_gives_its_tree_or_a_clear_refusal(root, tmp_path: Path, name: str) -> None:
    case = CASES[name]
    assert NASTY is not None
    NASTY.write(tmp_path / "in", case)
    try:
        (loaded,) = load_archive(root, tmp_path / "in")
        found: object = shown(root, merged_tree(root, loaded.image.diff_ids))
    except LayerfsError as error:
        assert "\n" not in str(error) and Images(root).list() == []
        found = "error"
    assert found == case["expect"] or (case.get("kind") == "any" and found == "error")


def test_an_xattr_and_a_fraction_before_the_epoch_arrive(root, tmp_path: Path) -> None:
    assert NASTY is not None
    for name in ("xattr_caps", "mtime_frac_negative"):
        NASTY.write(tmp_path / name, CASES[name])
    tree = merged_tree(root, load_archive(root, tmp_path / "xattr_caps")[0].image.diff_ids)
    inode = tree.resolve(b"f")
    assert inode is not None and tree.xattrs(inode) == {b"user.k": b"v"}
    inode = merged_tree(root, load_archive(root, tmp_path / "mtime_frac_negative")[0].image.diff_ids).resolve(b"f")
    assert inode is not None and inode.mtime_ns == -1_500_000_000
