"""What a view of a file tree consists of: nodes, attributes, contents. Both trees and directories are views."""

from __future__ import annotations

import stat
from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple, Protocol

from layerfs.layer.blocks import Base, Delta, Whole


class Attributes(NamedTuple):
    """What stat(2) says; times in nanoseconds, `mode` with its type bits, `blocks` in units of 512 bytes."""

    mode: int
    uid: int
    gid: int
    nlink: int
    size: int
    atime_ns: int
    mtime_ns: int
    ctime_ns: int
    rdev: int
    ino: int
    blocks: int

    @property
    def is_dir(self) -> bool:
        return stat.S_ISDIR(self.mode)


class Listed(NamedTuple):
    """One name of a directory: its type as stat.S_IFMT gives it and its `st_ino`."""

    kind: int
    ino: int


class Content(Protocol):
    """The bytes of a regular file, read-only."""

    @property
    def size(self) -> int: ...
    def pread(self, count: int, offset: int) -> bytes: ...
    def extents(self) -> Iterator[tuple[int, int]]:
        """(offset, length) of what is not a hole, in order."""

    def close(self) -> None: ...


@dataclass(frozen=True, slots=True)
class Node:
    """A name found in a view. `path` is where that view has it, `kind` its type bits."""

    path: bytes
    kind: int

    @property
    def is_dir(self) -> bool:
        return self.kind == stat.S_IFDIR


class View(Protocol):
    """A read-only file tree. Methods take nodes that the same view gave out.

    Paths have no leading slash, the root is b"".

    `uuid` is that of the tree at the bottom (b"" when there is none): it tells whose origin marks count.
    """

    uuid: bytes

    @property
    def root(self) -> Node: ...
    def child(self, directory: Node, name: bytes) -> Node | None: ...
    def listing(self, directory: Node) -> dict[bytes, Listed]: ...
    def attributes(self, node: Node) -> Attributes: ...
    def readlink(self, node: Node) -> bytes: ...
    def xattrs(self, node: Node) -> dict[bytes, bytes]: ...
    def content(self, node: Node) -> Content: ...
    def object(self, base: Base) -> Whole | Delta:
        """The object, to be closed, that a block-level file lacks blocks of."""

    def links(self, node: Node) -> list[bytes]:
        """Every path of this view that names the node's inode, its own included."""

    def named(self, ino: int) -> list[bytes]:
        """The same for an inode with several names, found by its number."""

    def origin(self, node: Node) -> tuple[bytes, bytes]:
        """(mark, value) that a copy of the node carries, so that it keeps the node's `st_ino`."""

    def close(self) -> None: ...


def join(directory: bytes, name: bytes) -> bytes:
    return directory + b"/" + name if directory else name


def split(path: bytes) -> tuple[bytes, bytes]:
    directory, _, name = path.rpartition(b"/")
    return directory, name


def find(view: View, path: bytes) -> Node | None:
    """The node at a path; None when a part is missing or not a directory. Symlinks are not followed."""
    node: Node | None = view.root
    for name in path.split(b"/") if path else ():
        if node is None or not node.is_dir or name in (b"", b".", b".."):
            return None
        node = view.child(node, name)
    return node
