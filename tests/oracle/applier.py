"""The judge of all tests that concern layers: applies layer tars in plain Python.

Written from the OCI image specification's chapter on layers and the words of docs/format.md only; it shares no code
with layerfs. `apply([tar, ...])` gives the root Node; `listing(root)` a dict to compare: path to attributes; `data`
holds the blocks that are not zero (so holes do not matter) and `first` names the hard link group.
"""

import base64
import io
import itertools
import stat
import tarfile
import urllib.parse
from decimal import Decimal

TYPES = {b"2": stat.S_IFLNK, b"3": stat.S_IFCHR, b"4": stat.S_IFBLK, b"5": stat.S_IFDIR, b"6": stat.S_IFIFO}
TYPES[b"1"] = LINK = -1


class Node:
    def __init__(self, mode, uid=0, gid=0, mtime_ns=0, rdev=(0, 0), target=b"", xattrs=(), size=0, blocks=()):
        self.mode, self.uid, self.gid, self.mtime_ns, self.rdev = mode, uid, gid, mtime_ns, rdev
        self.target, self.xattrs, self.size, self.blocks = target, dict(xattrs), size, dict(blocks)
        self.children = {}
        self.implicit = self.opaque = False
        self.gone = set()
        self.link = None  # a path that only a lower layer has

    @property
    def is_dir(self):
        return stat.S_ISDIR(self.mode)


def clean(name):
    parts = []
    for part in name.split(b"/"):
        if part == b"..":
            parts[-1:] = []
        elif part not in (b"", b"."):
            parts.append(part)
    return parts


def implicit_directory():
    node = Node(stat.S_IFDIR | 0o755)
    node.implicit = True
    return node


def directory_at(root, parts, make, hops=0):
    """The directory, through symlinks inside the root; missing parts and other files are replaced by `make()`."""
    trail = [root]
    for index, part in enumerate(parts):
        if part == b"..":
            trail[1:] = trail[1:-1]
            continue
        child = trail[-1].children.get(part)
        if child is not None and stat.S_ISLNK(child.mode):
            assert hops < 40, "too many symlinks"
            below = [p for p in child.target.split(b"/") if p not in (b"", b".")]
            start = [] if child.target.startswith(b"/") else names_of(trail)
            return directory_at(root, [*start, *below, *parts[index + 1 :]], make, hops + 1)
        if child is None or not child.is_dir:
            child = trail[-1].children[part] = make()
        trail.append(child)
    return trail[-1]


def names_of(trail):
    pairs = itertools.pairwise(trail)
    return [next(name for name, child in above.children.items() if child is below) for above, below in pairs]


def find(root, parts):
    for part in parts:
        root = root.children.get(part) if root is not None and root.is_dir else None
    return root


def xattrs_of(info):
    for key, value in info.pax_headers.items():
        name = key.encode("utf-8", "surrogateescape")
        raw = value.encode("utf-8", "surrogateescape")
        if name.startswith(b"SCHILY.xattr."):
            name = name[13:]
        elif name.startswith(b"LIBARCHIVE.xattr."):
            name, raw = urllib.parse.unquote_to_bytes(name[17:]), base64.b64decode(raw)
        else:
            continue
        if not name.startswith((b"trusted.overlay.", b"user.overlay.")):
            yield name, raw


def blocks_of(archive, info):
    """{offset: 4 KiB block} of what is not zero."""
    blocks, at = {}, info.offset_data
    for start, size in info.sparse if info.sparse is not None else [(0, info.size)]:
        archive.fileobj.seek(at)
        at += size
        done = 0
        while done < size:
            where = start + done
            room = min(4096 - where % 4096, size - done)
            data = archive.fileobj.read(room)
            assert len(data) == room, "truncated"
            done += room
            if data.strip(b"\0"):
                base = where - where % 4096
                old = bytearray(blocks.get(base, bytes(4096)))
                old[where - base : where - base + room] = data
                blocks[base] = bytes(old)
    return blocks


def node_of(archive, info, kind):
    seconds = info.pax_headers.get("mtime")
    mtime_ns = int(Decimal(seconds) * 10**9) if seconds else int(info.mtime) * 10**9
    mode = (info.mode & 0o7777) | kind
    node = Node(mode, info.uid, info.gid, mtime_ns, xattrs=xattrs_of(info))
    if kind == stat.S_IFREG:
        node.size, node.blocks = info.size, blocks_of(archive, info)
    elif kind == stat.S_IFLNK:
        node.target = info.linkname.encode("utf-8", "surrogateescape")
    elif kind in (stat.S_IFCHR, stat.S_IFBLK):
        node.rdev = (info.devmajor, info.devminor)
    return node


def layer(tar):
    """One layer alone: a root whose directories know what they hide."""
    root = implicit_directory()
    archive = tarfile.TarFile(fileobj=io.BytesIO(tar), encoding="utf-8", errors="surrogateescape")
    for info in archive:
        parts = clean(info.name.encode("utf-8", "surrogateescape"))
        kind = TYPES.get(info.type, stat.S_IFREG)
        hidden = next((index for index, part in enumerate(parts) if part.startswith(b".wh..wh.")), None)
        if hidden is not None and parts[hidden:] != [b".wh..wh..opq"]:
            continue
        parent = directory_at(root, parts[:-1], implicit_directory)
        name = parts[-1] if parts else b""
        if name == b".wh..wh..opq":
            parent.opaque = True
        elif name.startswith(b".wh."):
            assert name[4:] not in (b"", b".", b".."), "bad whiteout"
            parent.gone.add(name[4:])
        elif kind == LINK:
            target = clean(info.linkname.encode("utf-8", "surrogateescape"))
            there = find(root, target)
            assert there is None or not there.is_dir, "hard link to a directory"
            if there is None:
                there = node_of(archive, info, stat.S_IFREG)
                there.link = target
            parent.children[name] = there
        else:
            put(root, parent, name, node_of(archive, info, kind))
    return root


def put(root, parent, name, node):
    old = root if not name else parent.children.get(name)
    if node.is_dir and old is not None and old.is_dir:
        copy_attributes(old, node)
    elif name:
        parent.children[name] = node


def copy_attributes(old, new):
    for field in ("mode", "uid", "gid", "mtime_ns", "xattrs", "implicit"):
        setattr(old, field, getattr(new, field))


def fold(root, lower, upper):
    """Put one layer's directory on what lies below it."""
    if not upper.implicit:
        copy_attributes(lower, upper)
    if upper.opaque:
        lower.children.clear()
    for name in upper.gone:
        lower.children.pop(name, None)
    for name, node in upper.children.items():
        old = lower.children.get(name)
        if not node.is_dir:
            lower.children[name] = node
        elif old is not None and old.is_dir:
            fold(root, old, node)
        elif old is not None and stat.S_ISLNK(old.mode) and node.implicit and not node.opaque:
            fold(root, directory_at(root, [*path_of(root, lower), name], lambda: Node(stat.S_IFDIR | 0o755)), node)
        else:
            lower.children[name] = fresh = Node(stat.S_IFDIR | 0o755)
            fold(root, fresh, node)


def path_of(root, wanted):
    return next([p for p in path.split(b"/") if p] for path, node in walk(root) if node is wanted)


def settle_links(root, node):
    for name, child in node.children.items():
        if child.link is not None:
            there = find(root, child.link)
            assert there is not None and not there.is_dir, "link to nothing"
            node.children[name] = there
        elif child.is_dir:
            settle_links(root, child)


def apply(tars, root=None):
    root = root or Node(stat.S_IFDIR | 0o755)
    for tar in tars:
        upper = layer(tar)
        settle_links(root, upper)
        fold(root, root, upper)
    return root


def walk(node, path=b""):
    yield path, node
    for name in sorted(node.children):
        yield from walk(node.children[name], path + b"/" + name)


def listing(root):
    """Paths in byte order; `first` is the first of an inode's names."""
    first, result = {}, {}
    for path, node in sorted(walk(root), key=lambda item: item[0]):
        if not node.is_dir:
            first.setdefault(id(node), path)
        result[path] = {
            "mode": node.mode, "owner": (node.uid, node.gid), "mtime_ns": node.mtime_ns, "rdev": node.rdev,
            "target": node.target, "xattrs": node.xattrs, "size": node.size, "data": node.blocks,
            "first": first.get(id(node)),
        }  # fmt: skip
    return result
