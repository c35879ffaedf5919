"""The merged view of a tree, frozen upper directories and one writable upper directory, in plain Python."""

from layerfs.union.content import Contents
from layerfs.union.union import Union

__all__ = ["Contents", "Union"]
