"""Import, load and disk use of real images of over 30,000 files."""

from __future__ import annotations

import subprocess
from pathlib import Path
from typing import Any

import layerfs
from benchmarks.conftest import fresh

GROUP = "Import and load"


def _size(path: Path) -> int:
    return int(subprocess.run(["du", "-s", "-B1", path], capture_output=True, text=True, check=True).stdout.split()[0])


def _load(place: Path, archive: Path) -> None:
    with layerfs.Store(place) as store:
        store.load(archive)


def test_load_against_podman_load(pair: Any, real: Any, podman: Any, run: Any, tmp_path: Path) -> None:
    archive, place = real("image"), tmp_path / "store"
    turn = iter(range(100))
    pair(
        "load 36k files into an empty store",
        lambda: _load(place, archive),
        lambda: run(*podman("load", "-q", "-i", str(archive), root=f"load{next(turn)}")),
        peer_name="podman load",
        bar=0.7,
        rounds=3,
        prepare=fresh(place),
        prepare_peer=lambda: run("sync"),
    )


def test_load_against_tar(pair: Any, real: Any, run: Any, tmp_path: Path) -> None:
    archive, place, unpacked = real("image"), tmp_path / "store", tmp_path / "unpacked"
    layers = [archive.parent / "debian.tar", archive.parent / "upper-0.tar"]

    def untar() -> None:
        for number, layer in enumerate(layers):
            (unpacked / str(number)).mkdir(parents=True)
            run("tar", "xf", layer, "-C", unpacked / str(number))

    pair(
        "load 36k files into an empty store",
        lambda: _load(place, archive),
        untar,
        peer_name="tar xf of the layers",
        bar=0.5,
        rounds=3,
        prepare=fresh(place),
        prepare_peer=fresh(unpacked),
    )


def test_load_again(pair: Any, real: Any, podman: Any, run: Any, tmp_path: Path) -> None:
    archive, place = real("image"), tmp_path / "store"
    _load(place, archive)
    turn = iter(range(100))
    pair(
        "load the same archive again",
        lambda: _load(place, archive),
        lambda: run(*podman("load", "-q", "-i", str(archive), root=f"again{next(turn)}")),
        peer_name="podman load, first time",
        bar=0.1,
        rounds=3,
    )


def test_disk_of_two_similar_images(pair: Any, real: Any, tmp_path: Path) -> None:
    place = tmp_path / "store"
    _load(place, real("image"))
    one = _size(place)
    _load(place, real("variant"))
    pair.figure(
        "disk: two images that share 90 % of the upper layer", _size(place) / one, "×", bar=1.15, base="one image"
    )
