"""Directories of the host as layers."""

import os
import shutil
import socket

import pytest

from layerfs.errors import InUse, InvalidInput
from layerfs.layer import TarWriter, directory_entries, import_directory, open_layer
from tests.oracle.applier import apply, listing
from tests.oracle.host import host_listing


@pytest.fixture
def place(tmp_path):
    (tmp_path / "in").mkdir()
    return tmp_path / "in"


def imported(root, lease, place):
    layer = import_directory(root, place, lease=lease)
    return listing(apply([open_layer(root, layer.diff_id).read()]))


@pytest.mark.root
def test_everything_comes_along(root, lease, place):
    (place / "d/e").mkdir(parents=True)
    (place / "d/f").write_bytes(os.urandom(200_000))
    os.link(place / "d/f", place / "d/e/hard")
    (place / "link").symlink_to("nowhere")
    os.mkfifo(place / "pipe")
    os.mknod(place / "dev", 0o20644, os.makedev(4, 300))
    os.setxattr(place / "d", "user.x", b"\xff\0")
    os.setxattr(place / "link", "trusted.y", b"1", follow_symlinks=False)
    os.chown(place / "d/f", 3_000_000, 7)
    (place / "d/f").chmod(0o6711)
    os.utime(place / "d/e", ns=(1, 1_234_567_891_234_567_891))
    (place / os.fsdecode(b"\xff\xfe\n")).touch()
    with (place / "holes").open("wb") as out:
        out.truncate(1 << 33)
        out.seek(1 << 32)
        out.write(b"data")
    place.chmod(0o750)
    assert imported(root, lease, place) == host_listing(place)


def test_sockets_are_skipped(root, lease, place):
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(place / "s"))
    (place / "f").touch()
    assert set(imported(root, lease, place)) == {b"", b"/f"}


def test_the_order_does_not_depend_on_the_host(place):
    for name in ("b", "a.x", "a/z", "a/b", "c"):
        (place / name).parent.mkdir(exist_ok=True)
        (place / name).touch()
    paths = [entry.path for entry in directory_entries(place)]
    assert paths == [b"", b"a", b"a/b", b"a/z", b"a.x", b"b", b"c"]


def test_equal_directories_give_equal_layers(root, lease, place, tmp_path):
    for name in ("one", "two", "three"):
        (place / name).write_text(name)
    os.link(place / "one", place / "zero")
    other = tmp_path / "other"
    other.mkdir()
    for name in ("three", "two", "zero"):  # another order of inodes
        shutil.copy2(place / name, other / name)
    os.link(other / "zero", other / "one")
    shutil.copystat(place, other)
    first = import_directory(root, place, lease=lease)
    assert import_directory(root, other, lease=lease) == first


def test_a_file_that_grows_meanwhile_is_an_error(place):
    (place / "f").write_bytes(b"x" * 1000)
    writer = TarWriter(lambda data: None)
    for entry in directory_entries(place):
        if entry.path == b"f":
            with (place / "f").open("ab") as out:
                out.write(b"more")
            with pytest.raises(InUse, match="/f"):
                writer.add(entry)


def test_a_file_that_goes_meanwhile_is_an_error(place):
    for name in ("a", "b"):
        (place / name).touch()
    entries = directory_entries(place)
    assert [next(entries).path for _ in range(2)] == [b"", b"a"]
    (place / "b").unlink()
    with pytest.raises(InUse, match="/b"):
        next(entries)


def test_a_directory_replaced_by_a_link_is_not_followed(place, tmp_path):
    (place / "d").mkdir()
    entries = directory_entries(place)
    assert [next(entries).path for _ in range(2)] == [b"", b"d"]
    (place / "d").rmdir()
    (place / "d").symlink_to(tmp_path)
    with pytest.raises(InUse, match="/d"):
        next(entries)


def test_names_a_layer_cannot_hold_are_refused_by_name(root, lease, place):
    (place / ".wh.x").touch()
    with pytest.raises(InvalidInput, match=r"/\.wh\.x"):
        imported(root, lease, place)
