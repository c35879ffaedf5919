"""The order of a tree file's inodes and where each goes (docs/format.md, "Order" and "Inodes")."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import NamedTuple

from layerfs._pure import disk
from layerfs._pure.tree import WHITEOUT_ATTR, Node, directories_of, hollow_directories
from layerfs.errors import InvalidArchive

MAX_XATTRS = 262128
_INDEXES = {name: index for index, name in disk.XATTR_PREFIXES.items()}


class Stats(NamedTuple):
    entries: int
    content_size: int
    unresolved_links: int


@dataclass(slots=True, eq=False)
class PlacedInode:
    """A node on its way to the disk."""

    node: Node
    parent: PlacedInode | None = None
    nlink: int = 0
    entries: list[tuple[bytes, PlacedInode]] = field(default_factory=list)
    xattrs: bytes = b""
    ino: int = 0
    offset: int = 0  # from the start of the meta region
    size: int = 0
    blocks: list[int] = field(default_factory=list)  # directories: how many entries each dirent block has
    tail: int = 0  # bytes inline
    data_block: int = disk.NOWHERE

    @property
    def mode(self) -> int:
        return self.node.attr.mode

    @property
    def nid(self) -> int:
        return self.offset // disk.SLOT


def _children(node: Node, *, merged: bool) -> list[tuple[bytes, Node]]:
    assert node.children is not None
    found = list(node.children.items())
    if not merged:
        found += [(name, Node(WHITEOUT_ATTR)) for name in node.whiteouts if name not in node.children]
    return sorted(found, key=lambda pair: pair[0])


def number(root: Node, *, merged: bool) -> tuple[list[PlacedInode], Stats]:
    """The inodes in their order: breadth first, children by name, a hard-linked one where its first name comes."""
    if not merged:
        _settle(root)
    first = PlacedInode(root, nlink=2)
    inodes, seen, names = [first], {id(root): first}, 0
    for inode in inodes:  # grows while it is read
        if inode.node.children is None:
            continue
        for name, node in _children(inode.node, merged=merged):
            names += 1
            child = seen.get(id(node))
            if child is None:
                child = seen[id(node)] = PlacedInode(node, inode)
                inodes.append(child)
            if node.children is not None:
                child.nlink = 2
                inode.nlink += 1
            else:
                child.nlink += 1
            inode.entries.append((name, child))
    count = 0
    for with_content in (True, False):
        for inode in inodes:
            if (inode.node.content is not None) is with_content:
                count += 1
                inode.ino = count
    size = sum(inode.node.content.size for inode in inodes if inode.node.content is not None)
    links = sum(inode.nlink for inode in inodes if inode.node.link is not None)
    return inodes, Stats(names, size, links)


def _settle(root: Node) -> None:
    """A directory whose name has a whiteout in the same layer: opaque, or gone when the layer has nothing in it."""
    hollow = hollow_directories(root)
    for node in directories_of(root):
        assert node.children is not None
        for name in node.whiteouts & node.children.keys():
            child = node.children[name]
            if id(child) in hollow:
                del node.children[name]
            elif child.children is not None:
                child.opaque, child.implicit = True, False


def _encode_xattrs(node: Node) -> bytes:
    pairs = list(node.attr.xattrs)
    if node.opaque:
        pairs.append((disk.OPAQUE, b"y"))
    if node.implicit:
        pairs.append((disk.IMPLICIT, b"y"))
    if node.link is not None:
        pairs.append((disk.LINK, node.link))
    if node.content is not None and node.content.kind == disk.KIND_OBJECT:
        hexed = node.content.identity.hex().encode()
        pairs += [(disk.METACOPY, b""), (disk.REDIRECT, b"/%b/%b" % (hexed[:2], hexed[2:]))]
    if not pairs:
        return b""
    entries = b"".join(_encode_xattr(name, value) for name, value in sorted(pairs))
    if len(entries) > MAX_XATTRS:
        raise InvalidArchive("a file has too many extended attributes")
    return bytes(disk.XATTR_HEADER) + entries


def _encode_xattr(name: bytes, value: bytes) -> bytes:
    prefix = name if name in _INDEXES else name[: name.index(b".") + 1]
    rest = name[len(prefix) :]
    entry = disk.XATTR.pack(len(rest), _INDEXES[prefix], len(value)) + rest + value
    return entry.ljust(disk.round_up(len(entry), 4), b"\0")


def lay_out(inodes: list[PlacedInode], meta_block: int) -> tuple[int, int]:
    """Give every inode its place; returns the bytes of the meta region and the blocks of the data region."""
    offset, data_block = disk.ROOT_NID * disk.SLOT, 0
    owners = []
    for inode in inodes:
        inode.xattrs = _encode_xattrs(inode.node)
        length = disk.INODE.size + len(inode.xattrs)
        if inode.node.content is not None:
            inode.size = inode.node.content.size
            chunk = disk.BLOCK << disk.chunk_bits(inode.size)
            length = disk.round_up(length, 8) + 8 * -(-inode.size // chunk)
        elif inode.node.children is not None or inode.node.is_symlink:
            blocks = _measure(inode, length)
            if blocks:
                owners.append((inode, data_block))
                data_block += blocks
            length += inode.tail
        if inode.tail and offset // disk.BLOCK != (offset + length - 1) // disk.BLOCK:
            offset = disk.round_up(offset, disk.BLOCK)
        inode.offset = offset
        offset = disk.round_up(offset + length, disk.SLOT)
    first = meta_block + disk.blocks_of(offset)
    for inode, block in owners:
        inode.data_block = first + block
    return offset, data_block


def _measure(inode: PlacedInode, length: int) -> int:
    """Size and tail of a directory or symlink whose inode and xattrs take `length` bytes; returns its data blocks."""
    if inode.node.children is None:
        inode.size = last = len(inode.node.target)
        blocks = 1
    else:
        dots = [(b".", inode), (b"..", inode.parent or inode)]
        inode.entries = sorted([*inode.entries, *dots], key=lambda pair: pair[0])
        inode.blocks, last = _fill(inode.entries)
        blocks = len(inode.blocks)
        inode.size = disk.BLOCK * (blocks - 1) + last
    room = disk.BLOCK if inode.parent else disk.BLOCK - disk.ROOT_NID * disk.SLOT  # the root has to stay where it is
    inode.tail = last if length + last <= room else 0
    return blocks - 1 if inode.tail else blocks


def _fill(entries: list[tuple[bytes, PlacedInode]]) -> tuple[list[int], int]:
    """Entries in each dirent block, and the bytes used of the last one."""
    blocks, used = [0], 0
    for name, _ in entries:
        need = disk.DIRENT.size + len(name)
        if used + need > disk.BLOCK:
            blocks.append(0)
            used = 0
        blocks[-1] += 1
        used += need
    return blocks, used
