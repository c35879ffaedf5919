"""A layer tar into contents, a tree and a tar-split record."""

from __future__ import annotations

import hashlib
import os
import stat
import struct
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import NamedTuple

from layerfs._pure.contents import Contents, Writer
from layerfs._pure.erofs import write_tree
from layerfs._pure.tar import Member, TarReader
from layerfs._pure.tree import MAX_PATH, Attr, Content, LayerTree, clean, visible_xattrs
from layerfs.errors import Corrupt, InvalidArchive

SPARSE_FROM = 1 << 20  # bytes of declared holes
SPLIT_MAGIC = b"LFSPLIT1"
SPLIT_RAW = 1 << 20
WHITEOUT = b".wh."
RESERVED = b".wh..wh."
OPAQUE = b".wh..wh..opq"
_RANGE = struct.Struct("<qQQ")

_TYPES = {
    b"0": stat.S_IFREG,
    b"2": stat.S_IFLNK,
    b"3": stat.S_IFCHR,
    b"4": stat.S_IFBLK,
    b"5": stat.S_IFDIR,
    b"6": stat.S_IFIFO,
}


class LayerResult(NamedTuple):
    diff_id: bytes
    tar_size: int
    contents: bytes
    pack_blocks: int
    content_size: int
    entries: int
    unresolved_links: int


class LayerReader:
    """Streams a layer tar into contents, a tree and a tar-split record; `_native.pyi` says what the arguments are."""

    def __init__(
        self,
        *,
        pack_fd: int,
        pack_id: int,
        objects_fd: int,
        lookup: Callable[[bytes], bytes],
        max_entries: int = 20_000_000,
        max_file_size: int = 1 << 44,
    ) -> None:
        self._contents = Contents(pack_fd, pack_id, objects_fd, lookup)
        self._split = _Split()
        self._layer = _Layer(self._contents, self._split, max_entries)
        self._reader = TarReader(self._layer, max_file_size)
        self._hash = hashlib.sha256()
        self._size = 0
        self._usable = True

    def feed(self, data: bytes | bytearray | memoryview, /) -> None:
        """Read more of the archive. After an error the reader is of no further use."""
        with self._dropping():
            self._hash.update(data)
            self._size += memoryview(data).nbytes
            self._reader.feed(data)
        self._usable = True

    def feed_ranges(self, ranges: bytes, /) -> None:
        """Read more of the archive, from files: i64 fd (-1: zeros), u64 offset, u64 length of each range."""
        for fd, offset, length in _RANGE.iter_unpack(ranges):
            for at in range(offset, offset + length, SPLIT_RAW):
                count = min(SPLIT_RAW, offset + length - at)
                self.feed(_read(fd, count, at) if fd >= 0 else bytes(count))

    def delta(self, number: int, /) -> None:
        """The next file over 128 KiB is only hashed: `.delta-<number>` in the objects' directory has it."""
        self._contents.delta = number

    def take_split(self) -> bytes:
        """The bytes of the tar-split record made since the last call."""
        return self._split.take()

    def finish(self, tree_path: str) -> LayerResult:
        """The archive is over: write the layer's tree file."""
        with self._dropping():
            self._reader.close()
        diff_id = self._hash.digest()
        self._split.end(self._size, diff_id)
        root, used = self._layer.tree.root, self._contents.used.values()
        stats = write_tree(root, tree_path, merged=False, subject=diff_id, extra=used)
        new, blocks = bytes(self._contents.new), self._contents.pack_blocks
        return LayerResult(diff_id, self._size, new, blocks, stats.content_size, stats.entries, stats.unresolved_links)

    def close(self) -> None:
        """Stop; remove what is half written. Idempotent."""
        self._usable = False
        self._layer.drop()

    @contextmanager
    def _dropping(self) -> Iterator[None]:
        if not self._usable:
            raise ValueError("this LayerReader has failed or is finished")
        self._usable = False
        try:
            yield
        except BaseException:
            self._layer.drop()
            raise


def _read(fd: int, count: int, offset: int) -> bytes:
    data = os.pread(fd, count, offset)
    if len(data) != count:
        raise Corrupt("an object of the store ends early")
    return data


class _Split:
    """The tar-split record as it grows."""

    def __init__(self) -> None:
        self._out = bytearray(SPLIT_MAGIC)
        self._raw = bytearray()

    def take(self) -> bytes:
        out, self._out = bytes(self._out), bytearray()
        return out

    def raw(self, data: bytes) -> None:
        self._raw += data
        while len(self._raw) >= SPLIT_RAW:
            self._flush()

    def content(self, identity: bytes, offset: int, length: int) -> None:
        self._flush()
        self._out += struct.pack("<B32sQQ", 2, identity, offset, length)

    def end(self, size: int, diff_id: bytes) -> None:
        self._flush()
        self._out += struct.pack("<BQ32s", 0, size, diff_id)

    def _flush(self) -> None:
        raw = self._raw[:SPLIT_RAW]
        if raw:
            self._out += struct.pack("<BI", 1, len(raw)) + raw
            del self._raw[:SPLIT_RAW]


class _Layer:
    """The reader's sink: members become names in the tree."""

    def __init__(self, contents: Contents, split: _Split, max_entries: int) -> None:
        self.tree = LayerTree(max_entries)
        self._contents, self._split, self._left = contents, split, max_entries
        self._member: Member | None = None
        self._writer: Writer | None = None
        self._pieces: list[tuple[int, int]] = []
        self._piece = self._within = 0

    def raw(self, data: bytes) -> None:
        self._split.raw(data)

    def begin(self, member: Member) -> None:
        self._left -= 1
        if self._left < 0:
            raise InvalidArchive("a layer with too many members")
        if member.type != b"0":
            self._place(member, None)
            return
        pieces = [(0, member.size)] if member.pieces is None else member.pieces
        self._pieces = [piece for piece in pieces if piece[1]]
        holes = member.size - sum(length for _, length in self._pieces)
        self._member, self._piece, self._within = member, 0, 0
        self._writer = self._contents.writer(member.size, sparse=holes >= SPARSE_FROM) if member.size else None

    def data(self, data: bytes) -> None:
        assert self._writer is not None
        while data:
            offset, length = self._pieces[self._piece]
            part = data[: length - self._within]
            self._writer.write(offset + self._within, part)
            data = data[len(part) :]
            self._within += len(part)
            if self._within == length:
                self._piece, self._within = self._piece + 1, 0

    def end(self) -> None:
        member, content = self._member, None
        assert member is not None
        if self._writer is not None:
            content = self._writer.end()
            for offset, length in self._pieces:
                self._split.content(content.identity, offset, length)
        self._member = self._writer = None
        self._place(member, content)

    def drop(self) -> None:
        """Forget the content that is half written."""
        if self._writer is not None:
            self._writer.drop()

    def _place(self, member: Member, content: Content | None) -> None:
        parts = clean(member.path.split(b"/"))
        if any(len(part) > 255 for part in parts) or sum(map(len, parts)) + len(parts) - 1 > MAX_PATH:
            raise InvalidArchive("a name is too long", path=member.path[:256])
        *parents, name = parts or [b""]
        if any(part.startswith(RESERVED) for part in parents):
            return
        if any(part.startswith(WHITEOUT) for part in parents):
            raise InvalidArchive("an entry below a whiteout", path=member.path)
        if name.startswith(WHITEOUT):
            self._mark(b"/".join(parents), name)
        elif member.type == b"1":
            self.tree.link(b"/".join(parts), b"/".join(clean(member.link.split(b"/"))))
        else:
            mode = 0o777 if member.type == b"2" else member.mode
            device = member.device if member.type in (b"3", b"4") else (0, 0)
            xattrs = visible_xattrs(member.xattrs)
            attr = Attr(_TYPES[member.type] | mode, member.uid, member.gid, member.mtime_ns, device, xattrs)
            self.tree.put(b"/".join(parts), attr, content=content, target=member.link)

    def _mark(self, directory: bytes, name: bytes) -> None:
        if name == OPAQUE:
            self.tree.opaque(directory)
        elif not name.startswith(RESERVED):
            hidden = name[len(WHITEOUT) :]
            if hidden in (b"", b".", b".."):
                raise InvalidArchive("a whiteout of nothing", path=name)
            self.tree.whiteout(directory, hidden)
