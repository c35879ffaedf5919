"""Containers' writable layers as records, and mounting them. Names load when first used.

`settle` is in the module of that name.
"""

from __future__ import annotations

from layerfs._lazy import TYPE_CHECKING, loader

if TYPE_CHECKING:
    from layerfs.snapshot.containers import ContainerRecord, Containers
    from layerfs.snapshot.mounting import MountHandle, Writable, mount_tree, unmount
    from layerfs.snapshot.table import MountRecord, MountTable

__getattr__ = loader(
    __name__,
    {
        "ContainerRecord": "containers",
        "Containers": "containers",
        "MountHandle": "mounting",
        "MountRecord": "table",
        "MountTable": "table",
        "Writable": "mounting",
        "mount_tree": "mounting",
        "unmount": "mounting",
    },
)

__all__ = [
    "ContainerRecord",
    "Containers",
    "MountHandle",
    "MountRecord",
    "MountTable",
    "Writable",
    "mount_tree",
    "unmount",
]
