"""A Debian root file system imported, mounted and exported is what GNU tar makes of it, file by file."""

from __future__ import annotations

import io
import json
import shutil
import stat
import subprocess
import tarfile
import tempfile
from pathlib import Path

import pytest

import layerfs
from tests.crash.world import compare, expected_listing, layer_tars, normal
from tests.oracle.host import host_listing
from tests.real.conftest import extract

pytestmark = [pytest.mark.root, pytest.mark.slow]


def test_import_mount_and_export_equal_gnu_tar(debian: Path, store: layerfs.Store, tmp_path: Path) -> None:
    wanted = normal(host_listing(extract(debian, tmp_path / "plain")))
    assert len(wanted) > 5000
    image = store.import_archive(debian, tag="debian:1")
    for engine in ("kernel", "native", "python"):
        with image.mount(engine=engine) as root:
            compare(normal(host_listing(root)), wanted)
    exported = tmp_path / "exported.tar"
    image.export(exported)
    compare(normal(host_listing(extract(exported, tmp_path / "again"))), wanted)
    compare(expected_listing([exported.read_bytes()]), wanted)
    out = io.BytesIO()
    image.save(out)
    assert layer_tars(out.getvalue()) == [debian.read_bytes()]
    assert store.fsck() == []


def test_import_of_the_directory_equals_it(debian: Path, store: layerfs.Store, tmp_path: Path) -> None:
    plain = extract(debian, tmp_path / "plain")
    image = store.import_archive(plain, tag="dir:1")
    with image.mount() as root:
        compare(normal(host_listing(root)), normal(host_listing(plain)))
    assert store.diff(image, store.import_archive(plain, tag="dir:2")) == []


def test_a_docker_archive_of_36000_files(big_image: Path, store: layerfs.Store, tmp_path: Path) -> None:
    """Loaded, mounted, saved, read by skopeo and podman: the same bytes and digests."""
    [loaded] = store.load(big_image)
    with tarfile.open(big_image) as outer:
        names = json.load(outer.extractfile("manifest.json"))[0]["Layers"]  # type: ignore[arg-type]
    plain = tmp_path / "plain"
    for name in names:
        subprocess.run(["tar", "-xf", big_image, "-C", tmp_path, name], check=True)
        extract(tmp_path / name, plain)
    wanted = normal(host_listing(plain))
    assert len(wanted) > 30_000
    with loaded.image.mount(engine="kernel") as root:
        found = normal(host_listing(root))
    for path, entry in wanted.items():  # of directories that the second layer does not name GNU tar changes the time
        if stat.S_ISDIR(entry["mode"]) and entry["mtime_ns"] > 1_760_000_000 * 10**9:
            entry["mtime_ns"] = found[path]["mtime_ns"] = 0
    compare(found, wanted)
    saved = tmp_path / "saved.tar"
    loaded.image.save(saved)
    check_skopeo(saved, loaded.image, tmp_path / "skopeo")
    check_podman(saved, loaded.image, tmp_path / "podman")


def check_skopeo(saved: Path, image: layerfs.Image, place: Path) -> None:
    command = ["skopeo", "copy", "--quiet", "--insecure-policy", f"docker-archive:{saved}", f"oci:{place}:x"]
    subprocess.run(command, check=True)
    index = json.loads((place / "index.json").read_text())
    manifest = blob(place, index["manifests"][0]["digest"])
    config = json.loads(blob(place, json.loads(manifest)["config"]["digest"]))
    assert config["rootfs"]["diff_ids"] == [str(layer.diff_id) for layer in image.layers]
    with layerfs.Store(place.parent / "other") as other:
        [loaded] = other.load(place)
        assert loaded.image.record.diff_ids == image.record.diff_ids


def blob(place: Path, digest: str) -> bytes:
    return (place / "blobs" / digest.replace(":", "/")).read_bytes()


def check_podman(saved: Path, image: layerfs.Image, place: Path) -> None:
    run = tempfile.mkdtemp(prefix="lfs-", dir="/tmp")  # podman takes no more than 50 characters
    podman = ["podman", "--root", place, "--runroot", run, "--storage-driver", "overlay"]
    done = subprocess.run([*podman, "load", "-q", "-i", saved], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    try:
        command = [*podman, "image", "ls", "-q", "--no-trunc"]
        found = subprocess.run(command, check=True, capture_output=True, text=True)
        assert found.stdout.split() == [image.id]
    finally:
        subprocess.run([*podman, "rmi", "-af"], capture_output=True)
        shutil.rmtree(run, ignore_errors=True)
