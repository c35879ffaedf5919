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
from benchmarks.inputs import unpack_new_files
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


def _sent_to_disk() -> int:
    """Bytes that this process has written to a disk, or has left to be written there."""
    rows = dict(line.split(": ") for line in Path("/proc/self/io").read_text().splitlines())
    return int(rows["write_bytes"]) - int(rows["cancelled_write_bytes"])


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


def test_pull_of_a_variant(pair: Any, pushed: Any, podman: Any, run: Any, real: Any, tmp_path: Path) -> None:
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
    peer_has_image()
    peer = Path(podman(root=f"v{next(last)}")[2])
    contents = [store / name for name in ("objects", "packs")]
    before, sent = [_size(store), _size(*contents), _size(peer)], _sent_to_disk()
    _pull(store, variant)
    sent = _sent_to_disk() - sent  # before podman runs: what children have written counts, too
    run(*podman("pull", "-q", "--tls-verify=false", variant, root=peer.name))
    after = [_size(store), _size(*contents), _size(peer)]
    grown, kept, peers = (new - old for new, old in zip(after, before, strict=True))
    unpack_new_files(real("variant"), real("image"), tmp_path / "unpacked")
    what = "what the store grows by in that pull"
    pair.figure(what, grown / kept, "×", bar=1, base="contents of the new files")
    pair.figure(what, grown / _size(tmp_path / "unpacked"), "×", bar=None, base="the new files, unpacked by tar")
    pair.figure(what, grown / peers, "×", bar=None, base="what podman's store grows by")
    pair.figure("bytes written to the disk in that pull", sent / kept, "×", bar=1, base="contents of the new files")


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
