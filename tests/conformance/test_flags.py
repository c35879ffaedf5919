"""Inode flags: what chattr(1) sets, kept and enforced as overlayfs does it."""

from __future__ import annotations

import contextlib
import ctypes
import errno
import fcntl
import os
import struct
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from calls import LIBC, names
from trees import directory, file
from worlds import World

pytestmark = [
    pytest.mark.root,
    pytest.mark.diverges("python", reason="libfuse 2 passes no ioctl that fusepy could answer"),
]

lower_flags = pytest.mark.diverges(
    "kernel", reason="overlayfs asks the lower file system first, and EROFS has no flags"
)

GET, SET = 0x80086601, 0x40086602  # FS_IOC_GETFLAGS, FS_IOC_SETFLAGS
GET_X, SET_X = 0x801C581F, 0x401C5820  # FS_IOC_FSGETXATTR, FS_IOC_FSSETXATTR
IMMUTABLE, APPEND, NODUMP, NOATIME = 0x10, 0x20, 0x40, 0x80

BASE = [file("f", b"lower" * 2000), file("g", b"g"), directory("d"), file("d/f", b"x"), directory("e")]
base = pytest.mark.layers(BASE)


@contextlib.contextmanager
def descriptor(path: Path, how: int = os.O_RDONLY) -> Iterator[int]:
    fd = os.open(path, how)
    try:
        yield fd
    finally:
        os.close(fd)


def flags(path: Path) -> int:
    with descriptor(path) as fd:
        data = fcntl.ioctl(fd, GET, bytes(8))
    return int(struct.unpack("=I", data[:4])[0]) & (IMMUTABLE | APPEND | NODUMP | NOATIME)


def set_flags(path: Path, wanted: int) -> None:
    with descriptor(path) as fd:
        change_flags(fd, wanted)


def change_flags(fd: int, wanted: int) -> None:
    """Other flags, which are the host's own, stay."""
    there = int(struct.unpack("=I", fcntl.ioctl(fd, GET, bytes(8))[:4])[0])
    rest = there & ~(IMMUTABLE | APPEND | NODUMP | NOATIME)
    fcntl.ioctl(fd, SET, struct.pack("=II", rest | wanted, 0))


def refused(*acts: Callable[[], object]) -> None:
    for number, act in enumerate(acts):
        with pytest.raises(OSError) as caught:
            act()
        assert caught.value.errno == errno.EPERM, number


def opened(path: Path, how: int) -> Callable[[], None]:
    return lambda: os.close(os.open(path, how))


@base
@lower_flags
def test_flags_are_kept(world: World) -> None:
    for name, wanted in (
        ("f", NODUMP | NOATIME),
        ("d", NODUMP),
        ("g", IMMUTABLE),
        ("d/f", APPEND),
        ("e", IMMUTABLE | APPEND),
    ):
        path = world.root / name
        assert flags(path) == 0
        set_flags(path, wanted)
        assert flags(path) == wanted
    world.remount()
    assert [flags(world.root / name) for name in ("f", "d", "g", "d/f", "e")] == [
        NODUMP | NOATIME,
        NODUMP,
        IMMUTABLE,
        APPEND,
        IMMUTABLE | APPEND,
    ]
    for name in ("g", "d/f", "e"):
        set_flags(world.root / name, 0)
        assert flags(world.root / name) == 0


@base
@lower_flags
def test_an_immutable_file_cannot_change(world: World) -> None:
    path, root = world.root / "f", world.root
    set_flags(path, IMMUTABLE)
    refused(
        opened(path, os.O_WRONLY),
        opened(path, os.O_RDWR | os.O_APPEND),
        lambda: os.truncate(path, 1),
        lambda: path.chmod(0o600),
        lambda: os.chown(path, 1, 1),
        lambda: os.utime(path),
        lambda: os.utime(path, (1, 1)),
        lambda: os.setxattr(path, "user.x", b"1"),
        path.unlink,
        lambda: path.rename(root / "other"),
        lambda: (root / "g").rename(path),
        lambda: os.link(path, root / "other"),
    )
    assert path.read_bytes() == b"lower" * 2000
    set_flags(path, 0)
    path.write_bytes(b"new")
    path.unlink()


@base
@lower_flags
def test_an_append_only_file_only_grows(world: World) -> None:
    path, root = world.root / "f", world.root
    set_flags(path, APPEND)
    refused(
        opened(path, os.O_WRONLY),
        opened(path, os.O_WRONLY | os.O_APPEND | os.O_TRUNC),
        lambda: os.truncate(path, 1),
        lambda: path.chmod(0o600),
        lambda: os.utime(path, (1, 1)),
        lambda: os.setxattr(path, "user.x", b"1"),
        path.unlink,
        lambda: path.rename(root / "other"),
        lambda: os.link(path, root / "other"),
    )
    os.utime(path)
    with path.open("ab") as out:
        out.write(b"more")
    assert path.read_bytes() == b"lower" * 2000 + b"more"


@base
@lower_flags
def test_nothing_comes_into_or_out_of_an_immutable_directory(world: World) -> None:
    path, root = world.root / "d", world.root
    set_flags(path, IMMUTABLE)
    refused(
        lambda: (path / "new").touch(),
        lambda: (path / "new").mkdir(),
        lambda: os.symlink("x", path / "new"),
        lambda: os.mkfifo(path / "new"),
        lambda: os.link(root / "g", path / "new"),
        lambda: (path / "f").unlink(),
        lambda: (path / "f").rename(root / "other"),
        lambda: (root / "g").rename(path / "new"),
        lambda: path.rename(root / "other"),
        lambda: path.chmod(0o700),
    )
    (path / "f").write_bytes(b"what is in it may change")
    assert names(path) == ["f"]


@base
@lower_flags
@pytest.mark.diverges("native-plain", reason="O_TMPFILE came with Linux 6.1")
def test_nothing_nameless_comes_into_an_immutable_directory(world: World) -> None:
    set_flags(world.root / "d", IMMUTABLE)
    refused(lambda: os.close(os.open(world.root / "d", os.O_TMPFILE | os.O_RDWR)))


@base
@lower_flags
def test_an_append_only_directory_only_gets_more(world: World) -> None:
    path, root = world.root / "d", world.root
    set_flags(path, APPEND)
    (path / "new").touch()
    (root / "g").rename(path / "moved")
    refused(lambda: (path / "f").unlink(), lambda: (path / "new").rename(root / "x"), path.rmdir)
    assert names(path) == ["f", "moved", "new"]


@base
def test_a_descriptor_from_before_goes_on(world: World) -> None:
    with descriptor(world.root / "f", os.O_RDWR) as fd:
        set_flags(world.root / "f", IMMUTABLE)
        os.pwrite(fd, b"W", 0)
    assert (world.root / "f").read_bytes()[:2] == b"Wo"


@base
@lower_flags
def test_the_longer_form(world: World) -> None:
    path = world.root / "f"
    with descriptor(path) as fd:
        there = fcntl.ioctl(fd, GET_X, bytes(28))
        fcntl.ioctl(fd, SET_X, struct.pack("=I", 0x8) + there[4:])  # FS_XFLAG_IMMUTABLE
    assert flags(path) == IMMUTABLE
    refused(opened(path, os.O_WRONLY))
    set_flags(path, 0)


@base
def test_only_privileged_processes_protect(world: World) -> None:
    path = world.root / "g"
    os.chown(path, 4321, 4321)
    with descriptor(path) as fd:
        pid = os.fork()
        if not pid:
            code = 1
            try:
                os.setresuid(4321, 4321, 4321)
                change_flags(fd, NODUMP)
                try:
                    change_flags(fd, IMMUTABLE | NODUMP)
                except PermissionError:
                    code = 0
            finally:
                os._exit(code)
        assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
    assert flags(path) == NODUMP


@base
def test_fallocate_respects_what_is_protected(world: World) -> None:
    with descriptor(world.root / "f", os.O_RDWR) as fd:
        set_flags(world.root / "f", APPEND)
        assert LIBC.fallocate(fd, 3, ctypes.c_long(0), ctypes.c_long(4096)) == -1  # a hole
        assert ctypes.get_errno() == errno.EPERM
        set_flags(world.root / "f", IMMUTABLE)
        assert LIBC.fallocate(fd, 1, ctypes.c_long(0), ctypes.c_long(4096)) == -1
        assert ctypes.get_errno() == errno.EPERM
