"""The plain-Python twin of the C extension: the specification, the fallback and the test oracle (see `_native.pyi`)."""

from layerfs._pure.hashes import hash_fd, sha256, xxh64
from layerfs._pure.ingest import LayerReader, LayerResult
from layerfs._pure.merge import MergeResult, merge_trees
from layerfs._pure.remap import remap_tree, verify_tree

__all__ = [
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
