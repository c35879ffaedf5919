"""Mounting: depth is free."""

from __future__ import annotations

import io
import os
import statistics
import tarfile
import time
from pathlib import Path
from typing import Any

import pytest

import layerfs

GROUP = "Mounting"
FILES = 500


def _deep_image(store: layerfs.Store, depth: int, tmp_path: Path) -> layerfs.Image:
    """An image of the same files whatever its depth, spread over `depth` layers that share one directory."""
    from tools.real_input import docker_archive  # type: ignore[import-not-found]

    layers = []
    for number in range(depth):
        path = tmp_path / f"layer{number}.tar"
        with tarfile.open(path, "w") as archive:
            for file in range(number, FILES, depth):
                info = tarfile.TarInfo(f"directory/with/a/long/path/file{file}")
                info.size = 4
                archive.addfile(info, io.BytesIO(b"text"))
        layers.append(path)
    name = f"deep-{depth}-{os.getpid()}"
    archive_path = docker_archive(name, f"deep:{depth}", layers)
    try:
        return store.load(archive_path)[0].image
    finally:
        archive_path.unlink()


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Any:
    base = tmp_path_factory.mktemp("mount")
    with layerfs.Store(base / "store") as store:
        yield {depth: _deep_image(store, depth, base) for depth in (1, 500)}


@pytest.mark.parametrize("depth", [1, 500])
@pytest.mark.parametrize(("engine", "bar"), [("kernel", 20), ("native", 10)])
def test_mount_to_the_first_answer(pair: Any, images: Any, engine: str, bar: float, depth: int) -> None:
    times = []
    for _ in range(20):
        began = time.perf_counter()
        handle = images[depth].mount(engine=engine)
        list(handle.path.iterdir())
        times.append((time.perf_counter() - began) * 1000)
        handle.unmount()
    what = f"mount of a {depth}-layer image to its first answer, engine {engine}, median"
    pair.figure(what, statistics.median(times), "ms", bar=bar)


def test_a_missing_name_costs_the_same(pair: Any, images: Any) -> None:
    def missing(root: Path) -> None:
        for number in range(5000):
            os.path.lexists(f"{root}/directory/with/a/long/path/missing{number}")

    with images[1].mount(engine="kernel") as one, images[500].mount(engine="kernel") as many:
        pair(
            "5,000 missing names, 500 layers",
            lambda: missing(many),
            lambda: missing(one),
            peer_name="1 layer",
            bar=None,
            rounds=7,
        )
