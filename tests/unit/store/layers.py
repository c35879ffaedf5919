"""Puts small layers into a store the way `layerfs.layer` does, without it."""

from __future__ import annotations

import io
import tarfile
import time
from collections.abc import Mapping

import zstandard

from layerfs.native import LayerReader, merge_trees
from layerfs.store import Lease, Roots, StoreRoot, Txn
from layerfs.store.treefile import TreeFile


def tar_of(files: Mapping[str, bytes]) -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as tar:
        for name, data in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(data)
            tar.addfile(member, io.BytesIO(data))
    return out.getvalue()


def add_layer(root: StoreRoot, files: Mapping[str, bytes], lease: Lease | None = None) -> bytes:
    """Imports a layer; its diff ID."""
    if lease is None:
        with root.leases.acquire("import") as own:
            return add_layer(root, files, own)
    tree, split = lease.tmp / f"tree-{time.time_ns()}", lease.tmp / f"split-{time.time_ns()}"
    with root.contents.writer(lease) as writer:
        reader = LayerReader(
            pack_fd=writer.pack_fd, pack_id=writer.pack_id, objects_fd=writer.objects_fd, lookup=writer.lookup
        )
        reader.feed(tar_of(files))
        result = reader.finish(str(tree))
        split.write_bytes(zstandard.compress(reader.take_split()))
        lease.pin(result.diff_id)
        writer.stage(result.contents, result.pack_blocks)
        with root.lock("trees"):
            places = [root.tree_path("layer", result.diff_id.hex()), root.split_path(result.diff_id.hex())]
            root.place(tree, places[0])
            root.place(split, places[1])
            root.durable(places)
            with root.index.update() as txn:
                writer.publish(txn)
                row = {
                    "tar_size": result.tar_size,
                    "size": result.content_size,
                    "entries": result.entries,
                    "unresolved_links": result.unresolved_links,
                    "created": time.time_ns(),
                    "packs": [f"{pack:016x}" for pack in TreeFile(places[0]).packs],
                    "blob": None,
                }
                txn.put_json("layers", result.diff_id, row)
    return result.diff_id


def add_merged(root: StoreRoot, chain: bytes, *layers: bytes) -> bytes:
    """Publishes a merged tree under a made-up chain ID."""
    with root.lock("trees"), root.leases.acquire("merge") as lease:
        out = lease.tmp / "merged"
        merge_trees([str(root.tree_path("layer", layer.hex())) for layer in layers], str(out), chain)
        root.place(out, root.tree_path("merged", chain.hex()))
        with root.index.update() as txn:
            row = {"layers": [layer.hex() for layer in layers], "created": time.time_ns()}
            txn.put_json("trees", chain, row)
    return chain


class Wanted:
    """Roots that a test changes: `wanted.layers.discard(x)`; call it as `roots`."""

    def __init__(self, *layers: bytes) -> None:
        self.layers, self.chains, self.blobs = set(layers), set[bytes](), set[bytes]()
        self.mounted: set[bytes] = set()

    def __call__(self, txn: Txn) -> Roots:
        return Roots(
            layers=frozenset(self.layers),
            chains=frozenset(self.chains),
            blobs=frozenset(self.blobs),
            mounted=frozenset(self.mounted),
        )
