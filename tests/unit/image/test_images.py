"""Images and their names in the index: added whole, found as docker finds them, listed in its order."""

import pytest

from layerfs.digest import DiffID, Digest
from layerfs.errors import Ambiguous, Corrupt, ImageNotFound, InvalidInput, NotFound
from layerfs.image.images import Images
from layerfs.oci import ContainerConfig, Descriptor, Platform, build_config, build_manifest, media
from layerfs.reference import Reference


def ref(text: str) -> Reference:
    return Reference.parse(text).tagged()


def test_an_image_needs_its_layers_and_leaves_nothing_without_them(root, images) -> None:
    missing = (DiffID(Digest("1" * 64)),)
    config = build_config(
        platform=Platform("linux", "amd64"), config=ContainerConfig(), diff_ids=missing, history=(), created_ns=0
    )
    with pytest.raises(NotFound, match="layer sha256:1111"):
        images.add(config, references=[ref("x")])
    assert images.list() == [] and images.names() == {} and not root.blobs.has(config.id)


def test_names_and_ids_and_their_starts_find_an_image(add, images) -> None:
    image = add([1], "app:1", "app", "host:5000/a/b:2")
    for name in ("app:1", "app", "docker.io/library/app:latest", "host:5000/a/b:2", str(image.id), image.id.hex):
        assert images.resolve(name) == image
    for name in (image.id.short, "sha256:" + image.id.hex[:9], image.id.hex[:63]):
        assert images.resolve(name) == image


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("nosuch", "No such image: nosuch:latest"),
        ("a/b:1", "No such image: a/b:1"),
        ("abcdef012345", "No such image: abcdef012345:latest"),
        ("f" * 64, "No such image: sha256:" + "f" * 64),
        ("sha256:" + "f" * 64, "No such image: sha256:" + "f" * 64),
        ("x@sha256:" + "f" * 64, "No such image: x@sha256:" + "f" * 64),
    ],
)
def test_an_unknown_image_is_told_in_dockers_words(images, name: str, words: str) -> None:
    with pytest.raises(ImageNotFound) as caught:
        images.resolve(name)
    assert str(caught.value) == words


def test_a_start_that_two_ids_share_lists_them(add, images) -> None:
    ids, number, seen = [], 0, {}
    while not ids:
        number += 1
        image = add([number])
        other = seen.setdefault(image.id.hex[0], image)
        ids = sorted([str(image.id), str(other.id)]) if other != image else []
    with pytest.raises(Ambiguous, match="multiple IDs") as caught:
        images.resolve(ids[0][7:8])
    assert set(ids) <= set(caught.value.candidates)


def test_a_name_goes_before_an_id_that_starts_the_same(add, images) -> None:
    first = add([1])
    second = add([2], first.id.short)
    assert images.resolve(first.id.short) == second


def test_a_bad_name_is_no_image_but_an_error(images) -> None:
    with pytest.raises(InvalidInput, match="must be lowercase"):
        images.resolve("BAD")


def test_a_tag_moves_and_the_old_image_stays_without_it(add, images) -> None:
    old, new = add([1], "x"), add([2], "x")
    assert images.resolve("x") == new
    assert images.tags(old.id) == [] and images.get(old.id) == old


def test_tag_and_untag(add, images) -> None:
    image = add([1], "x:1")
    images.tag("x:1", ref("y:2"))
    assert [str(tag.reference) for tag in images.tags(image.id)] == ["docker.io/library/x:1", "docker.io/library/y:2"]
    assert images.untag(ref("x:1")) == image.id
    with pytest.raises(ImageNotFound, match="No such image: x:1"):
        images.untag(ref("x:1"))
    with pytest.raises(ImageNotFound, match="No such image: x:1"):
        images.tag("x:1", ref("z"))


def test_a_digest_name_finds_its_row_or_the_tags_manifest(add, images) -> None:
    image = add([1], "x:1")
    digest = Digest("a" * 64)
    images.tag(image.id, ref("x:2"), manifest=digest)
    assert images.resolve(f"x@{digest}") == image
    images.tag(image.id, ref(f"h.io/y@{digest}"))
    assert images.find(f"h.io/y:9@{digest}") == (image, ref(f"h.io/y@{digest}"))


def test_adding_a_known_image_again_keeps_its_age_its_parent_and_its_manifest(add, images) -> None:
    parent = add([1], "base")
    image = add([1, 2], "x", parent=parent.id)
    layer = Descriptor(media.OCI_LAYER_GZIP, Digest("b" * 64), 5)
    manifest = build_manifest(Descriptor(media.OCI_CONFIG, image.id, 1), (layer, layer))
    with_manifest = add([1, 2], "y", manifest=manifest)
    assert (with_manifest.added_ns, with_manifest.parent) == (image.added_ns, parent.id)
    again = add([1, 2])
    assert (again.manifest, again.layer_blobs) == (manifest.digest, (layer.digest,) * 2)
    assert images.manifest(again.manifest) == manifest


def test_the_list_is_newest_first_with_names_and_sizes(add, images) -> None:
    old, new = add([10], "a:1", "b:1", created=5), add([10, 7], created=9)
    shown = images.list()
    assert [(s.record.id, len(s.tags), s.size, s.dangling) for s in shown] == [
        (new.id, 0, 17, True),
        (old.id, 2, 10, False),
    ]


def test_untagged_parents_are_shown_only_when_asked(add, images) -> None:
    parent = add([1])
    child = add([1, 2], parent=parent.id)
    assert [s.record.id for s in images.list()] == [child.id]
    assert {s.record.id for s in images.list(show_all=True)} == {parent.id, child.id}


@pytest.mark.parametrize(
    ("filters", "shown"),
    [
        ({"dangling": ["true"]}, "c"),
        ({"dangling": ["false"]}, "ba"),
        ({"label": ["env=prod"]}, "a"),
        ({"label": ["env"]}, "ba"),
        ({"label": ["env", "env=test"]}, "b"),
        ({"before": ["b:1"]}, "a"),
        ({"since": ["a:1"]}, "cb"),
        ({"reference": ["a"]}, "a"),
        ({"reference": ["*:1"]}, "ba"),
        ({"reference": ["a:2", "b"]}, "b"),
        ({"reference": ["nosuch"]}, ""),
        ({"until": ["0.000000002"]}, "a"),
    ],
)
def test_filters(add, images, filters, shown: str) -> None:
    names = {
        add([1], "a:1", created=1, labels=[("env", "prod")]).id: "a",
        add([2], "b:1", created=2, labels=[("env", "test")]).id: "b",
        add([3], created=3).id: "c",
    }
    assert "".join(names[s.record.id] for s in images.list(filters)) == shown


def test_a_reference_filter_hides_the_names_that_do_not_match(add, images) -> None:
    add([1], "a:1", "b:1")
    assert [tag.reference.familiar for tag in images.list({"reference": ["b"]})[0].tags] == ["b:1"]


@pytest.mark.parametrize(
    ("filters", "words"),
    [
        ({"nosuch": ["x"]}, "invalid filter 'nosuch'"),
        ({"dangling": ["maybe"]}, "invalid filter 'dangling="),
        ({"until": ["soon"]}, "invalid duration"),
        ({"reference": ["[a"]}, "syntax error in pattern"),
    ],
)
def test_bad_filters_are_refused(images, filters, words: str) -> None:
    with pytest.raises(InvalidInput, match=words):
        images.list(filters)


def test_a_missing_config_is_corrupt_not_a_missing_image(root, add, images) -> None:
    image = add([1], "x")
    root.blobs.blob_path(image.id).unlink()
    with pytest.raises(Corrupt):
        images.config(image)


def test_the_config_of_an_image_that_was_removed_meanwhile_is_not_found(root, add, images) -> None:
    image = add([1], "x")
    with root.index.update() as txn:
        txn.delete("images", image.id.raw)
        txn.delete("blobs", image.id.raw)
    with pytest.raises(ImageNotFound, match=f"No such image: {image.id}"):
        images.config(image)


def test_the_config_of_an_image_that_comes_and_goes_is_read_when_it_is_there(root, add, images, monkeypatch) -> None:
    """Found by many processes that load and remove the same image."""
    image, read, times = add([1], "x"), images._read_config, [1, 2]

    def comes_and_goes(id):
        if not times:
            return read(id)
        times.pop()
        images.remove("x", users=lambda image: [])
        add([1], "x")
        raise NotFound("it was gone just now")

    monkeypatch.setattr(images, "_read_config", comes_and_goes)
    assert images.config(image).id == image.id


def test_images_of_one_store_are_seen_by_another_opening(root, add) -> None:
    image = add([1], "x")
    assert Images(type(root).open(root.path)).resolve("x") == image


@pytest.mark.parametrize("name", ["sha256:1", "x@sha256:" + "a" * 64])
def test_names_that_look_like_digests_are_not_given(add, images, name: str) -> None:
    add([1], "x")
    with pytest.raises(InvalidInput, match="refusing to create"):
        images.tag("x", ref(name))
