"""What users hold: a store, its images, its containers. Opens a root directory and wires the parts; holds no logic."""

from layerfs.engine.container import Container
from layerfs.engine.image import Image, Layer
from layerfs.engine.records import Change, LoadedImage
from layerfs.engine.store import Store, diff
from layerfs.store.gc import GcResult

__all__ = ["Change", "Container", "GcResult", "Image", "Layer", "LoadedImage", "Store", "diff"]
