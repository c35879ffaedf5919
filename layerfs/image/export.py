"""Flattened file systems as tars, like `docker export`: sorted, without a leading `./`, no whiteouts."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterable, Iterator
from typing import BinaryIO

from layerfs.image.output import output_file
from layerfs.layer.commit import StoredContent
from layerfs.layer.entry import Entry
from layerfs.layer.tree import Inode, Tree
from layerfs.layer.write import TarWriter
from layerfs.store.root import StoreRoot

_PLAIN_ROOT = (stat.S_IFDIR | 0o755, 0, 0)


def tree_entries(root: StoreRoot, tree: Tree) -> Iterator[Entry]:
    """The entries of a merged tree in byte order of their paths; a hard link follows its inode's first name.

    The root comes only when its mode, owner or xattrs are not the usual ones: docker leaves it out.
    """
    first: dict[int, Entry] = {}
    for path, inode in tree.walk():
        if inode.nlink > 1 and inode.nid in first and not stat.S_ISDIR(inode.mode):
            yield first[inode.nid].linked(path, first[inode.nid].path)
            continue
        entry = _entry(root, tree, path, inode)
        if not path and (entry.mode, entry.uid, entry.gid) == _PLAIN_ROOT and not entry.xattrs:
            continue
        if inode.nlink > 1:
            first[inode.nid] = entry
        if not stat.S_ISSOCK(inode.mode):
            yield entry


def _entry(root: StoreRoot, tree: Tree, path: bytes, inode: Inode) -> Entry:
    identity = tree.content(inode)
    return Entry(
        path,
        inode.mode,
        inode.uid,
        inode.gid,
        inode.mtime_ns,
        inode.size if stat.S_ISREG(inode.mode) else 0,
        tree.readlink(inode) if stat.S_ISLNK(inode.mode) else b"",
        rdev=inode.rdev,
        xattrs=tuple(sorted(tree.xattrs(inode).items())),
        content=StoredContent(root.contents, identity, inode.size) if identity else None,
    )


def export(entries: Iterable[Entry], target: str | os.PathLike[str] | BinaryIO) -> None:
    """Writes entries as a tar; of a container, pass those of its union.

    Raises:
        InvalidInput: a name that a layer tar cannot hold; NoSpace; Corrupt: a content is damaged or missing.
    """
    with output_file(target) as write:
        writer = TarWriter(write)
        writer.add_all(entries)
        writer.finish()
