"""The Linux calls of the C extension."""

from __future__ import annotations

import errno
import os
import select
import signal
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from layerfs.errors import MountError
from tests.looking import eventually, mountinfo, open_files

native: Any = pytest.importorskip("layerfs._native")

MOUNT_ATTR_RDONLY, MS_RDONLY, MNT_DETACH = 1, 1, 2
RENAME_NOREPLACE, RENAME_EXCHANGE = 1, 2
RESOLVE_BENEATH, RESOLVE_IN_ROOT = 0x08, 0x10


def mounts_on(path: Path) -> list[str]:
    lines = mountinfo().splitlines()
    return [line for line in lines if line.split()[4] == str(path)]


@pytest.fixture
def target(tmp_path: Path) -> Iterator[Path]:
    path = tmp_path / "target"
    path.mkdir()
    yield path
    while mounts_on(path):
        native.umount(str(path), MNT_DETACH)


@pytest.mark.root
def test_mount_new_sets_options_flags_and_attributes(target: Path) -> None:
    options = [("source", "a name"), ("size", "64k"), ("noswap", None)]
    native.mount_new("tmpfs", options, str(target), MOUNT_ATTR_RDONLY)
    (line,) = mounts_on(target)
    assert "a\\040name" in line and "size=64k" in line and "noswap" in line
    assert os.statvfs(target).f_flag & os.ST_RDONLY
    native.umount(str(target), 0)
    assert not mounts_on(target)


@pytest.mark.root
def test_a_mount_error_carries_what_the_kernel_says(target: Path) -> None:
    with pytest.raises(MountError, match=r"tmpfs option size: .*; .*[Bb]ad value for 'size'") as caught:
        native.mount_new("tmpfs", [("size", "banana")], str(target), 0)
    assert caught.value.filename == str(target)
    assert caught.value.errno == errno.EINVAL


@pytest.mark.root
def test_an_unknown_file_system_is_named(target: Path) -> None:
    with pytest.raises(MountError, match="file system type nosuchfs") as caught:
        native.mount_new("nosuchfs", [], str(target), 0)
    assert caught.value.errno == errno.ENODEV


@pytest.mark.root
def test_a_failed_mount_leaves_no_descriptor(target: Path) -> None:
    before = open_files()
    for _ in range(20):
        with pytest.raises(MountError):
            native.mount_new("tmpfs", [], str(target / "missing"), 0)
    assert open_files() - before == set()


@pytest.mark.root
def test_names_that_are_not_utf8_reach_the_kernel(tmp_path: Path) -> None:
    target = os.fsdecode(os.fsencode(tmp_path) + b"/\xff")
    Path(target).mkdir()
    native.mount_new("tmpfs", [("source", os.fsdecode(b"\xfe"))], target, 0)
    assert b" \xfe " in Path("/proc/self/mountinfo").read_bytes()
    native.umount(target, 0)


@pytest.mark.root
def test_mount_and_umount(target: Path) -> None:
    native.mount(None, str(target), "tmpfs", MS_RDONLY, "size=64k")
    assert len(mounts_on(target)) == 1
    fd = os.open(target, os.O_RDONLY)
    with pytest.raises(MountError, match="unmount: Device or resource busy") as caught:
        native.umount(str(target), 0)
    assert caught.value.errno == errno.EBUSY
    native.umount(str(target), MNT_DETACH)
    os.close(fd)
    with pytest.raises(MountError, match="Invalid argument"):
        native.umount(str(target), 0)


def test_wrong_options_are_type_errors(target: Path) -> None:
    for options in [["x"], [("a", 1.5)], [("a",)], [("a\0b", None)], [("a", -1)]]:
        with pytest.raises((TypeError, ValueError)):
            native.mount_new("tmpfs", options, str(target), 0)


def test_openat2_keeps_to_its_root(tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to("/inside")
    (tmp_path / "inside").write_text("in")
    root = os.open(tmp_path, os.O_RDONLY)
    fd = native.openat2(root, b"link", os.O_RDONLY, 0, RESOLVE_IN_ROOT)
    assert os.read(fd, 9) == b"in" and not os.get_inheritable(fd)
    os.close(fd)
    with pytest.raises(OSError) as caught:
        native.openat2(root, b"../x", os.O_RDONLY, 0, RESOLVE_BENEATH)
    assert (caught.value.errno, caught.value.filename) == (errno.EXDEV, "../x")
    fd = native.openat2(root, b"new-\xff", os.O_CREAT | os.O_WRONLY, 0o640, RESOLVE_BENEATH)
    assert stat.S_IMODE(os.fstat(fd).st_mode) == 0o640 & ~_umask()
    os.close(fd)
    os.close(root)


def _umask() -> int:
    value = os.umask(0)
    os.umask(value)
    return value


def test_renameat2(tmp_path: Path) -> None:
    (tmp_path / "a").write_text("1")
    (tmp_path / "b").write_text("2")
    fd = os.open(tmp_path, os.O_RDONLY)
    native.renameat2(fd, b"a", fd, b"b", RENAME_EXCHANGE)
    assert (tmp_path / "a").read_text() == "2"
    with pytest.raises(FileExistsError) as caught:
        native.renameat2(fd, b"a", fd, b"b", RENAME_NOREPLACE)
    assert (caught.value.filename, caught.value.filename2) == ("a", "b")
    native.syncfs(fd)
    os.close(fd)
    with pytest.raises(OSError, match="Bad file descriptor"):
        native.syncfs(fd)


def test_a_program_is_begun_and_reaped_beside_the_caller() -> None:
    read_end, write_end = os.pipe()
    other = os.open("/dev/null", os.O_RDONLY)
    os.set_inheritable(other, True)
    child = native.spawn(b"/bin/cat", (b"NAME=value",), (read_end, other, other, write_end))
    os.close(read_end)
    pid, process = native.spawned(child)
    assert eventually(lambda: Path(f"/proc/{pid}/environ").read_bytes() == b"NAME=value\0")
    assert sorted(path.name for path in Path(f"/proc/{pid}/fd").iterdir()) == ["0", "1", "2", "3"]
    assert os.getsid(pid) == pid
    assert "SigBlk:\t0000000000000000" in Path(f"/proc/{pid}/status").read_text()
    signal.pidfd_send_signal(process, signal.SIGKILL)
    assert select.select([process], [], [], 20)[0]
    assert eventually(lambda: not Path(f"/proc/{pid}").exists())
    os.close(write_end)
    os.close(other)


def test_a_program_that_cannot_be_begun_is_told_when_asked_for() -> None:
    child = native.spawn(b"/nowhere", (), (0, 1, 2))
    with pytest.raises(FileNotFoundError):
        native.spawned(child)
    with pytest.raises(OSError, match="Bad file descriptor"):
        native.spawn(b"/bin/true", (), (0, 1, 9999))
    with pytest.raises(TypeError):
        native.spawn(b"/bin/true", ("text",), ())
    with pytest.raises(ValueError):
        native.spawn(b"/bin/true", (), (0,) * 99)
    with pytest.raises((TypeError, ValueError)):
        native.spawned(None)
