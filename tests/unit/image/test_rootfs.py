"""import: a root file system becomes an image of one layer; other things are told apart from it."""

import bz2
import gzip
import io
import json
import os
from pathlib import Path

import pytest

from layerfs.digest import Digest
from layerfs.errors import InvalidArchive, InvalidInput, NotFound
from layerfs.image import rootfs
from layerfs.image.history import history
from layerfs.image.images import Images
from layerfs.image.rootfs import import_any, import_rootfs
from layerfs.image.source import looks_like_archive
from layerfs.layer.merged import merged_tree
from layerfs.oci import Platform
from layerfs.reference import Reference
from tests.unit.image.make import Layout, config, digest, docker_archive, tar

ROOTFS = tar({"./": None, "./bin/": None, "./bin/sh": b"#!", "./etc": "usr/etc"})


def paths(root, image) -> list[bytes]:
    return [path for path, _ in merged_tree(root, image.diff_ids).walk() if path]


@pytest.mark.parametrize("pack", [bytes, gzip.compress, bz2.compress], ids=["plain", "gzip", "bzip2"])
def test_a_tar_in_any_compression_becomes_one_layer(root, images, pack) -> None:
    image = import_any(root, io.BytesIO(pack(ROOTFS)), reference=Reference.parse("base:1"))
    assert images.resolve("base:1") == image and image.diff_ids[0] == Digest.parse(digest(ROOTFS))
    assert paths(root, image) == [b"bin", b"bin/sh", b"etc"]


def test_the_history_has_one_entry_with_the_comment(root) -> None:
    image = import_rootfs(root, io.BytesIO(ROOTFS), created_ns=10**9)
    (row,) = history(root, image)
    assert (row.created_by, row.comment, row.size, row.created_ns) == ("", "Imported from -", 2, 10**9)
    image = import_rootfs(root, io.BytesIO(ROOTFS), message="mine")
    assert history(root, image)[0].comment == "mine"


def test_changes_and_platform_go_into_the_config(root, images) -> None:
    wanted = Platform.parse("linux/arm/v7")
    image = import_rootfs(root, io.BytesIO(ROOTFS), changes=['CMD ["/bin/sh"]', "ENV A=1"], platform=wanted)
    parsed = images.config(image)
    assert (parsed.config.cmd, parsed.config.env, parsed.platform) == (("/bin/sh",), ("A=1",), wanted)


def test_a_bad_change_is_found_before_anything_is_read(root, monkeypatch) -> None:
    monkeypatch.setattr(rootfs, "read_layer", lambda *_, **__: pytest.fail("it was read"))
    with pytest.raises(InvalidInput, match="run is not a valid change command"):
        import_rootfs(root, io.BytesIO(ROOTFS), changes=["RUN x"])


def test_equal_input_and_time_give_the_same_image(root) -> None:
    one = import_rootfs(root, io.BytesIO(ROOTFS), created_ns=5)
    assert import_rootfs(root, io.BytesIO(gzip.compress(ROOTFS)), created_ns=5).id == one.id


def test_a_directory_is_imported(root, tmp_path: Path) -> None:
    top = tmp_path / "top"
    (top / "a").mkdir(parents=True)
    (top / "a/f").write_bytes(b"data")
    os.link(top / "a/f", top / "g")
    image = import_any(root, top)
    tree = merged_tree(root, image.diff_ids)
    assert paths(root, image) == [b"a", b"a/f", b"g"]
    inode = tree.resolve(b"g")
    assert inode is not None and inode.nlink == 2 and inode.size == 4


def test_a_file_imported_twice_is_only_hashed(root, tmp_path: Path, monkeypatch) -> None:
    path = tmp_path / "rootfs.tar.gz"
    path.write_bytes(gzip.compress(ROOTFS))
    first = import_any(root, path)
    with monkeypatch.context() as patch:
        patch.setattr(rootfs, "read_layer", lambda *_, **__: pytest.fail("it was read"))
        assert import_any(root, str(path)).diff_ids == first.diff_ids
    path.write_bytes(tar({"other": b""}))
    assert paths(root, import_any(root, path)) == [b"other"]


@pytest.mark.parametrize("stream", [False, True], ids=["file", "stream"])
@pytest.mark.parametrize("kind", ["docker", "layout"])
def test_image_archives_are_told_from_root_file_systems(root, tmp_path: Path, kind: str, stream: bool) -> None:
    layer = tar({"x": b"1"})
    layout = Layout(tmp_path / "layout")
    layout.add(layout.manifest([layer]))
    data = layout.tar() if kind == "layout" else docker_archive([([layer], ["x"])])
    (tmp_path / "image.tar").write_bytes(data)
    source = io.BytesIO(data) if stream else tmp_path / "image.tar"
    assert import_any(root, source).id == Digest.parse(digest(config([layer])))


def test_a_layout_directory_is_told_from_a_root_file_system(root, tmp_path: Path) -> None:
    layout = Layout(tmp_path / "layout")
    layout.add(layout.manifest([tar({"x": b"1"})]))
    assert paths(root, import_any(root, layout.path)) == [b"x"]


def test_a_root_file_system_that_begins_like_an_archive_is_imported(root) -> None:
    image = import_any(root, io.BytesIO(tar({"blobs/": None, "blobs/f": b"1"})))
    assert paths(root, image) == [b"blobs", b"blobs/f"]


def test_an_archive_with_two_images_must_be_chosen_from(root, images) -> None:
    data = docker_archive([([tar({"x": b"1"})], ["x"]), ([tar({"y": b"2"})], ["y"])])
    with pytest.raises(InvalidInput, match="holds 2 images, choose one: x:latest; y:latest"):
        import_any(root, io.BytesIO(data))
    image = import_any(root, io.BytesIO(data), select="y", reference=Reference.parse("mine"))
    assert paths(root, image) == [b"y"] and [s.record for s in images.list()] == [image]


def test_changes_to_an_image_with_a_config_are_refused(root) -> None:
    with pytest.raises(InvalidInput, match="for root file systems"):
        import_any(root, io.BytesIO(docker_archive([([], ["x"])])), message="m")


def test_what_is_not_there_or_no_tar_is_refused(root, tmp_path: Path) -> None:
    with pytest.raises(NotFound, match="no such file"):
        import_any(root, tmp_path / "nope")
    (tmp_path / "text").write_bytes(b"hello " * 500)
    with pytest.raises(InvalidArchive):
        import_any(root, tmp_path / "text")
    assert Images(root).list() == []


@pytest.mark.parametrize(
    ("first", "archive"),
    [
        ("manifest.json", True),
        ("./oci-layout", True),
        ("blobs/sha256/", True),
        ("a" * 64 + ".json", True),
        ("a" * 64 + "/layer.tar", True),
        ("config.json", True),
        ("layers/0.tar.gz", True),
        ("0/VERSION", True),
        ("bin/", False),
        ("a" * 63, False),
    ],
)
def test_the_first_name_tells(first: str, archive: bool) -> None:
    data = tar({"./": None, first: None})
    assert looks_like_archive(data) is looks_like_archive(gzip.compress(data)[:-8]) is archive


def test_an_archive_with_members_of_any_name_is_found(root) -> None:
    layer = tar({"bin/": None, "bin/sh": b"#!"})
    listed = json.dumps([{"Config": "config.json", "RepoTags": ["a:1"], "Layers": ["layer.tar"]}]).encode()
    for name in ("layer.tar", "config.json"):  # whichever comes first
        members = {name: b"", "layer.tar": layer, "config.json": config([layer]), "manifest.json": listed}
        image = import_any(root, io.BytesIO(tar(members)))
        assert str(image.id) == digest(config([layer]))


def test_a_root_file_system_may_begin_with_any_file(root) -> None:
    image = import_any(root, io.BytesIO(gzip.compress(tar({"package.json": b"{}", "src/": None}))))
    assert paths(root, image) == [b"package.json", b"src"]


def test_a_manifest_that_is_no_list_is_a_file_like_any_other(root, tmp_path: Path) -> None:
    (tmp_path / "manifest.json").write_text('{"name": "a web application"}')
    assert paths(root, import_any(root, tmp_path)) == [b"manifest.json"]


def test_anything_that_can_be_read_is_a_stream(root) -> None:
    class Reader:
        read = io.BytesIO(ROOTFS).read

    assert import_any(root, Reader()).diff_ids[0] == Digest.parse(digest(ROOTFS))
    for bad in (None, 5, io.StringIO("text")):
        with pytest.raises(TypeError, match="a path or a binary stream"):
            import_any(root, bad)


def test_an_empty_file_is_no_root_file_system(root, tmp_path: Path) -> None:
    (tmp_path / "empty").touch()
    for source in (tmp_path / "empty", io.BytesIO(), io.BytesIO(gzip.compress(b""))):
        with pytest.raises(InvalidArchive, match="empty"):
            import_any(root, source)


@pytest.mark.parametrize("head", [b"", b"x", b"\x1f\x8b", b"\x1f\x8b\x08\0" + bytes(20), bytes(1024)])
def test_no_head_at_all_is_no_archive(head: bytes) -> None:
    assert looks_like_archive(head) is False


def test_an_archive_of_old_docker_is_not_taken_for_a_root_file_system(root, images) -> None:
    id = "1" * 64
    old = tar({f"{id}/": None, f"{id}/layer.tar": ROOTFS, "repositories": json.dumps({"x": {"1": id}}).encode()})
    with pytest.raises(InvalidArchive, match=r"no manifest\.json: saved by docker before 1\.10"):
        import_any(root, io.BytesIO(old))
    plain = import_any(root, io.BytesIO(tar({"repositories/": None, "repositories/x": b"{}"})))
    assert paths(root, plain) == [b"repositories", b"repositories/x"]
