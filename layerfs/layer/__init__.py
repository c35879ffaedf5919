"""A layer: read into the store, written back, merged, made from a change set.

Names are loaded from their modules when they are first used. What an upper changes is `layerfs.layer.changes.changes`.
"""

from __future__ import annotations

from layerfs._lazy import TYPE_CHECKING, loader

if TYPE_CHECKING:
    from layerfs.layer.changes import Change
    from layerfs.layer.codec import Compressor, Decompressed, Limits, compressor, detect
    from layerfs.layer.commit import StoredContent, commit_layer, import_directory, store_entries, upper_entries
    from layerfs.layer.directory import directory_entries
    from layerfs.layer.entry import BytesContent, Content, Entry, FileContent, whiteout
    from layerfs.layer.layers import Layer, Source, get_layer, get_sources, has_layer
    from layerfs.layer.merged import layer_tree, merged_tree
    from layerfs.layer.progress import Progress, Report
    from layerfs.layer.read import read_layer
    from layerfs.layer.split import open_layer, write_layer
    from layerfs.layer.tree import Tree
    from layerfs.layer.write import TarWriter

_HOMES = {
    "BytesContent": "entry",
    "Change": "changes",
    "Compressor": "codec",
    "Content": "entry",
    "Decompressed": "codec",
    "Entry": "entry",
    "FileContent": "entry",
    "Layer": "layers",
    "Limits": "codec",
    "Progress": "progress",
    "Report": "progress",
    "Source": "layers",
    "StoredContent": "commit",
    "TarWriter": "write",
    "Tree": "tree",
    "commit_layer": "commit",
    "compressor": "codec",
    "detect": "codec",
    "directory_entries": "directory",
    "get_layer": "layers",
    "get_sources": "layers",
    "has_layer": "layers",
    "import_directory": "commit",
    "layer_tree": "merged",
    "merged_tree": "merged",
    "open_layer": "split",
    "read_layer": "read",
    "store_entries": "commit",
    "upper_entries": "commit",
    "whiteout": "entry",
    "write_layer": "split",
}

__getattr__ = loader(__name__, _HOMES)


def __dir__() -> list[str]:
    return __all__


__all__ = [
    "BytesContent",
    "Change",
    "Compressor",
    "Content",
    "Decompressed",
    "Entry",
    "FileContent",
    "Layer",
    "Limits",
    "Progress",
    "Report",
    "Source",
    "StoredContent",
    "TarWriter",
    "Tree",
    "commit_layer",
    "compressor",
    "detect",
    "directory_entries",
    "get_layer",
    "get_sources",
    "has_layer",
    "import_directory",
    "layer_tree",
    "merged_tree",
    "open_layer",
    "read_layer",
    "store_entries",
    "upper_entries",
    "whiteout",
    "write_layer",
]
