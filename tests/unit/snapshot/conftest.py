"""A store with a small tree."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[2] / "conformance"))

from trees import Shelf, directory, file, hardlink

from layerfs.layer.tree import Tree
from layerfs.snapshot import MountTable
from layerfs.snapshot.mounting import unmount
from layerfs.store.root import StoreRoot


@pytest.fixture
def store(tmp_path: Path) -> Iterator[StoreRoot]:
    with StoreRoot.open(tmp_path / "store") as root:
        yield root
        for record in MountTable(root).records():
            unmount(root, record.id, lazy=True)


@pytest.fixture
def tree(store: StoreRoot) -> Tree:
    return Shelf(store.path).tree(
        [file("a", b"linked"), hardlink("b", "a"), directory("d"), file("d/f", b"f"), file("big", b"B" * 200_000)]
    )
