"""A tree: the names, attributes and contents' identities of a layer or a whole image, read from its tree file."""

from __future__ import annotations

import os
import stat
import threading
from collections.abc import Iterator

from layerfs._lazy import TYPE_CHECKING
from layerfs._pure import disk
from layerfs._pure.image import DirEntry, Image, Inode, Place

if TYPE_CHECKING:
    from typing import Self

__all__ = ["DirEntry", "Inode", "Place", "Tree"]


_MAX_PREFIX = 4096  # a path and a slash


class Tree(Image):
    """Read access to one tree file (docs/format.md); immutable and safe from any number of threads.

    Attributes: `path`, `kind` ("layer" or "merged"), `subject` (32 bytes: diff ID or chain ID), `entries` (names),
    `content_size` (bytes of the regular files, each hard-linked one once), `packs` (pack ids, sorted), `root`.

    Paths are bytes without a leading slash; the root is b"". Methods raise Corrupt when the file is damaged.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        super().__init__(path)
        self._lock = threading.Lock()
        self._links: dict[int, list[bytes]] | None = None

    @classmethod
    def open(cls, path: str | os.PathLike[str]) -> Self:
        """Map a tree file. Only the map is kept (Python 3.13 and later; before, also a descriptor).

        Raises:
            FileNotFoundError: there is no such file.
            Corrupt: it is no tree file. The contents' checksum is `native.verify_tree`'s business.
        """
        return cls(path)

    def resolve(self, path: bytes) -> Inode | None:
        """The inode at a path, or None. Symlinks are not followed; empty and `.` parts are skipped."""
        inode = self.root
        for name in path.split(b"/"):
            if name in (b"", b"."):
                continue
            found = self.lookup(inode, name) if stat.S_ISDIR(inode.mode) else None
            if found is None:
                return None
            inode = found
        return inode

    def walk(self) -> Iterator[tuple[bytes, Inode]]:
        """Every path with its inode, the root (b"") first, in byte order of the paths (parents before children)."""
        root = self.root
        yield b"", root
        stack = [self._events(b"", root)]
        seen = 0
        while stack:
            for path, inode in stack[-1]:
                if path.endswith(b"/"):
                    stack.append(self._events(path, inode))
                    break
                seen += 1
                if seen > self.entries:
                    raise self.corrupt("has a loop")
                yield path, inode
            else:
                stack.pop()

    def _events(self, prefix: bytes, directory: Inode) -> Iterator[tuple[bytes, Inode]]:
        """The children, and a second time, as `path/`, each directory where its own children belong (`a.b` < `a/b`)."""
        if len(prefix) > _MAX_PREFIX:
            raise self.corrupt("has a loop")
        found = [(prefix + entry.name, self.inode(entry.nid)) for entry in self.listdir(directory)]
        below = [(path + b"/", inode) for path, inode in found if stat.S_ISDIR(inode.mode)]
        if below:
            found += below
            found.sort()
        return iter(found)

    def links(self, inode: Inode) -> list[bytes]:
        """All paths of an inode in byte order; needs one walk of the tree, the first time."""
        with self._lock:
            if self._links is None:
                self._links = {}
                for path, other in self.walk():
                    if other.nlink > 1 and not stat.S_ISDIR(other.mode):
                        self._links.setdefault(other.nid, []).append(path)
        return list(self._links.get(inode.nid, ()))

    def xattrs(self, inode: Inode) -> dict[bytes, bytes]:
        """The xattrs that the image's user sees: everything but `trusted.overlay.*`."""
        found = self.raw_xattrs(inode)
        return {name: value for name, value in found.items() if not name.startswith(disk.OVERLAY)}

    def is_whiteout(self, inode: Inode) -> bool:
        """Layer trees: the name is gone from the layers below."""
        return self.kind == "layer" and stat.S_ISCHR(inode.mode) and inode.rdev == 0

    def is_opaque(self, inode: Inode) -> bool:
        """Layer trees: the directory hides what the layers below have in it."""
        return stat.S_ISDIR(inode.mode) and self.raw_xattrs(inode).get(disk.OPAQUE) == b"y"

    def is_implicit(self, inode: Inode) -> bool:
        """Layer trees: a directory that the layer has no entry for; only its children count."""
        return stat.S_ISDIR(inode.mode) and self.raw_xattrs(inode).get(disk.IMPLICIT) == b"y"

    def link_target(self, inode: Inode) -> bytes | None:
        """Layer trees: the path in the layers below that this hard link names; None for everything else."""
        if not stat.S_ISREG(inode.mode) or inode.size:
            return None
        return self.raw_xattrs(inode).get(disk.LINK)
