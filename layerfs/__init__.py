"""Layered file systems and container images as a library.

    import layerfs

    store = layerfs.Store("/path")
    image = store.import_archive("rootfs.tar", tag="base:1")
    box = store.create(image, name="box")
    with box.mount() as root:
        (root / "etc/motd").write_text("hello\\n")
    print(box.commit("base:2", message="a greeting").history())

Names are loaded when they are first used, so importing the package costs next to nothing.
"""

from __future__ import annotations

import importlib

from layerfs._lazy import TYPE_CHECKING, loader
from layerfs._version import __version__

if TYPE_CHECKING:
    from typing import Any

    from layerfs.engine import Container, Image, Layer, Snapshot, Store, diff
    from layerfs.errors import LayerfsError

_load = loader(
    __name__,
    {
        "Container": "engine",
        "Image": "engine",
        "Layer": "engine",
        "LayerfsError": "errors",
        "Snapshot": "engine",
        "Store": "engine",
        "diff": "engine",
    },
)


def __getattr__(name: str) -> Any:
    return importlib.import_module("layerfs.errors") if name == "errors" else _load(name)


def __dir__() -> list[str]:
    return __all__


__all__ = ["Container", "Image", "Layer", "LayerfsError", "Snapshot", "Store", "__version__", "diff", "errors"]
