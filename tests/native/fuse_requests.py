"""FUSE requests as the input of layerfs_native/fuzz/fuzz_requests.c, and the small store that they go to."""

from __future__ import annotations

import shutil
import struct
from collections.abc import Iterator
from pathlib import Path

from tests.conformance.trees import Shelf, device, directory, fifo, file, hardlink, symlink

LOOKUP, FORGET, GETATTR, SETATTR, READLINK, SYMLINK, MKNOD, MKDIR, UNLINK, RMDIR, RENAME, LINK = (
    1,
    2,
    3,
    4,
    5,
    6,
    8,
    *range(9, 14),
)
OPEN, READ, WRITE, STATFS, RELEASE, FSYNC, SETXATTR, GETXATTR, LISTXATTR, REMOVEXATTR = (
    14,
    15,
    16,
    17,
    18,
    *range(20, 25),
)
INIT, OPENDIR, READDIR, FSYNCDIR, CREATE, IOCTL, BATCH_FORGET, FALLOCATE = 26, 27, 28, 30, 35, 39, 42, 43
READDIRPLUS, RENAME2, LSEEK, COPY_FILE_RANGE, SYNCFS, TMPFILE, COPY_FILE_RANGE_64 = *range(44, 48), 50, 51, 53
ROOT, FIRST = 0, 1  # what a record's node says: the root; the first one that a reply gave
RDONLY, RDWR, TRUNC, LOST = 0, 2, 0o1000, 128


def make_store(place: Path) -> None:
    """A tree of every kind of entry, with packed and separate contents."""
    shutil.rmtree(place, ignore_errors=True)
    shelf = Shelf(place)
    layers = [
        file("small", b"small", xattrs={"user.a": b"1", "security.capability": b"\1\0\0\2" + bytes(16)}),
        file("big", bytes(range(256)) * 1200),
        file("huge", b"h" * (1 << 20)),
        file("l1", b"l" * 9000),
        hardlink("l2", "l1"),
        symlink("link", "small"),
        device("null", 1, 3),
        fifo("pipe"),
        directory("d", 0o2775, gid=1000),
        *[file(f"d/{number}", b"%d" % number) for number in range(40)],
        directory("d/e"),
    ]
    tree = shelf.tree(layers)
    (place / "tree").hardlink_to(tree.path)


def record(opcode: int, node: int, args: bytes = b"") -> bytes:
    return struct.pack("<BBH", opcode, node, len(args)) + args


def name(text: str) -> bytes:
    return text.encode() + b"\0"


def setattr_(valid: int, size: int = 0, mode: int = 0) -> bytes:
    return struct.pack("<IIQQQQQQIIIIIIII", valid, 0, 1, size, 0, 5, 6, 7, 1, 2, 3, mode, 0, 1000, 1000, 0)


def write(offset: int, data: bytes) -> bytes:
    return struct.pack("<QQIIQII", 2, offset, len(data), 0, 0, 0, 0) + data


def read(size: int, offset: int = 0) -> bytes:
    return struct.pack("<QQIIQII", 1, offset, size, 0, 0, 0, 0)


def opened(flags: int) -> bytes:
    return struct.pack("<II", flags, 1)


def sequences() -> Iterator[bytes]:
    """Inputs that use every operation as the kernel does; a first byte of options goes before the records."""
    for mode in (0, 1, 2, 12, 16):
        for sequence in _plain():
            yield bytes([mode]) + b"".join(sequence)


def _plain() -> Iterator[list[bytes]]:
    release, created = struct.pack("<QIIQ", 2, 0, 0, 0), struct.pack("<IIII", RDWR, 0o644, 0o22, 0)
    init = struct.pack("<IIIIII", 7, 45, 1 << 17, 0xFFFFFFFF, 0xFFFFFFFF, 0) + bytes(40)
    for lower in ("small", "big", "huge", "l1", "link", "null", "pipe", "d"):
        yield [
            record(LOOKUP, ROOT, name(lower)),
            record(GETATTR, FIRST, bytes(16)),
            record(READLINK, FIRST),
            record(OPEN, FIRST, opened(RDONLY)),
            record(READ, FIRST, read(4096, 2)),
            record(OPEN, FIRST, opened(RDWR)),
            record(WRITE, FIRST, write(10, b"new bytes")),
            record(LSEEK, FIRST, struct.pack("<QQII", 2, 0, 3, 0)),
            record(FALLOCATE, FIRST, struct.pack("<QQQII", 2, 4096, 4096, 3, 0)),
            record(FSYNC, FIRST, struct.pack("<QII", 2, 1, 0)),
            record(SETATTR, FIRST, setattr_(8 | 2048, 3)),
            record(SETATTR, FIRST, setattr_(1 | 2 | 4 | 16 | 32, 0, 0o4755)),
            record(SETXATTR, FIRST, struct.pack("<II", 3, 0) + name("user.b") + b"abc"),
            record(GETXATTR, FIRST, struct.pack("<II", 100, 0) + name("user.a")),
            record(LISTXATTR, FIRST, struct.pack("<II", 100, 0)),
            record(REMOVEXATTR, FIRST, name("user.a")),
            record(IOCTL, FIRST, struct.pack("<QIIQII", 1, 0, 0x80086601, 0, 0, 8)),
            record(RELEASE, FIRST, release),
            record(LINK, ROOT, struct.pack("<Q", 2) + name("another")),
            record(UNLINK, ROOT, name(lower)),
            record(WRITE, FIRST, write(0, b"still there")),
            record(RELEASE, FIRST, release),
            record(FORGET, FIRST, struct.pack("<Q", 2)),
        ]
    yield [
        record(INIT, ROOT, init),
        record(CREATE, ROOT, created + name("new")),
        record(WRITE, FIRST, write(0, b"x" * 100)),
        record(COPY_FILE_RANGE, FIRST, struct.pack("<QQQQQQQ", 2, 0, 2, 2, 200, 50, 0)),
        record(COPY_FILE_RANGE_64, FIRST, struct.pack("<QQQQQQQ", 2, 0, 2, 2, 200, 50, 0)),
        record(TMPFILE, ROOT, created),
        record(LINK, ROOT, struct.pack("<Q", 3) + name("linked")),
        record(CREATE | LOST, ROOT, created + name("lost")),
        record(RENAME2, ROOT, struct.pack("<QII", 1, 2, 0) + name("new") + name("d")),
        record(RENAME, ROOT, struct.pack("<Q", 1) + name("d") + name("moved")),
        record(SYMLINK, ROOT, name("sym") + name("target")),
        record(STATFS, ROOT),
        record(SYNCFS, ROOT, bytes(8)),
        record(BATCH_FORGET, ROOT, struct.pack("<IIQQQQ", 2, 0, 2, 1, 3, 1)),
    ]
    yield [
        record(LOOKUP, ROOT, name("d")),
        record(READDIRPLUS, FIRST, read(4096)),
        record(READDIR, FIRST, read(4096)),
        record(MKDIR, FIRST, struct.pack("<II", 0o755, 0o22) + name("sub")),
        record(MKNOD, FIRST, struct.pack("<IIII", 0o20644, 0x103, 0o22, 0) + name("node")),
        record(UNLINK, FIRST, name("3")),
        record(MKNOD, FIRST, struct.pack("<IIII", 0o100644, 0, 0o22, 0) + name("3")),
        record(READDIRPLUS, FIRST, read(4096)),
        record(RMDIR, FIRST, name("e")),
        record(MKDIR, FIRST, struct.pack("<II", 0o755, 0o22) + name("e")),
        record(RENAME, ROOT, struct.pack("<Q", 1) + name("d") + name("f")),
        record(READDIR, FIRST, read(4096)),
        record(FSYNCDIR, FIRST, struct.pack("<QII", 0, 0, 0)),
        record(OPENDIR, FIRST, opened(RDONLY)),
    ]
