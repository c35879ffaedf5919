"""Loading: whole or not at all, each layer once, what is known not read again, and every lie found."""

import base64
import gzip
import io
import json
import os
import random
import tarfile
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from layerfs.digest import DiffID, Digest
from layerfs.errors import Corrupt, ImageNotFound, InvalidArchive, InvalidInput, LayerfsError, NotFound
from layerfs.image import load as loading
from layerfs.image.images import Images
from layerfs.image.load import iterate_archive, load_archive
from layerfs.layer.layers import get_layer, get_sources
from layerfs.layer.merged import merged_tree
from layerfs.native import verify_tree
from layerfs.oci import Platform
from layerfs.reference import Reference
from layerfs.store import StoreRoot
from tests.unit.image.make import CONFIG, LAYER, MANIFEST, Layout, config, digest, docker_archive, tar

A, B, C = tar({"a": b"1"}), tar({"b": b"2"}), tar({"d/": None, "d/c": b"3"})


@pytest.fixture
def layout(tmp_path: Path) -> Layout:
    return Layout(tmp_path / "layout")


@pytest.fixture
def reads(monkeypatch) -> list[str]:
    """The diff IDs of the layers that are parsed."""
    parsed: list[str] = []
    real = loading.unpack_layer

    def read(publisher, stream, **kwargs: Any):
        parsed.append(str(kwargs["expected"]))
        return real(publisher, stream, **kwargs)

    monkeypatch.setattr(loading, "unpack_layer", read)
    return parsed


def paths(root: StoreRoot, image) -> list[bytes]:
    return [path for path, _ in merged_tree(root, image.diff_ids).walk() if path]


def test_all_images_of_a_docker_archive_are_loaded(root, images, tmp_path: Path) -> None:
    (tmp_path / "x.tar").write_bytes(docker_archive([([A, B], ["x:1", "x:2"]), ([A, C], ["h.io/y"]), ([C], [])]))
    loaded = load_archive(root, tmp_path / "x.tar")
    assert [each.tags for each in loaded] == [("x:1", "x:2"), ("h.io/y:latest",), ()]
    assert [paths(root, each.image) for each in loaded] == [[b"a", b"b"], [b"a", b"d", b"d/c"], [b"d", b"d/c"]]
    assert loaded[0].image.id == Digest.parse(digest(config([A, B])))


def test_a_layer_that_images_share_is_read_once(root, tmp_path: Path, reads) -> None:
    (tmp_path / "x.tar").write_bytes(docker_archive([([A, B, A], ["x"]), ([A, C], ["y"])]))
    load_archive(root, tmp_path / "x.tar")
    assert sorted(reads) == sorted(map(digest, (A, B, C)))


@pytest.mark.parametrize("pack", [bytes, gzip.compress], ids=["plain", "gzip"])
def test_an_archive_may_come_through_a_pipe(root, pack) -> None:
    out, into = os.pipe()
    data = pack(docker_archive([([A], ["x"])]))
    writer = threading.Thread(target=lambda: [os.write(into, data), os.close(into)])
    writer.start()
    with os.fdopen(out, "rb") as stream:
        assert load_archive(root, stream)[0].tags == ("x:latest",)
    writer.join()
    assert list((root.path / "tmp").iterdir()) == []


def test_a_stream_of_bytes_and_an_unpacked_archive_are_loaded(root, tmp_path: Path) -> None:
    data = docker_archive([([A], ["x"])])
    assert load_archive(root, io.BytesIO(data))[0].tags == ("x:latest",)
    with tarfile.open(fileobj=io.BytesIO(data)) as archive:
        archive.extraction_filter = getattr(tarfile, "data_filter", None)  # Debian's 3.11.2 has none
        archive.extractall(tmp_path / "d")
    assert load_archive(root, tmp_path / "d")[0].tags == ("x:latest",)


def test_where_a_layer_came_from_is_noted(root, layout, tmp_path: Path) -> None:
    load_archive(root, layout.add(layout.manifest([A])).path)
    (source,) = get_sources(root, DiffID(Digest.parse(digest(A))))
    assert (source.kind, source.place) == ("layout", str(layout.path))


def test_a_known_layer_is_mended_and_its_new_source_noted(root, layout, tmp_path: Path) -> None:
    load_archive(root, io.BytesIO(docker_archive([([A], ["x"])])))  # a stream cannot be read again
    diff_id = DiffID(Digest.parse(digest(A)))
    assert get_sources(root, diff_id) == []
    root.tree_path("layer", diff_id.hex).chmod(0o600)
    root.tree_path("layer", diff_id.hex).write_bytes(bytes(8192))
    load_archive(root, layout.add(layout.manifest([A])).path)
    assert verify_tree(str(root.tree_path("layer", diff_id.hex)))
    (tmp_path / "x.tar").write_bytes(docker_archive([([A], ["x"])]))
    load_archive(root, tmp_path / "x.tar")
    assert [source.kind for source in get_sources(root, diff_id)] == ["layout", "archive"]


def test_a_known_docker_archive_is_hashed_and_not_parsed(root, tmp_path: Path, reads) -> None:
    path = tmp_path / "x.tar"
    path.write_bytes(docker_archive([([A, B], ["x"])]))
    first = load_archive(root, path)[0]
    del reads[:]
    assert load_archive(root, path)[0].image == first.image and reads == []


def test_a_known_layer_with_other_bytes_is_refused(root, images, tmp_path: Path) -> None:
    data = docker_archive([([A], ["x"])])
    (tmp_path / "good.tar").write_bytes(data)
    (tmp_path / "bad.tar").write_bytes(data.replace(A[512:1024], bytes(512)).replace(b'"x"', b'"y"'))
    load_archive(root, tmp_path / "good.tar")
    with pytest.raises(Corrupt, match="diff ID"):
        load_archive(root, tmp_path / "bad.tar")
    assert len(images.list()) == 1


def test_a_layout_keeps_its_manifest_and_blobs_byte_for_byte(root, images, layout) -> None:
    entry = layout.manifest([A, B], level=1)
    image = load_archive(root, layout.add(entry, "h.io/x:1").path)[0].image
    manifest = images.manifest(image.manifest)
    assert manifest is not None and str(manifest.digest) == entry["digest"]
    for blob in manifest.layers:
        assert root.blobs.read(blob.digest) == (layout.path / "blobs/sha256" / blob.digest.hex).read_bytes()


def test_a_known_layout_is_not_unpacked_again(root, layout, reads, monkeypatch) -> None:
    load_archive(root, layout.add(layout.manifest([A, B])).path)
    del reads[:]
    monkeypatch.setattr(loading._Loader, "_hash", lambda *_: pytest.fail("a layer was unpacked"))
    load_archive(root, layout.path)
    assert reads == []


def test_a_damaged_copy_of_a_known_blob_is_refused(root, images, layout) -> None:
    load_archive(root, layout.add(layout.manifest([A], level=9), "x:1").path)
    blob = layout.path / "blobs/sha256" / images.manifest(images.list()[0].record.manifest).layers[0].digest.hex
    good = blob.read_bytes()
    for bad in (good[:-1], good + b"x", good[:-1] + bytes([good[-1] ^ 1])):
        blob.write_bytes(bad)
        with pytest.raises(Corrupt, match="expected"):
            load_archive(root, layout.path)
    blob.unlink()  # the store has it
    assert load_archive(root, layout.path)[0].image.diff_ids == (Digest.parse(digest(A)),)


def test_another_compression_of_a_known_layer_is_checked_and_kept(root, images, layout, reads) -> None:
    layout.add(layout.manifest([A], level=9), "h.io/x:9").add(layout.manifest([A], level=0), "h.io/x:0")
    first, second = load_archive(root, layout.path)
    assert first.image.id == second.image.id and len(reads) == 1
    for blob in layout.path.glob("blobs/sha256/*"):
        if blob.read_bytes()[:2] == b"\x1f\x8b":
            assert root.blobs.has(Digest(blob.name))


def test_a_layer_known_from_a_docker_archive_gets_its_blob_from_a_layout(root, layout, tmp_path: Path) -> None:
    load_archive(root, io.BytesIO(docker_archive([([A], ["x"])])))
    assert get_layer(root, DiffID(Digest.parse(digest(A)))).blob is None
    load_archive(root, layout.add(layout.manifest([A])).path)
    assert get_layer(root, DiffID(Digest.parse(digest(A)))).blob is not None


def lie(layout: Layout, what: str) -> None:
    """An image of layer A with one thing wrong."""
    layer = layout.blob(gzip.compress(A, mtime=0), LAYER + "+gzip")
    blob = layout.path / "blobs/sha256" / layer["digest"][7:]
    own = layout.blob(config([A]), CONFIG)
    if what == "digest":
        blob.write_bytes(gzip.compress(B, mtime=0))
    elif what == "size":
        layer["size"] += 7
    elif what == "short":
        layer["size"] -= 7
    elif what == "type":
        layer["mediaType"] = "application/vnd.example.layer"
    elif what == "missing":
        blob.unlink()
    elif what == "diff ID":
        own = layout.blob(config([B]), CONFIG)
    elif what == "count":
        own = layout.blob(config([A, B]), CONFIG)
    elif what == "config":
        own["mediaType"] = "application/vnd.oci.empty.v1+json"
    elif what == "config size":
        own["size"] += 1
    elif what == "truncated":
        data = blob.read_bytes()[:-9]
        layer = layout.blob(data, LAYER + "+gzip")
    manifest = {"schemaVersion": 2, "mediaType": MANIFEST, "config": own, "layers": [layer]}
    layout.add(layout.blob(json.dumps(manifest).encode(), MANIFEST))


LIES = ["digest", "size", "short", "type", "missing", "diff ID", "count", "config", "config size", "truncated"]


@pytest.mark.parametrize("known", [False, True], ids=["new", "known"])
@pytest.mark.parametrize("what", LIES)
def test_a_lying_layout_is_refused_and_leaves_nothing(root, images, layout, tmp_path, what: str, known: bool) -> None:
    if known:
        load_archive(root, io.BytesIO(docker_archive([([A], ["x"]), ([B], ["y"])])))
    before = images.list()
    lie(layout, what)
    with pytest.raises((InvalidArchive, Corrupt)) as caught:
        load_archive(root, layout.path)
    assert "\n" not in str(caught.value)
    assert images.list() == before and list((root.path / "tmp").iterdir()) == []


def test_a_bad_image_does_not_take_the_good_one_before_it_along(root, images) -> None:
    data = docker_archive([([A], ["good"]), ([B], ["bad"])]).replace(B[512:1024], bytes(512))
    with pytest.raises(Corrupt):
        load_archive(root, io.BytesIO(data))
    assert [s.tags[0].reference.familiar for s in images.list()] == ["good:latest"]


def test_images_become_visible_one_by_one(root, images) -> None:
    found = iterate_archive(root, io.BytesIO(docker_archive([([A], ["x"]), ([B], ["y"])])))
    assert next(found).tags == ("x:latest",) and len(images.list()) == 1
    assert [each.tags for each in found] == [("y:latest",)]


def test_an_index_gives_the_image_of_the_platform_and_no_attestation(root, images, layout) -> None:
    entries = [
        layout.manifest([C]) | {"platform": {"os": "unknown", "architecture": "unknown"}},
        layout.manifest([A], architecture="arm64") | {"platform": {"os": "linux", "architecture": "arm64"}},
        layout.manifest([B]) | {"platform": {"os": "linux", "architecture": "amd64"}},
    ]
    layout.add(layout.index([layout.index(entries)]), "h.io/x:1")
    arm = load_archive(root, layout.path, platform=Platform.parse("linux/arm64"))[0].image
    assert paths(root, arm) == [b"a"]
    assert paths(root, load_archive(root, layout.path, platform=Platform.parse("amd64"))[0].image) == [b"b"]
    with pytest.raises(InvalidArchive, match=r"no image for linux/s390x .*linux/arm64, linux/amd64"):
        load_archive(root, layout.path, platform=Platform.parse("linux/s390x"))


def test_an_index_without_end_is_refused(root, layout) -> None:
    entry = layout.manifest([A])
    for _ in range(10):
        entry = layout.index([entry])
    with pytest.raises(InvalidArchive, match="nested more than 8 deep"):
        load_archive(root, layout.add(entry).path)


def test_the_platform_asked_for_must_be_the_images(root, layout) -> None:
    layout.add(layout.manifest([A]))
    with pytest.raises(InvalidArchive, match="is for linux/amd64, not for linux/arm64"):
        load_archive(root, layout.path, platform=Platform.parse("arm64"))


def test_names_come_from_the_full_annotation_or_a_full_ref_name(root, layout) -> None:
    full = {"io.containerd.image.name": "docker.io/library/x:1", "org.opencontainers.image.ref.name": "1"}
    layout.add(layout.manifest([A]), "latest").add(layout.manifest([B]), annotations=full)
    layout.add(layout.manifest([C]), "h.io/y")
    assert [each.tags for each in load_archive(root, layout.path)] == [(), ("x:1",), ("h.io/y:latest",)]


def test_a_tag_that_two_images_have_is_refused(root, layout) -> None:
    layout.add(layout.manifest([A]), "1").add(layout.manifest([B]), "1")
    with pytest.raises(InvalidArchive, match="has 2 images named '1'"):
        load_archive(root, layout.path)


def test_one_image_is_chosen_by_name_label_or_digest_and_given_a_name(root, images, layout) -> None:
    entry = layout.manifest([B])
    layout.add(layout.manifest([A]), "1").add(entry, "h.io/y:2")
    for select in ("h.io/y:2", entry["digest"]):
        assert len(load_archive(root, layout.path, select=select)) == 1
    load_archive(root, layout.path, select="1", name=Reference.parse("mine:1"))
    assert paths(root, images.resolve("mine:1")) == [b"a"]
    with pytest.raises(InvalidInput, match=r"holds 2 images, choose one: 1; h\.io/y:2"):
        load_archive(root, layout.path, name=Reference.parse("mine:1"))
    with pytest.raises(ImageNotFound):
        load_archive(root, layout.path, select="nosuch")


def test_an_entry_of_unknown_type_is_ignored_beside_an_image(root, layout) -> None:
    layout.add(layout.blob(b"{}", "application/x")).add(layout.manifest([A]))
    assert len(load_archive(root, layout.path)) == 1


def test_a_signature_beside_an_image_is_ignored_and_alone_no_image(root, layout) -> None:
    empty = layout.blob(b"{}", "application/vnd.oci.empty.v1+json")
    document = {"schemaVersion": 2, "mediaType": MANIFEST, "config": empty, "layers": []}
    layout.add(layout.blob(json.dumps(document).encode(), MANIFEST))
    with pytest.raises(InvalidArchive, match="not an image: its config is"):
        load_archive(root, layout.path)
    layout.add(layout.manifest([A]))
    assert len(load_archive(root, layout.path)) == 1


def test_inline_data_serves_for_a_blob_that_is_not_there(root, layout) -> None:
    entry = layout.manifest([A])
    path = layout.path / "blobs/sha256" / entry["digest"][7:]
    layout.add(entry | {"data": base64.b64encode(path.read_bytes()).decode()})
    path.unlink()
    assert len(load_archive(root, layout.path)) == 1


def test_a_layout_as_a_compressed_tar_is_loaded(root, layout) -> None:
    layout.add(layout.manifest([A], compress=False), "h.io/x:1")
    assert load_archive(root, io.BytesIO(gzip.compress(layout.tar())))[0].tags == ("h.io/x:1",)


def test_a_hard_link_that_leads_nowhere_makes_no_image(root, images) -> None:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as archive:
        link = tarfile.TarInfo("g")
        link.type, link.linkname = tarfile.LNKTYPE, "nope"
        archive.addfile(link)
    with pytest.raises(LayerfsError):
        load_archive(root, io.BytesIO(docker_archive([([out.getvalue()], ["x"])])))
    assert images.list() == []


@pytest.mark.parametrize(
    ("manifest", "words"),
    [
        (b"null", "not a list"),
        (b"[]", "lists no images"),
        (b"{", "not valid JSON"),
        (b"[3]", r"\[0\] is a number"),
        (b"[{}]", "Config is missing"),
        (b'[{"Config":"nope"}]', "'nope' is missing"),
        (b'[{"Config":"../../etc/passwd"}]', "missing"),
    ],
)
def test_a_bad_manifest_json_is_refused(root, manifest: bytes, words: str) -> None:
    with pytest.raises(InvalidArchive, match=words):
        load_archive(root, io.BytesIO(tar({"manifest.json": manifest})))


@pytest.mark.parametrize("name", ["BAD", "a b", "x@sha256:12"])
def test_a_bad_name_in_an_archive_is_refused(root, images, name: str) -> None:
    with pytest.raises(InvalidArchive, match=r"^manifest\.json\[0\]: "):
        load_archive(root, io.BytesIO(docker_archive([([A], [name])])))
    assert images.list() == []


def test_a_missing_file_is_told_in_dockers_words(root) -> None:
    with pytest.raises(NotFound, match=r"open s\.tar: no such file or directory"):
        load_archive(root, "s.tar")


def test_an_image_without_layers_is_loaded(root) -> None:
    image = load_archive(root, io.BytesIO(docker_archive([([], ["empty"])])))[0].image
    assert paths(root, image) == []


def test_progress_is_told_in_bytes(root, layout) -> None:
    seen: list[Any] = []
    load_archive(root, layout.add(layout.manifest([A])).path, progress=seen.append)
    assert seen and seen[-1].current == seen[-1].total and Images(root).list()


def test_a_name_by_digest_in_an_archive_is_refused(root) -> None:
    with pytest.raises(InvalidArchive, match="invalid tag"):
        load_archive(root, io.BytesIO(docker_archive([([A], ["x@sha256:" + "a" * 64])])))


def test_threads_that_load_the_same_archive_at_once_all_succeed(root, images, tmp_path: Path) -> None:
    (tmp_path / "x.tar").write_bytes(docker_archive([([A, B, C], ["x"])]))
    with ThreadPoolExecutor(4) as pool:
        futures = [pool.submit(load_archive, root, tmp_path / "x.tar") for _ in range(8)]
        ids = {future.result()[0].image.id for future in futures}
    assert [s.record.id for s in images.list()] == list(ids)


def test_a_damaged_archive_is_refused_or_whole(root, images) -> None:
    """Any byte wrong: a clear error and no image, or an image whose tree can be read."""
    data = docker_archive([([A], ["x"])])
    chance = random.Random(7)
    for _ in range(150):
        bad = bytearray(data)
        for _ in range(chance.choice((1, 1, 3))):
            bad[chance.randrange(len(bad) - 8192)] = chance.randrange(256)
        if chance.random() < 0.2:
            del bad[chance.randrange(len(bad)) :]
        try:
            loaded = load_archive(root, io.BytesIO(bytes(bad)))
        except LayerfsError as error:
            assert "\n" not in str(error)
        else:
            assert all(paths(root, each.image) for each in loaded)
    assert list((root.path / "tmp").iterdir()) == []


def test_the_first_error_is_told_and_stops_the_other_layers(root, images) -> None:
    many = [tar({str(n): b"data %d" % n}) for n in range(6)]
    data = docker_archive([(many, ["x"])]).replace(many[0][512:1024], bytes(512))
    with pytest.raises(Corrupt, match=digest(many[0])[7:] + "/layer.tar: the layer has the diff ID"):
        load_archive(root, io.BytesIO(data))
    assert images.list() == []
