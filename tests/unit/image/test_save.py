"""Saving: what is written loads again with the same IDs, equal input gives equal bytes, kept digests stay."""

import gzip
import io
import json
import tarfile
from pathlib import Path
from typing import Any

import pytest

from layerfs.digest import DiffID, Digest
from layerfs.errors import AlreadyExists, Corrupt, ImageNotFound, InvalidInput, NotFound
from layerfs.image.forms import layer_form
from layerfs.image.load import load_archive
from layerfs.image.save import choose, save
from layerfs.layer.layers import get_layer
from layerfs.store import StoreRoot
from tests.unit.image.make import Layout, digest, docker_archive, tar

A, B = tar({"a": b"1" * 100_000}), tar({"b": b"2"})


@pytest.fixture
def loaded(root) -> StoreRoot:
    load_archive(root, io.BytesIO(docker_archive([([A, B], ["x:1", "x:2", "h.io/y:1"]), ([B], [])])))
    return root


def saved(root: StoreRoot, *names: str, **options: Any) -> bytes:
    out = io.BytesIO()
    save(root, names, out, **options)
    return out.getvalue()


def members(data: bytes) -> dict[str, bytes]:
    with tarfile.open(fileobj=io.BytesIO(data)) as archive:
        return {info.name: archive.extractfile(info).read() for info in archive if info.isfile()}  # type: ignore


def test_a_docker_archive_has_docker_28s_members(loaded) -> None:
    found = members(saved(loaded, "x:1"))
    (image,) = json.loads(found["manifest.json"])
    layers = [f"blobs/sha256/{digest(layer)[7:]}" for layer in (A, B)]
    assert image["RepoTags"] == ["x:1"] and image["Layers"] == layers and [found[name] for name in layers] == [A, B]
    assert digest(found[image["Config"]])[7:] == image["Config"][13:]
    assert image["LayerSources"][digest(A)] == {
        "mediaType": "application/vnd.oci.image.layer.v1.tar",
        "digest": digest(A),
        "size": len(A),
    }
    assert json.loads(found["repositories"]) == {"x": {"1": digest(B)[7:]}}
    (entry,) = json.loads(found["index.json"])["manifests"]
    assert entry["annotations"] == {
        "io.containerd.image.name": "docker.io/library/x:1",
        "org.opencontainers.image.ref.name": "1",
    }
    assert digest(found["blobs/sha256/" + entry["digest"][7:]]) == entry["digest"]


def test_members_are_owned_by_root_at_time_zero_in_order(loaded) -> None:
    with tarfile.open(fileobj=io.BytesIO(saved(loaded, "x:1"))) as archive:
        infos = archive.getmembers()
    assert {(info.uid, info.gid, info.uname, info.mtime) for info in infos} == {(0, 0, "", 0)}
    assert [info.name for info in infos] == sorted(info.name for info in infos)


@pytest.mark.parametrize("options", [{}, {"format": "oci"}, {"format": "oci", "compression": "gzip"}])
def test_equal_images_give_equal_bytes(loaded, options) -> None:
    assert saved(loaded, "x:1", **options) == saved(loaded, "x:1", **options)


@pytest.mark.parametrize("form", ["docker", "oci"])
@pytest.mark.parametrize("compression", [None, "none", "gzip", "zstd", "original"])
def test_what_is_saved_loads_with_the_same_ids_and_names(loaded, tmp_path: Path, form, compression) -> None:
    data = saved(loaded, "x", "h.io/y:1", format=form, compression=compression)
    with StoreRoot.open(tmp_path / "other") as other:
        found = load_archive(other, io.BytesIO(data))
    (image,) = {each.image.id for each in found}
    assert image == choose(loaded, ["x:1"])[0].record.id
    assert sorted(tag for each in found for tag in each.tags) == ["h.io/y:1", "x:1", "x:2"]


def test_a_layout_directory_is_written_once(loaded, tmp_path: Path) -> None:
    save(loaded, ["x:1"], tmp_path / "l", format="oci-dir", compression="gzip")
    assert json.loads((tmp_path / "l/oci-layout").read_text()) == {"imageLayoutVersion": "1.0.0"}
    for blob in (tmp_path / "l/blobs/sha256").iterdir():
        assert digest(blob.read_bytes())[7:] == blob.name
    with pytest.raises(AlreadyExists):
        save(loaded, ["x:1"], tmp_path / "l", format="oci-dir")
    with pytest.raises(InvalidInput, match="needs a path"):
        saved(loaded, "x:1", format="oci-dir")


def test_original_gives_the_manifest_and_blobs_that_came(root, tmp_path: Path) -> None:
    layout = Layout(tmp_path / "in")
    entry = layout.manifest([A, B], level=3)
    load_archive(root, layout.add(entry, "h.io/x:1").path)
    save(root, ["h.io/x:1"], tmp_path / "out", format="oci-dir")
    assert json.loads((tmp_path / "out/index.json").read_text())["manifests"][0]["digest"] == entry["digest"]
    for blob in (tmp_path / "in/blobs/sha256").iterdir():
        assert (tmp_path / "out/blobs/sha256" / blob.name).read_bytes() == blob.read_bytes()


def test_a_docker_archive_of_original_layers_carries_the_manifest_too(root, tmp_path: Path) -> None:
    layout = Layout(tmp_path / "in")
    entry = layout.manifest([A, B], level=3)
    load_archive(root, layout.add(entry, "h.io/x:1").path)
    data = saved(root, "h.io/x:1", compression="original")
    assert all(name in members(data) for name in json.loads(members(data)["manifest.json"])[0]["Layers"])
    with StoreRoot.open(tmp_path / "other") as other:
        (loaded,) = load_archive(other, io.BytesIO(data))
        assert str(loaded.image.manifest) == entry["digest"] and all(map(other.blobs.has, loaded.image.layer_blobs))


def test_original_of_plain_layers_is_rebuilt_byte_for_byte(root, tmp_path: Path) -> None:
    layout = Layout(tmp_path / "in")
    entry = layout.manifest([A], compress=False)
    load_archive(root, layout.add(entry, "h.io/x:1").path)
    assert entry["digest"][7:] in str(members(saved(root, "h.io/x:1", format="oci")).keys())


def forget_blob(root: StoreRoot) -> None:
    layer = get_layer(root, DiffID(Digest.parse(digest(A))))
    assert layer.blob is not None
    root.blobs.blob_path(layer.blob.digest).unlink()


def without_blob(root: StoreRoot, place: Path) -> str:
    """An image whose compressed layer is not kept any more; the digest of its manifest."""
    layout = Layout(place)
    entry = layout.manifest([A], level=1)
    load_archive(root, layout.add(entry, "h.io/x:1").path)
    forget_blob(root)
    return str(entry["digest"])


def test_an_original_that_is_not_kept_is_made_anew_and_told(root, tmp_path: Path) -> None:
    manifest = without_blob(root, tmp_path / "in")
    (told,) = save(root, ["h.io/x:1"], tmp_path / "out", format="oci-dir")
    assert str(told.instead_of) == manifest and len(told.lacking) == 1 and "not kept as pulled" in told.reason
    (entry,) = json.loads((tmp_path / "out/index.json").read_text())["manifests"]
    assert entry["digest"] == str(told.digest) != manifest
    (layer,) = json.loads((tmp_path / "out/blobs/sha256" / told.digest.hex).read_text())["layers"]
    assert gzip.decompress((tmp_path / "out/blobs/sha256" / layer["digest"][7:]).read_bytes()) == A


def test_a_blob_of_our_own_making_is_made_again(loaded, tmp_path: Path) -> None:
    (first,) = save(loaded, ["x:1"], tmp_path / "own", format="oci-dir", compression="gzip")
    with StoreRoot.open(tmp_path / "other") as other:
        load_archive(other, tmp_path / "own")
        forget_blob(other)
        (told,) = save(other, ["x:1"], tmp_path / "out", format="oci-dir", exact=True)
    assert (told.digest, told.instead_of, told.reason) == (first.digest, None, "")


@pytest.mark.parametrize("form", ["docker", "oci", "oci-dir"])
def test_an_exact_archive_that_cannot_be_writes_nothing(root, tmp_path: Path, form: str) -> None:
    manifest = without_blob(root, tmp_path / "in")
    with pytest.raises(NotFound, match=f"h.io/x:1: manifest {manifest}: layer .* is not kept as pulled"):
        save(root, ["h.io/x:1"], tmp_path / "out", format=form, exact=True)
    assert not (tmp_path / "out").exists()
    with pytest.raises(InvalidInput, match="cannot be zstd and exactly as they came"):
        save(root, ["h.io/x:1"], tmp_path / "out", compression="zstd", exact=True)


def test_a_kept_blob_of_the_wanted_form_is_used_as_it_is(root, tmp_path: Path) -> None:
    layout = Layout(tmp_path / "in")
    load_archive(root, layout.add(layout.manifest([A], level=1), "h.io/x:1").path)
    layer = get_layer(root, DiffID(Digest.parse(digest(A))))
    with root.leases.acquire("test") as lease:
        with layer_form(root, layer, "gzip", lease).open() as file:
            assert file.read() == gzip.compress(A, 1, mtime=0)
        form = layer_form(root, layer, "zstd", lease)
        with form.open() as file:
            assert form.descriptor.media_type.endswith("+zstd") and file.read(4) == b"\x28\xb5\x2f\xfd"


def test_a_repository_means_all_its_tags_and_an_id_no_name(loaded) -> None:
    (both,) = choose(loaded, ["x"])
    assert [name.familiar for name in both.names] == ["x:1", "x:2"]
    (plain,) = choose(loaded, [both.record.id.short])
    assert plain.names == ()
    assert [len(each.names) for each in choose(loaded, ["x:1", both.record.id.hex, "h.io/y"])] == [2]


@pytest.mark.parametrize("names", [["nosuch"], ["x:9"], ["x:1", "nosuch:1"]])
def test_an_unknown_name_is_refused_before_anything_is_written(loaded, tmp_path: Path, names) -> None:
    with pytest.raises(ImageNotFound):
        save(loaded, names, tmp_path / "out.tar")
    assert list(tmp_path.iterdir()) == []


def test_a_damaged_content_leaves_no_file_behind(loaded, tmp_path: Path) -> None:
    (pack,) = [path for path in (loaded.path / "packs").iterdir() if path.stat().st_size > 90_000]
    pack.chmod(0o600)
    data = bytearray(pack.read_bytes())
    data[5] ^= 1
    pack.write_bytes(data)
    with pytest.raises(Corrupt):
        save(loaded, ["x:1"], tmp_path / "out.tar")
    assert list(tmp_path.iterdir()) == []


def test_a_file_is_replaced_whole_and_a_pipe_written_to(loaded, tmp_path: Path) -> None:
    (tmp_path / "out.tar").write_bytes(b"old")
    (tmp_path / "link").symlink_to("out.tar")
    save(loaded, ["x:1"], tmp_path / "link")
    assert (tmp_path / "link").is_symlink() and (tmp_path / "out.tar").read_bytes() == saved(loaded, "x:1")
    save(loaded, ["x:1"], "/dev/null")
    assert Path("/dev/null").is_char_device()
