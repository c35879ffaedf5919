"""Layers with a content that is kept as a delta: a registry gets and gives all bytes."""

from __future__ import annotations

import os
import random
from pathlib import Path

import pytest

import layerfs
from layerfs.engine.pulling import pull
from layerfs.registry.config import Settings
from layerfs.store.delta import Delta
from tests.registry.servers import Registry

pytestmark = pytest.mark.root

DATA = random.Random(9).randbytes((3 << 20) + 77)


def kept_as_deltas(store: layerfs.Store) -> int:
    found = 0
    for path in (store.root.path / "objects").rglob("*.delta"):
        Delta.of(store.root.path / "objects", os.open(path, os.O_RDONLY)).close()
        found += 1
    return found


@pytest.mark.parametrize("compression", ["gzip", "zstd", "none"])
def test_a_delta_is_pushed_with_all_its_bytes(
    plain: Registry, repository: str, store: layerfs.Store, settings: Settings, tmp_path: Path, compression: str
) -> None:
    source = tmp_path / "source"
    source.mkdir()
    (source / "big").write_bytes(DATA)
    box = store.create(store.import_archive(source, tag="base:1"))
    with box.mount(engine="native") as root, (root / "big").open("r+b") as out:
        out.seek(2 << 20)
        out.write(b"changed")
    name = f"{plain.host}/{repository}:1"
    image = box.commit(name)
    assert kept_as_deltas(store) == 1
    store.push(name, settings=settings, compression=compression)
    assert kept_as_deltas(store) == 1
    with layerfs.Store(tmp_path / "other") as other:
        pulled = pull(other, name, settings=settings).image
        assert (pulled.id, kept_as_deltas(other)) == (image.id, 0)
        with other.image(name).mount(engine="native") as root:
            assert (root / "big").read_bytes() == DATA[: 2 << 20] + b"changed" + DATA[(2 << 20) + 7 :]
        assert other.fsck() == []
