"""A layer: read into the store, written back, merged, made from a change set."""

from layerfs.layer.codec import Compressor, Decompressed, Limits, compressor, detect
from layerfs.layer.entry import BytesContent, Content, Entry
from layerfs.layer.layers import Layer, Source, get_layer, get_sources, has_layer
from layerfs.layer.merged import layer_tree, merged_tree
from layerfs.layer.progress import Progress, Report
from layerfs.layer.read import read_layer
from layerfs.layer.split import open_layer, write_layer
from layerfs.layer.tree import Tree
from layerfs.layer.write import TarWriter

__all__ = [
    "BytesContent",
    "Compressor",
    "Content",
    "Decompressed",
    "Entry",
    "Layer",
    "Limits",
    "Progress",
    "Report",
    "Source",
    "TarWriter",
    "Tree",
    "compressor",
    "detect",
    "get_layer",
    "get_sources",
    "has_layer",
    "layer_tree",
    "merged_tree",
    "open_layer",
    "read_layer",
    "write_layer",
]
