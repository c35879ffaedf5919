"""Reference 3.4: rename, of files and directories, within and across layers."""

from __future__ import annotations

import errno
import os
import shutil
import time
from pathlib import Path

import pytest
from calls import EXCHANGE, NOREPLACE, WHITEOUT, names, renameat2, stat_inodes
from trees import directory, file
from worlds import World

pytestmark = pytest.mark.root

BASE = [
    file("f", b"f"),
    file("g", b"g"),
    directory("d", mtime=1_500_000_000.25),
    file("d/a", b"a"),
    directory("d/e"),
    file("d/e/b", b"b"),
    directory("other"),
    file("other/x", b"x"),
    directory("empty"),
]
base = pytest.mark.layers(BASE)
no_redirect = pytest.mark.diverges("overlayfs", reason="redirect_dir is off: EXDEV")


def expect(number: int, old: Path, new: Path, flags: int = 0) -> None:
    with pytest.raises(OSError) as caught:
        renameat2(old, new, flags)
    assert caught.value.errno == number


def tree(root: Path) -> dict[str, bytes | None]:
    found: dict[str, bytes | None] = {}
    for path in sorted(root.rglob("*")):
        found[str(path.relative_to(root))] = None if path.is_dir() else path.read_bytes()
    return found


@base
def test_a_lower_file_leaves_a_whiteout(world: World) -> None:
    ino = (world.root / "f").stat().st_ino
    (world.root / "f").rename(world.root / "new")
    assert world.is_whiteout("f")
    assert (world.root / "new").read_bytes() == b"f"
    assert (world.root / "new").stat().st_ino == ino


@base
def test_onto_an_existing_lower_file(world: World) -> None:
    (world.root / "f").rename(world.root / "g")
    assert (world.root / "g").read_bytes() == b"f"
    assert names(world.root) == ["d", "empty", "g", "other"]


@base
def test_an_upper_file_over_a_lower_one_leaves_nothing_behind(world: World) -> None:
    (world.root / "new").write_bytes(b"new")
    (world.root / "new").rename(world.root / "f")
    assert world.in_upper("new") is None
    assert (world.root / "f").read_bytes() == b"new"


@base
def test_onto_a_whited_out_name(world: World) -> None:
    (world.root / "g").unlink()
    (world.root / "f").rename(world.root / "g")
    assert (world.root / "g").read_bytes() == b"f"


@base
def test_a_file_there_and_back(world: World) -> None:
    for _ in range(3):
        (world.root / "f").rename(world.root / "new")
        (world.root / "new").rename(world.root / "f")
    assert (world.root / "f").read_bytes() == b"f"
    assert names(world.root) == ["d", "empty", "f", "g", "other"]


@base
def test_a_file_into_a_lower_directory(world: World) -> None:
    (world.root / "f").rename(world.root / "d/e/f")
    (world.root / "d/a").rename(world.root / "other/a")
    assert tree(world.root / "d") == {"e": None, "e/b": b"b", "e/f": b"f"}
    assert tree(world.root / "other") == {"a": b"a", "x": b"x"}


@base
def test_an_upper_directory_is_opaque_in_a_merged_place(world: World) -> None:
    (world.root / "made").mkdir()
    (world.root / "made/x").write_bytes(b"x")
    shutil.rmtree(world.root / "other")
    (world.root / "made").rename(world.root / "other")
    assert names(world.root / "other") == ["x"]
    assert world.mark("other", "opaque") == b"y"


@base
@no_redirect
def test_report_1_a_lower_directory_moves_with_everything_in_it(world: World) -> None:
    """moby#25409: EXDEV broke npm, apt, rustup."""
    before = stat_inodes(world.root / "d")
    (world.root / "d").rename(world.root / "moved")
    assert world.is_whiteout("d")
    assert world.mark("moved", "redirect") is not None
    assert tree(world.root / "moved") == {"a": b"a", "e": None, "e/b": b"b"}
    assert stat_inodes(world.root / "moved") == before
    assert not (world.root / "d").exists()


@base
@no_redirect
def test_report_1_a_lower_directory_there_and_back_and_elsewhere(world: World) -> None:
    for new in ("x", "y", "d", "other/d", "z", "other/z/", "d"):
        old = next(
            p for p in (*world.root.iterdir(), *(world.root / "other").iterdir()) if p.is_dir() and (p / "a").exists()
        )
        old.rename(world.root / new)
        assert tree(world.root / new) == {"a": b"a", "e": None, "e/b": b"b"}
    world.remount()
    assert names(world.root) == ["d", "empty", "f", "g", "other"]
    assert tree(world.root / "d") == {"a": b"a", "e": None, "e/b": b"b"}


@base
@no_redirect
def test_a_moved_directory_changes_like_any_other(world: World) -> None:
    (world.root / "d").rename(world.root / "moved")
    (world.root / "moved/a").write_bytes(b"changed")
    (world.root / "moved/e/b").unlink()
    (world.root / "moved/e/c").write_bytes(b"c")
    (world.root / "moved/e").rename(world.root / "e")
    (world.root / "e").rename(world.root / "other/e")
    assert tree(world.root) == {
        "empty": None,
        "f": b"f",
        "g": b"g",
        "moved": None,
        "moved/a": b"changed",
        "other": None,
        "other/e": None,
        "other/e/c": b"c",
        "other/x": b"x",
    }


@base
@no_redirect
def test_a_new_directory_at_the_old_place_is_empty(world: World) -> None:
    (world.root / "d").rename(world.root / "moved")
    (world.root / "d").mkdir()
    assert names(world.root / "d") == []
    (world.root / "d/a").write_bytes(b"new")
    (world.root / "moved").rename(world.root / "d/moved")
    assert tree(world.root / "d") == {"a": b"new", "moved": None, "moved/a": b"a", "moved/e": None, "moved/e/b": b"b"}


@base
@no_redirect
def test_two_directories_swap_places_by_three_renames(world: World) -> None:
    (world.root / "d").rename(world.root / "t")
    (world.root / "other").rename(world.root / "d")
    (world.root / "t").rename(world.root / "other")
    assert tree(world.root / "d") == {"x": b"x"}
    assert tree(world.root / "other") == {"a": b"a", "e": None, "e/b": b"b"}


@base
@no_redirect
def test_a_directory_onto_an_empty_lower_one(world: World) -> None:
    (world.root / "d").rename(world.root / "empty")
    assert tree(world.root / "empty") == {"a": b"a", "e": None, "e/b": b"b"}


@base
@no_redirect
def test_a_directory_onto_one_that_was_emptied(world: World) -> None:
    (world.root / "other/x").unlink()
    (world.root / "d").rename(world.root / "other")
    assert tree(world.root / "other") == {"a": b"a", "e": None, "e/b": b"b"}


@base
@no_redirect
def test_a_directory_onto_a_whited_out_name(world: World) -> None:
    (world.root / "g").unlink()
    (world.root / "d").rename(world.root / "g")
    assert names(world.root / "g") == ["a", "e"]


@base
def test_an_upper_directory_onto_a_whited_out_name(world: World) -> None:
    (world.root / "g").unlink()
    (world.root / "made").mkdir()
    (world.root / "made/x").write_bytes(b"x")
    (world.root / "made").rename(world.root / "g")
    assert names(world.root / "g") == ["x"]
    assert names(world.root) == ["d", "empty", "f", "g", "other"]


@base
@no_redirect
def test_a_moved_directory_keeps_its_time_and_counts_as_a_change_of_its_parents(world: World) -> None:
    before = (world.root / "d").stat()
    parent = world.root.stat().st_mtime_ns
    time.sleep(0.011)  # a tick of the kernel's clock
    (world.root / "d").rename(world.root / "moved")
    after = (world.root / "moved").stat()
    assert (after.st_mtime_ns, after.st_ino, after.st_mode) == (before.st_mtime_ns, before.st_ino, before.st_mode)
    assert world.root.stat().st_mtime_ns > parent


@base
def test_what_rename_refuses(world: World) -> None:
    root = world.root
    (root / "made/sub").mkdir(parents=True)
    expect(errno.ENOTEMPTY, root / "made", root / "d")
    expect(errno.EISDIR, root / "f", root / "empty")
    expect(errno.ENOTDIR, root / "made", root / "f")
    expect(errno.EINVAL, root / "made", root / "made/sub/made")
    expect(errno.ENOENT, root / "absent", root / "new")
    expect(errno.ENOENT, root / "f", root / "absent/f")
    expect(errno.EINVAL, root / "f", root / "new", WHITEOUT)


@base
def test_onto_itself_changes_nothing(world: World) -> None:
    (world.root / "f").rename(world.root / "f")
    assert (world.root / "f").read_bytes() == b"f"


fusepy = pytest.mark.diverges("python", reason="fusepy passes no rename flags: the kernel answers EINVAL")


@base
@fusepy
def test_report_10_noreplace_onto_a_whiteout_works_and_onto_a_name_is_eexist(world: World) -> None:
    """fuse-overlayfs#273."""
    expect(errno.EEXIST, world.root / "f", world.root / "g", NOREPLACE)
    (world.root / "g").unlink()
    renameat2(world.root / "f", world.root / "g", NOREPLACE)
    assert (world.root / "g").read_bytes() == b"f"


@base
@fusepy
@pytest.mark.parametrize("pair", [("f", "g"), ("f", "new"), ("f", "d/a"), ("new", "d/e/b")], ids=str)
def test_report_10_files_change_places(world: World, pair: tuple[str, str]) -> None:
    one, two = (world.root / name for name in pair)
    (world.root / "new").write_bytes(b"new")
    before = one.read_bytes(), two.read_bytes()
    renameat2(one, two, EXCHANGE)
    assert (two.read_bytes(), one.read_bytes()) == before


@base
@fusepy
@no_redirect
@pytest.mark.parametrize("pair", [("d", "other"), ("d", "new"), ("d", "f"), ("empty", "d/e")], ids=str)
def test_report_10_directories_change_places(world: World, pair: tuple[str, str]) -> None:
    one, two = (world.root / name for name in pair)
    (world.root / "new").mkdir()
    (world.root / "new/n").write_bytes(b"n")
    before = [tree(path) if path.is_dir() else path.read_bytes() for path in (one, two)]
    renameat2(one, two, EXCHANGE)
    assert [tree(path) if path.is_dir() else path.read_bytes() for path in (two, one)] == before


@base
@no_redirect
def test_a_file_moves_out_of_a_moved_directory_after_a_metadata_change(world: World) -> None:
    """A metadata-only copy has to find its bytes from any place."""
    (world.root / "d/e/b").chmod(0o600)
    (world.root / "d").rename(world.root / "moved")
    (world.root / "moved/e/b").rename(world.root / "b")
    os.link(world.root / "b", world.root / "other/b")
    world.remount()
    assert (world.root / "b").read_bytes() == (world.root / "other/b").read_bytes() == b"b"
