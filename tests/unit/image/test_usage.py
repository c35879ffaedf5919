"""Sizes for `system df`, and what gc must keep."""

from pathlib import Path

from layerfs.digest import Digest, chain_id
from layerfs.image.load import load_archive
from layerfs.image.save import save
from layerfs.image.usage import image_roots, images_usage
from layerfs.store.gc import collect
from tests.unit.image.make import Layout, tar


def test_shared_and_unique_sizes_add_up(root, add) -> None:
    one, two = add([10, 1], "x"), add([10, 5, 5])
    usage = images_usage(root)
    found = {each.record.id: (each.size, each.shared, each.unique) for each in usage.images}
    assert found == {one.id: (11, 10, 1), two.id: (20, 10, 10)} and usage.total == 16


def test_roots_are_images_layers_chains_and_blobs(root, add) -> None:
    image = add([1, 2], "x")
    with root.index.view() as txn:
        roots = image_roots(root, txn)
    assert roots.images == roots.blobs == {image.id.raw}
    assert roots.layers == {diff_id.raw for diff_id in image.diff_ids}
    assert roots.chains == {chain_id(image.diff_ids).raw}


def test_gc_keeps_every_manifest_that_a_name_stands_for(root, tmp_path: Path) -> None:
    layout = Layout(tmp_path / "in")
    layer = tar({"a": b"1"})
    for level in (1, 9):
        layout.add(layout.manifest([layer], level=level), f"h.io/x:{level}")
    load_archive(root, layout.path)
    collect(root, lambda txn: image_roots(root, txn))
    save(root, ["h.io/x"], tmp_path / "out", format="oci-dir")
    names = {path.name for path in (tmp_path / "in/blobs/sha256").iterdir()}
    assert {path.name for path in (tmp_path / "out/blobs/sha256").iterdir()} == names


def test_gc_takes_what_a_removed_image_left(root, images, tmp_path: Path) -> None:
    layout = Layout(tmp_path / "in")
    load_archive(root, layout.add(layout.manifest([tar({"a": b"1" * 200_000})]), "h.io/x").path)
    assert list((root.path / "blobs/sha256").iterdir())
    images.remove("h.io/x", users=lambda _: [])
    collect(root, lambda txn: image_roots(root, txn))
    left = [path for folder in ("blobs", "objects", "packs", "trees") for path in (root.path / folder).rglob("*")]
    assert [path for path in left if path.is_file()] == [] and not root.blobs.has(Digest("0" * 64))
