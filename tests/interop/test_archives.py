"""Archives from public repositories, each with the result that its table (shared/data/README.md) gives."""

from __future__ import annotations

from pathlib import Path

import pytest

from layerfs.digest import Digest
from layerfs.errors import InvalidArchive, InvalidInput
from layerfs.image.history import history
from layerfs.image.images import Images
from layerfs.image.load import load_archive
from layerfs.image.rootfs import import_any
from layerfs.layer.merged import merged_tree
from layerfs.oci import Platform
from layerfs.store import StoreRoot

pytestmark = pytest.mark.skipif(
    not (Path(__file__).resolve().parents[3] / "shared/data").is_dir(), reason="no shared/data beside the project"
)

LOADED = {  # name -> for each image: the start of its ID, its tags, its paths
    "almostempty.tar": [("9d7f147c", ("emptyimage:latest",), "emptyfile")],
    "hello-world-v25.tar": [("ee301c92", (), "hello")],
    "overwritten_file.tar": [("68f6eb74", ("bazel/pkg/v1/mutate:overwritten_file",), "bar.txt foo.txt")],
    "source_image.tar": [("6e0b0504", ("bazel/pkg/v1/mutate:source_image",), "bar foo")],
    "source_image_with_empty_layer_history.tar": [("05b5ec12", ("bazel/pkg/v1/mutate:source_image",), "bar foo")],
    "test_bundle.tar": [
        ("930705ce", ("test_image_2:latest",), "bat baz"),
        ("6e0b0504", ("test_image_1:latest",), "bar foo"),
    ],
    "test_image_1.tar": [("6e0b0504", ("bazel/v1/tarball:test_image_1",), "bar foo")],
    "test_image_2.tar": [("930705ce", ("bazel/v1/tarball:test_image_2",), "bat baz")],
    "test_link.tar": [
        ("6e0b0504", ("bazel/v1/tarball:test_image_1",), "bar foo"),
        ("d4c9adac", ("bazel/v1/tarball:test_image_3",), "bar foo test"),
    ],
    "test_load_manifest.tar": [("6e0b0504", ("bazel/v1/tarball:test_image_1",), "bar foo")],
    "whiteout_dir.tar": [("92f1e3d5", ("localhost:5000/whiteout:latest",), "a a/baz b b/bar")],
    "whiteout_image.tar": [("decb6306", ("bazel/pkg/v1/mutate:whiteout_image",), "bar.txt")],
}
REFUSED = {
    "content.tar": "not an image archive",
    "emptyLayer.tar": r"no manifest\.json: saved by docker before 1\.10",
    "no_manifest.tar": r"no manifest\.json",
    "null_manifest.tar": r"manifest\.json is not a list",
}
LAYOUTS = {  # (all the same image under several names: listed once for each)
    "stereoscope_multiplatform": [("549248a7", ("multi-platform:latest",), "linux linux/amd64 linux/amd64/README.md")],
    "stereoscope_valid-oci.tar": [("61ee19e8", ("sample:latest",), "README.md")],
    "test_gc_index": [("6e0b0504", (), "bar foo")] * 3,
    "test_index": [("6e0b0504", (), "bar foo")] * 3,
    "test_index_one_image": [("381d958b", (), "test")],
    "trivy_test.oci": [("b23a8f65", (), "hello")],
    "trivy_test_image_tag.oci": [("b23a8f65", (), "hello")],
}
REFUSED_LAYOUTS = {
    "delete_image_multiple_images": "layer blobs/sha256/557ac7d1",  # its layers are not tars
    "delete_image_only_one_image": "size mismatch",
    "delete_image_shared_blobs_dir": "is missing",
    "delete_image_two_identical_references": r"2 images named '1\.0\.0'",
    "test_gc_image_unknown_mediatype": "only entries of unknown types",
    "test_index_media_type": "not an image: its config is",  # a helm chart
    "trivy_test_bad_index_json.oci": r"index\.json is not valid JSON",
    "trivy_test_index_json_dir.oci": r"'index\.json' is not a regular file",
    "trivy_test_invalid_oci_image.oci": "only entries of unknown types .*badmedia",
    "trivy_test_no_valid_manifests.oci": "no manifests",
}


def paths(root: StoreRoot, diff_ids) -> str:
    return " ".join(path.decode() for path, _ in merged_tree(root, diff_ids).walk() if path)


def found(root: StoreRoot, path: Path) -> list[tuple[str, tuple[str, ...], str]]:
    loaded = load_archive(root, path)
    return [(each.image.id.hex[:8], each.tags, paths(root, each.image.diff_ids)) for each in loaded]


@pytest.mark.parametrize("name", LOADED)
def test_a_docker_archive_gives_its_images(root, shared, name: str) -> None:
    assert found(root, shared / "data/docker-archive" / name) == LOADED[name]


@pytest.mark.parametrize("name", LAYOUTS)
def test_a_layout_gives_its_images(root, shared, name: str) -> None:
    assert found(root, shared / "data/oci-layout" / name) == LAYOUTS[name]


def test_an_index_without_the_platform_says_what_it_has(root, shared) -> None:
    with pytest.raises(InvalidArchive, match=r"no image for linux/s390x \(there are: linux/amd64"):
        load_archive(root, shared / "data/oci-layout/stereoscope_multiplatform", platform=Platform.parse("s390x"))


@pytest.mark.parametrize("name", [*REFUSED, *REFUSED_LAYOUTS])
def test_what_cannot_be_an_image_is_refused_in_one_line(root, shared, name: str) -> None:
    folder = "docker-archive" if name in REFUSED else "oci-layout"
    with pytest.raises(InvalidArchive, match=(REFUSED | REFUSED_LAYOUTS)[name]) as caught:
        load_archive(root, shared / "data" / folder / name)
    assert "\n" not in str(caught.value) and Images(root).list() == []


def test_every_archive_of_the_table_is_here(shared) -> None:
    listed = LOADED | REFUSED | LAYOUTS | REFUSED_LAYOUTS
    present = {
        path.name for folder in ("docker-archive", "oci-layout") for path in (shared / "data" / folder).iterdir()
    }
    assert present == set(listed)


def test_top_content_wins_and_there_is_one_entry(root, shared) -> None:
    (loaded,) = load_archive(root, shared / "data/docker-archive/overwritten_file.tar")
    tree = merged_tree(root, loaded.image.diff_ids)
    inode = tree.resolve(b"foo.txt")
    assert inode is not None and tree.readlink(inode) == b"bar.txt"


def test_hello_is_as_long_as_its_table_says(root, shared) -> None:
    (loaded,) = load_archive(root, shared / "data/docker-archive/hello-world-v25.tar")
    inode = merged_tree(root, loaded.image.diff_ids).resolve(b"hello")
    assert inode is not None and inode.size == 9136


def test_empty_entries_of_a_history_are_skipped_when_sizes_are_matched(root, shared) -> None:
    path = shared / "data/docker-archive/source_image_with_empty_layer_history.tar"
    (loaded,) = load_archive(root, path)
    assert [row.size for row in history(root, loaded.image)] == [8, 0]


@pytest.mark.parametrize(
    "name", ["docker-archive/test_bundle.tar", "docker-archive/test_link.tar", "oci-layout/test_index"]
)
def test_a_verb_for_one_image_asks_which(root, shared, name: str) -> None:
    with pytest.raises(InvalidInput, match="choose one"):
        import_any(root, shared / "data" / name)


def test_a_plain_tar_is_a_root_file_system(root, shared) -> None:
    assert paths(root, import_any(root, shared / "data/docker-archive/content.tar").diff_ids) == "bat baz"


def test_a_config_under_another_name_has_the_id_of_its_bytes(root, shared) -> None:
    path = shared / "data/docker-archive/source_image_with_empty_layer_history.tar"
    (loaded,) = load_archive(root, path)
    assert loaded.image.id == Digest.of(root.blobs.read(loaded.image.id))
