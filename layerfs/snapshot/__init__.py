"""Containers' writable layers as records, and mounting them."""

from layerfs.snapshot.containers import ContainerRecord, Containers
from layerfs.snapshot.mounting import MountHandle, Writable, mount_tree, unmount
from layerfs.snapshot.settle import settle
from layerfs.snapshot.table import MountRecord, MountTable

__all__ = [
    "ContainerRecord",
    "Containers",
    "MountHandle",
    "MountRecord",
    "MountTable",
    "Writable",
    "mount_tree",
    "settle",
    "unmount",
]
