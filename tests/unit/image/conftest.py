from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from layerfs.digest import DiffID, Digest
from layerfs.image.images import Images
from layerfs.image.record import ImageRecord
from layerfs.oci import ContainerConfig, History, Platform, build_config
from layerfs.reference import Reference
from layerfs.store import StoreRoot


@pytest.fixture
def root(tmp_path: Path) -> Iterator[StoreRoot]:
    """A store in memory where that is possible: these tests are not about what survives a power cut."""
    memory = Path("/dev/shm")
    place = Path(tempfile.mkdtemp(dir=memory)) if os.access(memory, os.W_OK) else tmp_path
    try:
        with StoreRoot.open(place / "store") as opened:
            yield opened
    finally:
        shutil.rmtree(place, ignore_errors=True)


@pytest.fixture
def images(root: StoreRoot) -> Images:
    return Images(root)


def diff_id(number: int) -> DiffID:
    return DiffID(Digest.of(b"layer %d" % number))


@pytest.fixture
def add(root: StoreRoot, images: Images) -> Callable[..., ImageRecord]:
    """Adds an image of made-up layers (numbers; each of that many bytes), without any archive."""

    def make(layers: list[int], *names: str, created: int = 1, labels: Any = (), **more: Any) -> ImageRecord:
        with root.index.update() as txn:
            for number in layers:
                txn.put_json("layers", diff_id(number).raw, {"size": number})
        config = build_config(
            platform=Platform("linux", "amd64"),
            config=ContainerConfig(labels=tuple(labels)),
            diff_ids=tuple(map(diff_id, layers)),
            history=more.pop("history", tuple(History(created, f"layer {number}") for number in layers)),
            created_ns=created,
        )
        return images.add(config, references=[Reference.parse(name) for name in names], **more)

    return make
