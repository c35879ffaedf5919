"""What layers hide of those below them: names that they replace or take away, directories that they close."""

from __future__ import annotations

import stat
from collections.abc import Sequence
from typing import Literal

from layerfs.layer.tree import Tree

Why = Literal["overwritten", "removed"]


class Shadow:
    """Of the layers that were added, top first."""

    def __init__(self) -> None:
        self._gone: dict[bytes, Why] = {}
        self._closed: set[bytes] = set()
        self._linked: set[bytes] = set()  # what hard links of these layers name below

    def hides(self, path: bytes) -> Why | None:
        """Whether, and how, the layers take a file that a lower one has at a path out of sight."""
        if path in self._linked:
            return None
        if path in self._gone:
            return self._gone[path]
        while path:
            path = path.rpartition(b"/")[0]
            if path in self._gone or path in self._closed:
                return "removed"
        return None

    def add(self, tree: Tree) -> None:
        """The next layer below."""
        gone: dict[bytes, Why] = {}
        for path, inode in tree.walk():
            if stat.S_ISDIR(inode.mode):
                self._closed |= {path} if tree.is_opaque(inode) else set()
                continue
            gone[path] = "removed" if tree.is_whiteout(inode) else "overwritten"
            target = tree.link_target(inode)
            self._linked |= {target} if target is not None else set()
        self._gone = gone | self._gone


def visible_contents(layers: Sequence[Tree]) -> set[bytes]:
    """The identities of the files that a stack of layer trees shows."""
    shadow, found = Shadow(), set[bytes]()
    for tree in reversed(layers):
        for path, inode in tree.walk():
            identity = tree.content(inode) if stat.S_ISREG(inode.mode) else None
            if identity is not None and shadow.hides(path) is None:
                found.add(identity)
        shadow.add(tree)
    return found
