"""Reference 3.5: hard links over copy-up, removal and remount (report 3: fuse-overlayfs PR 109)."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from trees import directory, file, hardlink, symlink
from worlds import World

pytestmark = pytest.mark.root

BASE = [
    file("a", b"linked", mode=0o644),
    hardlink("b", "a"),
    directory("d"),
    directory("d/e"),
    hardlink("d/e/c", "a"),
    file("big", b"B" * 300_000),
    hardlink("d/big", "big"),
    symlink("s", "a"),
    hardlink("s2", "s"),
    file("single", b"single"),
]
base = pytest.mark.layers(BASE)
no_index = pytest.mark.diverges("overlayfs", reason="reference 3.5: index=off breaks links at copy-up")
NAMES = ("a", "b", "d/e/c")


def facts(world: World) -> set[tuple[int, int, bytes]]:
    paths = [world.root / name for name in NAMES]
    return {(path.stat().st_ino, path.stat().st_nlink, path.read_bytes()) for path in paths}


@base
def test_lower_links_are_one_file(world: World) -> None:
    assert len(facts(world)) == 1
    assert (world.root / "a").stat().st_nlink == 3


@base
@no_index
@pytest.mark.parametrize("name", NAMES)
def test_report_3_writing_through_one_name_shows_through_all(world: World, name: str) -> None:
    ino = (world.root / "a").stat().st_ino
    with (world.root / name).open("ab") as stream:
        stream.write(b"+")
    assert facts(world) == {(ino, 3, b"linked+")}
    world.remount()
    assert facts(world) == {(ino, 3, b"linked+")}


@base
@no_index
def test_changing_attributes_through_one_name_shows_through_all(world: World) -> None:
    (world.root / "d/big").chmod(0o600)
    os.setxattr(world.root / "big", "user.x", b"1")
    assert (world.root / "big").stat().st_mode == (world.root / "d/big").stat().st_mode
    assert os.getxattr(world.root / "d/big", "user.x") == b"1"
    assert (world.root / "d/big").read_bytes() == b"B" * 300_000
    with (world.root / "big").open("r+b") as stream:
        stream.write(b"b")
    assert (world.root / "d/big").read_bytes()[:2] == b"bB"


@base
@no_index
def test_removing_a_name_leaves_the_others(world: World) -> None:
    (world.root / "b").unlink()
    assert (world.root / "a").stat().st_nlink == 2
    (world.root / "a").write_bytes(b"new")
    assert (world.root / "d/e/c").read_bytes() == b"new"
    (world.root / "a").unlink()
    assert (world.root / "d/e/c").stat().st_nlink == 1
    assert (world.root / "d/e/c").read_bytes() == b"new"


@base
@no_index
def test_a_new_name_for_a_linked_lower_file(world: World) -> None:
    os.link(world.root / "a", world.root / "d/new")
    (world.root / "b").write_bytes(b"new")
    assert (world.root / "d/new").read_bytes() == b"new"
    assert {(world.root / name).stat().st_nlink for name in (*NAMES, "d/new")} == {4}


@base
def test_linking_a_single_lower_file_copies_it_up(world: World) -> None:
    ino = (world.root / "single").stat().st_ino
    os.link(world.root / "single", world.root / "second")
    found = [(world.root / name).stat() for name in ("single", "second")]
    assert {(each.st_ino, each.st_nlink) for each in found} == {(ino, 2)}
    (world.root / "second").write_bytes(b"changed")
    assert (world.root / "single").read_bytes() == b"changed"


@base
def test_linking_a_changed_file_keeps_its_bytes(world: World) -> None:
    (world.root / "single").chmod(0o600)
    os.link(world.root / "single", world.root / "d/second")
    (world.root / "single").unlink()
    world.remount()
    assert (world.root / "d/second").read_bytes() == b"single"


@base
@no_index
def test_a_linked_name_in_a_moved_directory(world: World) -> None:
    (world.root / "d").rename(world.root / "moved")
    (world.root / "a").write_bytes(b"new")
    assert (world.root / "moved/e/c").read_bytes() == b"new"
    assert (world.root / "moved/e/c").stat().st_nlink == 3


@base
@no_index
def test_renaming_one_name_keeps_the_link(world: World) -> None:
    (world.root / "a").rename(world.root / "d/moved")
    (world.root / "d/moved").write_bytes(b"new")
    assert (world.root / "b").read_bytes() == (world.root / "d/e/c").read_bytes() == b"new"


@base
def test_renaming_a_name_onto_another_of_the_same_file_does_nothing(world: World) -> None:
    (world.root / "a").chmod(0o600)
    os.link(world.root / "single", world.root / "second")
    (world.root / "second").rename(world.root / "single")
    assert (world.root / "second").exists() and (world.root / "single").exists()


@base
def test_symlinks_have_links_too(world: World) -> None:
    assert (world.root / "s").lstat().st_nlink == 2
    os.link(world.root / "single", world.root / "d/hard", follow_symlinks=False)
    os.link(world.root / "s", world.root / "s3", follow_symlinks=False)
    assert os.readlink(world.root / "s3") == "a"


def test_report_22_a_link_in_one_layer_to_a_file_of_another(make_world: object) -> None:
    """image-spec#1204: the content and metadata of the earlier file, never an empty one."""
    lower = [file("orig", b"from below", mode=0o640, uid=3), directory("d")]
    upper = [hardlink("d/linked", "orig")]
    for name in ("python", "kernel"):
        world = make_world(name, lower, upper)  # type: ignore[operator]
        paths: list[Path] = [world.root / "orig", world.root / "d/linked"]
        assert {(p.read_bytes(), p.stat().st_ino, p.stat().st_nlink, p.stat().st_uid) for p in paths} == {
            (b"from below", paths[0].stat().st_ino, 2, 3)
        }
        paths[1].write_bytes(b"written")
        assert paths[0].read_bytes() == b"written"
