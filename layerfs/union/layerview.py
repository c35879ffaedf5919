"""An upper-format directory over a lower view: the rules of lookup and of merged listings.

Every layer knows only two things: its own directory and the view below it. A stack of any height is this class, folded.
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Iterable
from dataclasses import dataclass
from enum import Enum

from layerfs.errors import Corrupt
from layerfs.layer.blocks import MARK, Base, BlockReader, Delta, Whole
from layerfs.union.content import OpenFile
from layerfs.union.format import TREE_INO, Marks, decode_origin, is_whiteout
from layerfs.union.host import HostDir
from layerfs.union.node import Attributes, Content, Listed, Node, View, find, join

_CACHED = 4096  # directories remembered


@dataclass(frozen=True, slots=True)
class LayerNode(Node):
    """`stat`: the entry in this layer's directory, None when only the view below has it.

    `below`: for a directory what it is merged with; for a metacopy the file whose bytes it shows; for a name that
    this layer does not have the node below. `alternate`: whiteouts in this directory may have their xattr form.
    """

    stat: os.stat_result | None
    below: Node | None = None
    alternate: bool = False

    @property
    def here(self) -> bool:
        return self.stat is not None


# --- decisions ---------------------------------------------------------------------------------------------------


class Verdict(Enum):
    """Who answers for a name: the first rule that fits, read from the top layer down."""

    ABSENT = "neither has it, or a whiteout says it is gone"
    BELOW = "only the view below has it"
    HERE = "this layer alone: a non-directory, or a directory that hides what is below"
    MERGED = "directories on both sides"
    METACOPY = "attributes here, bytes below"


def decide(
    *, kind: int | None, whiteout: bool, opaque: bool, metacopy: bool, below: int | None, redirected: int | None
) -> Verdict:
    """The lookup rule (reference 3.1).

    `kind` is the type of this layer's entry (None: no entry), `below` that of the same name below, `redirected` that
    of what the entry's redirect names (equal to `below` when it has none).
    """
    if kind is None:
        return Verdict.ABSENT if below is None else Verdict.BELOW
    if whiteout:
        return Verdict.ABSENT
    if kind == stat.S_IFDIR:
        return Verdict.MERGED if redirected == stat.S_IFDIR and not opaque else Verdict.HERE
    return Verdict.METACOPY if metacopy else Verdict.HERE


def merge_listing(here: Iterable[tuple[bytes, Listed | None]], below: dict[bytes, Listed]) -> dict[bytes, Listed]:
    """This layer's entries first, whiteouts (None) hiding what is below; no name twice."""
    merged: dict[bytes, Listed] = {}
    hidden = set()
    for name, entry in here:
        if entry is None:
            hidden.add(name)
        else:
            merged[name] = entry
    for name, entry in below.items():
        if name not in hidden:
            merged.setdefault(name, entry)
    return merged


# --- the view ----------------------------------------------------------------------------------------------------


class LayerView:
    """`host` over `below`. Remembers directories; `forget` after the host directory's structure changed."""

    def __init__(self, host: HostDir, below: View | None, marks: Marks) -> None:
        self.host, self.below, self.marks = host, below, marks
        self.uuid = below.uuid if below is not None else b""
        self._directories: dict[bytes, LayerNode] = {}
        self._moved: list[tuple[bytes, bytes]] | None = None
        self._inodes: dict[int, list[bytes]] | None = None

    def close(self) -> None:
        self.host.close()
        if self.below is not None:
            self.below.close()

    def forget(self) -> None:
        self._directories.clear()
        self._moved = None

    def drop(self, path: bytes) -> None:
        """Forget one directory's node: it has just appeared in this layer, or got another mark."""
        self._directories.pop(path, None)

    # lookup

    @property
    def root(self) -> LayerNode:
        if b"" not in self._directories:
            below = self.below.root if self.below is not None else None
            found = self._judge(b"", os.fstat(self.host.fd), below, None)
            assert found is not None
            self._directories[b""] = found
        return self._directories[b""]

    def child(self, directory: Node, name: bytes) -> LayerNode | None:
        assert isinstance(directory, LayerNode)
        path = join(directory.path, name)
        if path in self._directories:
            return self._directories[path]
        entry = self.host.lstat(path) if directory.here else None
        below = None
        if self.below is not None and directory.below is not None and len(name) <= 255:
            below = self.below.child(directory.below, name)
        found = self._judge(path, entry, below, directory)
        if found is not None and found.is_dir:
            if len(self._directories) > _CACHED:
                self._directories.clear()
            self._directories[path] = found
        return found

    def find(self, path: bytes) -> LayerNode | None:
        node = find(self, path)
        assert node is None or isinstance(node, LayerNode)
        return node

    def _judge(
        self, path: bytes, entry: os.stat_result | None, below: Node | None, parent: LayerNode | None
    ) -> LayerNode | None:
        if entry is None:
            return None if below is None else LayerNode(path, below.kind, None, below)
        kind = stat.S_IFMT(entry.st_mode)
        marks = self._marks(path, entry, parent)
        redirected = self._redirected(marks.get(b"redirect"), below, parent)
        verdict = decide(
            kind=kind,
            whiteout=is_whiteout(entry.st_mode, entry.st_rdev) or b"whiteout" in marks,
            opaque=marks.get(b"opaque") == b"y",
            metacopy=kind == stat.S_IFREG and b"metacopy" in marks,
            below=below.kind if below else None,
            redirected=redirected.kind if redirected else None,
        )
        if verdict is Verdict.ABSENT:
            return None
        kept = redirected if verdict in (Verdict.MERGED, Verdict.METACOPY) else None
        return LayerNode(path, kind, entry, kept, marks.get(b"opaque") == b"x")

    def _marks(self, path: bytes, entry: os.stat_result, parent: LayerNode | None) -> dict[bytes, bytes]:
        """overlayfs's marks of an entry that can matter for lookup, without their prefix."""
        directory = stat.S_ISDIR(entry.st_mode)
        if not directory and not stat.S_ISREG(entry.st_mode):
            return {}
        size = len(self.marks.prefix)
        found = {name[size:]: value for name, value in self.host.marks(path, self.marks.prefix).items()}
        if directory or entry.st_size or parent is None or not parent.alternate:
            found.pop(b"whiteout", None)
        return found

    def _redirected(self, redirect: bytes | None, below: Node | None, parent: LayerNode | None) -> Node | None:
        """What a directory or metacopy stands on: the same name below, unless a redirect says another."""
        if redirect is None or self.below is None:
            return below
        if redirect.startswith(b"/"):
            return find(self.below, redirect.strip(b"/"))
        if parent is None or parent.below is None or b"/" in redirect:
            return None
        return self.below.child(parent.below, redirect)

    # what a node is

    def attributes(self, node: Node) -> Attributes:
        assert isinstance(node, LayerNode)
        if node.stat is None:
            return self._lower_attributes(node)
        entry = node.stat
        if node.is_dir:
            fresh = os.fstat(self.host.fd) if not node.path else self.host.lstat(node.path)
            entry = fresh or entry
        ino = self._ino(node, entry)
        if node.below is None:
            return attributes_of(entry, ino)
        if node.is_dir:  # nobody counts subdirectories on both sides; 1 keeps find(1) from relying on the number
            return attributes_of(entry, ino, nlink=1)
        return attributes_of(entry, ino, blocks=-(-entry.st_size // 512))

    def _lower_attributes(self, node: LayerNode) -> Attributes:
        assert self.below is not None and node.below is not None
        found = self.below.attributes(node.below)
        if found.nlink > 1 and not found.is_dir:
            found = found._replace(nlink=max(1, len(self.links(node))))
        return found

    def _ino(self, node: LayerNode, entry: os.stat_result) -> int:
        """The lower inode's number for what was copied up, so that it never changes (reference 3.1)."""
        if node.is_dir:
            if node.below is not None and self.below is not None and node.path:
                return self.below.attributes(node.below).ino
            return entry.st_ino
        return self.kept_ino(self.host.mark(node.path, self.marks.name(b"origin")), node.path) or entry.st_ino

    def kept_ino(self, origin: bytes | None, path: bytes) -> int | None:
        if origin is not None and self.uuid:
            nid = decode_origin(origin, self.uuid)
            if nid is not None:
                return TREE_INO | nid
        own = self.host.mark(path, self.marks.name(b"layerfs.ino"))
        return int.from_bytes(own, "little") if own and len(own) == 8 else None

    def listing(self, directory: Node) -> dict[bytes, Listed]:
        assert isinstance(directory, LayerNode)
        below: dict[bytes, Listed] = {}
        if directory.below is not None and self.below is not None:
            below = self.below.listing(directory.below)
        return merge_listing(self._entries(directory, below), below) if directory.here else below

    def _entries(self, directory: LayerNode, below: dict[bytes, Listed]) -> Iterable[tuple[bytes, Listed | None]]:
        """This layer's entries; only those that may have a number from below are looked at one by one."""
        impure = self.host.mark(directory.path, self.marks.name(b"impure")) is not None
        for entry in self.host.scan(directory.path):
            name, kind = entry.name, entry.kind
            plain = not impure and kind != stat.S_IFCHR and not (kind == stat.S_IFDIR and name in below)
            if plain and not (directory.alternate and kind == stat.S_IFREG):
                yield name, Listed(kind, entry.ino)
                continue
            node = self.child(directory, name)
            yield name, None if node is None else Listed(node.kind, self.attributes(node).ino)

    def readlink(self, node: Node) -> bytes:
        assert isinstance(node, LayerNode)
        if node.here:
            fd, name = self.host.place(node.path)
            return os.readlink(name, dir_fd=fd)
        assert self.below is not None and node.below is not None
        return self.below.readlink(node.below)

    def xattrs(self, node: Node) -> dict[bytes, bytes]:
        assert isinstance(node, LayerNode)
        if not node.here:
            assert self.below is not None and node.below is not None
            return self.below.xattrs(node.below)
        stored = self.host.marks(node.path)
        shown = ((self.marks.unescape(name), value) for name, value in stored.items())
        return {name: value for name, value in shown if name is not None}

    def content(self, node: Node) -> Content:
        assert isinstance(node, LayerNode)
        if node.here and not self.is_metacopy(node):
            base = self.base(node)
            fd = self.host.open(node.path, os.O_RDONLY)
            return OpenFile(fd) if base is None else BlockReader.of(fd, lambda: self.object(base), base)
        if node.below is None or self.below is None:
            raise Corrupt("the bytes of a metadata-only copy are gone", path=node.path)
        return self.below.content(node.below)

    def object(self, base: Base) -> Whole | Delta:
        if self.below is None:
            raise Corrupt("the base of a block-level file is gone")
        return self.below.object(base)

    def base(self, node: LayerNode) -> Base | None:
        """What a block-level file lacks blocks of (layer/blocks.py)."""
        if not node.here or node.kind != stat.S_IFREG:
            return None
        value = self.host.mark(node.path, self.marks.name(MARK))
        return None if value is None else Base.parse(value)

    def lacks_bytes(self, node: LayerNode) -> bool:
        """Whether it must be completed before its bytes change."""
        return self.is_metacopy(node) or self.base(node) is not None

    def is_metacopy(self, node: LayerNode) -> bool:
        """Attributes here, bytes below. A metacopy whose lower file is gone has no `below` but keeps its mark."""
        if node.stat is None or node.kind != stat.S_IFREG or not node.stat.st_size:
            return False
        return node.below is not None or self.host.mark(node.path, self.marks.name(b"metacopy")) is not None

    def origin(self, node: Node) -> tuple[bytes, bytes]:
        assert isinstance(node, LayerNode)
        if not node.here:
            assert self.below is not None and node.below is not None
            return self.below.origin(node.below)
        mark = self.host.mark(node.path, self.marks.name(b"origin"))
        if mark is not None and self.uuid and decode_origin(mark, self.uuid) is not None:
            return b"origin", mark
        return b"layerfs.ino", self.attributes(node).ino.to_bytes(8, "little")

    # hard links

    def links(self, node: Node) -> list[bytes]:
        assert isinstance(node, LayerNode)
        if node.here:
            return self._links_here(node)
        assert self.below is not None and node.below is not None
        wanted = self.below.attributes(node.below).ino
        found: set[bytes] = set()
        for path in self.below.links(node.below):
            found.update(self._visible_as(path, wanted))
        return sorted(found)

    def named(self, ino: int) -> list[bytes]:
        """The visible paths of a lower inode, found by its `st_ino` alone."""
        found: set[bytes] = set()
        for path in self.below.named(ino) if self.below is not None else ():
            found.update(self._visible_as(path, ino))
        if not found and self._inodes is not None:
            found.update(self._inodes.get(ino, ()))
        return sorted(found)

    def _links_here(self, node: LayerNode) -> list[bytes]:
        assert node.stat is not None
        if node.stat.st_nlink < 2 or node.is_dir:
            return [node.path]
        if self._inodes is None:
            self._inodes = {}
            self._index_inodes(b"")
        return self._inodes.get(node.stat.st_ino, [node.path])

    def _index_inodes(self, directory: bytes) -> None:
        assert self._inodes is not None
        for entry in self.host.scan(directory):
            path = join(directory, entry.name)
            if entry.is_dir:
                self._index_inodes(path)
            else:
                self._inodes.setdefault(entry.ino, []).append(path)

    def _visible_as(self, below_path: bytes, ino: int) -> Iterable[bytes]:
        """Where this view shows a path of the view below: at the same path, or in a directory that was moved."""
        for moved, source in [(b"", b""), *self.moved()]:
            if source and not below_path.startswith(source + b"/"):
                continue
            path = join(moved, below_path[len(source) + 1 :]) if source else below_path
            node = self.find(path)
            if node is None or node.here or node.below is None or self.below is None:
                continue
            if self.below.attributes(node.below).ino == ino:
                yield path

    def moved(self) -> list[tuple[bytes, bytes]]:
        """(path here, path below) of every directory here that stands on another place below."""
        if self._moved is None:
            self._moved = []
            self._collect_moved(self.root)
        return self._moved

    def _collect_moved(self, directory: LayerNode) -> None:
        assert self._moved is not None
        for entry in self.host.scan(directory.path):
            node = self.child(directory, entry.name) if entry.is_dir else None
            if node is None:
                continue
            if node.below is not None and node.below.path != node.path:
                self._moved.append((node.path, node.below.path))
            self._collect_moved(node)


def attributes_of(
    entry: os.stat_result, ino: int, *, blocks: int | None = None, nlink: int | None = None
) -> Attributes:
    return Attributes(
        mode=entry.st_mode,
        uid=entry.st_uid,
        gid=entry.st_gid,
        nlink=entry.st_nlink if nlink is None else nlink,
        size=entry.st_size,
        atime_ns=entry.st_atime_ns,
        mtime_ns=entry.st_mtime_ns,
        ctime_ns=entry.st_ctime_ns,
        rdev=entry.st_rdev,
        ino=ino,
        blocks=entry.st_blocks if blocks is None else blocks,
    )


def require(node: LayerNode | None, path: bytes) -> LayerNode:
    if node is None:
        raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), os.fsdecode(path))
    return node
