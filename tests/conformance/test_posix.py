"""What a POSIX file system on Linux does: one check for each operation that the other modules have no place for."""

from __future__ import annotations

import ctypes
import errno
import fcntl
import mmap
import os
import signal
import socket
import stat
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from calls import (
    EXCHANGE,
    WHITEOUT,
    acl,
    fallocate,
    names,
    renameat2,
)
from trees import device, directory, fifo, file
from worlds import World

from tests.looking import eventually

pytestmark = pytest.mark.root

MIB = 1 << 20
USER = 1000
BASE = [
    file("small", b"lower bytes"),
    file("big", b"B" * (2 * MIB)),
    file("script", b"#!/bin/sh\necho one\n", mode=0o755),
    file("private", b"secret", mode=0o600),
    fifo("pipe"),
    device("null", 1, 3),
    directory("d"),
    *[file(f"d/{number}", b"%d" % number) for number in range(40)],
    directory("sticky", 0o1777),
    file("sticky/roots", b""),
    directory("group", 0o2775, gid=50),
    directory("open", 0o777),
]
base = pytest.mark.layers(BASE)
both = pytest.mark.parametrize("name", ["small", "big"])
no_python = pytest.mark.diverges("python", reason="libfuse 2 does not pass it on (docs/limits.md)")
_PUNCH, _KEEP, _COLLAPSE, _ZERO, _INSERT, _UNSHARE = 2, 1, 8, 16, 32, 64


def as_user(world: World, act: Callable[[Path], object], uid: int = USER) -> None:
    """Runs `act` in a child with another identity; an OSError there is raised here, with its number.

    `act` gets the mount's root as a relative path: the directories above are closed to other users.
    """
    child = os.fork()
    if not child:
        code = 255
        try:
            os.chdir(world.root)
            os.setgroups([])
            os.setgid(uid)
            os.setuid(uid)
            act(Path())
            code = 0
        except OSError as error:
            code = error.errno or 254
        finally:
            os._exit(code)
    code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    if code:
        raise OSError(code, os.strerror(code))


def error_of(act: Callable[[], object]) -> int:
    """The number of the OSError that `act` raises; 0: none."""
    try:
        act()
    except OSError as error:
        return error.errno or -1
    return 0


# --- permissions ---------------------------------------------------------------------------------------------------


@base
def test_the_sticky_bit_keeps_other_peoples_files(world: World) -> None:
    folder = world.root / "sticky"
    (folder / "mine").write_bytes(b"")
    os.chown(folder / "mine", USER, USER)
    assert error_of(lambda: as_user(world, lambda root: (root / "sticky/roots").unlink())) == errno.EPERM
    assert error_of(lambda: as_user(world, lambda root: os.rename("sticky/roots", "sticky/x"))) == errno.EPERM
    as_user(world, lambda root: (root / "sticky/mine").unlink())
    assert names(folder) == ["roots"]


@base
def test_permission_is_checked_on_lower_and_copied_files(world: World) -> None:
    path = world.root / "private"

    def read(root: Path) -> None:
        (root / "private").read_bytes()

    assert error_of(lambda: as_user(world, read)) == errno.EACCES
    path.chmod(0o604)
    as_user(world, read)
    assert error_of(lambda: as_user(world, lambda root: (root / "private").open("ab"))) == errno.EACCES
    path.chmod(0o600)
    assert error_of(lambda: as_user(world, read)) == errno.EACCES


@base
def test_an_open_file_can_be_used_although_its_mode_changed(world: World) -> None:
    path = world.root / "small"
    path.chmod(0o666)
    with path.open("r+b", buffering=0) as stream:
        path.chmod(0)
        assert stream.read(5) == b"lower"
        stream.write(b"!")
        assert os.fstat(stream.fileno()).st_mode & 0o777 == 0
    assert path.read_bytes() == b"lower!bytes"


@base
def test_a_user_may_change_only_what_is_his(world: World) -> None:
    path = world.root / "small"
    assert error_of(lambda: as_user(world, lambda root: os.chmod("small", 0o777))) == errno.EPERM
    assert error_of(lambda: as_user(world, lambda root: os.utime("small", ns=(1, 1)))) == errno.EPERM
    assert error_of(lambda: as_user(world, lambda root: os.chown("small", USER, USER))) == errno.EPERM
    os.chown(path, USER, USER)
    as_user(world, lambda root: os.chmod("small", 0o640))
    assert error_of(lambda: as_user(world, lambda root: os.chown("small", 0, USER))) == errno.EPERM


@base
def test_chown_and_writing_take_set_id_bits_away(world: World) -> None:
    path = world.root / "script"
    path.chmod(0o6755)
    os.chown(path, USER, USER)
    assert stat.S_IMODE(path.stat().st_mode) == 0o755
    path.chmod(0o6777)
    as_user(world, lambda root: os.close(os.open("script", os.O_WRONLY)))
    assert stat.S_IMODE(path.stat().st_mode) == 0o6777
    as_user(world, lambda root: os.write(os.open("script", os.O_WRONLY | os.O_APPEND), b"#\n"))
    assert stat.S_IMODE(path.stat().st_mode) == 0o777
    path.chmod(0o6777)
    as_user(world, lambda root: os.truncate("script", 5))
    assert stat.S_IMODE(path.stat().st_mode) == 0o777


@base
@pytest.mark.diverges("python", reason="libfuse 2 cannot ask the kernel for ACLs")
@pytest.mark.diverges("native-plain", reason="the switch no_acl")
def test_acls_decide_and_are_inherited(world: World) -> None:
    path, folder = world.root / "private", world.root / "open"
    path.chmod(0o640)  # a copy: the kernel engine cannot set an ACL on a file that only EROFS has
    entries = acl((1, 6, 0xFFFFFFFF), (2, 4, USER), (4, 0, 0xFFFFFFFF), (16, 4, 0xFFFFFFFF), (32, 0, 0xFFFFFFFF))
    os.setxattr(path, "system.posix_acl_access", entries)

    def read(root: Path) -> None:
        (root / "private").read_bytes()

    assert stat.S_IMODE(path.stat().st_mode) == 0o640  # the group bits are the mask
    as_user(world, read)
    assert error_of(lambda: as_user(world, read, USER + 1)) == errno.EACCES
    path.chmod(0o600)
    assert error_of(lambda: as_user(world, read)) == errno.EACCES
    (folder / "touched").write_bytes(b"")
    default = acl((1, 7, 0xFFFFFFFF), (2, 7, USER), (4, 5, 0xFFFFFFFF), (16, 7, 0xFFFFFFFF), (32, 0, 0xFFFFFFFF))
    os.setxattr(folder, "system.posix_acl_default", default)
    old = os.umask(0o077)
    try:
        os.close(os.open(folder / "file", os.O_CREAT | os.O_WRONLY, 0o666))
        (folder / "sub").mkdir()
        (folder / "link").symlink_to("file")
        os.mkfifo(folder / "fifo", 0o666)
    finally:
        os.umask(old)
    modes = [stat.S_IMODE((folder / name).stat().st_mode) for name in ("file", "sub", "fifo")]
    assert modes == [0o660, 0o770, 0o660]  # the default ACL counts, not the umask
    assert os.getxattr(folder / "sub", "system.posix_acl_default") == default
    as_user(world, lambda root: (root / "open/file").read_bytes())
    world.remount()
    as_user(world, lambda root: (root / "open/file").read_bytes())


@base
def test_set_group_id_directories_hand_on_their_group(world: World) -> None:
    folder = world.root / "group"
    (folder / "file").write_bytes(b"")
    (folder / "sub").mkdir()
    (folder / "link").symlink_to("x")
    os.mkfifo(folder / "fifo")
    assert {path.lstat().st_gid for path in folder.iterdir()} == {50}
    assert (folder / "sub").stat().st_mode & stat.S_ISGID
    folder.chmod(0o2777)
    as_user(world, lambda root: os.close(os.open("group/theirs", os.O_CREAT | os.O_WRONLY, 0o2775)))
    found = (folder / "theirs").stat()  # made by somebody who is not of that group: no set-group-ID program
    assert (stat.S_IMODE(found.st_mode), found.st_gid) == (0o755, 50)


# --- special files ---------------------------------------------------------------------------------------------------


@base
@pytest.mark.parametrize("made", [False, True], ids=["lower", "made"])
def test_fifos_carry_bytes(world: World, made: bool) -> None:
    path = world.root / ("made" if made else "pipe")
    if made:
        os.mkfifo(path)
    reader = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
    writer = os.open(path, os.O_WRONLY)
    try:
        os.write(writer, b"through")
        assert os.read(reader, 100) == b"through"
        path.chmod(0o600)  # copied up meanwhile: a second writer reaches the same pipe
        second = os.open(path, os.O_WRONLY | os.O_NONBLOCK)
        os.write(second, b"again")
        os.close(second)
        assert os.read(reader, 100) == b"again"
    finally:
        os.close(reader)
        os.close(writer)


@base
def test_sockets_connect(world: World) -> None:
    place = os.open(world.root, os.O_PATH)
    with socket.socket(socket.AF_UNIX) as server, socket.socket(socket.AF_UNIX) as client:
        server.bind(f"/proc/self/fd/{place}/socket")
        server.listen()
        (world.root / "socket").rename(world.root / "d/socket")
        client.connect(f"/proc/self/fd/{place}/d/socket")
        peer = server.accept()[0]
        client.send(b"hello")
        assert peer.recv(10) == b"hello"
        peer.close()
    os.close(place)
    assert stat.S_ISSOCK((world.root / "d/socket").lstat().st_mode)


@base
def test_devices_are_the_real_ones(world: World) -> None:
    os.mknod(world.root / "zero", stat.S_IFCHR | 0o666, os.makedev(1, 5))
    with (world.root / "zero").open("rb", buffering=0) as zero, (world.root / "null").open("r+b", buffering=0) as null:
        assert zero.read(4) == bytes(4)
        assert null.write(b"gone") == 4
        assert null.read(1) == b""
    os.mknod(world.root / "wide", stat.S_IFBLK | 0o600, os.makedev(4095, 1048575))
    world.remount()
    assert (world.root / "wide").lstat().st_rdev == os.makedev(4095, 1048575)


# --- bytes -----------------------------------------------------------------------------------------------------------


def new_file(path: Path, size: int = 64 * 1024) -> bytes:
    data = bytes(index * 7 % 251 for index in range(size))
    path.write_bytes(data)
    return data


@base
@no_python
@both
def test_fallocate_reserves_and_grows(world: World, name: str) -> None:
    path = world.root / name
    before = path.read_bytes()
    with path.open("r+b") as stream:
        fallocate(stream.fileno(), _KEEP, 0, 4 * MIB)
        assert path.stat().st_size == len(before)
        fallocate(stream.fileno(), 0, 0, 3 * MIB)
    assert path.read_bytes() == before + bytes(3 * MIB - len(before))


@base
@no_python
def test_fallocate_punches_and_zeroes(world: World) -> None:
    path = world.root / "big"
    with path.open("r+b") as stream:
        fallocate(stream.fileno(), _PUNCH | _KEEP, 4096, 8192)
        fallocate(stream.fileno(), _ZERO, 20_000, 100)
        fallocate(stream.fileno(), _ZERO, 2 * MIB - 10, 20)
        fallocate(stream.fileno(), _ZERO | _KEEP, 2 * MIB, 4096)
    with path.open("rb") as stream:
        # while the kernel has not told yet that nobody writes any more, all is data
        assert eventually(lambda: os.lseek(stream.fileno(), 0, os.SEEK_HOLE) == 4096)
        assert os.lseek(stream.fileno(), 4096, os.SEEK_DATA) == 12288
    data = bytearray(b"B" * (2 * MIB - 10) + bytes(20))
    data[4096:12288] = bytes(8192)
    data[20_000:20_100] = bytes(100)
    assert path.read_bytes() == data


@base
def test_fallocate_refuses_what_makes_no_sense(world: World) -> None:
    with (world.root / "small").open("r+b") as stream:
        fd = stream.fileno()
        assert error_of(lambda: fallocate(fd, 0, -1, 10)) == errno.EINVAL
        assert error_of(lambda: fallocate(fd, 0, 0, 0)) == errno.EINVAL
        assert error_of(lambda: fallocate(fd, _PUNCH, 0, 10)) == errno.EOPNOTSUPP
        assert error_of(lambda: fallocate(fd, _PUNCH | _KEEP | _ZERO, 0, 4096)) == errno.EOPNOTSUPP
    with (world.root / "small").open("rb") as stream:
        assert error_of(lambda: fallocate(stream.fileno(), 0, 0, 10)) == errno.EBADF


@base
@pytest.mark.diverges(
    "python", "native", "uring", "native-plain", reason="the kernel's FUSE has no collapse and insert"
)
def test_fallocate_collapses_and_inserts(world: World) -> None:
    path = world.root / "new"
    data = new_file(path)
    with path.open("r+b") as stream:
        fallocate(stream.fileno(), _COLLAPSE, 4096, 4096)
        fallocate(stream.fileno(), _INSERT, 0, 4096)
    assert path.read_bytes() == bytes(4096) + data[:4096] + data[8192:]


@base
@no_python
def test_seek_finds_holes_and_the_end(world: World) -> None:
    path = world.root / "holes"
    with path.open("wb") as stream:
        stream.truncate(3 * MIB)
        stream.seek(MIB)
        stream.write(b"x" * 4096)
    with path.open("rb") as stream:
        fd = stream.fileno()
        assert os.lseek(fd, 0, os.SEEK_DATA) == MIB
        assert os.lseek(fd, MIB, os.SEEK_HOLE) == MIB + 4096
        assert error_of(lambda: os.lseek(fd, 2 * MIB, os.SEEK_DATA)) == errno.ENXIO
        assert error_of(lambda: os.lseek(fd, 3 * MIB, os.SEEK_HOLE)) == errno.ENXIO
        assert error_of(lambda: os.lseek(fd, -1, os.SEEK_DATA)) == errno.ENXIO  # xfstests generic/448
    with (world.root / "small").open("rb") as stream:
        assert os.lseek(stream.fileno(), 3, os.SEEK_HOLE) == 11
        assert os.lseek(stream.fileno(), 3, os.SEEK_DATA) == 3


@base
@pytest.mark.parametrize("source", ["small", "big", "new"])
def test_copy_file_range_within_and_between_files(world: World, source: str) -> None:
    path = world.root / source
    data = path.read_bytes() if source != "new" else new_file(path)
    with path.open("r+b") as stream, (world.root / "target").open("w+b") as target:
        done = 0
        while done < len(data):
            done += os.copy_file_range(stream.fileno(), target.fileno(), len(data), done, done + 5)
        assert os.copy_file_range(stream.fileno(), target.fileno(), 10, len(data) + 5, 0) == 0
        assert os.copy_file_range(stream.fileno(), stream.fileno(), 4, 0, len(data) + 100) == 4
        overlap = error_of(lambda: os.copy_file_range(stream.fileno(), stream.fileno(), 8, 0, 4))
    assert overlap == errno.EINVAL
    assert (world.root / "target").read_bytes() == bytes(5) + data
    assert path.read_bytes() == data + bytes(100) + data[:4]


@base
@both
def test_private_mappings_keep_their_changes_to_themselves(world: World, name: str) -> None:
    path = world.root / name
    before = path.read_bytes()
    with path.open("rb") as stream, mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_COPY) as mapping:
        mapping[:3] = b"own"
        with path.open("r+b") as writer:
            writer.seek(5)
            writer.write(b"Z")
        assert mapping[:3] == b"own"
    assert path.read_bytes() == before[:5] + b"Z" + before[6:]


@base
@both
def test_shared_mappings_are_seen_by_readers_and_survive(world: World, name: str) -> None:
    path = world.root / name
    with path.open("r+b") as stream, mmap.mmap(stream.fileno(), 0) as mapping:
        with path.open("rb", buffering=0) as reader:
            mapping[1:4] = b"MAP"
            assert os.pread(reader.fileno(), 3, 1) == b"MAP"
        os.pwrite(stream.fileno(), b"W", 6)
        assert mapping[6:7] == b"W"
        path.unlink()
        mapping[2:3] = b"U"
        assert os.pread(stream.fileno(), 3, 1) == b"MUP"


@base
@both
def test_direct_reads_and_writes_agree_with_buffered_ones(world: World, name: str) -> None:
    path = world.root / name
    buffer = mmap.mmap(-1, 8192)
    buffer[:] = b"D" * 8192
    with path.open("r+b", buffering=0) as plain:
        plain.read(100)
        fd = os.open(path, os.O_RDWR | os.O_DIRECT)
        try:
            assert os.pwritev(fd, [buffer], 4096) == 8192
            assert os.pread(plain.fileno(), 10, 4096) == b"D" * 10
            os.pwrite(plain.fileno(), b"buffered", 4096)
            assert os.preadv(fd, [buffer], 4096) == 8192
            assert buffer[:9] == b"bufferedD"
        finally:
            os.close(fd)


@base
def test_a_file_may_be_larger_than_4_gib(world: World) -> None:
    path, far = world.root / "small", (5 << 30) + 123
    with path.open("r+b", buffering=0) as stream:
        os.pwrite(stream.fileno(), b"far away", far)
        assert os.pread(stream.fileno(), 20, far - 2) == b"\0\0far away"
        with mmap.mmap(stream.fileno(), 131, offset=5 << 30) as mapping:
            assert mapping[123:131] == b"far away"
    assert path.stat().st_size == far + 8
    os.truncate(path, 11)
    assert path.read_bytes() == b"lower bytes"


@base
@both
def test_appending_and_positioned_writes(world: World, name: str) -> None:
    path = world.root / name
    before = path.read_bytes()
    fd = os.open(path, os.O_RDWR | os.O_APPEND)
    try:
        os.lseek(fd, 0, os.SEEK_SET)
        os.write(fd, b"end")
        assert os.lseek(fd, 0, os.SEEK_CUR) == len(before) + 3
        os.ftruncate(fd, 4)
        os.write(fd, b"+")
    finally:
        os.close(fd)
    assert path.read_bytes() == before[:4] + b"+"


@base
@both
def test_an_open_descriptor_follows_its_file_wherever_it_goes(world: World, name: str) -> None:
    path = world.root / name
    with path.open("r+b", buffering=0) as stream:
        path.rename(world.root / "d/moved")
        stream.write(b"1")
        os.link(world.root / "d/moved", world.root / "second")
        (world.root / "d/moved").unlink()
        stream.write(b"2")
        assert os.fstat(stream.fileno()).st_nlink == 1
        (world.root / "second").unlink()
        stream.write(b"3")
        os.fchmod(stream.fileno(), 0o640)
        found = os.fstat(stream.fileno())
        assert (found.st_nlink, stat.S_IMODE(found.st_mode)) == (0, 0o640)
        assert os.pread(stream.fileno(), 3, 0) == b"123"
    assert not path.exists()


# --- locks -----------------------------------------------------------------------------------------------------------


def lock_ofd(fd: int, kind: int, start: int, length: int) -> None:
    fcntl.fcntl(fd, 37, struct.pack("hhqqi4x", kind, 0, start, length, 0))  # F_OFD_SETLK


@base
@both
def test_posix_and_ofd_locks_exclude_by_range_over_copy_up(world: World, name: str) -> None:
    path = world.root / name
    with path.open("rb") as reader, path.open("r+b") as first, path.open("r+b") as second:
        lock_ofd(first.fileno(), fcntl.F_WRLCK, 0, 4)
        assert error_of(lambda: lock_ofd(second.fileno(), fcntl.F_WRLCK, 2, 4)) == errno.EAGAIN
        lock_ofd(second.fileno(), fcntl.F_WRLCK, 4, 4)
        if name == "small":  # a big one's old descriptors stay with the lower file
            assert error_of(lambda: lock_ofd(reader.fileno(), fcntl.F_RDLCK, 5, 1)) == errno.EAGAIN
        fcntl.lockf(first, fcntl.LOCK_EX, 1, 9)
        script = f"import fcntl; f = open({str(path)!r}, 'r+b'); fcntl.lockf(f, fcntl.LOCK_EX | fcntl.LOCK_NB, 1, 9)"
        done = subprocess.run([sys.executable, "-c", script], stderr=subprocess.PIPE, check=False)
        assert b"BlockingIOError" in done.stderr


@base
def test_flock_waits_for_the_other_to_close(world: World) -> None:
    path = world.root / "small"
    holder = path.open("rb")
    fcntl.flock(holder, fcntl.LOCK_EX)
    got = threading.Event()

    def wait() -> None:
        with path.open("rb") as other:
            fcntl.flock(other, fcntl.LOCK_EX)
            got.set()

    thread = threading.Thread(target=wait)
    thread.start()
    assert not got.wait(0.05)
    holder.close()
    assert got.wait(60)
    thread.join()


# --- times, names and numbers ----------------------------------------------------------------------------------------


@base
@both
def test_times_have_nanoseconds_and_any_sign(world: World, name: str) -> None:
    path = world.root / name
    for when in (1_234_567_890_123_456_789, 1, -1_000_000_001, 4_000_000_000_000_000_001):
        os.utime(path, ns=(when, when + 5))
        assert (path.stat().st_atime_ns, path.stat().st_mtime_ns) == (when, when + 5)
    world.remount()
    assert path.stat().st_mtime_ns == 4_000_000_000_000_000_006


@base
def test_every_change_shows_in_the_times(world: World) -> None:
    def ctime(name: str) -> int:
        return (world.root / name).lstat().st_ctime_ns

    folder = world.root / "open"
    steps: list[tuple[str, Callable[[], object]]] = [
        ("open", (folder / "a").touch),
        ("open", lambda: (folder / "a").rename(folder / "b")),
        ("open", lambda: os.link(folder / "b", folder / "c")),
        ("open/b", lambda: os.link(folder / "b", folder / "e")),
        ("open/b", (folder / "c").unlink),
        ("open/b", lambda: (folder / "b").chmod(0o600)),
        ("open/b", lambda: os.setxattr(folder / "b", "user.x", b"1")),
        ("open/b", lambda: os.removexattr(folder / "b", "user.x")),
        ("open/b", lambda: os.truncate(folder / "b", 5)),
        ("open/b", lambda: (folder / "b").write_bytes(b"x")),
        ("open", (folder / "b").unlink),
        ("open", (folder / "sub").mkdir),
        ("open", (folder / "sub").rmdir),
        ("small", lambda: (world.root / "small").chmod(0o600)),
        ("small", lambda: os.setxattr(world.root / "small", "user.x", b"1")),
        ("big", lambda: os.truncate(world.root / "big", 5)),
    ]
    for name, act in steps:
        before = ctime(name)
        time.sleep(0.011)  # a tick of the kernel's clock
        act()
        assert ctime(name) > before, (name, act)


@base
def test_reading_changes_the_access_time_once(world: World) -> None:
    path = world.root / "new"
    path.write_bytes(b"x" * 5000)
    os.utime(path, ns=(1, 1_000_000_000_000_000_000))
    world.remount()
    assert path.stat().st_atime_ns == 1
    path.read_bytes()
    first = path.stat().st_atime_ns
    assert first > 1_500_000_000_000_000_000
    time.sleep(0.011)
    path.read_bytes()
    assert path.stat().st_atime_ns == first


@base
def test_names_of_every_byte_and_length(world: World) -> None:
    folder = os.fsencode(world.root / "open")
    wanted = [bytes([byte]) for byte in range(1, 256) if bytes([byte]) not in b"./"]
    wanted += [b"x" * size for size in (253, 255)] + ["é".encode() * 127, b"...", b"..x", b"-rf", b"a\nb"]
    for name in wanted:
        os.close(os.open(folder + b"/" + name, os.O_CREAT | os.O_WRONLY, 0o600))
    assert sorted(os.listdir(folder)) == sorted(wanted)
    world.remount()
    assert sorted(os.listdir(folder)) == sorted(wanted)
    for act in (os.mkdir, os.rmdir, os.unlink, os.stat, os.mkfifo):
        assert error_of(lambda act=act: act(folder + b"/" + b"x" * 256)) == errno.ENAMETOOLONG
    assert error_of(lambda: os.rename(folder + b"/-rf", folder + b"/" + b"y" * 256)) == errno.ENAMETOOLONG
    assert error_of(lambda: os.symlink(b"x" * 4096, folder + b"/link")) == errno.ENAMETOOLONG
    os.symlink(b"x" * 4095, folder + b"/link")
    assert os.readlink(folder + b"/link") == b"x" * 4095


@base
@pytest.mark.no_remount
def test_hundreds_of_hard_links_are_counted(world: World) -> None:
    path, folder = world.root / "small", world.root / "open"
    for number in range(300):
        os.link(path, folder / f"{number}")
    assert path.stat().st_nlink == 301
    for number in range(0, 300, 3):
        (folder / f"{number}").unlink()
    assert path.stat().st_nlink == 201
    assert (folder / "1").stat().st_ino == path.stat().st_ino


# --- directories -----------------------------------------------------------------------------------------------------

LIBC = ctypes.CDLL(None, use_errno=True)
LIBC.opendir.restype = LIBC.readdir64.restype = ctypes.c_void_p
LIBC.telldir.restype = ctypes.c_long
LIBC.readdir64.argtypes = LIBC.telldir.argtypes = LIBC.closedir.argtypes = LIBC.rewinddir.argtypes = [ctypes.c_void_p]
LIBC.seekdir.argtypes = [ctypes.c_void_p, ctypes.c_long]


class Stream:
    """opendir(3) and its like, which Python hides."""

    def __init__(self, path: Path) -> None:
        self._stream = LIBC.opendir(os.fsencode(path))
        assert self._stream

    def read(self) -> bytes | None:
        entry = LIBC.readdir64(self._stream)
        return ctypes.string_at(entry + 19) if entry else None

    def rest(self) -> list[bytes]:
        return [name for name in iter(self.read, None) if name not in (b".", b"..")]

    def tell(self) -> int:
        return int(LIBC.telldir(self._stream))

    def seek(self, place: int) -> None:
        LIBC.seekdir(self._stream, place)

    def rewind(self) -> None:
        LIBC.rewinddir(self._stream)

    def close(self) -> None:
        LIBC.closedir(self._stream)


@base
def test_telldir_and_seekdir_hold_across_changes(world: World) -> None:
    folder = world.root / "d"
    (folder / "upper").touch()
    stream = Stream(folder)
    places: list[tuple[int, bytes]] = []
    while True:
        place = stream.tell()
        name = stream.read()
        if name is None:
            break
        places.append((place, name))
    for place, name in reversed(places):
        stream.seek(place)
        assert stream.read() == name
    stream.seek(places[10][0])
    left = stream.rest()
    assert [name for _, name in places[10:] if name not in (b".", b"..")] == left
    (folder / os.fsdecode(left[0])).unlink()
    (folder / "new").touch()
    stream.seek(places[12][0])
    assert set(stream.rest()) >= {name for _, name in places[12:]} - {left[0], b".", b".."}
    stream.rewind()
    listed = stream.rest()
    assert len(listed) == len(set(listed)) == 41
    stream.close()


@base
@pytest.mark.diverges("python", reason="libfuse 2 has no name for it any more")
@pytest.mark.diverges("kernel", "overlayfs", reason="overlayfs: nlink of a removed lower directory stays")
def test_an_open_directory_that_was_removed_is_empty(world: World) -> None:
    for folder in (world.root / "open", world.root / "new"):
        folder.mkdir(exist_ok=True)
        fd = os.open(folder, os.O_RDONLY)
        try:
            folder.rmdir()
            assert os.listdir(fd) == []
            assert error_of(lambda fd=fd: os.open("x", os.O_CREAT | os.O_WRONLY, dir_fd=fd)) == errno.ENOENT
            assert error_of(lambda fd=fd: os.mkdir("x", dir_fd=fd)) == errno.ENOENT
            assert os.fstat(fd).st_nlink == 0
        finally:
            os.close(fd)


@base
@pytest.mark.no_remount
def test_removing_while_reading_empties_a_directory_of_any_mixture(world: World) -> None:
    folder = world.root / "d"
    for number in range(700):
        (folder / f"upper-{number}").touch()
    with os.scandir(folder) as entries:
        for entry in entries:
            os.unlink(entry.path)
    assert names(folder) == []
    folder.rmdir()


@base
@pytest.mark.no_remount
def test_climbing_out_of_a_deep_tree_finds_every_directory(world: World) -> None:
    """Deeper than any server keeps descriptors for; directories on the way move."""
    depth = 300 if world.name != "python" else 30  # slow by design
    place = os.open(world.root, os.O_RDONLY)
    for number in range(depth):
        os.mkdir("deep", dir_fd=place)
        os.mkdir(f"mark-{number}", dir_fd=place)
        below, place = place, os.open("deep", os.O_RDONLY, dir_fd=place)
        os.close(below)
    for number in reversed(range(depth)):
        below, place = place, os.open("..", os.O_RDONLY, dir_fd=place)
        os.close(below)
        if number % 7 == 0:
            os.rename("deep", "moved", src_dir_fd=place, dst_dir_fd=place)
        listed = set(os.listdir(place))
        assert {"moved" if number % 7 == 0 else "deep", f"mark-{number}"} <= listed
        assert os.stat("..", dir_fd=place).st_ino != os.fstat(place).st_ino or number == 0
    assert os.path.samestat(os.fstat(place), world.root.stat())
    os.close(place)
    subprocess.run(["rm", "-r", world.root / "moved"], check=True)


# --- watching, running, odd calls ------------------------------------------------------------------------------------


def watch(path: Path, mask: int) -> int:
    fd = LIBC.inotify_init1(os.O_NONBLOCK)
    assert fd >= 0 and LIBC.inotify_add_watch(fd, os.fsencode(path), mask) > 0
    return int(fd)


def events(fd: int) -> list[tuple[int, bytes]]:
    data, found = os.read(fd, 65536), []
    while data:
        _, mask, _, size = struct.unpack_from("iIII", data)
        found.append((mask & 0xFFFFFF, data[16 : 16 + size].rstrip(b"\0")))
        data = data[16 + size :]
    return found


@base
@both
def test_inotify_tells_of_other_processes_changes(world: World, name: str) -> None:
    folder, file_ = watch(world.root, 0xFFF), watch(world.root / name, 0xFFF)
    try:
        subprocess.run(
            ["sh", "-c", f"echo x >> {name}; chmod 600 {name}; mv {name} m; rm m; : > n"], cwd=world.root, check=True
        )
        seen = events(folder)
        here = os.fsencode(name)
        for wanted in [(0x2, here), (0x4, here), (0x40, here), (0x80, b"m"), (0x200, b"m"), (0x100, b"n")]:
            assert wanted in seen
        masks = [mask for mask, _ in events(file_)]
        assert {0x4, 0x800, 0x400} <= {*masks}  # attributes, moved itself, deleted itself
        assert 0x2 in masks or name == "big"  # a big lower file's watch stays with the lower one
    finally:
        os.close(folder)
        os.close(file_)


@base
def test_a_program_can_be_replaced_while_it_runs(world: World) -> None:
    path = world.root / "program"
    path.write_bytes(Path("/bin/sleep").read_bytes())
    path.chmod(0o755)
    with subprocess.Popen([path, "30"]) as process:
        try:
            assert error_of(lambda: path.open("r+b")) == errno.ETXTBSY
            assert error_of(lambda: os.truncate(path, 0)) == errno.ETXTBSY
            (world.root / "next").write_bytes(Path("/bin/true").read_bytes())
            (world.root / "next").chmod(0o755)
            (world.root / "next").rename(path)
            assert process.poll() is None
            subprocess.run([path], check=True)
        finally:
            process.kill()
    with path.open("r+b") as stream:
        assert error_of(lambda: subprocess.run([path], check=True)) == errno.ETXTBSY
        assert stream.read(4) == b"\x7fELF"
    subprocess.run([path], check=True)


@base
def test_a_lower_script_runs_and_its_new_version_too(world: World) -> None:
    path = world.root / "script"
    assert subprocess.check_output([path]) == b"one\n"
    path.write_bytes(b"#!/bin/sh\necho two\n")
    assert subprocess.check_output([path]) == b"two\n"


@base
@no_python
@pytest.mark.diverges("native-plain", reason="O_TMPFILE came with Linux 6.1")
def test_a_nameless_file_obeys_its_flags(world: World) -> None:
    fd = os.open(world.root / "d", os.O_TMPFILE | os.O_RDWR, 0o640)
    try:
        found = os.fstat(fd)
        assert (found.st_nlink, stat.S_IMODE(found.st_mode)) == (0, 0o640)
        os.write(fd, b"nameless")
        os.setxattr(fd, "user.x", b"1")
        assert os.getxattr(fd, "user.x") == b"1"
        assert os.pread(fd, 8, 0) == b"nameless"
        os.fchown(fd, USER, USER)
    finally:
        os.close(fd)
    fd = os.open(world.root / "d", os.O_TMPFILE | os.O_RDWR | os.O_EXCL, 0o640)
    try:
        assert error_of(lambda: os.link(f"/proc/self/fd/{fd}", world.root / "x", follow_symlinks=True)) != 0
    finally:
        os.close(fd)
    assert names(world.root / "d") == sorted(map(str, range(40)))


@base
def test_rename_refuses_flags_that_it_does_not_know(world: World) -> None:
    small, other = world.root / "small", world.root / "other"
    for flags in (8, 1 | EXCHANGE, EXCHANGE | WHITEOUT):
        assert error_of(lambda flags=flags: renameat2(small, other, flags)) == errno.EINVAL
    assert error_of(lambda: renameat2(small, other, EXCHANGE)) in (errno.ENOENT, errno.EINVAL)
    assert small.exists() and not other.exists()


@base
def test_signals_interrupt_nothing_halfway(world: World) -> None:
    """A writer under a storm of signals: every write is whole."""
    path = world.root / "new"
    seen = []
    old = signal.signal(signal.SIGALRM, lambda *_: seen.append(1))
    signal.setitimer(signal.ITIMER_REAL, 0.001, 0.001)
    try:
        with path.open("wb", buffering=0) as stream:
            for _ in range(300):
                assert stream.write(b"s" * 10_000) == 10_000
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, old)
    assert path.stat().st_size == 3_000_000 and seen


@base
def test_path_rules(world: World) -> None:
    root = world.root
    (root / "loop").symlink_to("loop")
    assert error_of((root / "loop").read_bytes) == errno.ELOOP
    assert error_of(lambda: os.stat(f"{root}/small/")) == errno.ENOTDIR
    assert error_of(lambda: os.mkdir(f"{root}/small/x")) == errno.ENOTDIR
    assert error_of(lambda: os.open(f"{root}/d", os.O_WRONLY)) == errno.EISDIR
    assert error_of(lambda: os.open(f"{root}/d", os.O_CREAT | os.O_RDONLY)) == errno.EISDIR
    assert error_of(lambda: os.open(f"{root}/small", os.O_DIRECTORY)) == errno.ENOTDIR
    assert error_of(lambda: os.open(f"{root}/loop", os.O_NOFOLLOW)) == errno.ELOOP
    assert error_of(lambda: os.open(f"{root}/small", os.O_CREAT | os.O_EXCL)) == errno.EEXIST
    assert error_of(lambda: os.rmdir(f"{root}/d/.")) == errno.EINVAL
    assert error_of(lambda: os.rename(root / "d", root / "d/sub")) == errno.EINVAL
    assert error_of(lambda: os.link(root / "d", root / "x")) == errno.EPERM
    assert error_of(lambda: os.link(root / "small", root / "big")) == errno.EEXIST
    assert error_of(lambda: os.symlink("x", root / "small")) == errno.EEXIST
    assert error_of(lambda: os.truncate(root / "d", 0)) == errno.EISDIR
    assert error_of(lambda: os.truncate(root / "small", -1)) == errno.EINVAL
    os.mkdir(f"{root}/slash/")
    assert error_of(lambda: os.rename(f"{root}/small", f"{root}/x/")) == errno.ENOTDIR
    os.rename(f"{root}/slash/", f"{root}/slash2/")


@base
def test_links_into_the_whole_of_posix(world: World) -> None:
    """A hard link to a symlink is one of the symlink; two names of a file are the same inode through every change."""
    (world.root / "s").symlink_to("small")
    os.link(world.root / "s", world.root / "s2", follow_symlinks=False)
    assert (world.root / "s2").is_symlink() and (world.root / "s2").lstat().st_nlink == 2
    os.link(world.root / "small", world.root / "d/hard")
    (world.root / "small").chmod(0o600)
    with (world.root / "d/hard").open("ab") as stream:
        stream.write(b"+")
    assert (world.root / "small").read_bytes() == b"lower bytes+"
    (world.root / "small").unlink()
    found = (world.root / "d/hard").stat()
    assert (found.st_nlink, stat.S_IMODE(found.st_mode)) == (1, 0o600)
