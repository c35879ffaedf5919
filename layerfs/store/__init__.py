"""The store directory: index, contents, blobs, leases, garbage collection, checking. Names load when first used."""

from __future__ import annotations

from layerfs._lazy import TYPE_CHECKING

if TYPE_CHECKING:
    from typing import Any

    from layerfs.store.blobs import Blobs, BlobWriter
    from layerfs.store.contents import ContentReader, Contents
    from layerfs.store.format import ContentValue, NewContent
    from layerfs.store.fsck import check
    from layerfs.store.gc import GcResult, collect
    from layerfs.store.index import Index, Txn
    from layerfs.store.leases import Lease, Leases
    from layerfs.store.mark import Roots
    from layerfs.store.problems import Problem
    from layerfs.store.root import StoreRoot
    from layerfs.store.writer import ContentWriter

_HOMES = {
    "BlobWriter": "blobs",
    "Blobs": "blobs",
    "ContentReader": "contents",
    "ContentValue": "format",
    "ContentWriter": "writer",
    "Contents": "contents",
    "GcResult": "gc",
    "Index": "index",
    "Lease": "leases",
    "Leases": "leases",
    "NewContent": "format",
    "Problem": "problems",
    "Roots": "mark",
    "StoreRoot": "root",
    "Txn": "index",
    "check": "fsck",
    "collect": "gc",
}

__all__ = [
    "BlobWriter",
    "Blobs",
    "ContentReader",
    "ContentValue",
    "ContentWriter",
    "Contents",
    "GcResult",
    "Index",
    "Lease",
    "Leases",
    "NewContent",
    "Problem",
    "Roots",
    "StoreRoot",
    "Txn",
    "check",
    "collect",
]


def __getattr__(name: str) -> Any:
    import importlib

    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(importlib.import_module(f"{__name__}.{_HOMES[name]}"), name)
    globals()[name] = value
    return value
