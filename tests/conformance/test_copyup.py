"""Reference 3.2: what triggers copy-up, and what it preserves."""

from __future__ import annotations

import os
import stat
import struct
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import pytest
from calls import acl, allocated, punch_hole
from trees import device, directory, fifo, file, symlink
from worlds import World

pytestmark = pytest.mark.root

CAPABILITY = struct.pack("<IIIII", 0x02000001, 1 << 13, 0, 0, 0)  # cap_net_raw+ep
MIB = 1 << 20
BASE = [
    directory("d", 0o750, uid=3, gid=4, mtime=1_500_000_000.5),
    directory("d/sub", 0o2755),
    file("d/sub/f", b"content", mode=0o4755, uid=1, gid=2, mtime=1_500_000_000.123456789),
    file("plain", b"hello"),
    file("capable", b"x", xattrs={"security.capability": CAPABILITY}),
    file("marked", b"x", xattrs={"user.a": b"1", "trusted.b": b"\x00\xff", "user.empty": b""}),
    file("big", bytes(range(256)) * 2048),
    file("packed", b"p" * 5000),
    file("edge", b"e" * 131072),
    symlink("link", "plain"),
    device("null", 1, 3),
    fifo("pipe"),
]
base = pytest.mark.layers(BASE)


def _open(flags: int) -> Callable[[Path], None]:
    def act(path: Path) -> None:
        os.close(os.open(path, flags))

    return act


def _fchmod(path: Path) -> None:
    fd = os.open(path, os.O_RDONLY)
    try:
        os.fchmod(fd, 0o600)
    finally:
        os.close(fd)


def _fsync(path: Path) -> None:
    fd = os.open(path, os.O_RDONLY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def _remove_absent_xattr(path: Path) -> None:
    with suppress(OSError):
        os.removexattr(path, "user.absent")


READS: dict[str, Callable[[Path], object]] = {
    "open read-only": _open(os.O_RDONLY),
    "open O_PATH": _open(os.O_PATH),
    "open O_RDONLY|O_CREAT": _open(os.O_RDONLY | os.O_CREAT),
    "access": lambda path: os.access(path, os.W_OK),
    "stat": Path.stat,
    "read": Path.read_bytes,
    "fsync of a reader": _fsync,
    "removexattr of an absent name": _remove_absent_xattr,
}
WRITES: dict[str, Callable[[Path], object]] = {
    "open O_WRONLY": _open(os.O_WRONLY),
    "open O_RDWR": _open(os.O_RDWR),
    "open O_APPEND": _open(os.O_WRONLY | os.O_APPEND),
    "open O_TRUNC": _open(os.O_WRONLY | os.O_TRUNC),
    "truncate": lambda path: os.truncate(path, 0),
    "truncate up": lambda path: os.truncate(path, 100),
    "chmod": lambda path: path.chmod(0o600),
    "fchmod of a reader": _fchmod,
    "chown": lambda path: os.chown(path, 7, 8),
    "utime": lambda path: os.utime(path, ns=(1, 2)),
    "setxattr": lambda path: os.setxattr(path, "user.new", b"1"),
    "link": lambda path: os.link(path, path.with_name("second")),
    "rename": lambda path: path.rename(path.with_name("moved")).rename(path),
}


@base
@pytest.mark.parametrize("act", READS.values(), ids=READS)
def test_looking_copies_nothing_up(world: World, act: Callable[[Path], object]) -> None:
    act(world.root / "d/sub/f")
    assert world.in_upper("d") is None


@base
@pytest.mark.parametrize("act", WRITES.values(), ids=WRITES)
def test_changing_copies_up_with_the_directories_above(world: World, act: Callable[[Path], object]) -> None:
    act(world.root / "d/sub/f")
    assert world.in_upper("d/sub/f") is not None


@base
def test_copied_directories_keep_their_attributes(world: World) -> None:
    before = (world.root / "d").stat()
    (world.root / "d/sub/f").chmod(0o600)
    after = (world.root / "d").stat()
    for name in ("st_mode", "st_uid", "st_gid", "st_mtime_ns", "st_ino"):
        assert getattr(after, name) == getattr(before, name)
    assert (world.root / "d/sub").stat().st_mode & stat.S_ISGID


@base
@pytest.mark.parametrize("name", ["d/sub/f", "plain", "capable", "marked", "big", "packed", "edge"])
def test_a_metadata_copy_keeps_everything_else(world: World, name: str) -> None:
    path = world.root / name
    before, content = path.stat(), path.read_bytes()
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns + 1))
    after = path.stat()
    for field in ("st_mode", "st_uid", "st_gid", "st_size", "st_ino", "st_nlink"):
        assert getattr(after, field) == getattr(before, field)
    assert after.st_mtime_ns == before.st_mtime_ns + 1
    assert path.read_bytes() == content


@base
@pytest.mark.parametrize("name", ["plain", "marked", "big", "packed", "edge"])
def test_a_full_copy_keeps_the_bytes_and_attributes(world: World, name: str) -> None:
    path = world.root / name
    before, content = path.stat(), path.read_bytes()
    with path.open("r+b"):
        pass
    after = path.stat()
    for field in ("st_mode", "st_uid", "st_gid", "st_size", "st_ino", "st_mtime_ns"):
        assert getattr(after, field) == getattr(before, field)
    assert path.read_bytes() == content


@base
def test_set_id_bits_and_nanoseconds_survive(world: World) -> None:
    path = world.root / "d/sub/f"
    os.setxattr(path, "user.x", b"1")
    found = path.stat()
    assert stat.S_IMODE(found.st_mode) == 0o4755
    assert found.st_mtime_ns % 1_000_000_000 == path.stat().st_mtime_ns % 1_000_000_000 != 0


@base
def test_xattrs_survive(world: World) -> None:
    marked, capable = world.root / "marked", world.root / "capable"
    marked.chmod(0o600)
    os.utime(capable, ns=(1, 1))
    assert {n: os.getxattr(marked, n) for n in os.listxattr(marked)} == {
        "user.a": b"1",
        "trusted.b": b"\x00\xff",
        "user.empty": b"",
    }
    assert os.getxattr(capable, "security.capability") == CAPABILITY


@base
@pytest.mark.diverges("kernel", reason="overlayfs asks the lower file system for set_acl, and EROFS has none")
def test_an_acl_can_be_set_and_survives(world: World) -> None:
    value = acl((1, 6, -1 & 0xFFFFFFFF), (2, 4, 1000), (4, 4, 0xFFFFFFFF), (16, 4, 0xFFFFFFFF), (32, 4, 0xFFFFFFFF))
    path = world.root / "plain"
    os.setxattr(path, "system.posix_acl_access", value)
    with path.open("ab") as stream:
        stream.write(b"x")
    assert os.getxattr(path, "system.posix_acl_access") == value


@base
def test_truncating_to_nothing_copies_no_bytes(world: World) -> None:
    os.truncate(world.root / "big", 0)
    assert (world.root / "big").stat().st_size == 0
    found = world.in_upper("big")
    assert found is not None and found.st_blocks * 512 <= 4096


@base
def test_truncating_up_and_down_keeps_what_was_there(world: World) -> None:
    path = world.root / "big"
    content = path.read_bytes()
    os.truncate(path, 1000)
    os.truncate(path, 700_000)
    assert path.read_bytes() == content[:1000] + bytes(699_000)


@base
def test_symlinks_change_owner_themselves(world: World) -> None:
    os.chown(world.root / "link", 9, 9, follow_symlinks=False)
    os.utime(world.root / "link", ns=(1, 2), follow_symlinks=False)
    assert (world.root / "link").lstat().st_uid == 9
    assert os.readlink(world.root / "link") == "plain"
    assert (world.root / "plain").stat().st_uid == 0


@base
def test_special_files_change_attributes_and_stay_special(world: World) -> None:
    for name in ("null", "pipe"):
        (world.root / name).chmod(0o640)
    assert (world.root / "null").stat().st_rdev == os.makedev(1, 3)
    assert stat.S_ISFIFO((world.root / "pipe").stat().st_mode)


@base
def test_opening_a_device_or_fifo_for_writing_copies_nothing_up(world: World) -> None:
    (world.root / "null").write_bytes(b"into the void")
    fd = os.open(world.root / "pipe", os.O_RDWR | os.O_NONBLOCK)
    os.write(fd, b"x")
    os.close(fd)
    assert world.in_upper("null") is None and world.in_upper("pipe") is None


@pytest.mark.layers([file("a", b"x" * 5000)])
def test_times_can_be_set_one_at_a_time(world: World) -> None:
    """utimensat with UTIME_OMIT and UTIME_NOW, and a time that looks like UTIME_OMIT when summed up."""
    path = world.root / "a"
    os.utime(path, ns=(1_073_741_822, 5_000_000_007))
    assert (path.stat().st_atime_ns, path.stat().st_mtime_ns) == (1_073_741_822, 5_000_000_007)
    os.utime(path)
    assert path.stat().st_mtime_ns > 1_600_000_000_000_000_000
    os.system(f"touch -m -d @9.000000001 {path}")
    assert path.stat().st_mtime_ns == 9_000_000_001
    os.system(f"touch -a -d @-3.5 {path}")
    assert path.stat().st_mtime_ns == 9_000_000_001
    assert path.stat().st_atime_ns == -3_500_000_000


@base
def test_a_setuid_program_written_by_root_keeps_its_bits(world: World) -> None:
    path = world.root / "d/sub/f"
    with path.open("r+b") as stream:
        stream.write(b"C")
    assert path.stat().st_mode & stat.S_ISUID


@base
@pytest.mark.diverges("python", reason="fusepy has no fallocate")
def test_punching_a_hole_in_a_lower_file(world: World) -> None:
    path = world.root / "big"
    fd = os.open(path, os.O_RDWR)
    try:
        punch_hole(fd, 4096, 8192)
    finally:
        os.close(fd)
    content = bytes(range(256)) * 2048
    assert path.read_bytes() == content[:4096] + bytes(8192) + content[12288:]


@base
def test_a_copy_in_a_copied_directory_leaves_its_time_alone(world: World) -> None:
    (world.root / "d").chmod(0o700)
    before = (world.root / "d/sub").stat().st_mtime_ns
    (world.root / "d/sub/f").chmod(0o600)
    assert (world.root / "d/sub").stat().st_mtime_ns == before
    (world.root / "d/sub/new").write_bytes(b"")
    assert (world.root / "d/sub").stat().st_mtime_ns > before


@base
def test_small_writes_store_one_copy(world: World) -> None:
    with (world.root / "packed").open("r+b") as stream:
        stream.write(b"q")
    assert allocated(world.upper / "packed") <= 8192
    assert (world.root / "packed").read_bytes() == b"q" + b"p" * 4999
