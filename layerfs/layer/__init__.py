"""A layer: read into the store, written back, merged, made from a change set."""

from layerfs.layer.changes import Change, changes
from layerfs.layer.codec import Compressor, Decompressed, Limits, compressor, detect
from layerfs.layer.commit import StoredContent, commit_layer, import_directory, store_entries, upper_entries
from layerfs.layer.directory import directory_entries
from layerfs.layer.entry import BytesContent, Content, Entry, FileContent, whiteout
from layerfs.layer.layers import Layer, Source, get_layer, get_sources, has_layer
from layerfs.layer.merged import chain_ids, layer_tree, merged_tree
from layerfs.layer.progress import Progress, Report
from layerfs.layer.read import read_layer
from layerfs.layer.split import open_layer, write_layer
from layerfs.layer.tree import Tree
from layerfs.layer.write import TarWriter

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
    "chain_ids",
    "changes",
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
