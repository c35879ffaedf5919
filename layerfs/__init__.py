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

from typing import TYPE_CHECKING, Any

from layerfs._version import __version__

if TYPE_CHECKING:
    from layerfs.engine import Container, Image, Layer, Store, diff
    from layerfs.errors import LayerfsError

_HOMES = {
    "Container": "engine",
    "Image": "engine",
    "Layer": "engine",
    "Store": "engine",
    "diff": "engine",
    "LayerfsError": "errors",
}


def __getattr__(name: str) -> Any:
    """Load a public name from its module (PEP 562)."""
    import importlib

    if name in _HOMES:
        value = getattr(importlib.import_module(f"layerfs.{_HOMES[name]}"), name)
        globals()[name] = value
        return value
    if name == "errors":
        return importlib.import_module("layerfs.errors")
    raise AttributeError(f"module 'layerfs' has no attribute {name!r}")


def __dir__() -> list[str]:
    return __all__


__all__ = ["Container", "Image", "Layer", "LayerfsError", "Store", "__version__", "diff", "errors"]
