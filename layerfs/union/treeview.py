"""A tree file as a view: the bottom of every union."""

from __future__ import annotations

from dataclasses import dataclass

from layerfs.errors import Corrupt
from layerfs.layer.blocks import Base, Delta, Whole
from layerfs.layer.tree import Inode, Tree
from layerfs.union.content import Contents
from layerfs.union.format import TREE_INO, encode_origin
from layerfs.union.node import Attributes, Content, Listed, Node, join


@dataclass(frozen=True, slots=True)
class TreeNode(Node):
    inode: Inode


class TreeView:
    """A merged tree; without `contents` it shows no bytes. `uuid` names the tree in origin marks."""

    def __init__(self, tree: Tree, contents: Contents | None) -> None:
        self._tree, self._contents = tree, contents
        self.uuid = tree.subject[:16]
        self._root = self._node(b"", tree.root)

    def _node(self, path: bytes, inode: Inode) -> TreeNode:
        return TreeNode(path, inode.mode & 0o170000, inode)

    @staticmethod
    def _inode(node: Node) -> Inode:
        assert isinstance(node, TreeNode)
        return node.inode

    @property
    def root(self) -> Node:
        return self._root

    def child(self, directory: Node, name: bytes) -> Node | None:
        inode = self._tree.lookup(self._inode(directory), name)
        return None if inode is None else self._node(join(directory.path, name), inode)

    def listing(self, directory: Node) -> dict[bytes, Listed]:
        entries = self._tree.listdir(self._inode(directory))
        return {entry.name: Listed(entry.type, TREE_INO | entry.nid) for entry in entries}

    def attributes(self, node: Node) -> Attributes:
        """A tree keeps only the modification time; the others show the same."""
        inode = self._inode(node)
        size = inode.size
        return Attributes(
            mode=inode.mode,
            uid=inode.uid,
            gid=inode.gid,
            nlink=inode.nlink,
            size=size,
            atime_ns=inode.mtime_ns,
            mtime_ns=inode.mtime_ns,
            ctime_ns=inode.mtime_ns,
            rdev=inode.rdev,
            ino=TREE_INO | inode.nid,
            blocks=-(-size // 512),
        )

    def readlink(self, node: Node) -> bytes:
        return self._tree.readlink(self._inode(node))

    def xattrs(self, node: Node) -> dict[bytes, bytes]:
        return self._tree.xattrs(self._inode(node))

    def content(self, node: Node) -> Content:
        if self._contents is None:
            raise Corrupt("this tree was opened without its contents")
        return self._contents.open(self._tree, self._inode(node))

    def object(self, base: Base) -> Whole | Delta:
        if self._contents is None:
            raise Corrupt("this tree was opened without its contents")
        return self._contents.object(base.identity)

    def links(self, node: Node) -> list[bytes]:
        inode = self._inode(node)
        return self._tree.links(inode) if inode.nlink > 1 and not node.is_dir else [node.path]

    def named(self, ino: int) -> list[bytes]:
        return self._tree.links(self._tree.inode(ino & ~TREE_INO)) if ino & TREE_INO else []

    def origin(self, node: Node) -> tuple[bytes, bytes]:
        return b"origin", encode_origin(self.uuid, self._inode(node).nid)

    def close(self) -> None:
        if self._contents is not None:
            self._contents.close()
