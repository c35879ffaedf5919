"""Reference 3.1: lookup, listings, identity."""

from __future__ import annotations

import os
import stat

import pytest
from calls import listed_inodes, names, stat_inodes
from trees import directory, file, symlink
from worlds import World

pytestmark = pytest.mark.root

BASE = [
    directory("d", uid=5),
    file("d/lower", b"lower"),
    file("d/both", b"old"),
    file("gone", b"x"),
    directory("gonedir"),
    file("gonedir/x", b"x"),
    directory("replaced"),
    file("replaced/old", b"x"),
    file("file-to-dir", b"x"),
    symlink("link", "d/lower"),
]
TOP = [
    directory("d", 0o700, uid=7),
    file("d/upper", b"upper"),
    file("d/both", b"new"),
    file(".wh.gone"),
    file(".wh.gonedir"),
    directory("replaced"),
    file("replaced/.wh..wh..opq"),
    file("replaced/new", b"x"),
    directory("file-to-dir"),
    file("file-to-dir/x", b"x"),
]

stacked = pytest.mark.layers(BASE, TOP)


@stacked
def test_the_topmost_layer_with_the_name_decides(world: World) -> None:
    assert (world.root / "d/both").read_bytes() == b"new"


@stacked
def test_directories_merge_and_list_no_name_twice(world: World) -> None:
    assert names(world.root / "d") == ["both", "lower", "upper"]


@stacked
def test_the_topmost_directory_gives_the_attributes(world: World) -> None:
    found = (world.root / "d").stat()
    assert (stat.S_IMODE(found.st_mode), found.st_uid) == (0o700, 7)


@stacked
def test_whiteouts_hide_and_are_not_listed(world: World) -> None:
    assert names(world.root) == ["d", "file-to-dir", "link", "replaced"]
    for gone in ("gone", "gonedir", "gonedir/x"):
        with pytest.raises(FileNotFoundError):
            (world.root / gone).stat()


@stacked
def test_an_opaque_directory_hides_what_lower_layers_have_in_it(world: World) -> None:
    assert names(world.root / "replaced") == ["new"]


@stacked
def test_a_directory_over_a_file_wins(world: World) -> None:
    assert names(world.root / "file-to-dir") == ["x"]


@stacked
def test_symlinks_are_shown_not_followed(world: World) -> None:
    assert os.readlink(world.root / "link") == "d/lower"
    assert (world.root / "link").read_bytes() == b"lower"


@stacked
def test_one_device_number_for_everything(world: World) -> None:
    (world.root / "made").write_bytes(b"x")
    devices = {path.lstat().st_dev for path in (world.root, *world.root.iterdir(), *(world.root / "d").iterdir())}
    assert len(devices) == 1


@stacked
def test_listings_and_stat_agree_on_inode_numbers(world: World) -> None:
    (world.root / "made").mkdir()
    (world.root / "d/both").chmod(0o600)
    (world.root / "d/made").write_bytes(b"x")
    for folder in (world.root, world.root / "d", world.root / "made"):
        assert listed_inodes(folder) == stat_inodes(folder)


@stacked
def test_different_files_have_different_inode_numbers(world: World) -> None:
    (world.root / "d/lower").chmod(0o600)
    (world.root / "made").write_bytes(b"x")
    numbers = [n for folder in (world.root, world.root / "d") for n in stat_inodes(folder).values()]
    assert len(numbers) == len(set(numbers))


@stacked
def test_merged_directories_do_not_understate_their_subdirectories(world: World) -> None:
    """find(1) skips directories when nlink says there are none; 1 means "do not rely on it"."""
    (world.root / "d").chmod(0o755)
    (world.root / "d/made").mkdir()
    subdirectories = sum(1 for path in (world.root / "d").iterdir() if path.is_dir())
    nlink = (world.root / "d").stat().st_nlink
    assert nlink == 1 or nlink == 2 + subdirectories


@stacked
def test_rewinding_an_open_directory_shows_new_names(world: World) -> None:
    fd = os.open(world.root / "d", os.O_RDONLY)
    try:
        before = os.listdir(fd)
        (world.root / "d/made").write_bytes(b"")
        assert sorted(os.listdir(fd)) == sorted([*before, "made"])
    finally:
        os.close(fd)


@stacked
def test_statvfs_is_the_upper_file_systems(world: World) -> None:
    host, seen = os.statvfs(world.upper), os.statvfs(world.root)
    assert (seen.f_blocks, seen.f_namemax) == (host.f_blocks, 255)


@pytest.mark.layers(
    [file(os.fsdecode(b"caf\xe9 \xff\x01"), b"x"), file("n" * 255, b"y"), file("back\\slash new\nline")]
)
def test_any_bytes_are_a_name_and_255_fit(world: World) -> None:
    strange = os.fsencode(world.root) + b"/caf\xe9 \xff\x01"
    with open(strange, "rb") as stream:
        assert stream.read() == b"x"
    made = os.fsencode(world.root) + b"/\xc3\x28\xfe"
    os.mkdir(made)
    os.symlink(b"\xf0\x28", made + b"/\xf1")
    assert os.readlink(made + b"/\xf1") == b"\xf0\x28"
    (world.root / ("n" * 255)).chmod(0o600)
    (world.root / ("m" * 255)).write_bytes(b"")
    with pytest.raises(OSError, match="File name too long"):
        (world.root / ("n" * 256)).write_bytes(b"")


@stacked
def test_lookups_that_fail_say_why(world: World) -> None:
    with pytest.raises(FileNotFoundError):
        (world.root / "nothing/below").stat()
    with pytest.raises(NotADirectoryError):
        (world.root / "d/lower/below").stat()


@pytest.mark.layers(
    [directory("deep"), *(directory("deep" + "/d" * n) for n in range(1, 60)), file("deep" + "/d" * 59 + "/f", b"x")]
)
def test_deep_directories_work(world: World) -> None:
    deep = world.root / ("deep" + "/d" * 59)
    (deep / "f").write_bytes(b"changed")
    (deep / "made").mkdir()
    assert names(deep) == ["f", "made"]
