"""Folding layer trees into the tree of an image (docs/format.md, "Merging")."""

from __future__ import annotations

import stat
from collections import deque
from collections.abc import Sequence
from typing import NamedTuple

from layerfs._pure import disk
from layerfs._pure.erofs import write_tree
from layerfs._pure.image import Image, Inode
from layerfs._pure.tree import (
    IMPLICIT_ATTR,
    Attr,
    Content,
    Node,
    attach,
    directories_of,
    directory,
    hollow_directories,
    walk,
)
from layerfs.errors import InvalidArchive, InvalidInput


class MergeResult(NamedTuple):
    entries: int
    content_size: int


def merge_trees(paths: Sequence[str], out_path: str, subject: bytes, /) -> MergeResult:
    """Fold tree files, base first (the first may be a merged tree), into a merged tree.

    Raises:
        InvalidArchive: a hard link whose target no lower layer has, or too many symlinks.
        Corrupt: a damaged tree file.
    """
    fold = Fold()
    for path in paths:
        fold.add(path)
    return fold.write(out_path, subject)


class Fold:
    """`merge_trees` that goes on: tree files are added one after the other, and any of these stacks is written."""

    def __init__(self) -> None:
        self._root, self._begun = directory(), False

    def add(self, path: str, /) -> None:
        with Image(path) as image:
            layer = load_tree(image)
            if image.kind == "layer":
                _Application(self._root).apply(layer)
            elif not self._begun:
                self._root = layer
            else:
                raise InvalidInput("only the first tree may be a merged one", path=path)
        self._begun = True

    def write(self, out_path: str, subject: bytes, /) -> MergeResult:
        stats = write_tree(self._root, out_path, merged=True, subject=subject)
        return MergeResult(stats.entries, stats.content_size)


def load_tree(image: Image) -> Node:
    """A tree file's tree in memory, with the marks that layers have."""
    root = _directory_node(image, image.root)
    files: dict[int, Node] = {}
    directories = [(image.root, root)]
    seen = 0
    for inode, node in directories:  # grows while it is read
        assert node.children is not None
        for entry in image.listdir(inode):
            seen += 1
            if seen > image.entries:
                raise image.corrupt("has a loop")
            child = image.inode(entry.nid)
            if stat.S_ISDIR(child.mode):
                directories.append((child, attach(node, entry.name, _directory_node(image, child))))
            elif image.kind == "layer" and stat.S_ISCHR(child.mode) and child.rdev == 0:
                node.whiteouts.add(entry.name)
            else:
                if child.nid not in files:
                    files[child.nid] = _file_node(image, child)
                attach(node, entry.name, files[child.nid])
    return root


def _attr(image: Image, inode: Inode) -> tuple[Attr, dict[bytes, bytes]]:
    xattrs = image.raw_xattrs(inode)
    kept = tuple(sorted(pair for pair in xattrs.items() if not pair[0].startswith(disk.OVERLAY)))
    device = disk.decode_device(inode.data) if stat.S_ISCHR(inode.mode) or stat.S_ISBLK(inode.mode) else (0, 0)
    return Attr(inode.mode, inode.uid, inode.gid, inode.mtime_ns, device, kept), xattrs


def _directory_node(image: Image, inode: Inode) -> Node:
    attr, xattrs = _attr(image, inode)
    node = directory(attr, implicit=disk.IMPLICIT in xattrs)
    node.opaque = disk.OPAQUE in xattrs
    return node


def _file_node(image: Image, inode: Inode) -> Node:
    attr, xattrs = _attr(image, inode)
    identity = image.content(inode)
    content = None
    if identity is not None:
        place = image.place(inode)
        content = Content(identity, place.kind, inode.size, place.pack_id, place.block)
    target = image.readlink(inode) if stat.S_ISLNK(inode.mode) else b""
    return Node(attr, content, target, xattrs.get(disk.LINK) if content is None else None)


class _Application:
    """Applies one layer to the tree below it, in place."""

    def __init__(self, root: Node) -> None:
        self.root = root
        self._hollow: set[int] = set()  # ids of the layer's implicit directories that have nothing to give
        self._links: dict[int, Node] = {}  # id of a placeholder -> the lower inode
        self._aside: deque[tuple[Node, bytes, Node]] = deque()  # implicit directories that met a symlink

    def apply(self, layer: Node) -> None:
        self._hollow = hollow_directories(layer)
        self._resolve_links(layer)
        if not layer.implicit:
            self.root.attr = layer.attr
        self._apply(self.root, layer)
        while self._aside:
            self._follow(*self._aside.popleft())

    def _resolve_links(self, layer: Node) -> None:
        for node in directories_of(layer):
            for child in (node.children or {}).values():
                if child.link is not None and id(child) not in self._links:
                    self._links[id(child)] = self._resolve(child.link)

    def _resolve(self, path: bytes) -> Node:
        *parents, name = path.split(b"/")
        at, rest = walk(self.root, self.root, parents)
        found = None if rest else (at.children or {}).get(name)
        if found is None or found.children is not None:
            raise InvalidArchive("a hard link names no file of a lower layer", path=path)
        return found

    def _apply(self, target: Node, layer: Node) -> None:
        """Apply a layer's directory to a directory, depth first, names in byte order."""
        left = [(target, self._enter(target, layer))]
        while left:
            into, names = left[-1]
            if not names:
                left.pop()
                continue
            name, node = names.pop()
            below = self._put(into, name, node)
            if below is not None and node is not None:
                left.append((below, self._enter(below, node)))

    def _enter(self, target: Node, layer: Node) -> list[tuple[bytes, Node | None]]:
        """Empty the directory when the layer's is opaque; what is to apply to it, the last name first."""
        assert target.children is not None and layer.children is not None
        if layer.opaque:
            target.children.clear()
        names: dict[bytes, Node | None] = dict.fromkeys(layer.whiteouts)
        names.update(layer.children)
        return sorted(names.items(), key=lambda pair: pair[0], reverse=True)

    def _put(self, into: Node, name: bytes, node: Node | None) -> Node | None:
        """Apply one name; a directory whose children are to follow is returned."""
        assert into.children is not None
        found = into.children.get(name)
        if node is None:
            into.children.pop(name, None)
        elif node.children is None:
            attach(into, name, self._links.get(id(node), node))
        elif found is not None and found.children is not None:
            if not node.implicit:
                found.attr = node.attr
            return found
        elif node.implicit and found is not None and found.is_symlink:
            self._aside.append((into, name, node))
        elif id(node) not in self._hollow:
            return attach(into, name, directory(node.attr))
        return None

    def _follow(self, into: Node, name: bytes, node: Node) -> None:
        """Apply an implicit directory to the directory that the symlink at its name leads to."""
        assert into.children is not None
        found = into.children.get(name)
        if found is None or not found.is_symlink:
            below = self._put(into, name, node)
        else:
            start = self.root if found.target.startswith(b"/") else into
            make = None if id(node) in self._hollow else self._make
            at, rest = walk(self.root, start, found.target.split(b"/"), hops=1, make=make)
            below = None if rest else at
        if below is not None:
            self._apply(below, node)

    def _make(self, parent: Node, name: bytes, _: Node | None) -> Node:
        return attach(parent, name, directory(IMPLICIT_ATTR))
