"""Where files come from: a context's directory, or the tree of an image, a stage or an archive, seen in one way.

Nothing here follows a symlink; `find.py` does, inside the source's own root.
"""

from __future__ import annotations

import stat
from collections.abc import Callable, Hashable, Iterator
from stat import S_ISDIR
from typing import Any, NamedTuple, Protocol

from layerfs.layer.entry import Content
from layerfs.layer.tree import Inode, Tree
from layerfs.store.root import StoreRoot

Xattrs = tuple[tuple[bytes, bytes], ...]
Skip = Callable[[bytes, bool], bool]  # path below the source, whether it is a directory


class Item(NamedTuple):
    """One file of a source. `path` is its place there, without a leading slash; `inode` is set for files with several
    names, and equal for all of them."""

    path: bytes
    mode: int
    uid: int
    gid: int
    mtime_ns: int
    size: int = 0
    rdev: int = 0
    inode: Hashable | None = None
    handle: Any = None  # the source's own

    @property
    def is_dir(self) -> bool:
        return stat.S_ISDIR(self.mode)

    @property
    def is_link(self) -> bool:
        return stat.S_ISLNK(self.mode)

    @property
    def is_file(self) -> bool:
        return stat.S_ISREG(self.mode)

    @property
    def name(self) -> bytes:
        return self.path.rpartition(b"/")[2]


class Ignore(Protocol):
    """Rules of a .dockerignore."""

    def ignores(self, path: bytes) -> bool: ...

    def may_keep_below(self, directory: bytes) -> bool:
        """Whether something in an ignored directory may be wanted all the same."""
        ...


class Files(Protocol):
    """A source of files. `owned`: the owners of its files count; those of a context's do not."""

    @property
    def owned(self) -> bool: ...

    @property
    def root(self) -> Item: ...

    def child(self, directory: Item, name: bytes) -> Item | None: ...

    def children(self, directory: Item) -> list[Item]:
        """Sorted by name. Sockets are not there."""
        ...

    def readlink(self, item: Item) -> bytes: ...

    def xattrs(self, item: Item) -> Xattrs: ...

    def identity(self, item: Item) -> bytes:
        """The sha256 of a regular file's bytes."""
        ...

    def content(self, item: Item) -> Content | None: ...


class TreeFiles:
    """The files of a tree in the store."""

    def __init__(self, root: StoreRoot, tree: Tree, *, owned: bool = True, ignore: Ignore | None = None) -> None:
        self._contents, self._tree, self.owned, self._ignore = root.contents, tree, owned, ignore

    @property
    def root(self) -> Item:
        return self._item(b"", self._tree.root)

    def _item(self, path: bytes, inode: Inode) -> Item:
        linked = inode.nlink > 1 and not stat.S_ISDIR(inode.mode)
        size = inode.size if stat.S_ISREG(inode.mode) else 0
        return Item(
            path,
            inode.mode,
            inode.uid,
            inode.gid,
            inode.mtime_ns,
            size,
            inode.rdev,
            inode.nid if linked else None,
            inode,
        )

    def child(self, directory: Item, name: bytes) -> Item | None:
        found = self._tree.lookup(directory.handle, name)
        item = None if found is None else self._item(below(directory.path, name), found)
        return item if item is not None and self._wanted(item) else None

    def children(self, directory: Item) -> list[Item]:
        found = [(entry.name, self._tree.inode(entry.nid)) for entry in self._tree.listdir(directory.handle)]
        items = [self._item(below(directory.path, name), inode) for name, inode in sorted(found)]
        return [item for item in items if self._wanted(item)]

    def _wanted(self, item: Item) -> bool:
        return not stat.S_ISSOCK(item.mode) and is_wanted(self, item, self._ignore)

    def readlink(self, item: Item) -> bytes:
        return self._tree.readlink(item.handle)

    def xattrs(self, item: Item) -> Xattrs:
        return tuple(sorted(self._tree.xattrs(item.handle).items()))

    def identity(self, item: Item) -> bytes:
        return self._tree.content(item.handle) or _EMPTY

    def content(self, item: Item) -> Content | None:
        from layerfs.layer.commit import StoredContent

        identity = self._tree.content(item.handle)
        return StoredContent(self._contents, identity, item.size) if identity is not None else None

    def implicit(self, item: Item) -> bool:
        """Whether it is a directory that an archive has no entry for."""
        return self._tree.is_implicit(item.handle)


_EMPTY = bytes.fromhex("e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855")  # sha256 of nothing


def below(directory: bytes, name: bytes) -> bytes:
    return directory + b"/" + name if directory else name


def is_wanted(files: Files, item: Item, ignore: Ignore | None) -> bool:
    """By a .dockerignore; an ignored directory counts when something below it does."""
    if ignore is None or not ignore.ignores(item.path):
        return True
    return item.is_dir and ignore.may_keep_below(item.path) and bool(files.children(item))


def walk(files: Files, top: Item, skip: Skip | None = None) -> Iterator[tuple[bytes, Item]]:
    """Everything at and below `top`, depth first, names in byte order, with its path below `top` (b"" for itself).

    What `skip` says yes to is left out, a directory with all that is in it.
    """
    yield b"", top
    if not top.is_dir:
        return
    cut = len(top.path) + 1 if top.path else 0
    stack = [iter(files.children(top))]
    while stack:
        for item in stack[-1]:
            path, is_dir = item.path[cut:], S_ISDIR(item.mode)
            if skip is not None and skip(path, is_dir):
                continue
            yield path, item
            if is_dir:
                stack.append(iter(files.children(item)))
                break
        else:
            stack.pop()
