"""A tree in memory and the rules by which a layer's entries build it (docs/format.md, "Reading a layer tar").

Merging uses the same nodes. Paths are cleaned: parts joined by single slashes, no `.` or `..`; b"" is the root.
"""

from __future__ import annotations

import stat
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

from layerfs.errors import InvalidArchive

MAX_HOPS = 40
MAX_PATH = 4095
_NAMESPACES = (b"user.", b"trusted.", b"security.")
_WHOLE = (b"system.posix_acl_access", b"system.posix_acl_default")


@dataclass(frozen=True, slots=True)
class Content:
    """Where the bytes of a regular file are. `kind` is the index's: 1 pack, 2 object."""

    identity: bytes
    kind: int
    size: int
    pack: int = 0
    block: int = 0


@dataclass(frozen=True, slots=True)
class Attr:
    """What is said about a file but its data. `xattrs` are sorted pairs; `device` is (major, minor)."""

    mode: int
    uid: int = 0
    gid: int = 0
    mtime_ns: int = 0
    device: tuple[int, int] = (0, 0)
    xattrs: tuple[tuple[bytes, bytes], ...] = ()


IMPLICIT_ATTR = Attr(stat.S_IFDIR | 0o755)
LINK_ATTR = Attr(stat.S_IFREG)
WHITEOUT_ATTR = Attr(stat.S_IFCHR)


@dataclass(slots=True, eq=False)
class Node:
    """An inode; several names may share it. A directory (`children` is a dict) has one parent; the root is its own."""

    attr: Attr
    content: Content | None = None
    target: bytes = b""  # symlinks
    link: bytes | None = None  # a placeholder: the path that a lower layer has
    children: dict[bytes, Node] | None = None
    whiteouts: set[bytes] = field(default_factory=set)
    implicit: bool = False
    opaque: bool = False
    parent: Node | None = None
    name: bytes = b""
    depth: int = 0  # bytes of the path

    @property
    def is_symlink(self) -> bool:
        return stat.S_ISLNK(self.attr.mode)


def directory(attr: Attr = IMPLICIT_ATTR, *, implicit: bool = False) -> Node:
    return Node(attr, children={}, implicit=implicit)


def attach(parent: Node, name: bytes, node: Node) -> Node:
    """Give `node` a name, in place of what had it."""
    depth = parent.depth + len(name) + (1 if parent.depth else 0)
    if len(name) > 255 or depth > MAX_PATH:
        raise InvalidArchive(f"a name is longer than 255 bytes or its path than {MAX_PATH}", path=name)
    assert parent.children is not None
    parent.children[name] = node
    if node.children is not None:
        node.parent, node.name, node.depth = parent, name, depth
    return node


def path_of(node: Node) -> bytes:
    """The path of a directory."""
    parts = []
    while node.parent is not None:
        parts.append(node.name)
        node = node.parent
    return b"/".join(reversed(parts))


def directories_of(root: Node) -> list[Node]:
    """All directories, parents first."""
    found = [root]
    for node in found:  # grows while it is read
        found += [child for child in (node.children or {}).values() if child.children is not None]
    return found


def hollow_directories(root: Node) -> set[int]:
    """ids of the implicit directories with nothing but whiteouts and other such directories below."""
    hollow: set[int] = set()
    for node in reversed(directories_of(root)):
        if node.implicit and all(id(child) in hollow for child in (node.children or {}).values()):
            hollow.add(id(node))
    return hollow


def clean(parts: Iterable[bytes]) -> list[bytes]:
    """Resolve `.`, `..` and empty parts by text, clamped at the start."""
    found: list[bytes] = []
    for part in parts:
        if part == b"..":
            del found[-1:]
        elif part not in (b"", b"."):
            found.append(part)
    return found


def visible_xattrs(xattrs: Iterable[tuple[bytes, bytes]]) -> tuple[tuple[bytes, bytes], ...]:
    """Sorted, the last of each name, without those that EROFS cannot hold or that would forge our own marks."""
    found = {}
    for name, value in xattrs:
        if name.startswith((b"trusted.overlay.", b"user.overlay.")):
            continue
        if name not in _WHOLE and (not name.startswith(_NAMESPACES) or name in _NAMESPACES):
            continue
        if len(name) > 255 or len(value) > 65535:
            raise InvalidArchive(f"extended attribute {name[:64]!r} is too long")
        found[name] = value
    return tuple(sorted(found.items()))


def walk(
    root: Node,
    start: Node,
    parts: Iterable[bytes],
    *,
    hops: int = 0,
    make: Callable[[Node, bytes, Node | None], Node | None] | None = None,
) -> tuple[Node, list[bytes]]:
    """Go from `start` part by part, following symlinks inside the root.

    `make(directory, name, file in the way or None)` gives a directory where there is none, or None to stop there.
    Returns the directory reached and the parts that could not be walked.
    """
    at, left = start, list(parts)
    while left:
        part = left[0]
        assert at.children is not None
        child = at.children.get(part)
        if part in (b"", b"."):
            del left[0]
            continue
        if part == b"..":
            at = at.parent or root
        elif child is not None and child.is_symlink:
            hops += 1
            if hops > MAX_HOPS:
                raise InvalidArchive("too many symlinks", path=child.target)
            left[0:1] = child.target.split(b"/")
            at = root if child.target.startswith(b"/") else at
            continue
        else:
            if child is None or child.children is None:
                child = make(at, part, child) if make else None
                if child is None:
                    return at, list(left)
            at = child
        del left[0]
    return at, []


class LayerTree:
    """The tree of one layer, built entry by entry."""

    def __init__(self, max_names: int = 1 << 62) -> None:
        self.root = directory(implicit=True)
        self._left = max_names

    def put(self, path: bytes, attr: Attr, *, content: Content | None = None, target: bytes = b"") -> None:
        """Add an entry that is not a hard link; the last one for a path wins."""
        if stat.S_ISDIR(attr.mode):
            self._put_directory(path, attr)
            return
        if stat.S_ISLNK(attr.mode) and not 0 < len(target) <= 4095:
            raise InvalidArchive("a symlink's target must have 1 to 4095 bytes", path=path)
        if stat.S_ISCHR(attr.mode) and attr.device == (0, 0):
            raise InvalidArchive("character device 0:0 cannot be kept: it means a whiteout", path=path)
        if attr.device[0] > 4095 or attr.device[1] > 1048575:
            raise InvalidArchive("device number out of range", path=path)
        self._place(path, Node(attr, content, target))

    def link(self, path: bytes, target: bytes) -> None:
        """Add a hard link: to an inode of this layer, or else to one that a lower layer must have."""
        self._place(path, self._find(path, target))

    def whiteout(self, path: bytes, name: bytes) -> None:
        """Hide `name` of the lower layers in the directory at `path`."""
        parent = self._marked(path)
        if parent is not None and name not in parent.whiteouts:
            self._count()
            parent.whiteouts.add(name)

    def opaque(self, path: bytes) -> None:
        """Hide everything that the lower layers have in the directory at `path`."""
        marked = self._marked(path)
        if marked is not None:
            marked.opaque = True

    def _put_directory(self, path: bytes, attr: Attr) -> None:
        parent, name = self._parent(path) if path else (self.root, b"")
        assert parent.children is not None
        node = parent.children.get(name) if path else self.root
        if node is None or node.children is None:
            self._count()
            node = attach(parent, name, directory())
        node.attr, node.implicit = attr, False

    def _place(self, path: bytes, node: Node) -> None:
        if not path:
            raise InvalidArchive("the root of a layer is not a directory")
        parent, name = self._parent(path)
        self._count()
        attach(parent, name, node)

    def _find(self, path: bytes, target: bytes) -> Node:
        *parents, name = target.split(b"/")
        if not name:
            raise InvalidArchive("hard link to the root", path=path)
        at, rest = walk(self.root, self.root, parents)
        assert at.children is not None
        node = None if rest else at.children.get(name)
        if node is None:
            where = b"/".join(clean([*path_of(at).split(b"/"), *rest, name]))
            if not 0 < len(where) <= MAX_PATH:
                raise InvalidArchive("bad target of a hard link", path=path)
            return Node(LINK_ATTR, link=where)
        if node.children is not None:
            raise InvalidArchive("hard link to a directory", path=path)
        return node

    def _parent(self, path: bytes) -> tuple[Node, bytes]:
        """The directory for an entry; what is missing is made, other files in the way are replaced."""
        *parents, name = path.split(b"/")
        return walk(self.root, self.root, parents, make=self._make)[0], name

    def _marked(self, path: bytes) -> Node | None:
        """The directory of a marker; what is missing is made, but another file in the way stays: None."""
        parts = path.split(b"/")
        at, rest = walk(self.root, self.root, parts, make=lambda *where: None if where[2] else self._make(*where))
        return None if rest else at

    def _make(self, parent: Node, name: bytes, _: Node | None) -> Node:
        self._count()
        return attach(parent, name, directory(implicit=True))

    def _count(self) -> None:
        self._left -= 1
        if self._left < 0:
            raise InvalidArchive("a layer with too many names")
