"""The store directory: index, contents, blobs, leases, garbage collection, checking."""

from layerfs.store.blobs import Blobs, BlobWriter
from layerfs.store.contents import ContentReader, Contents
from layerfs.store.format import ContentValue, NewContent
from layerfs.store.fsck import Problem, check
from layerfs.store.gc import GcProgress, GcResult, Roots, collect
from layerfs.store.index import Index, Txn
from layerfs.store.leases import Lease, Leases
from layerfs.store.root import StoreRoot
from layerfs.store.writer import ContentWriter

__all__ = [
    "BlobWriter",
    "Blobs",
    "ContentReader",
    "ContentValue",
    "ContentWriter",
    "Contents",
    "GcProgress",
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
