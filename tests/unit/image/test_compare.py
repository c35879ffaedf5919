"""Differences of trees and exports of them."""

import io
import os
import tarfile
from pathlib import Path

import pytest

from layerfs.image.compare import Difference, diff_stacks
from layerfs.image.export import export, tree_entries
from layerfs.image.rootfs import import_rootfs
from layerfs.layer.merged import merged_tree
from tests.unit.image.make import tar


def stack(root, data: bytes):
    return import_rootfs(root, io.BytesIO(data)).diff_ids


def changed(root, old: bytes, new: bytes) -> list[Difference]:
    return diff_stacks(root, stack(root, old), stack(root, new))


def test_added_changed_and_deleted_names_with_their_sizes(root) -> None:
    old = tar({"same": b"s", "gone": b"12", "d/": None, "d/x": b"123", "kind": b"1"})
    new = tar({"same": b"s", "d/": None, "d/x": b"1234", "kind/": None, "kind/y": b"12345", "new": b"1"})
    assert changed(root, old, new) == [
        Difference("C", b"/d/x", 3, 4, ("content",)),
        Difference("D", b"/gone", 2, 0),
        Difference("C", b"/kind", 1, 0, ("type",)),
        Difference("A", b"/kind/y", 0, 5),
        Difference("A", b"/new", 0, 1),
    ]


def test_equal_stacks_do_not_differ(root) -> None:
    assert changed(root, tar({"a": b"1"}), tar({"a": b"1"})) == []


def test_everything_below_a_removed_directory_is_listed(root) -> None:
    assert [d.path for d in changed(root, tar({"d/": None, "d/e/": None, "d/e/f": b"1"}), tar({}))] == [
        b"/d",
        b"/d/e",
        b"/d/e/f",
    ]


@pytest.mark.parametrize(
    ("attribute", "value", "field"),
    [
        ("mode", 0o600, "mode"),
        ("uid", 7, "owner"),
        ("mtime", 99, "mtime"),
        ("pax_headers", {"SCHILY.xattr.user.k": "v"}, "xattrs"),
    ],
)
def test_metadata_changes_are_named(root, attribute: str, value: object, field: str) -> None:
    def one(**attributes: object) -> bytes:
        out = io.BytesIO()
        with tarfile.open(fileobj=out, mode="w", format=tarfile.PAX_FORMAT) as archive:
            info = tarfile.TarInfo("f")
            for name, given in attributes.items():
                setattr(info, name, given)
            archive.addfile(info)
        return out.getvalue()

    assert changed(root, one(), one(**{attribute: value})) == [Difference("C", b"/f", 0, 0, (field,))]


def test_a_symlink_to_elsewhere_is_changed(root) -> None:
    assert changed(root, tar({"l": "a"}), tar({"l": "b"})) == [Difference("C", b"/l", 0, 0, ("target",))]


def test_very_deep_trees_are_compared(root) -> None:
    deep = {"a/" * depth: None for depth in range(1, 1500)}
    assert len(changed(root, tar(deep), tar({}))) == 1499


def test_an_export_is_sorted_flat_and_imports_to_the_same_tree(root, tmp_path: Path) -> None:
    top = tmp_path / "top"
    (top / "b").mkdir(parents=True)
    (top / "b/f").write_bytes(b"data")
    (top / "a").write_bytes(b"")
    os.link(top / "b/f", top / "z")
    (top / "l").symlink_to("b/f")
    os.setxattr(top / "a", "user.k", b"v")
    top.chmod(0o755)
    image = import_rootfs(root, top)
    export(tree_entries(root, merged_tree(root, image.diff_ids)), tmp_path / "out.tar")
    with tarfile.open(tmp_path / "out.tar") as archive:
        assert [(info.name, info.linkname) for info in archive] == [
            ("a", ""),
            ("b", ""),
            ("b/f", ""),
            ("l", "b/f"),
            ("z", "b/f"),
        ]
    again = import_rootfs(root, tmp_path / "out.tar")
    assert diff_stacks(root, image.diff_ids, again.diff_ids) == []


def test_an_unusual_root_is_exported_too(root, tmp_path: Path) -> None:
    (tmp_path / "top").mkdir(mode=0o700)
    image = import_rootfs(root, tmp_path / "top")
    out = io.BytesIO()
    export(tree_entries(root, merged_tree(root, image.diff_ids)), out)
    with tarfile.open(fileobj=io.BytesIO(out.getvalue())) as archive:
        assert [(info.name, info.mode) for info in archive] == [(".", 0o700)]
