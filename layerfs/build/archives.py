"""Archives that ADD unpacks: recognised by their bytes, read as layers are, so that nothing in them reaches beyond."""

from __future__ import annotations

import io
from collections.abc import Iterator
from typing import BinaryIO, cast

from layerfs.build.files import Files, Item, TreeFiles
from layerfs.digest import DiffID
from layerfs.errors import InvalidArchive, LayerfsError
from layerfs.layer.codec import Decompressed
from layerfs.layer.entry import Content
from layerfs.layer.layers import Layer
from layerfs.layer.merged import layer_tree, merged_tree
from layerfs.layer.read import read_layer
from layerfs.store.leases import Lease
from layerfs.store.root import StoreRoot

_BLOCK = 512


class ContentStream(io.RawIOBase):
    """A file's bytes as a stream, holes as zeros."""

    def __init__(self, content: Content | None) -> None:
        self._pieces: Iterator[bytes] = content.pieces(((0, content.size),)) if content else iter(())
        self._rest = memoryview(b"")

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: object) -> int:
        view = memoryview(cast(bytearray, buffer)).cast("B")
        if not self._rest:
            self._rest = memoryview(next(self._pieces, b""))
        count = min(len(view), len(self._rest))
        view[:count] = self._rest[:count]
        self._rest = self._rest[count:]
        return count


def is_archive(files: Files, item: Item) -> bool:
    """Whether a file is a tar, in whatever compression."""
    if not item.is_file or item.size < 5:
        return False
    try:
        return looks_like_tar(Decompressed(ContentStream(files.content(item))).read(_BLOCK))
    except LayerfsError:
        return False


def looks_like_tar(block: bytes) -> bool:
    """By the checksum of its first header; an empty archive begins with zeros."""
    if len(block) < _BLOCK:
        return False
    if not any(block):
        return True
    try:
        wanted = int(block[148:156].strip(b" \0") or b"-", 8)
    except ValueError:
        return False
    return wanted == sum(block) - sum(block[148:156]) + 8 * 0x20


def unpacked(root: StoreRoot, files: Files, item: Item, lease: Lease) -> TreeFiles:
    """What is in an archive. Raises InvalidArchive with its path."""
    place = f"(in /{item.path.decode(errors='replace')})"
    try:
        layer = read_tar(root, cast(BinaryIO, ContentStream(files.content(item))), lease)
    except InvalidArchive as error:
        raise InvalidArchive(f"{error.message} {place}") from None
    if layer.unresolved_links:
        raise InvalidArchive(f"a hard link names a file that the archive does not have {place}")
    return TreeFiles(root, layer_tree(root, layer.diff_id))


def read_tar(root: StoreRoot, stream: BinaryIO, lease: Lease) -> Layer:
    """A tar in any compression, as a layer of the store that is kept as long as the lease."""
    layer = read_layer(root, stream, lease=lease, keep_blob="never")
    lease.pin(layer.diff_id.raw)
    return layer


def tar_layer(root: StoreRoot, stream: BinaryIO, lease: Lease) -> DiffID:
    """A tar as a build context."""
    diff_id = read_tar(root, stream, lease).diff_id
    merged_tree(root, [diff_id])  # a tar with links to nowhere is told now
    return diff_id
