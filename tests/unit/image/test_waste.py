"""What an image stores for nothing, and the equal image without that."""

from __future__ import annotations

import io
import os
import tarfile
from pathlib import Path
from typing import Any

import pytest

import layerfs
from layerfs.layer.fold import same_tree
from tests.crash.world import docker_archive

BIG = os.urandom(200_000)


def layer(*entries: tuple[str, Any, int]) -> bytes:
    """(name, data or the target of a hard link or None for a directory, mode)."""
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as archive:
        for name, data, mode in entries:
            info = tarfile.TarInfo(name)
            info.mode = mode
            if data is None:
                info.type = tarfile.DIRTYPE
            elif isinstance(data, str):
                info.type, info.linkname = tarfile.LNKTYPE, data
            else:
                info.size = len(data)
            archive.addfile(info, io.BytesIO(data) if isinstance(data, bytes) else None)
    return out.getvalue()


LAYERS = [
    layer(("d", None, 0o755), ("d/big", BIG, 0o644), ("d/old", b"old" * 100, 0o644), ("gone", b"x" * 50, 0o644)),
    layer(("d", None, 0o700), ("d/big", BIG, 0o755), (".wh.gone", b"", 0o600), ("link", "d/old", 0o644)),
    layer(("d/old", b"new", 0o644), ("copy", BIG, 0o600), ("e/.wh..wh..opq", b"", 0o644), ("e/f", b"f", 0o644)),
    layer((".wh.e", b"", 0o644), ("d/.wh.none", b"", 0o644)),
]


@pytest.fixture
def image(tmp_path: Path) -> Any:
    with layerfs.Store(tmp_path / "store") as store:
        yield store.load(docker_archive(tmp_path / "i.tar", {"i:1": LAYERS}))[0].image


def test_waste_names_each_file_and_why(image: layerfs.Image) -> None:
    found = image.waste()
    assert [(file.path, file.layer, file.size, file.reason) for file in found.files] == [
        (b"/d/big", 0, 200_000, "copied"),
        (b"/gone", 0, 50, "removed"),
        (b"/e/f", 2, 1, "removed"),
    ]
    [same] = found.duplicates
    assert same.paths == (b"/copy", b"/d/big") and same.extra == 200_000
    assert found.wasted == 200_051 and 0.5 < found.efficiency < 0.7


def test_the_optimized_image_is_equal_and_has_no_waste(image: layerfs.Image) -> None:
    smaller = image.optimize("smaller:1")
    assert same_tree(smaller.tree().path, image.tree().path)
    assert smaller.waste().files == () and smaller.size < image.size
    assert smaller.tags == ("smaller:1",) and image.store.fsck() == []
    assert [entry.empty_layer for entry in smaller.config.history].count(False) == len(smaller.layers)
    assert smaller.config.config == image.config.config
    assert smaller.optimize() == smaller


def test_an_image_without_waste_stays(tmp_path: Path) -> None:
    with layerfs.Store(tmp_path / "store") as store:
        (tmp_path / "plain").mkdir()
        (tmp_path / "plain/a").write_bytes(b"a")
        image = store.import_archive(tmp_path / "plain", tag="plain:1")
        assert image.optimize() == image and image.waste().files == ()
