"""System calls that Python does not offer, and small helpers for tests on mounted trees."""

from __future__ import annotations

import ctypes
import os
import stat
import struct
from pathlib import Path

LIBC = ctypes.CDLL(None, use_errno=True)
NOREPLACE, EXCHANGE, WHITEOUT = 1, 2, 4
_KEEP_SIZE, _PUNCH_HOLE = 1, 2


def renameat2(old: Path, new: Path, flags: int) -> None:
    if LIBC.renameat2(-100, os.fsencode(old), -100, os.fsencode(new), flags) < 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number), os.fspath(old))


def link_descriptor(fd: int, new: Path) -> None:
    """linkat(2) of an open file; Python's os.link never follows the /proc link."""
    if LIBC.linkat(-100, b"/proc/self/fd/%d" % fd, -100, os.fsencode(new), 0x400) < 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number), os.fspath(new))


def punch_hole(fd: int, offset: int, length: int) -> None:
    fallocate(fd, _KEEP_SIZE | _PUNCH_HOLE, offset, length)


def fallocate(fd: int, mode: int, offset: int, length: int) -> None:
    if LIBC.fallocate(ctypes.c_int(fd), ctypes.c_int(mode), ctypes.c_long(offset), ctypes.c_long(length)) < 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))


def names(directory: Path) -> list[str]:
    return sorted(os.listdir(directory))


def listed_inodes(directory: Path) -> dict[str, int]:
    with os.scandir(directory) as entries:
        return {entry.name: entry.inode() for entry in entries}


def stat_inodes(directory: Path) -> dict[str, int]:
    return {name: (directory / name).lstat().st_ino for name in os.listdir(directory)}


def allocated(path: Path) -> int:
    """Bytes that a file really takes."""
    return path.lstat().st_blocks * 512


def acl(*entries: tuple[int, int, int]) -> bytes:
    """A POSIX ACL xattr: (tag, permissions, id) each."""
    return struct.pack("<I", 2) + b"".join(struct.pack("<HHI", *entry) for entry in entries)


def whiteout_inode(upper: Path, name: str) -> int:
    found = (upper / name).lstat()
    assert stat.S_ISCHR(found.st_mode)
    return found.st_ino
