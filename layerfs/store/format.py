"""What is written where in a store directory (docs/format.md): names, tables, fixed-size records."""

from __future__ import annotations

import struct
from pathlib import Path

from layerfs._lazy import TYPE_CHECKING
from layerfs._record import NamedTuple
from layerfs.errors import Corrupt, StoreError, StoreVersionError

if TYPE_CHECKING:
    from typing import Final, Literal

    TreeKind = Literal["layer", "merged"]

VERSION: Final = 2  # the newest that we know
FIRST_VERSION: Final = 1  # what a store begins with
BLOCKS_VERSION: Final = 2  # there may be block-level files and deltas
BLOCK: Final = 4096
PACK_MAX: Final = 131072  # contents up to this size live in packs
ID_SIZE: Final = 32

DIRECTORIES: Final = ("index", "objects", "packs", "blobs", "trees", "containers", "uppers", "tmp", "locks")
TABLES: Final = (  # in the order of their numbers, from 1: only ever append
    "contents",
    "packs",
    "layers",
    "trees",
    "blobs",
    "images",
    "references",
    "containers",
    "names",
    "mounts",
    "leases",
    "sources",
    "meta",
    "states",
    "snapshots",
    "build",
    "deltas",
)

KIND_NONE: Final = 0
KIND_PACK: Final = 1
KIND_OBJECT: Final = 2
FLAG_SPARSE: Final = 1
FLAG_DELTA: Final = 2
UNKNOWN: Final = bytes(32)  # the answer of a lookup for an identity that is not there

_VALUE = struct.Struct("<BBHIQQQ")
_NEW = struct.Struct("<32sQQQBB6x")


class ContentValue(NamedTuple):
    """A value of the `contents` table: where a content is and what it must look like."""

    kind: int
    flags: int
    block: int
    pack: int
    size: int
    xxh64: int

    @property
    def sparse(self) -> bool:
        return bool(self.flags & FLAG_SPARSE)

    @property
    def delta(self) -> bool:
        return bool(self.flags & FLAG_DELTA)

    @property
    def blocks(self) -> int:
        """4 KiB blocks taken in a pack."""
        return -(-self.size // BLOCK)

    def encode(self) -> bytes:
        return _VALUE.pack(self.kind, self.flags, 0, self.block, self.pack, self.size, self.xxh64)

    @classmethod
    def decode(cls, data: bytes) -> ContentValue:
        """Raises Corrupt when the bytes are no valid value."""
        if len(data) != _VALUE.size:
            raise Corrupt(f"a content row has {len(data)} bytes instead of {_VALUE.size}")
        kind, flags, _zero, block, pack, size, xxh64 = _VALUE.unpack(data)
        if kind not in (KIND_PACK, KIND_OBJECT):
            raise Corrupt(f"a content row has the unknown kind {kind}")
        return cls(kind, flags, block, pack, size, xxh64)


class NewContent(NamedTuple):
    """One 64-byte record of `LayerResult.contents`."""

    identity: bytes
    size: int
    xxh64: int
    block: int
    kind: int
    flags: int

    def encode(self) -> bytes:
        return _NEW.pack(*self)

    def value(self, pack_id: int) -> ContentValue:
        if self.kind == KIND_PACK:
            return ContentValue(KIND_PACK, self.flags, self.block, pack_id, self.size, self.xxh64)
        return ContentValue(KIND_OBJECT, self.flags, 0, 0, self.size, self.xxh64)


def new_contents(records: bytes) -> list[NewContent]:
    return [NewContent(*fields) for fields in _NEW.iter_unpack(records)]


def new_objects(records: bytes) -> list[NewContent]:
    """Those of `new_contents` that are objects."""
    return [NewContent(*fields) for fields in _NEW.iter_unpack(records) if fields[4] == KIND_OBJECT]


def packed_rows(records: bytes, pack_id: int) -> list[tuple[bytes, bytes]]:
    """Identity and row of those that are in the pack; quickly, as there are tens of thousands of them."""
    pack = _VALUE.pack
    return [
        (identity, pack(KIND_PACK, flags, 0, block, pack_id, size, xxh64))
        for identity, size, xxh64, block, kind, flags in _NEW.iter_unpack(records)
        if kind == KIND_PACK
    ]


def new_size(records: bytes) -> int:
    """Bytes of all of them."""
    return sum(fields[1] for fields in _NEW.iter_unpack(records))


def pack_key(pack_id: int) -> bytes:
    """The key of a pack in the `packs` table."""
    return pack_id.to_bytes(8, "big")


def object_name(identity: bytes) -> str:
    """The path of an object below `objects/`."""
    name = identity.hex()
    return f"{name[:2]}/{name[2:]}"


def check_hex(name: str) -> str:
    """Guards every path made from a digest. Raises StoreError for what is not 64 hex digits."""
    if len(name) != 64 or name.strip("0123456789abcdef"):
        raise StoreError(f"{name!r} is not 64 lower-case hex digits")
    return name


def read_format(path: Path) -> int | None:
    """The format version of the store at `path`; None when there is no format file.

    Raises:
        StoreVersionError: the store is of a newer layerfs.
        StoreError: the file is not a format file.
    """
    try:
        text = (path / "format").read_bytes().decode("ascii", "replace")
    except (FileNotFoundError, NotADirectoryError):
        return None
    number = text.removeprefix("layerfs store ").removesuffix("\n")
    known = text == f"layerfs store {number}\n" and number.isascii() and number.isdecimal() and len(number) < 10
    if not known or number == "0":
        raise StoreError("not a layerfs store: its format file is not understood", path=str(path))
    version = int(number)
    if version > VERSION:
        raise StoreVersionError(
            f"store {path} has format version {version}, newer than the {VERSION} that this layerfs knows"
        )
    return version
