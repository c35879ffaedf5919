"""Reading a layer's tar once more, to get its tree and tar-split record back."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from layerfs.errors import Corrupt
from layerfs.native import LayerReader
from layerfs.store.format import ID_SIZE, UNKNOWN
from layerfs.store.treefile import TreeFile

if TYPE_CHECKING:
    from layerfs.store.leases import Lease
    from layerfs.store.root import StoreRoot
    from layerfs.store.writer import ContentWriter

# A zstd frame of raw blocks (RFC 8878): the codec's home is above, and a repaired record need not be small.
_ZSTD_HEADER = b"\x28\xb5\x2f\xfd" + b"\x00\x38"  # no sizes, no checksum; a window of 128 KiB
_ZSTD_BLOCK = 1 << 17


def layer_reader(writer: ContentWriter, missing: Callable[[bytes], bool]) -> LayerReader:
    """A layer reader that writes only contents that are `missing`, or that the index does not have."""

    def lookup(identities: bytes) -> bytes:
        known = writer.lookup(identities)
        steps = range(0, len(identities), ID_SIZE)
        parts = ((identities[at : at + ID_SIZE], known[at : at + ID_SIZE]) for at in steps)
        return b"".join(UNKNOWN if missing(identity) else value for identity, value in parts)

    return LayerReader(pack_fd=writer.pack_fd, pack_id=writer.pack_id, objects_fd=writer.objects_fd, lookup=lookup)


class Rebuild:
    """Takes a layer's tar by `write`; `finish` puts tree and record in place when the diff ID is right."""

    def __init__(self, root: StoreRoot, lease: Lease, key: bytes) -> None:
        self._root, self._lease, self._key = root, lease, key
        name = os.urandom(8).hex()
        self._tree, self._split = lease.tmp / f"tree-{name}", lease.tmp / f"split-{name}"
        self._stack = contextlib.ExitStack()

    def __enter__(self) -> Rebuild:
        self._writer = self._stack.enter_context(self._root.contents.writer(self._lease))
        self._reader = layer_reader(self._writer, lambda identity: False)
        self._stack.callback(self._reader.close)
        self._out = self._stack.enter_context(self._split.open("xb"))
        self._out.write(_ZSTD_HEADER)
        return self

    def __exit__(self, *exception: Any) -> None:
        self._stack.close()

    def write(self, data: bytes) -> int:
        self._reader.feed(data)
        self._write_record()
        return len(data)

    def _write_record(self) -> None:
        record = self._reader.take_split()
        for at in range(0, len(record), _ZSTD_BLOCK):
            self._block(record[at : at + _ZSTD_BLOCK], last=False)

    def _block(self, data: bytes, *, last: bool) -> None:
        self._out.write((len(data) << 3 | last).to_bytes(3, "little") + data)

    def finish(self, *, tree: bool, split: bool) -> None:
        """Publishes what is asked for. Raises Corrupt when the tar was another layer's."""
        result = self._reader.finish(str(self._tree))
        if result.diff_id != self._key:
            raise Corrupt(f"the source gives the layer {result.diff_id.hex()} instead")
        self._write_record()
        self._block(b"", last=True)
        self._out.close()
        self._writer.stage(result.contents, result.pack_blocks)
        placed: list[Path] = []
        for wanted, source, target in (
            (tree, self._tree, self._root.tree_path("layer", self._key.hex())),
            (split, self._split, self._root.split_path(self._key.hex())),
        ):
            if wanted:
                source.chmod(0o444)
                self._root.place(source, target)
                placed.append(target)
        self._root.durable(placed)
        self._publish(result)

    def _publish(self, result: Any) -> None:
        packs = TreeFile(self._root.tree_path("layer", self._key.hex())).packs
        with self._root.index.update() as txn:
            self._writer.publish(txn)
            row = txn.get_json("layers", self._key)
            if isinstance(row, dict):
                row |= {"packs": [f"{pack:016x}" for pack in packs], "entries": result.entries}
                row |= {"size": result.content_size, "tar_size": result.tar_size}
                txn.put_json("layers", self._key, row)
