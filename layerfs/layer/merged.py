"""Merged trees: what a whole stack of layers shows, built once and kept by chain ID."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Sequence
from pathlib import Path

from layerfs._lazy import TYPE_CHECKING
from layerfs.digest import ChainID, DiffID, Digest, chain_id, chain_ids
from layerfs.errors import NotFound
from layerfs.layer.tree import Tree
from layerfs.native import Fold, merge_trees

if TYPE_CHECKING:
    from layerfs.store import StoreRoot
    from layerfs.store.leases import Lease

EMPTY = ChainID(Digest("0" * 64))  # the stack without layers has no chain ID; its tree is kept under this name

_KEPT, _KEPT_ENTRIES = 4, 300_000  # stacks that GrowingTrees keeps, and names in one: 100 MB


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
    chain = _chain(diff_ids)
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


class GrowingTrees:
    """Merged trees of stacks that grow by a layer at a time, as a build's do. What was read for one stack is kept for
    the next one, which costs writing it alone; and the store does not keep these trees: they go with the lease, so
    that nothing need be made durable. Safe from threads.
    """

    def __init__(self, root: StoreRoot, lease: Lease) -> None:
        self._root, self._lease = root, lease  # while a lease lives gc moves no contents
        self._made: dict[tuple[DiffID, ...], Tree] = {}
        self._folds: dict[tuple[DiffID, ...], Fold] = {}
        self._lock = threading.Lock()

    def tree(self, diff_ids: Sequence[DiffID]) -> Tree:
        """As `merged_tree`."""
        wanted = tuple(diff_ids)
        with self._lock:
            tree = self._made.get(wanted) or _known(self._root, _chain(wanted))
            if tree is None:
                with self._root.lock("trees", exclusive=False):
                    tree = self._made[wanted] = self._make(wanted)
            return tree

    def _make(self, diff_ids: tuple[DiffID, ...]) -> Tree:
        chain = _chain(diff_ids)
        out = self._lease.tmp / f"merged-{chain.hex}"
        fold, paths = self._begun(diff_ids)
        for path in paths:
            fold.add(str(path))
        if fold.write(str(out), chain.raw).entries <= _KEPT_ENTRIES:
            while len(self._folds) >= _KEPT:
                del self._folds[next(iter(self._folds))]
            self._folds[diff_ids] = fold
        return Tree.open(out)

    def _begun(self, diff_ids: tuple[DiffID, ...]) -> tuple[Fold, list[Path]]:
        """What has been read of these layers, and what is to be read still."""
        for count in range(len(diff_ids) - 1, 0, -1):
            below = diff_ids[:count]
            if fold := self._folds.pop(below, None):
                return fold, _layers(self._root, diff_ids[count:])
            if made := self._made.get(below):
                return Fold(), [Path(made.path), *_layers(self._root, diff_ids[count:])]
        return Fold(), _inputs(self._root, diff_ids)


def merged_place(root: StoreRoot, diff_ids: Sequence[DiffID]) -> Path:
    """Where the tree of a stack lies, once it is made."""
    return root.tree_path("merged", _chain(diff_ids).hex)


def _chain(diff_ids: Sequence[DiffID]) -> ChainID:
    return chain_id(diff_ids) if diff_ids else EMPTY


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
