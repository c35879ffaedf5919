"""The text twin of tree files: one line an entry, both ways, for bug reports, diffs and golden tests.

    layerfs-tree 1 KIND SUBJECT
    PATH MODE UID GID SIZE NLINK MTIME DEVICE TARGET IDENTITY PLACE [XATTR=VALUE ...]
    +pack ID BLOCKS              (layer trees: what only the tar-split record uses)
    +content IDENTITY

Entries come in byte order of their paths. MODE is octal with type bits, MTIME seconds with nine decimals, DEVICE
`major,minor`. TARGET is a symlink's target, `@PATH` for one more name of an inode that came before, or `>PATH` for a
hard link into the layers below. PLACE is `object` or `pack:block`. What there is not is `-`. Bytes outside printable
ASCII, spaces, backslashes, and characters that would read as something else are `\\xHH`. Marks of layer trees are shown
as the xattrs they are; those that only say where contents are follow from PLACE and are left out.
"""

from __future__ import annotations

import os
import re
import stat
import struct
from collections.abc import Iterable, Iterator

from layerfs._pure import disk
from layerfs._pure.erofs import write_tree
from layerfs._pure.tree import Attr, Content, Node, attach, directory, visible_xattrs
from layerfs.errors import InvalidInput
from layerfs.layer.tree import Inode, Tree

_PLAIN = frozenset(range(0x21, 0x7F)) - {0x5C}
_ESCAPE = re.compile(rb"\\x([0-9a-f]{2})")
_DERIVED = (disk.METACOPY, disk.REDIRECT, disk.LINK)
_MARKS = {disk.OPAQUE, disk.IMPLICIT}


def escape(data: bytes, *, first: bytes = b"", anywhere: bytes = b"") -> str:
    """Bytes as text; `first` are characters that must not stand first, `anywhere` such that must not stand at all."""
    out = [
        chr(byte) if byte in _PLAIN and byte not in anywhere and (at or byte not in first) else f"\\x{byte:02x}"
        for at, byte in enumerate(data)
    ]
    return "".join(out)


def unescape(text: str) -> bytes:
    return _ESCAPE.sub(lambda match: bytes([int(match[1], 16)]), text.encode("ascii"))


def tree_text(tree: Tree) -> Iterator[str]:
    """The lines of a tree, without newlines."""
    yield f"layerfs-tree 1 {tree.kind} {tree.subject.hex()}"
    first: dict[int, bytes] = {}
    used = dict.fromkeys(tree.packs, 0)
    contents: set[bytes] = set()
    for path, inode in tree.walk():
        yield _line(tree, path, inode, first.get(inode.nid))
        if inode.nlink > 1 and not stat.S_ISDIR(inode.mode):
            first.setdefault(inode.nid, path)
        place, identity = tree.place(inode), tree.content(inode)
        if place.kind == disk.KIND_PACK:
            used[place.pack_id] = max(used[place.pack_id], place.block + disk.blocks_of(inode.size))
        if identity is not None:
            contents.add(identity)
    yield from (f"+pack {pack:016x} {blocks}" for pack, blocks in tree.devices if blocks != used[pack])
    table = tree.contents()
    identities = (table[at : at + 32] for at in range(0, len(table), 32))
    yield from (f"+content {identity.hex()}" for identity in identities if identity not in contents)


def _line(tree: Tree, path: bytes, inode: Inode, first: bytes | None) -> str:
    identity = tree.content(inode)
    device = f"{os.major(inode.rdev)},{os.minor(inode.rdev)}" if _is_device(inode.mode) else "-"
    fields = [
        escape(b"/" + path),
        f"{inode.mode:06o}",
        *(str(number) for number in (inode.uid, inode.gid, inode.size, inode.nlink)),
        _time(inode.mtime_ns),
        device,
        _target(tree, inode, first),
        identity.hex() if identity else "-",
        _place(tree, inode),
    ]
    xattrs = sorted(tree.raw_xattrs(inode).items())
    fields += [f"{escape(name, anywhere=b'=')}={escape(value)}" for name, value in xattrs if name not in _DERIVED]
    return " ".join(fields)


def _is_device(mode: int) -> bool:
    return stat.S_ISCHR(mode) or stat.S_ISBLK(mode)


def _time(nanoseconds: int) -> str:
    seconds, rest = divmod(abs(nanoseconds), 1_000_000_000)
    return f"{'-' if nanoseconds < 0 else ''}{seconds}.{rest:09}"


def _target(tree: Tree, inode: Inode, first: bytes | None) -> str:
    if first is not None:
        return "@" + escape(b"/" + first)
    if stat.S_ISLNK(inode.mode):
        return escape(tree.readlink(inode), first=b"@>-")
    link = tree.link_target(inode)
    return "-" if link is None else ">" + escape(b"/" + link)


def _place(tree: Tree, inode: Inode) -> str:
    place = tree.place(inode)
    if place.kind == disk.KIND_PACK:
        return f"{place.pack_id:016x}:{place.block}"
    return "object" if place.kind == disk.KIND_OBJECT else "-"


def parse_tree_text(lines: Iterable[str], out_path: str) -> None:
    """Write the tree that the lines describe to a new tree file; `tree_text` of a tree gives the same bytes again.

    Raises:
        InvalidInput: a line that is not in the form above.
    """
    parser = _Parser()
    for number, line in enumerate(lines, 1):
        try:
            parser.take(line)
        except (ValueError, KeyError, IndexError) as error:
            raise InvalidInput(f"line {number} of a tree's text cannot be read: {error}") from error
    try:
        parser.write(out_path)
    except struct.error as error:
        raise InvalidInput(f"a number in a tree's text is out of range: {error}") from error


class _Parser:
    def __init__(self) -> None:
        self._merged, self._subject = False, b""
        self._nodes: dict[bytes, Node] = {}
        self._packs: list[tuple[int, int]] = []
        self._contents: list[bytes] = []

    def _head(self, words: list[str]) -> None:
        word, version, kind, subject = words
        if (word, version) != ("layerfs-tree", "1") or kind not in ("layer", "merged") or len(subject) != 64:
            raise ValueError("not the first line of a tree")
        self._merged, self._subject = kind == "merged", bytes.fromhex(subject)

    def write(self, out_path: str) -> None:
        if b"" not in self._nodes:
            raise InvalidInput("a tree's text without a root")
        write_tree(
            self._nodes[b""],
            out_path,
            merged=self._merged,
            subject=self._subject,
            extra_table=self._contents,
            extra_packs=self._packs,
        )

    def take(self, line: str) -> None:
        words = line.split()
        if not self._subject:
            self._head(words)
        elif words[0] == "+pack":
            self._packs.append((int(words[1], 16), int(words[2])))
        elif words[0] == "+content":
            self._contents.append(bytes.fromhex(words[1]))
        else:
            self._entry(words)

    def _entry(self, words: list[str]) -> None:
        path, target = self._path(words[0]), words[8]
        node = self._nodes[self._path(target[1:])] if target.startswith("@") else self._node(words)
        parent, _, name = path.rpartition(b"/")
        if not path and node.children is None:
            raise ValueError("the root must be a directory")
        if path and self._nodes[parent].children is None:
            raise ValueError("its parent is not a directory")
        if node.children is not None and target.startswith("@"):
            raise ValueError("a directory has one name")
        if path and not self._merged and stat.S_ISCHR(node.attr.mode) and node.attr.device == (0, 0):
            self._nodes[parent].whiteouts.add(name)
        elif path:
            attach(self._nodes[parent], name, node)
        self._nodes[path] = node

    @staticmethod
    def _path(text: str) -> bytes:
        if not text.startswith("/"):
            raise ValueError("a path must start with /")
        return unescape(text)[1:]

    def _node(self, words: list[str]) -> Node:
        mode, uid, gid, size = int(words[1], 8), int(words[2]), int(words[3]), int(words[4])
        major, minor = words[7].split(",") if words[7] != "-" else ("0", "0")
        if stat.S_IFMT(mode) not in disk.FILE_TYPES[1:] or not 0 <= max(uid, gid, size) < 1 << 63:
            raise ValueError("bad mode or number")
        pairs = [pair.split("=", 1) for pair in words[11:]]
        xattrs = {unescape(name): unescape(value) for name, value in pairs}
        if len(visible_xattrs(xattrs.items())) != len(xattrs.keys() - _MARKS):
            raise ValueError("an extended attribute that trees do not hold")
        kept = tuple(sorted(pair for pair in xattrs.items() if pair[0] not in _MARKS))
        attr = Attr(mode, uid, gid, _nanoseconds(words[6]), (int(major), int(minor)), kept)
        if stat.S_ISDIR(mode):
            node = directory(attr, implicit=disk.IMPLICIT in xattrs)
            node.opaque = disk.OPAQUE in xattrs
            return node
        target = words[8]
        if stat.S_ISLNK(mode):
            return Node(attr, target=unescape(target))
        link = self._path(target[1:]) if target.startswith(">") else None
        return Node(attr, _content(words[9], words[10], size), link=link)


def _nanoseconds(text: str) -> int:
    seconds, _, rest = text.lstrip("-").partition(".")
    if len(rest) != 9:
        raise ValueError("a time must have nine decimals")
    value = int(seconds) * 1_000_000_000 + int(rest)
    return -value if text.startswith("-") else value


def _content(identity: str, place: str, size: int) -> Content | None:
    if identity == "-":
        return None
    if place == "object":
        return Content(bytes.fromhex(identity), disk.KIND_OBJECT, size)
    pack, block = place.split(":")
    return Content(bytes.fromhex(identity), disk.KIND_PACK, size, int(pack, 16), int(block))
