"""Writing a tree file: EROFS, nothing left to choice (docs/format.md, "Tree files")."""

from __future__ import annotations

import os
import stat
import struct
from collections.abc import Iterable, Iterator
from pathlib import Path

from layerfs._pure import disk
from layerfs._pure.hashes import crc32c, xxh64
from layerfs._pure.host import no_space
from layerfs._pure.layout import PlacedInode, Stats, lay_out, number
from layerfs._pure.tree import Content, Node
from layerfs.errors import InvalidArchive

_TYPES = {mode: code for code, mode in enumerate(disk.FILE_TYPES)}


def write_tree(
    root: Node,
    path: str,
    *,
    merged: bool,
    subject: bytes,
    extra: Iterable[Content] = (),
    extra_table: Iterable[bytes] = (),
    extra_packs: Iterable[tuple[int, int]] = (),
) -> Stats:
    """Write the tree below `root` to a new file of mode 0444.

    `extra`: contents that only the tar-split record uses; `extra_table`: the same without their places (remapping);
    `extra_packs`: (pack, blocks) that those places come to.

    Raises:
        FileExistsError, NoSpace, OSError: of the host.
        InvalidArchive: extended attributes or packs past EROFS's limits.
    """
    image, stats = build_tree(root, merged, subject, extra, extra_table, extra_packs)
    _create(path, image)
    return stats


def build_tree(
    root: Node,
    merged: bool,
    subject: bytes,
    extra: Iterable[Content] = (),
    extra_table: Iterable[bytes] = (),
    extra_packs: Iterable[tuple[int, int]] = (),
) -> tuple[bytearray, Stats]:
    """The bytes of a tree file; `write_tree` says what the arguments are."""
    inodes, stats = number(root, merged=merged)
    contents = [inode.node.content for inode in inodes if inode.node.content is not None]
    known = {content.identity for content in contents}
    others = {content.identity: content for content in extra if content.identity not in known}
    table = [content.identity for content in contents]
    table += sorted({*others, *(identity for identity in extra_table if identity not in known)})
    packs = _packs([*contents, *others.values()], extra_packs)
    device_ids = {pack: device for device, pack in enumerate(sorted(packs), 1)}
    meta_block = disk.blocks_of(disk.DEVICE_AT + len(packs) * disk.DEVICE.size)
    meta_size, data_blocks = lay_out(inodes, meta_block)
    table_block = meta_block + disk.blocks_of(meta_size) + data_blocks
    image = bytearray(disk.BLOCK * (table_block + disk.blocks_of(len(table) * 32)))
    for inode in inodes:
        _store(image, inode, meta_block * disk.BLOCK, device_ids)
    image[table_block * disk.BLOCK : table_block * disk.BLOCK + len(table) * 32] = b"".join(table)
    for index, pack in enumerate(sorted(packs)):
        at = disk.DEVICE_AT + index * disk.DEVICE.size
        disk.DEVICE.pack_into(image, at, b"%016x" % pack, packs[pack], 0)
    _store_super(image, subject, inodes=len(inodes), meta_block=meta_block, devices=len(packs))
    kind = disk.KIND_MERGED if merged else disk.KIND_LAYER
    disk.HEADER.pack_into(
        image,
        0,
        disk.MAGIC,
        disk.VERSION,
        kind,
        table_block * disk.BLOCK,
        len(table),
        subject,
        0,
        stats.entries,
        stats.content_size,
    )
    struct.pack_into("<Q", image, disk.CHECKSUM_AT, xxh64(memoryview(image)[disk.SUPER_AT :]))
    return image, stats


def _packs(contents: Iterable[Content], more: Iterable[tuple[int, int]]) -> dict[int, int]:
    """Pack id -> blocks of it that are used, counted from its start."""
    packs = dict(more)
    for content in contents:
        if content.kind == disk.KIND_PACK:
            end = content.block + disk.blocks_of(content.size)
            packs[content.pack] = max(packs.get(content.pack, 0), end)
    if len(packs) > disk.MAX_DEVICES:
        raise InvalidArchive(f"a tree cannot use more than {disk.MAX_DEVICES} packs")
    return packs


def _store(image: bytearray, inode: PlacedInode, meta: int, device_ids: dict[int, int]) -> None:
    at = meta + inode.offset
    attr, content = inode.node.attr, inode.node.content
    layout, data, after = disk.PLAIN, inode.data_block, b""
    after_at = at + disk.INODE.size + len(inode.xattrs)
    if content is not None:
        layout = disk.CHUNKS
        data = disk.CHUNK_INDEXES | disk.chunk_bits(content.size)
        after_at = disk.round_up(after_at, 8)
        after = _chunk_indexes(content, device_ids)
    elif stat.S_ISCHR(attr.mode) or stat.S_ISBLK(attr.mode):
        data = disk.encode_device(*attr.device)
    elif inode.size:
        layout = disk.INLINE if inode.tail else disk.PLAIN
        after = _store_data(image, inode)
    seconds, nanoseconds = divmod(attr.mtime_ns, 1_000_000_000)
    icount = 1 + (len(inode.xattrs) - disk.XATTR_HEADER) // 4 if inode.xattrs else 0
    disk.INODE.pack_into(
        image,
        at,
        *(1 | layout << 1, icount, attr.mode, 0, inode.size, data, inode.ino, attr.uid, attr.gid),
        *(seconds, nanoseconds, inode.nlink),
    )
    image[at + disk.INODE.size : at + disk.INODE.size + len(inode.xattrs)] = inode.xattrs
    image[after_at : after_at + len(after)] = after


def _chunk_indexes(content: Content, device_ids: dict[int, int]) -> bytes:
    if content.kind == disk.KIND_PACK:
        return disk.CHUNK_INDEX.pack(0, device_ids[content.pack], content.block)
    chunks = -(-content.size // (disk.BLOCK << disk.chunk_bits(content.size)))
    return disk.CHUNK_INDEX.pack(0, 0, disk.NOWHERE) * chunks


def _store_data(image: bytearray, inode: PlacedInode) -> bytes:
    """Write a directory's or symlink's data blocks; returns what goes inline."""
    blocks = list(_dirent_blocks(inode)) if inode.node.children is not None else [inode.node.target]
    inline = blocks.pop() if inode.tail else b""
    for index, block in enumerate(blocks):
        at = (inode.data_block + index) * disk.BLOCK
        image[at : at + len(block)] = block
    return inline


def _dirent_blocks(inode: PlacedInode) -> Iterator[bytes]:
    start = 0
    for count in inode.blocks:
        entries = inode.entries[start : start + count]
        start += count
        heads, at = b"", disk.DIRENT.size * count
        for name, child in entries:
            heads += disk.DIRENT.pack(child.nid, at, _TYPES[stat.S_IFMT(child.mode)])
            at += len(name)
        yield heads + b"".join(name for name, _ in entries)


def _store_super(image: bytearray, subject: bytes, *, inodes: int, meta_block: int, devices: int) -> None:
    features = disk.CHUNKED | (disk.DEVICE_TABLE if devices else 0)
    slot = disk.DEVICE_AT // disk.DEVICE.size if devices else 0
    fields = (
        disk.EROFS_MAGIC,
        0,
        disk.COMPAT,
        12,
        0,
        disk.ROOT_NID,
        inodes,
        0,
        0,
        len(image) // disk.BLOCK,
        meta_block,
        0,
    )
    tail = (subject[:16], bytes(16), features, 0, devices, slot, 0, 0, 0, 0, bytes(24))
    disk.SUPER.pack_into(image, disk.SUPER_AT, *fields, *tail)
    struct.pack_into("<I", image, disk.SUPER_AT + 4, crc32c(memoryview(image)[disk.SUPER_AT : disk.BLOCK]))


def _create(path: str, image: bytearray) -> None:
    with no_space(path):
        fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o444)
        try:
            with os.fdopen(fd, "wb") as file:
                file.write(image)
        except BaseException:
            Path(path).unlink(missing_ok=True)
            raise
