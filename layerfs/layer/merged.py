"""Merged trees: what a whole stack of layers shows, built once and kept by chain ID."""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from layerfs.digest import ChainID, DiffID, Digest, chain_id, chain_ids
from layerfs.errors import NotFound
from layerfs.layer.tree import Tree
from layerfs.native import merge_trees

if TYPE_CHECKING:
    from layerfs.store import StoreRoot

EMPTY = ChainID(Digest("0" * 64))  # the stack without layers has no chain ID; its tree is kept under this name


def layer_tree(root: StoreRoot, diff_id: DiffID) -> Tree:
    """The tree of one layer alone, with its whiteouts. Raises NotFound, Corrupt."""
    try:
        return Tree.open(root.tree_path("layer", diff_id.hex))
    except FileNotFoundError:
        raise NotFound(f"no layer {diff_id} in the store") from None


def merged_tree(root: StoreRoot, diff_ids: Sequence[DiffID]) -> Tree:
    """The tree of a stack, base first; built and published on first use, from the longest prefix that is there.

    Raises:
        NotFound: a layer is not in the store.
        InvalidArchive: a hard link names a file that no layer below has.
        NoSpace: the disk is full.
    """
    chain = chain_id(diff_ids) if diff_ids else EMPTY
    tree = _known(root, chain)
    if tree is None:
        with root.lock("trees"):
            tree = _known(root, chain) or _build(root, tuple(diff_ids), chain)
    return tree


def _known(root: StoreRoot, chain: ChainID) -> Tree | None:
    with root.index.view() as txn:
        if txn.get("trees", chain.raw) is None:
            return None
    try:
        return Tree.open(root.tree_path("merged", chain.hex))
    except FileNotFoundError:
        return None


def _build(root: StoreRoot, diff_ids: tuple[DiffID, ...], chain: ChainID) -> Tree:
    with root.leases.acquire("merge") as lease:
        lease.pin(b"".join(diff_id.raw for diff_id in diff_ids) + chain.raw)
        temporary = lease.tmp / f"merged-{os.urandom(8).hex()}"
        merge_trees([str(path) for path in _inputs(root, diff_ids)], str(temporary), chain.raw)
        place = root.tree_path("merged", chain.hex)
        root.place(temporary, place)
        root.durable([place])
        with root.index.update() as txn:
            row = {"layers": [diff_id.hex for diff_id in diff_ids], "created": time.time_ns()}
            txn.put_json("trees", chain.raw, row)
        return Tree.open(place)


def _inputs(root: StoreRoot, diff_ids: tuple[DiffID, ...]) -> list[Path]:
    """The longest prefix that is merged already, then the layers above it."""
    for count, chain in reversed(list(enumerate(chain_ids(diff_ids), 1))[:-1]):
        if _known(root, chain) is not None:
            return [root.tree_path("merged", chain.hex), *_layers(root, diff_ids[count:])]
    return _layers(root, diff_ids)


def _layers(root: StoreRoot, diff_ids: tuple[DiffID, ...]) -> list[Path]:
    paths = [root.tree_path("layer", diff_id.hex) for diff_id in diff_ids]
    for diff_id, path in zip(diff_ids, paths, strict=True):
        if not path.exists():
            raise NotFound(f"no layer {diff_id} in the store")
    return paths
