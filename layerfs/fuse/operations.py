"""The union spoken as FUSE operations, in fusepy's shape. Only this folder knows FUSE.

fusepy gives paths as str; with the encoding latin-1 they are the bytes themselves, so any name works.
"""

from __future__ import annotations

import errno
import logging
import os
import re
import stat
import time
from collections.abc import Callable
from typing import Any

from layerfs.union.body import Body
from layerfs.union.node import Attributes, Listed, split
from layerfs.union.union import Union, set_times

__all__ = ["UnionOperations"]

_log = logging.getLogger("layerfs.fuse")
_HIDDEN = re.compile(rb"\.fuse_hidden[0-9a-f]{16}\Z")  # libfuse's name for what is removed while open
_OMIT, _NOW = (1 << 30) - 2, (1 << 30) - 1  # UTIME_OMIT, UTIME_NOW

Time = tuple[int, int]  # seconds, nanoseconds as utimensat(2) has them


def to_path(text: str) -> bytes:
    return text.encode("latin-1").lstrip(b"/")


class UnionOperations:
    """What fusepy calls, one method for each operation; every error is an OSError with its errno.

    `context` gives (uid, gid, pid) of the caller of the operation that is running.
    """

    use_ns = True
    flag_nullpath_ok = 1  # operations on open files need no path
    flag_utime_omit_ok = 1

    def __init__(
        self, union: Union, context: Callable[[], tuple[int, int, int]], ready: Callable[[], None] = lambda: None
    ) -> None:
        self._union, self._context, self._ready = union, context, ready
        self._files: dict[int, Body] = {}
        self._next = 1
        self._orphans: dict[bytes, Body] = {}  # hidden path -> the file that lives on

    def __call__(self, operation: str, *arguments: Any) -> Any:
        try:
            return getattr(self, operation)(*arguments)
        except OSError as error:
            if not error.errno or error.errno < 0:
                raise OSError(errno.EIO, str(error)) from error
            raise
        except Exception as error:
            _log.exception("operation %s failed", operation)
            raise OSError(errno.EIO, str(error)) from error

    def init(self, path: str) -> None:
        self._ready()

    def destroy(self, path: str) -> None:
        self._union.close()

    # attributes

    def getattr(self, path: str | None, handle: int | None = None) -> Attributes:
        if path is None:
            return self._files[handle or 0].attributes()
        where = to_path(path)
        if where in self._orphans:  # libfuse takes one off, because the hidden name is still there for it
            found = self._orphans[where].attributes()
            return found._replace(nlink=found.nlink + 1)
        return self._union.getattr(where)

    def readlink(self, path: str) -> str:
        return self._union.readlink(to_path(path)).decode("latin-1")

    def chmod(self, path: str, mode: int) -> None:
        where = to_path(path)
        if where in self._orphans:
            os.fchmod(self._orphan_fd(where), stat.S_IMODE(mode))
        else:
            self._union.chmod(where, mode)

    def chown(self, path: str, uid: int, gid: int) -> None:
        where = to_path(path)
        if where in self._orphans:
            os.fchown(self._orphan_fd(where), uid, gid)
        else:
            self._union.chown(where, uid, gid)

    def utimens(self, path: str, times: tuple[Time, Time] | None) -> None:
        now = time.time_ns()
        atime, mtime = (_nanoseconds(each, now) for each in times) if times else (now, now)
        where = to_path(path)
        if where in self._orphans:
            set_times(self._orphan_fd(where), atime, mtime)
        else:
            self._union.utimens(where, atime, mtime)

    def truncate(self, path: str | None, length: int, handle: int | None = None) -> None:
        where = to_path(path) if path is not None else b""
        if where in self._orphans:
            os.ftruncate(self._orphan_fd(where), length)
        elif handle is not None and handle in self._files and self._files[handle].fd >= 0:
            self._files[handle].truncate(length)
        else:
            self._union.truncate(where, length)

    def _orphan_fd(self, where: bytes) -> int:
        return self._union.materialise(self._orphans[where])

    def listxattr(self, path: str) -> list[str]:
        where = to_path(path)
        if where in self._orphans:
            return [name for name in os.listxattr(self._orphan_fd(where)) if not name.startswith("trusted.overlay.")]
        return [name.decode("latin-1") for name in self._union.listxattr(where)]

    def getxattr(self, path: str, name: str, position: int = 0) -> bytes:
        where = to_path(path)
        if where in self._orphans:
            return os.getxattr(self._orphan_fd(where), name)
        return self._union.getxattr(where, name.encode("latin-1"))

    def setxattr(self, path: str, name: str, value: bytes, options: int, position: int = 0) -> None:
        where = to_path(path)
        if where in self._orphans:
            os.setxattr(self._orphan_fd(where), name, value, options)
        else:
            self._union.setxattr(where, name.encode("latin-1"), value, options)

    def removexattr(self, path: str, name: str) -> None:
        where = to_path(path)
        if where in self._orphans:
            os.removexattr(self._orphan_fd(where), name)
        else:
            self._union.removexattr(where, name.encode("latin-1"))

    def statfs(self, path: str) -> dict[str, int]:
        found = self._union.statvfs()
        fields = ("f_bavail", "f_bfree", "f_blocks", "f_bsize", "f_favail", "f_ffree", "f_files", "f_frsize")
        return {"f_namemax": 255, **({field: getattr(found, field) for field in fields} if found else {})}

    # directories

    def opendir(self, path: str) -> int:
        return 0

    def readdir(self, path: str | None, handle: int) -> dict[bytes, Listed]:
        return {} if path is None else self._union.listdir(to_path(path))

    def releasedir(self, path: str | None, handle: int) -> None:
        pass

    def fsyncdir(self, path: str | None, datasync: int, handle: int) -> None:
        if path is not None:
            self._union.sync(to_path(path))

    # names

    def mknod(self, path: str, mode: int, rdev: int) -> None:
        uid, gid, _ = self._context()
        self._union.mknod(to_path(path), mode, rdev, uid=uid, gid=gid)

    def mkdir(self, path: str, mode: int) -> None:
        uid, gid, _ = self._context()
        self._union.mkdir(to_path(path), mode, uid=uid, gid=gid)

    def symlink(self, path: str, target: str) -> None:
        uid, gid, _ = self._context()
        self._union.symlink(to_path(path), target.encode("latin-1"), uid=uid, gid=gid)

    def link(self, path: str, source: str) -> None:
        self._union.link(to_path(source), to_path(path))

    def unlink(self, path: str) -> None:
        where = to_path(path)
        if where in self._orphans:
            self._union.release(self._orphans.pop(where))
        else:
            self._union.unlink(where)

    def rmdir(self, path: str) -> None:
        self._union.rmdir(to_path(path))

    def rename(self, old: str, new: str) -> None:
        """libfuse hides a file that is removed while open by a rename: here it loses its name instead, so that no
        listing shows it and its directory can go."""
        source, target = to_path(old), to_path(new)
        directory, name = split(target)
        if _HIDDEN.match(name) and directory == split(source)[0] and self._is_open(source):
            self._orphans[target] = self._union.orphan(source)
        else:
            self._union.rename(source, target)

    def _is_open(self, path: bytes) -> bool:
        ino = self._union.getattr(path).ino
        return any(body.ino == ino for body in self._files.values())

    # open files

    def create(self, path: str, mode: int, info: Any) -> int:
        uid, gid, _ = self._context()
        return self._opened(self._union.create(to_path(path), mode, uid=uid, gid=gid), info)

    def open(self, path: str, info: Any) -> int:
        where = to_path(path)
        if where in self._orphans:
            body = self._orphans[where]
            if info.flags & os.O_ACCMODE != os.O_RDONLY:
                self._union.materialise(body)
            body.references += 1
            return self._opened(body, info)
        body = self._union.open(where, info.flags)
        # libfuse knows inodes by their paths: each name of a hard-linked file has a page cache of its own
        info.direct_io = int(self._union.getattr(where).nlink > 1)
        return self._opened(body, info)

    def _opened(self, body: Body, info: Any) -> int:
        info.fh = self._next
        self._files[self._next] = body
        self._next += 1
        return 0

    def read(self, path: str | None, size: int, offset: int, info: Any) -> bytes:
        return self._files[info.fh].read(size, offset)

    def write(self, path: str | None, data: bytes, offset: int, info: Any) -> int:
        return self._files[info.fh].write(data, offset)

    def flush(self, path: str | None, info: Any) -> None:
        pass

    def fsync(self, path: str | None, datasync: int, info: Any) -> None:
        self._files[info.fh].sync(data_only=bool(datasync))

    def release(self, path: str | None, info: Any) -> None:
        self._union.release(self._files.pop(info.fh))


def _nanoseconds(wanted: Time, now: int) -> int | None:
    seconds, nanoseconds = wanted
    if nanoseconds == _OMIT:
        return None
    return now if nanoseconds == _NOW else seconds * 1_000_000_000 + nanoseconds
