"""Reference 3.3: deletes and creates, and what they leave in the upper directory."""

from __future__ import annotations

import os
import socket
import stat
from collections.abc import Callable
from pathlib import Path

import pytest
from calls import link_descriptor, names, whiteout_inode
from trees import directory, file, symlink
from worlds import World

pytestmark = pytest.mark.root

BASE = [
    file("f", b"lower"),
    file("g", b"lower"),
    directory("d"),
    file("d/a", b"x"),
    directory("d/e"),
    file("d/e/b", b"x"),
    directory("empty"),
    symlink("link", "f"),
]
base = pytest.mark.layers(BASE)
hidden = pytest.mark.layers(BASE, [file(".wh.f"), file(".wh.d")])


def remove_tree(path: Path) -> None:
    for entry in list(os.scandir(path)):
        if entry.is_dir(follow_symlinks=False):
            remove_tree(Path(entry.path))
        else:
            os.unlink(entry.path)
    path.rmdir()


@base
def test_removing_a_lower_file_leaves_a_whiteout(world: World) -> None:
    (world.root / "f").unlink()
    found = world.in_upper("f")
    assert found is not None and world.is_whiteout("f")
    assert (stat.S_IMODE(found.st_mode), found.st_uid) == (0, 0)
    assert "f" not in names(world.root)


@base
def test_whiteouts_share_one_inode(world: World) -> None:
    (world.root / "f").unlink()
    (world.root / "g").chmod(0o600)
    (world.root / "g").unlink()
    (world.root / "empty").rmdir()
    assert whiteout_inode(world.upper, "f") == whiteout_inode(world.upper, "g") == whiteout_inode(world.upper, "empty")


@base
def test_removing_an_upper_file_leaves_nothing(world: World) -> None:
    (world.root / "new").write_bytes(b"x")
    (world.root / "new").unlink()
    assert world.in_upper("new") is None


@base
def test_removing_twice_is_enoent(world: World) -> None:
    (world.root / "f").unlink()
    with pytest.raises(FileNotFoundError):
        (world.root / "f").unlink()
    with pytest.raises(FileNotFoundError):
        (world.root / "f").stat()


@hidden
def test_no_whiteout_where_a_lower_layer_has_one(world: World) -> None:
    (world.root / "f").write_bytes(b"new")
    (world.root / "f").unlink()
    assert world.in_upper("f") is None


@hidden
def test_a_directory_over_a_lower_whiteout_is_empty(world: World) -> None:
    (world.root / "d").mkdir()
    assert names(world.root / "d") == []
    (world.root / "d").rmdir()


@base
def test_rmdir_of_a_directory_with_entries_is_refused(world: World) -> None:
    with pytest.raises(OSError, match="not empty"):
        (world.root / "d").rmdir()
    (world.root / "empty/new").write_bytes(b"")
    with pytest.raises(OSError, match="not empty"):
        (world.root / "empty").rmdir()


@base
def test_rmdir_of_a_directory_with_only_whiteouts(world: World) -> None:
    remove_tree(world.root / "d")
    assert world.is_whiteout("d")
    assert not (world.root / "d").exists()


@base
def test_rmdir_of_a_lower_directory_leaves_a_whiteout(world: World) -> None:
    (world.root / "empty").rmdir()
    assert world.is_whiteout("empty")


@base
def test_rmdir_of_an_upper_directory_that_got_whiteouts(world: World) -> None:
    (world.root / "d").chmod(0o700)
    (world.root / "d/e/b").unlink()
    (world.root / "d/e").rmdir()
    (world.root / "d/a").unlink()
    (world.root / "d").rmdir()
    assert world.is_whiteout("d")


@base
def test_a_directory_made_again_is_opaque_and_empty(world: World) -> None:
    remove_tree(world.root / "d")
    (world.root / "d").mkdir()
    assert names(world.root / "d") == []
    assert world.mark("d", "opaque") == b"y"
    (world.root / "d/e").mkdir()
    assert names(world.root / "d/e") == []


@base
def test_a_file_over_a_directorys_whiteout(world: World) -> None:
    (world.root / "empty").rmdir()
    (world.root / "empty").write_bytes(b"file")
    assert (world.root / "empty").read_bytes() == b"file"
    (world.root / "empty").unlink()
    assert world.is_whiteout("empty")


@base
def test_wrong_kinds_are_refused(world: World) -> None:
    with pytest.raises(NotADirectoryError):
        (world.root / "f").rmdir()
    with pytest.raises(IsADirectoryError):
        (world.root / "d").unlink()
    with pytest.raises(FileExistsError):
        (world.root / "f").mkdir()
    with pytest.raises(FileExistsError):
        (world.root / "d").symlink_to("x")


MAKERS: dict[str, Callable[[Path], object]] = {
    "file": lambda path: path.write_bytes(b"new"),
    "directory": Path.mkdir,
    "symlink": lambda path: path.symlink_to("g"),
    "fifo": os.mkfifo,
    "device": lambda path: os.mknod(path, stat.S_IFCHR | 0o600, os.makedev(1, 3)),
    "block device": lambda path: os.mknod(path, stat.S_IFBLK | 0o600, os.makedev(7, 0)),
    "link": lambda path: os.link(path.with_name("g"), path),
    "rename": lambda path: path.with_name("g").rename(path),
    "rename of a directory": lambda path: path.with_name("empty").rename(path),
}


@base
@pytest.mark.parametrize("name", ["f", "d", "absent"])
@pytest.mark.parametrize("make", MAKERS.values(), ids=MAKERS)
def test_report_6_anything_can_be_made_where_something_was_removed(
    world: World, make: Callable[[Path], object], name: str, request: pytest.FixtureRequest
) -> None:
    """fuse-overlayfs#279: a symlink over a whiteout vanished at remount."""
    path = world.root / name
    if name == "d":
        remove_tree(path)
    elif name == "f":
        path.unlink()
    if world.reference and "rename of a directory" in request.node.name:
        pytest.skip("redirect_dir is off")
    make(path)
    kind = path.lstat().st_mode
    world.remount()
    assert path.lstat().st_mode == kind
    assert path.name in names(world.root)


@base
def test_a_socket_can_be_made(world: World) -> None:
    with socket.socket(socket.AF_UNIX) as listener:
        fd = os.open(world.root, os.O_RDONLY)
        listener.bind(f"/proc/self/fd/{fd}/socket")
        os.close(fd)
    assert stat.S_ISSOCK((world.root / "socket").lstat().st_mode)


@base
def test_a_whiteout_cannot_be_made_by_hand(world: World) -> None:
    with pytest.raises(PermissionError):
        os.mknod(world.root / "forged", stat.S_IFCHR | 0o600, os.makedev(0, 0))


@base
def test_a_removed_open_lower_file_lives_on(world: World) -> None:
    with (world.root / "f").open("rb") as stream:
        (world.root / "f").unlink()
        assert stream.read() == b"lower"
        assert names(world.root) == ["d", "empty", "g", "link"]


@base
@pytest.mark.diverges("overlayfs", "kernel", reason="overlayfs goes on showing the lower inode's nlink")
def test_a_removed_open_file_has_no_links(world: World) -> None:
    with (world.root / "f").open("rb") as stream:
        (world.root / "f").unlink()
        assert os.fstat(stream.fileno()).st_nlink == 0


@base
@pytest.mark.diverges("overlayfs", "kernel", reason="reference 3.3: fchmod of a removed lower file is EEXIST")
def test_a_removed_open_lower_file_can_change(world: World) -> None:
    fd = os.open(world.root / "f", os.O_RDONLY)
    try:
        (world.root / "f").unlink()
        os.fchmod(fd, 0o640)
        assert stat.S_IMODE(os.fstat(fd).st_mode) == 0o640
        assert os.pread(fd, 10, 0) == b"lower"
    finally:
        os.close(fd)


@base
def test_a_removed_open_file_can_be_written(world: World) -> None:
    with (world.root / "f").open("r+b") as stream:
        (world.root / "f").unlink()
        stream.write(b"LOWER and more")
        stream.flush()
        os.ftruncate(stream.fileno(), 9)
        assert os.fstat(stream.fileno()).st_size == 9
        assert os.pread(stream.fileno(), 20, 0) == b"LOWER and"
    (world.root / "f").write_bytes(b"another")
    assert (world.root / "f").read_bytes() == b"another"


@base
def test_a_directory_goes_although_a_removed_file_in_it_is_open(world: World) -> None:
    with (world.root / "d/a").open("rb") as stream:
        remove_tree(world.root / "d")
        assert not (world.root / "d").exists()
        assert stream.read() == b"x"


@base
def test_replacing_an_open_file_by_rename_keeps_the_old_one_readable(world: World) -> None:
    with (world.root / "f").open("rb") as stream:
        (world.root / "new").write_bytes(b"new")
        (world.root / "new").rename(world.root / "f")
        assert stream.read() == b"lower"
        assert (world.root / "f").read_bytes() == b"new"


@base
@pytest.mark.diverges("python", "native-plain", reason="no O_TMPFILE: in libfuse 2, before Linux 6.1")
def test_a_nameless_file_can_be_linked(world: World) -> None:
    fd = os.open(world.root, os.O_TMPFILE | os.O_RDWR, 0o600)
    try:
        os.write(fd, b"x")
        link_descriptor(fd, world.root / "named")
    finally:
        os.close(fd)
    assert (world.root / "named").read_bytes() == b"x"


@base
def test_new_files_belong_to_their_makers_and_directories_hand_on_their_group(world: World) -> None:
    folder = world.root / "shared"
    folder.mkdir()
    os.chown(folder, 0, 50)
    folder.chmod(0o2775)
    (folder / "file").write_bytes(b"")
    (folder / "sub").mkdir()
    (folder / "link").symlink_to("file")
    assert [(folder / name).lstat().st_gid for name in ("file", "sub", "link")] == [50, 50, 50]
    assert (folder / "sub").stat().st_mode & stat.S_ISGID


@base
def test_the_creators_umask_counts(world: World) -> None:
    old = os.umask(0o027)
    try:
        os.close(os.open(world.root / "file", os.O_CREAT | os.O_WRONLY, 0o666))
        os.mkdir(world.root / "folder", 0o777)
    finally:
        os.umask(old)
    assert stat.S_IMODE((world.root / "file").stat().st_mode) == 0o640
    assert stat.S_IMODE((world.root / "folder").stat().st_mode) == 0o750


@base
def test_a_read_only_file_can_be_made_and_written_at_once(world: World) -> None:
    fd = os.open(world.root / "file", os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o444)
    os.write(fd, b"x")
    os.close(fd)
    assert (world.root / "file").read_bytes() == b"x"
