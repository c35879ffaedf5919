"""The plain-Python twin of the C extension: the specification, the fallback and the test oracle (see `_native.pyi`).

Names load when first used: the tree reader alone is used beside the C extension too.
"""

from __future__ import annotations

from layerfs._lazy import TYPE_CHECKING, loader

if TYPE_CHECKING:
    from layerfs._pure.hashes import hash_fd, sha256, xxh64
    from layerfs._pure.ingest import LayerReader, LayerResult
    from layerfs._pure.merge import Fold, MergeResult, merge_trees
    from layerfs._pure.remap import remap_tree, verify_tree

__getattr__ = loader(
    __name__,
    {
        "Fold": "merge",
        "LayerReader": "ingest",
        "LayerResult": "ingest",
        "MergeResult": "merge",
        "hash_fd": "hashes",
        "merge_trees": "merge",
        "remap_tree": "remap",
        "sha256": "hashes",
        "verify_tree": "remap",
        "xxh64": "hashes",
    },
)

__all__ = [
    "Fold",
    "LayerReader",
    "LayerResult",
    "MergeResult",
    "hash_fd",
    "merge_trees",
    "remap_tree",
    "sha256",
    "verify_tree",
    "xxh64",
]
