"""fusepy, with what it gets wrong put right: exact times, directory entries with types, attributes without dicts."""

from __future__ import annotations

import ctypes
import os
from typing import Any

import fuse

from layerfs.fuse.operations import UnionOperations
from layerfs.union.node import Attributes

__all__ = ["Server", "context"]

_NS = 1_000_000_000


class Entry(ctypes.Structure):
    """fusepy's c_stat lacks the reserved end of struct stat, which libfuse copies all the same."""

    _fields_ = (("stat", fuse.c_stat), ("reserved", ctypes.c_byte * 64))


def context() -> tuple[int, int, int]:
    """(uid, gid, pid) of the caller of the running operation."""
    uid, gid, pid = fuse.fuse_get_context()
    return uid, gid, pid


def fill(entry: Any, found: Attributes) -> None:
    """Attributes into a c_stat."""
    entry.st_mode, entry.st_uid, entry.st_gid, entry.st_nlink = found.mode, found.uid, found.gid, found.nlink
    entry.st_size, entry.st_rdev, entry.st_ino, entry.st_blocks = found.size, found.rdev, found.ino, found.blocks
    entry.st_blksize = 4096
    for field, value in (("a", found.atime_ns), ("m", found.mtime_ns), ("c", found.ctime_ns)):
        time = getattr(entry, f"st_{field}timespec")
        time.tv_sec, time.tv_nsec = divmod(value, _NS)


class Server(fuse.FUSE):  # type: ignore[misc]
    """Serves until it is unmounted; one thread, because the GIL makes more slower."""

    def __init__(self, operations: UnionOperations, target: str, **options: Any) -> None:
        where = os.fsencode(target).decode("latin-1")
        super().__init__(operations, where, raw_fi=True, encoding="latin-1", **options)

    def fgetattr(self, path: bytes | None, buffer: Any, info: Any) -> int:
        ctypes.memset(buffer, 0, ctypes.sizeof(fuse.c_stat))
        handle = info.contents.fh if info else None
        text = path.decode("latin-1") if path is not None else None
        fill(buffer.contents, self.operations("getattr", text, handle))
        return 0

    def ftruncate(self, path: bytes | None, length: int, info: Any) -> Any:
        text = path.decode("latin-1") if path is not None else None
        return self.operations("truncate", text, length, info.contents.fh)

    def utimens(self, path: bytes, buffer: Any) -> Any:
        """Raw, because fusepy's sum of seconds and nanoseconds cannot tell UTIME_OMIT from 1.07 seconds."""
        times = None
        if buffer:
            both = (buffer.contents.actime, buffer.contents.modtime)
            times = tuple((each.tv_sec, each.tv_nsec) for each in both)
        return self.operations("utimens", path.decode("latin-1"), times)

    def readdir(self, path: bytes, buffer: Any, filler: Any, offset: int, info: Any) -> int:
        entry = Entry().stat
        pointer = ctypes.pointer(entry)
        text = path.decode("latin-1") if path is not None else None  # None: the directory was removed
        listing = self.operations("readdir", text, info.contents.fh)
        for name in (b".", b".."):
            filler(buffer, name, None, 0)
        for name, found in listing.items():
            entry.st_mode, entry.st_ino = found.kind, found.ino
            if filler(buffer, name, pointer, 0):
                break
        return 0
