"""Independent judges of the tree files: erofs-utils and the kernel."""

from __future__ import annotations

import os
import re
import shutil
import stat
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from layerfs.layer.tree import Tree
from tests.conftest import PROJECT
from tests.golden.layers import TREES
from tests.trees import Shelf, load_module, native, unpacked

SHARED = PROJECT.parent / "shared"
SUITE = SHARED / "suites" / "nasty_layers.py"
NASTY = {
    f"nasty-{name}": case["layers"]
    for name, case in (load_module(SUITE).C if SUITE.is_file() else {}).items()
    if case["expect"] != "error" and case.get("kind") != "any"
}
READABLE = (
    "broken",
    "hdr-only",
    "pax.tar",
    "xattrs.tar",
    "sparse-formats",
    "sparse-big",
    "longlink",
    "moby",
    "ustar.tar",
)
PUBLIC = {
    path.name: [unpacked(path)]
    for part in ("tar", "layer")
    for path in sorted((SHARED / "data" / part).glob("*"))
    if any(word in path.name for word in READABLE) and "nul" not in path.name
}
STACKS: dict[str, list[bytes]] = {**TREES, **NASTY, **PUBLIC}


def build(folder: Path, name: str) -> tuple[Shelf, list[Tree]]:
    shelf = Shelf(folder)
    layers = [shelf.read(layer) for layer in STACKS[name]]
    return shelf, [*layers, shelf.merge()]


@pytest.mark.skipif(shutil.which("fsck.erofs") is None, reason="erofs-utils is not installed")
@pytest.mark.parametrize("name", STACKS)
def test_erofs_utils_accept_every_tree(name: str, tmp_path: Path) -> None:
    shelf, trees = build(tmp_path, name)
    for tree in trees:
        devices = [f"--device={shelf.packs[pack]}" for pack in tree.packs]
        subprocess.run(["fsck.erofs", *devices, tree.path], check=True, capture_output=True)
        told = subprocess.run(
            ["dump.erofs", "-s", *devices, tree.path], check=True, capture_output=True, text=True
        ).stdout
        count = re.search(r"inode count: +(\d+)", told)
        assert count is not None and int(count[1]) == tree.inode_count


class Mounts:
    def __init__(self, folder: Path) -> None:
        self._folder, self._kernel, self._done = folder, native(), []  # type: ignore[var-annotated]

    def erofs(self, shelf: Shelf, tree: Tree) -> Path:
        devices = [("device", str(shelf.packs[pack])) for pack in tree.packs]
        return self._mount("erofs", [("source", tree.path), *devices], "erofs")

    def overlay(self, shelf: Shelf, tree: Tree) -> Path:
        """The tree with its contents: the kernel follows redirects into the objects."""
        objects = self._folder / "by-name"
        for path in (shelf.folder / "objects").iterdir():
            (objects / path.name[:2]).mkdir(parents=True, exist_ok=True)
            os.link(path, objects / path.name[:2] / path.name[2:])
        objects.mkdir(exist_ok=True)
        lower = self.erofs(shelf, tree)
        options = [("lowerdir+", str(lower)), ("datadir+", str(objects)), ("metacopy", "on")]
        return self._mount("overlay", options, "overlay")

    def _mount(self, kind: str, options: list[tuple[str, str]], name: str) -> Path:
        target = self._folder / name
        target.mkdir()
        assert self._kernel is not None
        self._kernel.mount_new(kind, options, str(target), 1)
        self._done.append(target)
        return target

    def close(self) -> None:
        assert self._kernel is not None
        for target in reversed(self._done):
            self._kernel.umount(str(target), 0)


@pytest.fixture
def mounts(tmp_path: Path) -> Iterator[Mounts]:
    if native() is None:
        pytest.skip("the compiled part is not built: no way to mount")
    found = Mounts(tmp_path)
    yield found
    found.close()


def seen(place: bytes) -> dict[bytes, Any]:
    """What lstat, readlink and listxattr say of every path below `place`."""
    found, left = {}, [b""]
    while left:
        path = left.pop()
        full = place + b"/" + path
        status = os.lstat(full)
        found[path] = {
            "stat": (status.st_mode, status.st_uid, status.st_gid, status.st_nlink, status.st_mtime_ns, status.st_rdev),
            "size": status.st_size if stat.S_ISREG(status.st_mode) else 0,
            "target": os.readlink(full) if stat.S_ISLNK(status.st_mode) else b"",  # noqa: PTH115 (bytes)
            "xattrs": {
                os.fsencode(name): os.getxattr(full, name, follow_symlinks=False)
                for name in os.listxattr(full, follow_symlinks=False)
            },
        }
        if stat.S_ISDIR(status.st_mode):
            left += [path + b"/" + name if path else name for name in sorted(os.listdir(full))]  # noqa: PTH208 (bytes)
    return found


def told(tree: Tree) -> dict[bytes, Any]:
    """The same, as we read it."""
    return {
        path: {
            "stat": (inode.mode, inode.uid, inode.gid, inode.nlink, inode.mtime_ns, inode.rdev),
            "size": inode.size if stat.S_ISREG(inode.mode) else 0,
            "target": tree.readlink(inode) if stat.S_ISLNK(inode.mode) else b"",
            "xattrs": tree.raw_xattrs(inode),
        }
        for path, inode in tree.walk()
    }


@pytest.mark.root
@pytest.mark.parametrize("name", STACKS)
def test_the_kernel_sees_what_we_read(name: str, tmp_path: Path, mounts: Mounts) -> None:
    shelf, trees = build(tmp_path / "shelf", name)
    there = seen(os.fsencode(mounts.erofs(shelf, trees[-1])))
    assert there == told(trees[-1])


@pytest.mark.root
@pytest.mark.parametrize("name", ["contents", "sparse", "links", "merge-through-symlinks", "gnu-sparse-big.tar"])
def test_the_kernel_reads_contents(name: str, tmp_path: Path, mounts: Mounts) -> None:
    if name not in STACKS:
        pytest.skip("no shared/ beside the project: the public archives are not here")
    shelf, trees = build(tmp_path / "shelf", name)
    place = mounts.overlay(shelf, trees[-1])
    for path, inode in trees[-1].walk():
        if stat.S_ISREG(inode.mode):
            full = place / os.fsdecode(path)
            assert full.stat().st_size == inode.size
            if inode.size < 1 << 25:
                assert full.read_bytes() == shelf.data(trees[-1], inode)
