"""What tests of layers and trees share: reading tars into a folder, and looking at the trees that come of it."""

from __future__ import annotations

import bz2
import gzip
import importlib.util
import io
import os
import stat
import tarfile
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType
from typing import Any

import zstandard

from layerfs import _pure
from layerfs.layer.tree import Inode, Tree


def native() -> ModuleType | None:
    """The compiled part, when it is built whole."""
    try:
        from layerfs import _native
    except ImportError:
        return None
    return _native if hasattr(_native, "LayerReader") and hasattr(_native, "merge_trees") else None


@dataclass
class Shelf:
    """A folder with the packs, objects and trees of some layers, read by one implementation."""

    folder: Path
    module: Any = _pure
    known: dict[bytes, bytes] = field(default_factory=dict)
    packs: dict[int, Path] = field(default_factory=dict)
    splits: list[bytes] = field(default_factory=list)
    results: list[Any] = field(default_factory=list)
    trees: list[str] = field(default_factory=list)

    def read(self, tar: bytes, *, chunks: Iterable[int] = (), **options: Any) -> Tree:
        """Read one layer, `chunks` sizes at a time (then the rest), and open its tree."""
        number = len(self.trees) + 1
        objects = self.folder / "objects"
        objects.mkdir(parents=True, exist_ok=True)
        pack, tree = self.folder / f"pack-{number}", str(self.folder / f"layer-{number}")
        pack_fd, objects_fd = os.open(pack, os.O_RDWR | os.O_CREAT), os.open(objects, os.O_RDONLY)
        try:
            reader = self.module.LayerReader(
                pack_fd=pack_fd, pack_id=number, objects_fd=objects_fd, lookup=self._lookup, **options
            )
            split = b""
            for piece in cut(tar, chunks):
                reader.feed(piece)
                split += reader.take_split()
            result = reader.finish(tree)
            split += reader.take_split()
        finally:
            os.close(pack_fd)
            os.close(objects_fd)
        self._publish(number, result.contents)
        self.packs[number] = pack
        self.splits.append(split)
        self.results.append(result)
        self.trees.append(tree)
        return Tree.open(tree)

    def merge(self, name: str = "merged") -> Tree:
        out = str(self.folder / name)
        self.module.merge_trees(self.trees, out, bytes(range(32)))
        return Tree.open(out)

    def _lookup(self, identities: bytes) -> bytes:
        return b"".join(self.known.get(identities[at : at + 32], bytes(32)) for at in range(0, len(identities), 32))

    def _publish(self, pack: int, contents: bytes) -> None:
        for at in range(0, len(contents), 64):
            record = contents[at : at + 64]
            identity, size, checksum, block = record[:32], record[32:40], record[40:48], record[48:52]
            place = pack.to_bytes(8, "little") if record[56] == 1 else bytes(8)
            self.known[identity] = record[56:58] + bytes(2) + block + place + size + checksum

    def data(self, tree: Tree, inode: Inode) -> bytes:
        """A regular file's bytes."""
        place = tree.place(inode)
        if place.kind == 0:
            return b""
        identity = tree.content(inode)
        assert identity is not None
        if place.kind == 2:
            return (self.folder / "objects" / identity.hex()).read_bytes()
        with self.packs[place.pack_id].open("rb") as pack:
            return os.pread(pack.fileno(), inode.size, place.block * 4096)

    def replay(self, number: int) -> bytes:
        """The tar that the tar-split record of layer `number` (from 0) stands for."""
        record, at, out = self.splits[number], 8, b""
        assert record.startswith(b"LFSPLIT1")
        while record[at]:
            if record[at] == 1:
                size = int.from_bytes(record[at + 1 : at + 5], "little")
                out += record[at + 5 : at + 5 + size]
                at += 5 + size
            else:
                identity = record[at + 1 : at + 33]
                offset, size = (int.from_bytes(record[at + n : at + n + 8], "little") for n in (33, 41))
                out += self._stored(identity)[offset : offset + size]
                at += 49
        assert len(record) == at + 41
        assert int.from_bytes(record[at + 1 : at + 9], "little") == len(out)
        assert record[at + 9 :] == _pure.sha256(out)
        return out

    def _stored(self, identity: bytes) -> bytes:
        value = self.known[identity]
        if value[0] == 2:
            return (self.folder / "objects" / identity.hex()).read_bytes()
        block, pack, size = (int.from_bytes(value[a:b], "little") for a, b in ((4, 8), (8, 16), (16, 24)))
        with self.packs[pack].open("rb") as file:
            return os.pread(file.fileno(), size, block * 4096)


def cut(data: bytes, sizes: Iterable[int]) -> Iterable[bytes]:
    at = 0
    for size in sizes:
        yield data[at : at + size]
        at += size
    yield data[at:]


def unpacked(path: Path) -> bytes:
    """An archive's bytes without its compression."""
    data = path.read_bytes()
    if path.suffix == ".gz":
        return gzip.decompress(data)
    if path.suffix == ".bz2":
        return bz2.decompress(data)
    if path.suffix == ".zst":
        return zstandard.ZstdDecompressor().decompressobj().decompress(data)
    return data


def load_module(path: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


_TYPES = {
    "f": tarfile.REGTYPE, "d": tarfile.DIRTYPE, "l": tarfile.SYMTYPE, "h": tarfile.LNKTYPE,
    "c": tarfile.CHRTYPE, "b": tarfile.BLKTYPE, "p": tarfile.FIFOTYPE,
}  # fmt: skip


def member(name: str, kind: str = "f", value: Any = b"", **fields: Any) -> tuple[tarfile.TarInfo, bytes]:
    """value: data (f), target (l, h) or device numbers (c, b)."""
    info = tarfile.TarInfo(name)
    info.type, info.mode, info.mtime = _TYPES[kind], 0o755 if kind == "d" else 0o644, 1_000_000_000
    data = b""
    if kind == "f":
        data = value.encode() if isinstance(value, str) else value
        info.size = len(data)
    elif kind in "lh":
        info.linkname = value
    elif kind in "cb":
        info.devmajor, info.devminor = value
    for key, setting in fields.items():
        setattr(info, key, setting)
    return info, data


def tar(*members: tuple[tarfile.TarInfo, bytes], form: int = tarfile.PAX_FORMAT) -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=form, errors="surrogateescape") as archive:
        for info, data in members:
            archive.addfile(info, io.BytesIO(data))
    return out.getvalue()


def listing(shelf: Shelf, tree: Tree) -> dict[bytes, dict[str, Any]]:
    """A merged tree in the form of tests.oracle.applier.listing."""
    found, first = {}, {}
    for path, inode in tree.walk():
        directory = stat.S_ISDIR(inode.mode)
        if not directory:
            first.setdefault(inode.nid, b"/" + path)
        regular = stat.S_ISREG(inode.mode)
        data = shelf.data(tree, inode) if regular else b""
        blocks = {at: data[at : at + 4096].ljust(4096, b"\0") for at in range(0, len(data), 4096)}
        found[b"/" + path if path else b""] = {
            "mode": inode.mode,
            "owner": (inode.uid, inode.gid),
            "mtime_ns": inode.mtime_ns,
            "rdev": (os.major(inode.rdev), os.minor(inode.rdev)),
            "target": tree.readlink(inode) if stat.S_ISLNK(inode.mode) else b"",
            "xattrs": tree.xattrs(inode),
            "size": inode.size if regular else 0,
            "data": {at: block for at, block in blocks.items() if block.strip(b"\0")},
            "first": first.get(inode.nid),
        }
    return found


def entry(
    name: bytes | str,
    kind: bytes = b"0",
    data: bytes = b"",
    *,
    link: bytes = b"",
    mode: int | None = None,
    owner: tuple[int, int] = (0, 0),
    mtime: int = 1_000_000_000,
    device: tuple[int, int] = (0, 0),
    size: int | None = None,
    pax: dict[bytes, bytes] | None = None,
    magic: bytes = b"ustar\0" + b"00",
    prefix: bytes = b"",
) -> bytes:
    """One member, byte for byte as written here: what golden trees must not leave to tarfile."""
    name = name.encode() if isinstance(name, str) else name
    extended = extension(b"x", records(pax)) if pax else b""
    mode = (0o755 if kind == b"5" else 0o644) if mode is None else mode
    block = bytearray(512)
    block[0 : len(name)] = name
    block[100:108], block[108:116], block[116:124] = b"%07o\0" % mode, b"%07o\0" % owner[0], b"%07o\0" % owner[1]
    block[124:136] = b"%011o\0" % (len(data) if size is None else size)
    block[136:148] = b"%011o\0" % mtime
    block[156:157], block[157 : 157 + len(link)] = kind, link
    block[257 : 257 + len(magic)] = magic
    block[329:337], block[337:345] = b"%07o\0" % device[0], b"%07o\0" % device[1]
    block[345 : 345 + len(prefix)] = prefix
    assert len(block) == 512
    return extended + sealed(block) + data + bytes(-len(data) % 512)


def sealed(block: bytearray) -> bytes:
    """A header with its checksum."""
    block[148:156] = b" " * 8
    block[148:156] = b"%06o\0 " % sum(block)
    return bytes(block)


def extension(kind: bytes, data: bytes) -> bytes:
    return entry("ext", kind, data, mtime=0)


def records(pairs: dict[bytes, bytes]) -> bytes:
    return b"".join(record(key, value) for key, value in pairs.items())


def record(key: bytes, value: bytes) -> bytes:
    """One PAX record; its length counts its own digits."""
    rest = b" " + key + b"=" + value + b"\n"
    size = len(rest)
    while size != len(b"%d" % size) + len(rest):
        size = len(b"%d" % size) + len(rest)
    return b"%d" % size + rest


def layer(*members: bytes) -> bytes:
    return b"".join(members) + bytes(1024)
