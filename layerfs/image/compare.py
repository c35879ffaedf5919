"""The difference of two trees: added, changed and deleted names with their sizes, by identity and metadata."""

from __future__ import annotations

import stat
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

from layerfs.digest import DiffID
from layerfs.layer.merged import merged_tree
from layerfs.layer.tree import DirEntry, Inode, Tree
from layerfs.store.root import StoreRoot


@dataclass(frozen=True, slots=True)
class Difference:
    """One name. Sizes are bytes of a regular file, 0 for anything else or where there is none.

    `fields` says what changed: `type content mode owner mtime xattrs target device`; empty for A and D. Times of
    directories are not compared: they change with every name in them.
    """

    kind: Literal["A", "C", "D"]
    path: bytes  # with a leading slash
    old_size: int = 0
    new_size: int = 0
    fields: tuple[str, ...] = ()


def diff_stacks(root: StoreRoot, old: Sequence[DiffID], new: Sequence[DiffID]) -> list[Difference]:
    """The difference of two stacks of layers, of images as of layers alone (one diff ID each)."""
    return list(diff_trees(merged_tree(root, old), merged_tree(root, new)))


def diff_trees(old: Tree, new: Tree) -> Iterator[Difference]:
    """Depth-first, names in byte order; everything below an added or deleted directory is listed too."""
    if old.path == new.path:
        return
    if fields := _compare(old, old.root, new, new.root):
        yield Difference("C", b"/", fields=fields)
    stack = [_Pair(old, old.root, new, new.root, b"/")]  # trees may be 2000 directories deep: no recursion
    while stack:
        for name in stack[-1].names:
            difference, below = stack[-1].child(name)
            if difference is not None:
                yield difference
            if below is not None:
                stack.append(below)
                break
        else:
            stack.pop()


class _Pair:
    """A directory in both trees, or in one of them."""

    def __init__(self, old: Tree, was: Inode | None, new: Tree, now: Inode | None, prefix: bytes) -> None:
        self._old, self._new, self._prefix = old, new, prefix
        self._before, self._after = _listing(old, was), _listing(new, now)
        self.names = iter(sorted(self._before.keys() | self._after.keys()))

    def child(self, name: bytes) -> tuple[Difference | None, _Pair | None]:
        """What happened to a name, and the pair to go on with when it is a directory on a side."""
        old, new = self._old, self._new
        before, after = self._before.get(name), self._after.get(name)
        was = old.inode(before.nid) if before else None
        now = new.inode(after.nid) if after else None
        path = self._prefix + name
        difference = None
        if was is None and now is not None:
            difference = Difference("A", path, new_size=_size(now))
        elif was is not None and now is None:
            difference = Difference("D", path, old_size=_size(was))
        elif was is not None and now is not None and (fields := _compare(old, was, new, now)):
            difference = Difference("C", path, _size(was), _size(now), fields)
        was_directory = was if was and stat.S_ISDIR(was.mode) else None
        now_directory = now if now and stat.S_ISDIR(now.mode) else None
        if was_directory is None and now_directory is None:
            return difference, None
        return difference, _Pair(old, was_directory, new, now_directory, path + b"/")


def _listing(tree: Tree, directory: Inode | None) -> dict[bytes, DirEntry]:
    return {} if directory is None else {entry.name: entry for entry in tree.listdir(directory)}


def _size(inode: Inode) -> int:
    return inode.size if stat.S_ISREG(inode.mode) else 0


def _compare(old: Tree, was: Inode, new: Tree, now: Inode) -> tuple[str, ...]:
    kind = stat.S_IFMT(was.mode)
    if kind != stat.S_IFMT(now.mode):
        return ("type",)
    fields = []
    if kind == stat.S_IFREG and (was.size != now.size or old.content(was) != new.content(now)):
        fields.append("content")
    if was.mode != now.mode:
        fields.append("mode")
    if (was.uid, was.gid) != (now.uid, now.gid):
        fields.append("owner")
    if was.mtime_ns != now.mtime_ns and kind != stat.S_IFDIR:
        fields.append("mtime")
    if was.rdev != now.rdev:
        fields.append("device")
    if kind == stat.S_IFLNK and old.readlink(was) != new.readlink(now):
        fields.append("target")
    if (was.tail_at != was.xattr_at or now.tail_at != now.xattr_at) and old.xattrs(was) != new.xattrs(now):
        fields.append("xattrs")
    return tuple(fields)
