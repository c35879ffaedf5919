"""Files that no row refers to: what a crash between two steps leaves behind. Harmless; gc removes them."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from layerfs.store.delta import SUFFIX
from layerfs.store.format import FLAG_DELTA, pack_key
from layerfs.store.writer import pack_pin

if TYPE_CHECKING:
    from layerfs.store.index import Txn
    from layerfs.store.root import StoreRoot

_HEX2, _HEX16, _HEX62, _HEX64 = (re.compile(rf"[0-9a-f]{{{count}}}\Z") for count in (2, 16, 62, 64))
_TREE = re.compile(r"(layer|merged|split)-([0-9a-f]{64})\Z")
_TREE_TABLES = {"layer": "layers", "split": "layers", "merged": "trees"}
_AGES = {  # ns; how long a file may be without a row
    "container": 60 * 1_000_000_000,  # its directory is made before its row, without a lease
    "partial": 24 * 3600 * 1_000_000_000,  # somebody may go on with it
}


class Orphan(NamedTuple):
    """A file without a row. `kind`: object, delta, pack, tree, split, blob, partial, container, stray."""

    kind: str
    path: Path
    pin: bytes  # the key under which a lease would hold it
    table: str
    key: bytes

    def wanted(self, txn: Txn, pins: set[bytes], packs: set[int]) -> bool:
        """Whether a row, a lease or a tree wants it after all."""
        if self.kind == "pack" and int.from_bytes(self.key, "big") in packs:
            return True
        return self.pin in pins or self.has_row(txn)

    def has_row(self, txn: Txn) -> bool:
        row = txn.get(self.table, self.key) if self.table else None
        if row is None or self.kind not in ("object", "delta") or len(row) < 2:
            return row is not None
        return bool(row[1] & FLAG_DELTA) == (self.kind == "delta")  # a delta may have become a whole object


def find_orphans(root: StoreRoot, txn: Txn, horizon: int) -> Iterator[Orphan]:
    """Files older than `horizon` (ns) that no row of `txn` refers to. What is in `tmp/` belongs to leases."""
    for orphan in _candidates(root.path):
        if orphan.has_row(txn):
            continue
        try:
            status = orphan.path.lstat()
        except FileNotFoundError:
            continue
        if status.st_mtime_ns < horizon - _AGES.get(orphan.kind, 0):
            yield orphan


def _candidates(path: Path) -> Iterator[Orphan]:
    yield from _objects(path / "objects")
    yield from _trees(path / "trees")
    for name in _names(path / "packs"):
        if _HEX16.match(name):
            pack_id = int(name, 16)
            yield Orphan("pack", path / "packs" / name, pack_pin(pack_id), "packs", pack_key(pack_id))
    for name in _names(path / "blobs" / "sha256"):
        if _HEX64.match(name):
            yield Orphan("blob", path / "blobs" / "sha256" / name, bytes.fromhex(name), "blobs", bytes.fromhex(name))
    for name in _names(path / "partial"):
        if _HEX64.match(name):
            yield Orphan("partial", path / "partial" / name, bytes.fromhex(name), "", b"")
    for name in _names(path / "containers"):
        if _HEX64.match(name):
            yield Orphan("container", path / "containers" / name, bytes.fromhex(name), "containers", name.encode())
    for name in _names(path):
        if name.startswith(".format."):
            yield Orphan("stray", path / name, b"", "", b"")


def _objects(path: Path) -> Iterator[Orphan]:
    for first in _names(path):
        if not _HEX2.match(first):
            continue
        for rest in _names(path / first):
            name = rest.removesuffix(SUFFIX)
            if _HEX62.match(name):
                identity = bytes.fromhex(first + name)
                yield Orphan("object" if name == rest else "delta", path / first / rest, identity, "contents", identity)


def _trees(path: Path) -> Iterator[Orphan]:
    for first in _names(path):
        for name in _names(path / first):
            match = _TREE.match(name)
            if match:
                key = bytes.fromhex(match[2])
                kind = "split" if match[1] == "split" else "tree"
                yield Orphan(kind, path / first / name, key, _TREE_TABLES[match[1]], key)


def _names(path: Path) -> list[str]:
    try:
        with os.scandir(path) as entries:
            return sorted(entry.name for entry in entries)
    except (FileNotFoundError, NotADirectoryError):
        return []


def empty_directories(path: Path) -> Iterator[Path]:
    """The two-digit directories of objects and trees that are empty."""
    for top in ("objects", "trees"):
        for name in _names(path / top):
            if _HEX2.match(name) and not _names(path / top / name):
                yield path / top / name
