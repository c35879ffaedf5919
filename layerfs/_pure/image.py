"""Reading a tree file: the byte level, bounds-checked.

A damaged file raises Corrupt and never crashes. The file is mapped read-only and is immutable, so any
number of threads may read at once. `layerfs.layer.tree.Tree` adds what callers want on top.
"""

from __future__ import annotations

import mmap
import os
import stat
import sys
from collections.abc import Iterator
from types import TracebackType

from layerfs._lazy import TYPE_CHECKING
from layerfs._pure import disk
from layerfs._record import NamedTuple
from layerfs.errors import Corrupt, StoreVersionError

if TYPE_CHECKING:
    from typing import Literal, Self


class Inode(NamedTuple):
    """An inode as stored. `mode` has its type bits; `rdev` is the host's dev_t. The last four say where its data is."""

    nid: int
    ino: int
    mode: int
    uid: int
    gid: int
    nlink: int
    size: int
    mtime_ns: int
    rdev: int
    layout: int
    data: int  # i_u: first data block, chunk format or device number
    xattr_at: int
    tail_at: int


class DirEntry(NamedTuple):
    """`type` is the type part of st_mode, as stat.S_IFMT gives it."""

    name: bytes
    nid: int
    type: int


class Place(NamedTuple):
    """Where a regular file's bytes are. kind: 0 nowhere (empty file), 1 pack, 2 object (then named by the identity)."""

    kind: int
    pack_id: int
    block: int


class Image:
    """One mapped tree file."""

    path: str
    kind: Literal["layer", "merged"]
    subject: bytes
    entries: int
    content_size: int
    packs: tuple[int, ...]

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = os.fspath(path)
        fd = os.open(self.path, os.O_RDONLY | os.O_CLOEXEC)  # a file object takes as long as all that follows
        try:
            size = os.fstat(fd).st_size
            if size < 2 * disk.BLOCK or size % disk.BLOCK:
                raise self.corrupt("has a wrong size")
            if sys.version_info >= (3, 13):
                self._map = mmap.mmap(fd, size, prot=mmap.PROT_READ, trackfd=False)
            else:  # keeps a duplicate of the descriptor
                self._map = mmap.mmap(fd, size, prot=mmap.PROT_READ)
        finally:
            os.close(fd)
        self._size = size
        try:
            self._read_header()
            self._read_super()
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """Drop the map; using the tree afterwards is a ValueError."""
        self._map.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _read_header(self) -> None:
        magic, version, kind, table, count, self.subject, self.checksum, self.entries, self.content_size = (
            disk.HEADER.unpack_from(self._map)
        )
        if magic != disk.MAGIC or kind not in (disk.KIND_LAYER, disk.KIND_MERGED):
            raise self.corrupt("has no layerfs header")
        if version != disk.VERSION:
            raise StoreVersionError("tree file of another format version", path=self.path)
        if table % disk.BLOCK or table > self._size or count > (self._size - table) // 32:
            raise self.corrupt("has its content table out of bounds")
        if self.entries > self._size // (disk.DIRENT.size + 1):
            raise self.corrupt("has more names than it can hold")
        self.kind = "merged" if kind == disk.KIND_MERGED else "layer"
        self.table_at, self.table_count = table, count

    def _read_super(self) -> None:
        fields = disk.SUPER.unpack_from(self._map, disk.SUPER_AT)
        magic, bits, root, self.inode_count, blocks, meta = (fields[i] for i in (0, 3, 5, 6, 9, 10))
        incompat, devices, slot = fields[14], fields[16], fields[17]
        if magic != disk.EROFS_MAGIC or bits != 12 or root != disk.ROOT_NID or blocks * disk.BLOCK != self._size:
            raise self.corrupt("has a bad superblock")
        if incompat & ~(disk.CHUNKED | disk.DEVICE_TABLE) or (devices and slot * 128 != disk.DEVICE_AT):
            raise self.corrupt("has unknown features")
        self._meta = meta * disk.BLOCK
        if disk.DEVICE_AT + devices * disk.DEVICE.size > self._meta or self._meta >= self.table_at:
            raise self.corrupt("has its inodes out of bounds")
        self.devices = tuple(self._device(i) for i in range(devices))
        self.packs = tuple(pack for pack, _ in self.devices)

    def _device(self, index: int) -> tuple[int, int]:
        tag, blocks, _ = disk.DEVICE.unpack_from(self._map, disk.DEVICE_AT + index * disk.DEVICE.size)
        try:
            return int(tag.rstrip(b"\0"), 16), blocks
        except ValueError:
            raise self.corrupt("has a bad pack name") from None

    def whole(self) -> bytes:
        """The file's bytes."""
        return self._map[:]

    def corrupt(self, what: str) -> Corrupt:
        return Corrupt(f"tree file {what}", path=self.path)

    def _bytes(self, start: int, size: int) -> bytes:
        if start < 0 or size < 0 or start + size > self._size:
            raise self.corrupt("points outside itself")
        return self._map[start : start + size]

    @property
    def root(self) -> Inode:
        root = self.inode(disk.ROOT_NID)
        if not stat.S_ISDIR(root.mode):
            raise self.corrupt("has a root that is no directory")
        return root

    def inode(self, nid: int) -> Inode:
        """Raises Corrupt for a nid outside the tree."""
        at = self._meta + nid * disk.SLOT
        if nid < 0 or at + disk.INODE.size > self.table_at:
            raise self.corrupt(f"has no inode {nid}")
        form, icount, mode, _, size, data, ino, uid, gid, mtime, nsec, nlink = disk.INODE.unpack_from(self._map, at)
        layout = form >> 1
        sound = form & 1 and layout in (disk.PLAIN, disk.INLINE, disk.CHUNKS) and nsec < 1_000_000_000
        if not sound or stat.S_IFMT(mode) not in disk.FILE_TYPES[1:]:
            raise self.corrupt(f"has a bad inode {nid}")
        rdev = os.makedev(*disk.decode_device(data)) if mode & 0xB000 == stat.S_IFCHR & 0xB000 else 0
        xattr_at = at + disk.INODE.size
        tail_at = xattr_at + (disk.XATTR_HEADER + 4 * (icount - 1) if icount else 0)
        mtime_ns = mtime * 1_000_000_000 + nsec
        return Inode(nid, ino, mode, uid, gid, nlink, size, mtime_ns, rdev, layout, data, xattr_at, tail_at)

    def raw_xattrs(self, inode: Inode) -> dict[bytes, bytes]:
        """Every xattr as stored, overlay and layerfs marks included."""
        if inode.tail_at == inode.xattr_at:
            return {}
        data = self._bytes(inode.xattr_at, inode.tail_at - inode.xattr_at)
        found: dict[bytes, bytes] = {}
        at = disk.XATTR_HEADER
        while at + 4 <= len(data):
            length, index, size = disk.XATTR.unpack_from(data, at)
            prefix = disk.XATTR_PREFIXES.get(index)
            value_at = at + 4 + length
            rest = data[at + 4 : value_at]
            if (
                prefix is None
                or value_at + size > len(data)
                or b"\0" in rest
                or prefix.endswith(b".") is not bool(rest)
            ):
                raise self.corrupt(f"has a bad xattr in inode {inode.nid}")
            found[prefix + rest] = data[value_at : value_at + size]
            at = disk.round_up(value_at + size, 4)
        return found

    def _dirents(self, block: bytes, nid: int) -> tuple[list[tuple[int, int, int]], list[bytes]]:
        count = disk.DIRENT.unpack_from(block)[1] // disk.DIRENT.size if len(block) >= disk.DIRENT.size else 0
        if not count or count * disk.DIRENT.size > len(block):
            raise self.corrupt(f"has a bad directory {nid}")
        entries = list(disk.DIRENT.iter_unpack(block[: count * disk.DIRENT.size]))
        ends = [entry[1] for entry in entries[1:]]
        ends.append(len(block))
        names = [block[entry[1] : end] for entry, end in zip(entries, ends, strict=True)]
        names[-1] = names[-1].rstrip(b"\0")
        text = block[entries[0][1] : len(block)].rstrip(b"\0")
        if entries[0][1] != count * disk.DIRENT.size or not all(names) or b"/" in text or b"\0" in text:
            raise self.corrupt(f"has a bad directory {nid}")
        return entries, names

    def listdir(self, directory: Inode) -> Iterator[DirEntry]:
        """The entries of a directory in byte order, without `.` and `..`."""
        self._want_directory(directory)
        for index in range(disk.blocks_of(directory.size)):
            at, size = self._block_place(directory, index)
            entries, names = self._dirents(self._map[at : at + size], directory.nid)
            for (nid, _, kind), name in zip(entries, names, strict=True):
                if name in (b".", b".."):
                    continue
                if not 1 <= kind <= 7:
                    raise self.corrupt(f"has a bad directory {directory.nid}")
                yield DirEntry(name, nid, disk.FILE_TYPES[kind])

    def lookup(self, directory: Inode, name: bytes) -> Inode | None:
        """The inode of that name, by binary search; None when there is none. `.` and `..` are names like the others."""
        self._want_directory(directory)
        if not name or len(name) > 255:
            return None
        low, high = 0, disk.blocks_of(directory.size)
        while high - low > 1:
            middle = (low + high) // 2
            at, size = self._block_place(directory, middle)
            if name < self._name(at, size, 0, self._count(at, size)):
                high = middle
            else:
                low = middle
        at, size = self._block_place(directory, low)
        low, high = 0, self._count(at, size)
        count = high
        while low < high:
            middle = (low + high) // 2
            found = self._name(at, size, middle, count)
            if found == name:
                return self.inode(disk.DIRENT.unpack_from(self._map, at + middle * disk.DIRENT.size)[0])
            if found < name:
                low = middle + 1
            else:
                high = middle
        return None

    def _count(self, at: int, size: int) -> int:
        """How many entries the dirent block at `at` has."""
        start = disk.DIRENT.unpack_from(self._map, at)[1] if size > disk.DIRENT.size else 0
        if not start or start % disk.DIRENT.size or start >= size:
            raise self.corrupt("has a bad directory")
        return int(start // disk.DIRENT.size)

    def _name(self, at: int, size: int, index: int, count: int) -> bytes:
        place = at + index * disk.DIRENT.size
        start = disk.DIRENT.unpack_from(self._map, place)[1]
        last = index + 1 == count
        end = size if last else disk.DIRENT.unpack_from(self._map, place + disk.DIRENT.size)[1]
        if not count * disk.DIRENT.size <= start < end <= size:
            raise self.corrupt("has a bad directory")
        name = self._map[at + start : at + end]
        return name.rstrip(b"\0") if last else name

    def _block_place(self, inode: Inode, index: int) -> tuple[int, int]:
        """Offset in the file and used size of one block of a directory or symlink."""
        last = disk.blocks_of(inode.size) - 1
        size = disk.BLOCK if index < last else inode.size - last * disk.BLOCK
        inline = inode.layout == disk.INLINE and index == last
        at = inode.tail_at if inline else (inode.data + index) * disk.BLOCK
        if inode.layout == disk.CHUNKS or inode.size > self._size or last < 0 or at + size > self._size:
            raise self.corrupt(f"has bad data in inode {inode.nid}")
        return at, size

    def _want_directory(self, inode: Inode) -> None:
        if not stat.S_ISDIR(inode.mode):
            raise NotADirectoryError(20, "not a directory in the tree", self.path)

    def readlink(self, inode: Inode) -> bytes:
        """A symlink's target; EINVAL for other inodes, as readlink(2)."""
        if not stat.S_ISLNK(inode.mode):
            raise OSError(22, "not a symlink in the tree", self.path)
        if not 0 < inode.size < disk.BLOCK:
            raise self.corrupt(f"has a bad symlink {inode.nid}")
        at, size = self._block_place(inode, 0)
        return self._map[at : at + size]

    def content(self, inode: Inode) -> bytes | None:
        """The 32-byte identity of a regular file's bytes; None for an empty file and for what is no regular file."""
        if not stat.S_ISREG(inode.mode) or not inode.size:
            return None
        if not 0 < inode.ino <= self.table_count:
            raise self.corrupt(f"has no identity for inode {inode.nid}")
        return self._bytes(self.table_at + (inode.ino - 1) * 32, 32)

    def place(self, inode: Inode) -> Place:
        """Where a regular file's bytes are; kind 0 for what has none."""
        if not stat.S_ISREG(inode.mode) or not inode.size:
            return Place(disk.KIND_NONE, 0, 0)
        if inode.layout != disk.CHUNKS or not inode.data & disk.CHUNK_INDEXES:
            raise self.corrupt(f"has bad data in inode {inode.nid}")
        _, device, block = disk.CHUNK_INDEX.unpack(self._bytes(disk.round_up(inode.tail_at, 8), 8))
        if block == disk.NOWHERE:
            return Place(disk.KIND_OBJECT, 0, 0)
        if not 0 < device <= len(self.packs) or block + disk.blocks_of(inode.size) > self.devices[device - 1][1]:
            raise self.corrupt(f"has no pack for inode {inode.nid}")
        return Place(disk.KIND_PACK, self.packs[device - 1], block)

    def contents(self) -> bytes:
        """The table of identities, 32 bytes each; a layer's goes on with those that only its tar-split record uses."""
        return self._bytes(self.table_at, self.table_count * 32)
