"""What users hold: a store, its images, its containers. Opens a root directory and wires the parts; holds no logic.

Parts that only some calls need are imported in those calls, so that a short command starts quickly.
"""

from __future__ import annotations

from layerfs._lazy import TYPE_CHECKING, loader

if TYPE_CHECKING:
    from layerfs.engine.container import Container
    from layerfs.engine.image import Image, Layer
    from layerfs.engine.records import Change, Changes, LoadedImage
    from layerfs.engine.snapshots import Snapshot
    from layerfs.engine.state import State
    from layerfs.engine.store import Store, diff
    from layerfs.engine.upkeep import GcResult, Sizes

__getattr__ = loader(
    __name__,
    {
        "Change": "records",
        "Changes": "records",
        "Container": "container",
        "GcResult": "upkeep",
        "Image": "image",
        "Layer": "image",
        "LoadedImage": "records",
        "Sizes": "upkeep",
        "Snapshot": "snapshots",
        "State": "state",
        "Store": "store",
        "diff": "store",
    },
)

__all__ = [
    "Change",
    "Changes",
    "Container",
    "GcResult",
    "Image",
    "Layer",
    "LoadedImage",
    "Sizes",
    "Snapshot",
    "State",
    "Store",
    "diff",
]
