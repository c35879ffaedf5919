"""rmi: docker's rules, its lines and its words."""

import pytest

from layerfs.digest import chain_id
from layerfs.errors import ImageNotFound, InUse
from layerfs.image.removal import ImageUse, is_single
from layerfs.reference import Reference

from .conftest import diff_id

BOX = "5eeabac493b2" + "0" * 52


def nobody(_image):
    return []


def users(image, *, running: bool = False):
    return lambda asked: [ImageUse(BOX, running)] if asked == image.id else []


def lines(removed) -> list[str]:
    return [str(line) for line in removed]


def chain(*layers: int) -> str:
    return f"Deleted: {chain_id([diff_id(n) for n in layers])}"


def test_a_name_of_several_is_only_untagged(add, images) -> None:
    image = add([1], "x:1", "x:2")
    assert lines(images.remove("x:1", users=nobody)) == ["Untagged: x:1"]
    assert images.resolve("x:2") == image


def test_the_last_name_takes_the_image_and_the_layers_nobody_else_has(add, images) -> None:
    add([1, 9], "other")
    image = add([1, 2, 3], "x")
    assert lines(images.remove("x", users=nobody)) == [
        "Untagged: x:latest",
        f"Deleted: {image.id}",
        chain(1, 2, 3),
        chain(1, 2),
    ]
    with pytest.raises(ImageNotFound):
        images.get(image.id)


def test_by_id_an_image_with_names_of_one_repository_goes_with_them(add, images) -> None:
    image = add([1], "x:1")
    assert lines(images.remove(image.id.short, users=nobody))[:2] == ["Untagged: x:1", f"Deleted: {image.id}"]


def test_by_id_several_names_need_force(add, images) -> None:
    image = add([1], "x:1", "y:1")
    words = rf"conflict: unable to delete {image.id.short} \(must be forced\) - image is referenced in multiple rep"
    with pytest.raises(InUse, match=words):
        images.remove(image.id.hex, users=nobody)
    assert lines(images.remove(image.id.hex, users=nobody, force=True))[:2] == ["Untagged: x:1", "Untagged: y:1"]


def test_the_last_name_of_a_used_image_needs_force_and_then_only_the_name_goes(add, images) -> None:
    image = add([1], "bb")
    words = (
        f'conflict: unable to remove repository reference "bb" (must force) - '
        f"container 5eeabac493b2 is using its referenced image {image.id.short}"
    )
    with pytest.raises(InUse) as caught:
        images.remove("bb", users=users(image))
    assert str(caught.value) == words
    assert lines(images.remove("bb", users=users(image, running=True), force=True)) == ["Untagged: bb:latest"]
    assert images.get(image.id) == image


@pytest.mark.parametrize("force", [False, True])
def test_an_image_of_a_running_container_cannot_be_removed_by_id(add, images, force: bool) -> None:
    image = add([1], "x")
    with pytest.raises(InUse, match=r"cannot be forced.*used by running container 5eeabac493b2"):
        images.remove(image.id.hex, users=users(image, running=True), force=force)


def test_an_image_of_a_stopped_container_can_be_forced(add, images) -> None:
    image = add([1], "x")
    with pytest.raises(InUse, match=r"must be forced.*used by stopped container"):
        images.remove(image.id.hex, users=users(image))
    assert f"Deleted: {image.id}" in lines(images.remove(image.id.hex, users=users(image), force=True))


def test_a_parent_cannot_be_removed_and_untagged_parents_go_with_the_child(add, images) -> None:
    grandparent = add([1], "base")
    parent = add([1, 2], parent=grandparent.id)
    child = add([1, 2, 3], "app", parent=parent.id)
    with pytest.raises(InUse, match=r"cannot be forced.*dependent child images"):
        images.remove(parent.id.hex, users=nobody, force=True)
    assert lines(images.remove("app", users=nobody)) == [
        "Untagged: app:latest",
        f"Deleted: {child.id}",
        chain(1, 2, 3),
        f"Deleted: {parent.id}",
        chain(1, 2),
    ]
    assert images.resolve("base") == grandparent


def test_a_name_of_a_parent_is_untagged_and_the_image_stays(add, images) -> None:
    parent = add([1], "base")
    add([1, 2], "app", parent=parent.id)
    assert lines(images.remove("base", users=nobody)) == ["Untagged: base:latest"]


def test_without_pruning_the_parents_stay(add, images) -> None:
    parent = add([1])
    add([1, 2], "app", parent=parent.id)
    images.remove("app", users=nobody, prune=False)
    assert images.get(parent.id) == parent


def test_digest_names_go_with_the_last_tag_of_their_repository(add, images) -> None:
    image = add([1], "h.io/x:1", "h.io/x@sha256:" + "a" * 64)
    assert lines(images.remove("h.io/x:1", users=nobody))[:3] == [
        "Untagged: h.io/x:1",
        "Untagged: h.io/x@sha256:" + "a" * 64,
        f"Deleted: {image.id}",
    ]


@pytest.mark.parametrize(
    ("names", "single"),
    [
        ([], True),
        (["x:1"], True),
        (["x:1", "x:2"], False),
        (["x:1", "x@sha256:" + "a" * 64], True),
        (["x:1", "y@sha256:" + "a" * 64], False),
        (["x@sha256:" + "a" * 64, "x@sha256:" + "b" * 64], True),
    ],
)
def test_what_counts_as_one_name(names: list[str], single: bool) -> None:
    assert is_single([Reference.parse(name) for name in names]) is single
