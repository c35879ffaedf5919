"""skopeo and umoci read what we save, and we load what they write: digests equal on both ways."""

from __future__ import annotations

import io
import json
import os
import shutil
import subprocess
import tempfile
from pathlib import Path
from typing import Any

import pytest

from layerfs.image.images import Images
from layerfs.image.load import load_archive
from layerfs.image.save import save
from layerfs.layer.merged import merged_tree
from layerfs.oci import Manifest
from layerfs.store import StoreRoot
from tests.unit.image.make import Layout, docker_archive, tar

LAYERS = [tar({"etc/": None, "etc/a": b"1" * 5000, "l": "etc/a"}), tar({"etc/.wh.a": b"", "b": b"2"})]

needs_skopeo = pytest.mark.skipif(shutil.which("skopeo") is None, reason="skopeo is not installed")
needs_umoci = pytest.mark.skipif(shutil.which("umoci") is None, reason="umoci is not installed")


@pytest.fixture
def root(root: StoreRoot) -> StoreRoot:
    """With app:1."""
    load_archive(root, io.BytesIO(docker_archive([(LAYERS, ["app:1"])])))
    return root


def run(*command: object) -> str:
    done = subprocess.run(list(map(str, command)), capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, f"{command}: {done.stderr}"
    return done.stdout


def skopeo(*arguments: object) -> str:
    return run("skopeo", "--insecure-policy", "--tmpdir", tempfile.gettempdir(), *arguments)


def raw(place: str) -> Manifest:
    return Manifest.parse(skopeo("inspect", "--raw", place).encode())


def layout_index(path: Path) -> list[dict[str, Any]]:
    return list(json.loads((path / "index.json").read_text())["manifests"])


@needs_skopeo
@pytest.mark.parametrize("compression", [None, "gzip"])
def test_skopeo_reads_our_docker_archive_with_the_same_ids(root, tmp_path: Path, compression) -> None:
    save(root, ["app:1"], tmp_path / "x.tar", compression=compression)
    image = Images(root).resolve("app:1")
    seen = json.loads(skopeo("inspect", "--config", "--raw", f"docker-archive:{tmp_path}/x.tar:app:1"))
    assert seen["rootfs"]["diff_ids"] == [str(diff_id) for diff_id in image.diff_ids]
    assert raw(f"docker-archive:{tmp_path}/x.tar:app:1").config.digest == image.id


@needs_skopeo
@pytest.mark.parametrize("compression", ["none", "gzip", "zstd"])
def test_skopeo_copies_our_layout_without_changing_a_digest(root, tmp_path: Path, compression) -> None:
    save(root, ["app:1"], tmp_path / "in", format="oci-dir", compression=compression)
    skopeo("copy", "--preserve-digests", f"oci:{tmp_path}/in:1", f"oci:{tmp_path}/out:1")
    assert layout_index(tmp_path / "in")[0]["digest"] == layout_index(tmp_path / "out")[0]["digest"]
    image = load_archive(root, tmp_path / "out")[0].image
    assert image.id == Images(root).resolve("app:1").id


@needs_skopeo
def test_our_layout_as_a_tar_is_an_oci_archive(root, tmp_path: Path) -> None:
    save(root, ["app:1"], tmp_path / "x.tar", format="oci", compression="gzip")
    assert raw(f"oci-archive:{tmp_path}/x.tar:1").config.digest == Images(root).resolve("app:1").id


@needs_skopeo
@pytest.mark.parametrize("transport", ["docker-archive:{}:again:2", "oci:{}:2", "oci-archive:{}:2", "dir:{}"])
def test_what_skopeo_writes_is_loaded_with_equal_digests(root, tmp_path: Path, transport: str) -> None:
    save(root, ["app:1"], tmp_path / "in.tar")
    place = transport.format(tmp_path / "out")
    skopeo("copy", f"docker-archive:{tmp_path}/in.tar:app:1", place)
    if transport.startswith("dir:"):
        assert raw(place).config.digest == Images(root).resolve("app:1").id
        return
    loaded = load_archive(root, tmp_path / "out")[0].image
    assert loaded.id == raw(place).config.digest
    if transport.startswith("oci"):
        assert loaded.manifest == raw(place).digest
    assert loaded.diff_ids == Images(root).resolve("app:1").diff_ids


@needs_skopeo
def test_a_layout_that_went_through_our_store_is_the_same_to_the_last_byte(root, tmp_path: Path) -> None:
    layout = Layout(tmp_path / "in")
    layout.add(layout.manifest(LAYERS, level=2), "h.io/x:1")
    skopeo("copy", f"oci:{tmp_path}/in:h.io/x:1", f"oci:{tmp_path}/theirs:h.io/x:1")
    load_archive(root, tmp_path / "theirs")
    save(root, ["h.io/x:1"], tmp_path / "ours", format="oci-dir")
    theirs = {path.name: path.read_bytes() for path in (tmp_path / "theirs/blobs/sha256").iterdir()}
    assert theirs == {path.name: path.read_bytes() for path in (tmp_path / "ours/blobs/sha256").iterdir()}


@needs_umoci
@pytest.mark.root
@pytest.mark.parametrize("compression", ["none", "gzip"])
def test_umoci_unpacks_our_layout_to_our_tree(root, tmp_path: Path, compression) -> None:
    save(root, ["app:1"], tmp_path / "in", format="oci-dir", compression=compression)
    run("umoci", "unpack", "--image", f"{tmp_path}/in:1", tmp_path / "bundle")
    top = tmp_path / "bundle/rootfs"
    found = sorted(os.fsencode(path.relative_to(top)) for path in top.rglob("*"))
    tree = merged_tree(root, Images(root).resolve("app:1").diff_ids)
    assert found == sorted(path for path, _ in tree.walk() if path) == [b"b", b"etc", b"l"]


@needs_umoci
@pytest.mark.root
def test_what_umoci_commits_is_loaded(root, tmp_path: Path) -> None:
    save(root, ["app:1"], tmp_path / "l", format="oci-dir", compression="gzip")
    run("umoci", "unpack", "--image", f"{tmp_path}/l:1", tmp_path / "bundle")
    (tmp_path / "bundle/rootfs/new").write_bytes(b"new")
    (tmp_path / "bundle/rootfs/b").unlink()
    run("umoci", "repack", "--image", f"{tmp_path}/l:2", tmp_path / "bundle")
    (loaded,) = load_archive(root, tmp_path / "l", select="2")
    entry = next(
        e for e in layout_index(tmp_path / "l") if e["annotations"]["org.opencontainers.image.ref.name"] == "2"
    )
    assert str(loaded.image.manifest) == entry["digest"]
    assert [path for path, _ in merged_tree(root, loaded.image.diff_ids).walk() if path] == [b"etc", b"l", b"new"]
