"""commit: the parent's layers and history plus one."""

import io

import pytest

from layerfs.errors import InvalidInput, NotFound
from layerfs.image.commit import EMPTY_TAR, child_config, commit_image
from layerfs.image.history import history
from layerfs.image.rootfs import import_rootfs
from layerfs.oci import ContainerConfig, Platform
from layerfs.reference import Reference
from tests.unit.image.make import tar

from .conftest import diff_id


@pytest.fixture
def base(root):
    return import_rootfs(root, io.BytesIO(tar({"a": b"1"})), created_ns=1, platform=Platform.parse("linux/arm/v7"))


def test_a_commit_has_one_layer_and_one_entry_more_and_a_parent(root, images, base) -> None:
    layer = import_rootfs(root, io.BytesIO(tar({"b": b"22"}))).diff_ids[0]
    image = commit_image(
        root,
        base,
        layer,
        ContainerConfig(env=("A=1",)),
        command=("sh", "-c", "echo one; two"),
        author="me",
        message="note",
        changes=["ENV B=2", 'CMD ["x"]'],
        references=[Reference.parse("new:1")],
        created_ns=2,
    )
    config = images.config(image)
    assert images.resolve("new:1") == image and image.parent == base.id
    assert config.diff_ids == (*base.diff_ids, layer) and config.platform == base.platform
    assert (config.config.env, config.config.cmd, config.author) == (("A=1", "B=2"), ("x",), "me")
    top, bottom = history(root, image)
    assert (top.created_by, top.comment, top.size, top.id) == ("sh -c echo one; two", "note", 2, image.id)
    assert (bottom.comment, bottom.id) == ("Imported from -", base.id)


@pytest.mark.parametrize("nothing", [None, EMPTY_TAR])
def test_no_change_is_an_empty_entry(root, images, base, nothing) -> None:
    image = commit_image(root, base, nothing, ContainerConfig(), created_ns=3)
    assert images.config(image).history[-1].empty_layer and image.diff_ids == base.diff_ids


def test_a_missing_layer_or_a_bad_change_makes_no_image(root, images, base) -> None:
    with pytest.raises(NotFound):
        commit_image(root, base, diff_id(9), ContainerConfig())
    with pytest.raises(InvalidInput):
        commit_image(root, base, None, ContainerConfig(), changes=["ADD x"])
    assert [s.record for s in images.list()] == [base]


def test_equal_arguments_give_the_same_id() -> None:
    make = lambda: child_config(None, diff_id(1), ContainerConfig(), created_ns=1, platform=Platform("linux", "amd64"))  # noqa: E731
    assert make().id == make().id
