"""The one place that imports the C extension.

`NATIVE` says which implementation is loaded. Without the compiled part the plain-Python twin in
`layerfs._pure` serves (slow, and said once on the `layerfs` logger); LAYERFS_PURE=1 in the environment asks for it, for
tests.
"""

from __future__ import annotations

import os

from layerfs._lazy import TYPE_CHECKING

NATIVE: bool

if TYPE_CHECKING:
    from collections.abc import Iterable

    from layerfs._native import (
        Fold,
        LayerReader,
        LayerResult,
        MergeResult,
        hash_fd,
        merge_trees,
        remap_tree,
        sha256,
        verify_tree,
        xxh64,
    )
else:
    try:
        if os.environ.get("LAYERFS_PURE"):
            raise ImportError("LAYERFS_PURE is set")
        from layerfs import _native as _core

        NATIVE = True
    except ImportError as error:
        import logging

        logging.getLogger("layerfs").warning("the compiled part is not loaded (%s): plain Python serves", error)
        from layerfs import _pure as _core

        NATIVE = False
    LayerReader, LayerResult, MergeResult = _core.LayerReader, _core.LayerResult, _core.MergeResult
    hash_fd, sha256, xxh64 = _core.hash_fd, _core.sha256, _core.xxh64
    Fold = _core.Fold
    merge_trees, remap_tree, verify_tree = _core.merge_trees, _core.remap_tree, _core.verify_tree


def hash_pieces(size: int, pieces: Iterable[tuple[int, bytes]], *, sparse: bool) -> tuple[bytes, int]:
    """(identity, xxh64) of a content that is in no file: (offset, bytes) in order, zeros between them."""
    from layerfs._pure.hashes import PieceHasher

    hasher = PieceHasher(size, sparse=sparse)
    for offset, data in pieces:
        hasher.write(offset, data)
    return hasher.result()


__all__ = [
    "NATIVE",
    "Fold",
    "LayerReader",
    "LayerResult",
    "MergeResult",
    "hash_fd",
    "hash_pieces",
    "merge_trees",
    "remap_tree",
    "sha256",
    "verify_tree",
    "xxh64",
]
