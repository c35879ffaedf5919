"""Pull from a registry on loopback: real images of over 30,000 files, gzip layers."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import layerfs
from benchmarks.conftest import fresh
from tests.registry.servers import Registry

GROUP = "Registries"


@pytest.fixture(scope="module")
def pushed(registry: Registry, real: Any) -> Callable[[str], str]:
    """The name of a real image in the registry, with gzip layers; pushed on first use."""
    done: dict[str, str] = {}

    def get(name: str) -> str:
        if name not in done:
            target = f"{registry.host}/{name}:1"
            source, tls = f"docker-archive:{real(name)}", "--dest-tls-verify=false"
            command = ["skopeo", "copy", "-q", "--insecure-policy", tls, source, f"docker://{target}"]
            subprocess.run(command, check=True)
            done[name] = target
        return done[name]

    return get


def _pull(place: Path, name: str) -> None:
    with layerfs.Store(place) as store:
        store.pull(name)


def _size(*paths: Path) -> int:
    done = subprocess.run(["du", "-csB1", *paths], capture_output=True, text=True, check=True)
    return int(done.stdout.splitlines()[-1].split()[0])


def test_pull_against_podman(pair: Any, pushed: Any, podman: Any, run: Any, tmp_path: Path) -> None:
    name, place = pushed("image"), tmp_path / "store"
    turn = iter(range(100))
    pair(
        "pull 36k files into an empty store",
        lambda: _pull(place, name),
        lambda: run(*podman("pull", "-q", "--tls-verify=false", name, root=f"pull{next(turn)}")),
        peer_name="podman pull",
        bar=0.35,
        rounds=3,
        prepare=fresh(place),
        prepare_peer=lambda: run("sync"),
    )


def test_pull_against_skopeo_and_tar(pair: Any, pushed: Any, run: Any, tmp_path: Path) -> None:
    name, place, copy, unpacked = pushed("image"), tmp_path / "store", tmp_path / "copy", tmp_path / "unpacked"

    def copy_and_unpack() -> None:
        run("skopeo", "copy", "-q", "--insecure-policy", "--src-tls-verify=false", f"docker://{name}", f"dir:{copy}")
        for number, layer in enumerate(json.loads((copy / "manifest.json").read_text())["layers"]):
            (unpacked / str(number)).mkdir(parents=True)
            run("tar", "xzf", copy / layer["digest"].removeprefix("sha256:"), "-C", unpacked / str(number))

    pair(
        "pull 36k files into an empty store",
        lambda: _pull(place, name),
        copy_and_unpack,
        peer_name="skopeo copy, tar xzf",
        bar=0.35,
        rounds=3,
        prepare=fresh(place),
        prepare_peer=fresh(copy, unpacked),
    )


def test_pull_of_a_variant(pair: Any, pushed: Any, podman: Any, run: Any, tmp_path: Path) -> None:
    """The store has the image; the variant's upper layer shares nine of ten files with it."""
    image, variant, store = pushed("image"), pushed("variant"), tmp_path / "store"
    turn = iter(range(100))

    def have_image() -> None:
        fresh(store)()
        _pull(store, image)
        run("sync")

    def peer_has_image() -> None:
        run(*podman("pull", "-q", "--tls-verify=false", image, root=f"v{next(turn)}"))
        run("sync")

    last = iter(range(100))
    pair(
        "pull a variant that shares 90 % of its files",
        lambda: _pull(store, variant),
        lambda: run(*podman("pull", "-q", "--tls-verify=false", variant, root=f"v{next(last)}")),
        peer_name="podman pull",
        bar=0.2,
        rounds=3,
        prepare=have_image,
        prepare_peer=peer_has_image,
    )
    have_image()
    contents = [store / name for name in ("objects", "packs")]
    written, size = _size(store), _size(*contents)
    _pull(store, variant)
    written, size = _size(store) - written, _size(*contents) - size
    pair.figure("what the store grows by in that pull", written / size, "×", bar=1, base="contents of the new files")


def test_pull_again(pair: Any, pushed: Any, podman: Any, run: Any, tmp_path: Path) -> None:
    name, place = pushed("image"), tmp_path / "store"
    _pull(place, name)
    run(*podman("pull", "-q", "--tls-verify=false", name, root="again"))
    pair(
        "pull what is there",
        lambda: _pull(place, name),
        lambda: run(*podman("pull", "-q", "--tls-verify=false", name, root="again")),
        peer_name="podman pull",
        bar=0.5,
    )
