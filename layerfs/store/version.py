"""The version of a store's format on the disk: written with the store, raised before something is there that earlier
ones of layerfs would read wrongly. They refuse the store from then on.
"""

from __future__ import annotations

import os
from pathlib import Path

from layerfs.store.durable import make_durable, writing
from layerfs.store.format import read_format
from layerfs.store.locks import hold


def write_format(path: Path, version: int) -> None:
    """Durably, and whole at any moment."""
    temporary = path / f".format.{os.urandom(8).hex()}"
    try:
        temporary.write_text(f"layerfs store {version}\n", "ascii")
        make_durable([temporary], path)
        temporary.rename(path / "format")
    finally:
        temporary.unlink(missing_ok=True)
    make_durable([path / "format"], path)


def raise_format(path: Path, version: int) -> None:
    """The store at `path` is of this version at least. Raises StoreVersionError, NoSpace."""
    if (read_format(path) or 0) >= version:
        return
    with hold(path / "locks" / "format"), writing("the store's format"):
        if (read_format(path) or 0) < version:
            write_format(path, version)
