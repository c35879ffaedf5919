"""Checking every file of a store against what its row says."""

from __future__ import annotations

import os
from collections.abc import Callable
from io import BufferedReader
from typing import TYPE_CHECKING, Any, cast

from layerfs.digest import Digest
from layerfs.errors import Corrupt, LayerfsError
from layerfs.native import sha256, verify_tree, xxh64
from layerfs.store.durable import pread_all
from layerfs.store.format import BLOCK, ID_SIZE, KIND_OBJECT, KIND_PACK, ContentValue
from layerfs.store.problems import Findings
from layerfs.store.treefile import KIND_LAYER, KIND_MERGED, TreeFile

if TYPE_CHECKING:
    from layerfs.store.index import Txn
    from layerfs.store.root import StoreRoot

IN_MEMORY = 64 << 20  # bytes; objects up to this size are scrubbed by XXH64 alone when quick
Replay = Callable[[bytes, Any], object]  # (diff ID, file-like to write to): the layer's tar from its tar-split record
_ZSTD_MAGIC = b"\x28\xb5\x2f\xfd"


class Verifier:
    """One check of one store. `quick` reads packed and middle-sized contents by XXH64 only and replays nothing."""

    def __init__(
        self, root: StoreRoot, quick: bool, replay: Replay | None, tell: Callable[[str, int, int], object]
    ) -> None:
        self.root, self.quick, self.replay, self.tell = root, quick, replay, tell
        self.found = Findings()

    # blobs

    def blobs(self) -> None:
        with self.root.index.view() as txn:
            rows = list(txn.scan("blobs"))
        for number, (key, _) in enumerate(rows):
            self.tell("blobs", number, len(rows))
            message = self._blob(Digest.from_raw(key))
            if message:
                self.found.blobs.add(key)
                self.found.error("blob", key.hex(), message)

    def _blob(self, digest: Digest) -> str | None:
        import hashlib

        try:
            with cast("BufferedReader", self.root.blobs.open(digest)) as file:
                if not self.quick and hashlib.file_digest(file, "sha256").hexdigest() != digest.hex:
                    return "its bytes have another digest"
        except (LayerfsError, KeyError, TypeError) as error:
            return str(error)
        except OSError as error:
            return f"cannot be read ({error.strerror})"
        return None

    # contents

    def packs(self) -> None:
        """Packs that are missing or too short; their contents are not looked at one by one then."""
        with self.root.index.view() as txn:
            rows = list(txn.scan_json("packs"))
        for key, row in rows:
            pack_id, blocks = int.from_bytes(key, "big"), int(row.get("blocks", 0))
            try:
                size = self.root.contents.pack_path(pack_id).stat().st_size
            except OSError:
                self._bad_pack(pack_id, blocks, "the pack is missing")
                continue
            if size < blocks * BLOCK:
                self._bad_pack(pack_id, blocks, f"the pack has {size} bytes instead of {blocks * BLOCK}")

    def _bad_pack(self, pack_id: int, blocks: int, message: str) -> None:
        self.found.packs[pack_id] = blocks
        self.found.error("pack", f"{pack_id:016x}", message, repairable=True)

    def contents(self) -> None:
        """Every row's bytes, in the order in which they lie."""
        with self.root.index.view() as txn:
            rows = [(value, key) for key, value in txn.scan("contents") if self._sound(key, value)]
        rows.sort(key=lambda row: _position(row[0]))
        for number, (encoded, identity) in enumerate(rows):
            if number % 256 == 0:
                self.tell("contents", number, len(rows))
            value = ContentValue.decode(encoded)
            if value.kind == KIND_OBJECT:
                self._object(identity, value)
            else:
                self._packed(identity, value.pack, value.block, value.size, value.xxh64)

    def _sound(self, key: bytes, value: bytes) -> bool:
        try:
            if len(key) == ID_SIZE and ContentValue.decode(value):
                return True
        except Corrupt:
            pass
        self.found.rowless.add(key)
        self.found.error("content", key.hex(), "its row is not understood", repairable=True)
        return False

    def _object(self, identity: bytes, value: ContentValue) -> None:
        try:
            with self.root.contents.open(identity) as reader:
                if self.quick and not value.sparse and value.size <= IN_MEMORY:
                    good, same = xxh64(reader.read()) == value.xxh64, True
                else:
                    found, checksum = reader.hash()
                    good, same = found == identity, checksum == value.xxh64
        except OSError as error:
            self.found.objects.add(identity)
            self.found.error("content", identity.hex(), _reason(error), repairable=True)
            return
        self._judge(identity, good, same)
        if not good:
            self.found.objects.add(identity)

    def _packed(self, identity: bytes, pack: int, block: int, size: int, checksum: int | None) -> None:
        try:
            data = self._pack_bytes(pack, block, size)
        except OSError as error:
            self._bad_place(identity, pack, block, size)
            if pack not in self.found.packs:
                self.found.error("content", identity.hex(), _reason(error), repairable=True)
            return
        if self.quick and checksum is not None:
            good, same = xxh64(data) == checksum, True
        else:
            good, same = sha256(data) == identity, checksum is None or xxh64(data) == checksum
        self._judge(identity, good, same)
        if not good:
            self._bad_place(identity, pack, block, size)

    def _judge(self, identity: bytes, good: bool, same: bool) -> None:
        if not good:
            self.found.error("content", identity.hex(), "its bytes have another checksum", repairable=True)
        elif not same:
            self.found.bad_rows.add(identity)
            self.found.error("content", identity.hex(), "its row has a wrong checksum", repairable=True)

    def _bad_place(self, identity: bytes, pack: int, block: int, size: int) -> None:
        self.found.places[pack, block] = (identity, size)
        if pack not in self.found.packs and not self.root.contents.pack_path(pack).exists():
            self._bad_pack(pack, 0, "the pack is missing")

    def _pack_bytes(self, pack: int, block: int, size: int) -> bytes:
        fd = self.root.contents.open_pack(pack)
        try:
            data = pread_all(fd, size, block * BLOCK)
        finally:
            os.close(fd)
        if len(data) != size:
            raise Corrupt(f"its pack {pack:016x} ends early")
        return data

    # layers and trees

    def trees(self) -> None:
        with self.root.index.view() as txn:
            layers, chains = dict(txn.scan_json("layers")), txn.keys("trees")
        for number, (key, row) in enumerate(layers.items()):
            self.tell("layers", number, len(layers))
            self._layer(key, row)
        for key in chains:
            message = self._tree("merged", key, KIND_MERGED)
            if message:
                self.found.merged.add(key)
                self.found.error("merged", key.hex(), message, repairable=True)

    def _layer(self, key: bytes, row: Any) -> None:
        message = self._tree("layer", key, KIND_LAYER) or self._against_row(key, row)
        if message:
            self.found.trees.add(key)
            self.found.error("tree", key.hex(), message, repairable=True)
        message = self._split(key)
        if message:
            self.found.splits.add(key)
            self.found.error("split", key.hex(), message, repairable=True)

    def _tree(self, kind: Any, key: bytes, number: int) -> str | None:
        """What is wrong with a tree; contents that it needs and that are not right are noted on the way."""
        path = self.root.tree_path(kind, key.hex())
        try:
            tree = TreeFile(path)
            if not verify_tree(str(path)):
                return "the tree file is damaged"
            if tree.kind != number or tree.subject != key:
                return "the tree file is that of something else"
            self._places(tree, number == KIND_LAYER)
        except OSError as error:
            return _reason(error)
        return None

    def _against_row(self, key: bytes, row: Any) -> str | None:
        tree = TreeFile(self.root.tree_path("layer", key.hex()))
        for name, value in (("entries", tree.entries), ("size", tree.content_size)):
            if isinstance(row, dict) and row.get(name, value) != value:
                return f"the tree has {name} {value}, the layer's row says {row[name]}"
        return None

    def _places(self, tree: TreeFile, whole_table: bool) -> None:
        """Contents without a row, and packed files that lie elsewhere than their row says (two imports at once)."""
        with self.root.index.view() as txn:
            if whole_table:
                for identity in tree.identities():
                    if txn.get("contents", identity) is None:
                        self._rowless(identity)
            others = [file for file in tree.packed_files() if not self._is_at_row(txn, file)]
        for file in others:
            if (file.pack, file.block) not in self.found.places:
                self._packed(file.identity, file.pack, file.block, file.size, None)

    def _rowless(self, identity: bytes) -> None:
        if identity not in self.found.rowless:
            self.found.rowless.add(identity)
            self.found.error(
                "content", identity.hex(), "a layer needs it and the index does not have it", repairable=True
            )

    @staticmethod
    def _is_at_row(txn: Txn, file: Any) -> bool:
        row = txn.get("contents", file.identity)
        return row is not None and row[:16] == ContentValue(KIND_PACK, 0, file.block, file.pack, 0, 0).encode()[:16]

    def _split(self, key: bytes) -> str | None:
        path = self.root.split_path(key.hex())
        try:
            with path.open("rb") as file:
                if file.read(4) != _ZSTD_MAGIC:
                    return "the tar-split record is damaged"
        except OSError as error:
            return _reason(error)
        if self.replay is None or self.quick:
            return None
        found = self.found
        if layer_needs(
            self.root, key, found.objects | found.rowless | {identity for identity, _ in found.places.values()}
        ):
            found.unplayed.add(key)  # its failure would say nothing new
            return None
        return tar_problem(self.replay, key)


def layer_needs(root: StoreRoot, key: bytes, contents: set[bytes]) -> bool:
    """Whether a layer has any of these contents, as far as its tree can be read."""
    if not contents:
        return False
    try:
        return not contents.isdisjoint(TreeFile(root.tree_path("layer", key.hex())).identities())
    except Corrupt:
        return True


def tar_problem(replay: Replay, key: bytes) -> str | None:
    """Why a layer's tar cannot be made from its record."""
    try:
        replay(key, _Sink())
    except (LayerfsError, ValueError) as error:
        return f"the tar cannot be made again ({error})"
    except OSError as error:
        return _reason(error)
    return None


def _position(encoded: bytes) -> tuple[int, int, int]:
    value = ContentValue.decode(encoded)
    return value.kind, value.pack, value.block


class _Sink:
    def write(self, data: bytes) -> int:
        return len(data)


def _reason(error: OSError) -> str:
    if isinstance(error, LayerfsError):
        return error.message
    return "the file is missing" if isinstance(error, FileNotFoundError) else f"cannot be read ({error.strerror})"
