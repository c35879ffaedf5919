"""Flattened file systems as tars, like `docker export`: depth first, without a leading `./`, no whiteouts."""

from __future__ import annotations

import contextlib
import os
import stat
from collections.abc import Generator, Iterator
from typing import BinaryIO

from layerfs.image.output import output_file
from layerfs.layer.entry import Entry
from layerfs.layer.fold import inode_entry
from layerfs.layer.tree import Inode, Tree
from layerfs.layer.write import TarWriter
from layerfs.store.root import StoreRoot

_PLAIN_ROOT = (stat.S_IFDIR | 0o755, 0, 0)


def tree_entries(root: StoreRoot, tree: Tree) -> Generator[Entry, None, None]:
    """The entries of a merged tree, depth first, names in byte order; a hard link follows its inode's first name.

    The root comes only when its mode, owner or xattrs are not the usual ones: docker leaves it out.
    """
    first: dict[int, Entry] = {}
    for path, inode in _depth_first(tree):
        if inode.nlink > 1 and inode.nid in first and not stat.S_ISDIR(inode.mode):
            yield first[inode.nid].linked(path, first[inode.nid].path)
            continue
        entry = inode_entry(root.contents, tree, path, inode)
        if not path and (entry.mode, entry.uid, entry.gid) == _PLAIN_ROOT and not entry.xattrs:
            continue
        if inode.nlink > 1:
            first[inode.nid] = entry
        if not stat.S_ISSOCK(inode.mode):
            yield entry


def _depth_first(tree: Tree) -> Iterator[tuple[bytes, Inode]]:
    """Not in byte order of whole paths, as `Tree.walk` has it: GNU tar gives a directory its time as soon as a name
    comes that is not below it, and `a.b` sorts before `a/b`.
    """
    yield b"", tree.root
    stack = [(b"", iter(tree.listdir(tree.root)))]
    seen = 0
    while stack:
        prefix, entries = stack[-1]
        entry = next(entries, None)
        if entry is None:
            stack.pop()
            continue
        seen += 1
        if seen > tree.entries:
            raise tree.corrupt("has a loop")
        path, inode = prefix + entry.name, tree.inode(entry.nid)
        yield path, inode
        if stat.S_ISDIR(inode.mode):
            stack.append((path + b"/", iter(tree.listdir(inode))))


def export(entries: Generator[Entry, None, None], target: str | os.PathLike[str] | BinaryIO) -> None:
    """Writes entries as a tar; of a container, pass those of its union. Closes them: after an error too nothing of what
    they read is open, so its mount can go.

    Raises:
        InvalidInput: a name that a layer tar cannot hold; NoSpace; Corrupt: a content is damaged or missing.
    """
    with contextlib.closing(entries), output_file(target) as write:
        writer = TarWriter(write)
        writer.add_all(entries)
        writer.finish()
