"""Reading a file of a container's root from outside, without ever leaving that root.

The image's links are followed as they would be inside: `..` stops at the root, an absolute link starts there. Each
component is opened with O_NOFOLLOW from its directory's descriptor, so nothing is decided twice.
"""

from __future__ import annotations

import errno
import os
import stat
from pathlib import Path

_LINKS_MAX = 40
_DIR = os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


class _Walk:
    """A stack of open directories, the root at its bottom."""

    def __init__(self, root: Path) -> None:
        self.stack = [os.open(root, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)]

    def close(self) -> None:
        while self.stack:
            os.close(self.stack.pop())

    def up(self, levels: int | None = None) -> None:
        while len(self.stack) > 1 and levels != 0:
            os.close(self.stack.pop())
            levels = levels - 1 if levels is not None else None


def _find(walk: _Walk, path: bytes) -> int:
    parts = path.split(b"/")[::-1]
    links = 0
    while parts:
        name = parts.pop()
        if name in (b"", b"."):
            continue
        if name == b"..":
            walk.up(1)
            continue
        fd = os.open(name, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=walk.stack[-1])
        kind = stat.S_IFMT(os.fstat(fd).st_mode)
        if kind == stat.S_IFDIR:
            walk.stack.append(fd)
            continue
        if kind == stat.S_IFLNK:
            os.close(fd)
            links += 1
            if links > _LINKS_MAX:
                raise OSError(errno.ELOOP, os.strerror(errno.ELOOP))
            text = os.readlink(name, dir_fd=walk.stack[-1])
            if text.startswith(b"/"):
                walk.up()
            parts.extend(text.split(b"/")[::-1])
            continue
        if parts:
            os.close(fd)
            raise OSError(errno.ENOTDIR, os.strerror(errno.ENOTDIR))
        return fd
    raise OSError(errno.EISDIR, os.strerror(errno.EISDIR))


def read_in_root(root: Path, path: bytes, limit: int) -> bytes | None:
    """The regular file `path` of `root`, whole; None where there is none. OSError EFBIG above `limit` bytes."""
    walk = _Walk(root)
    try:
        fd = _find(walk, path)
    except OSError as error:
        if error.errno in (errno.ENOENT, errno.ENOTDIR, errno.EISDIR, errno.ELOOP):
            return None
        raise
    finally:
        walk.close()
    try:
        if not stat.S_ISREG(os.fstat(fd).st_mode):  # a FIFO would block, a device would act
            return None
        with open(f"/proc/self/fd/{fd}", "rb") as file:  # noqa: PTH123 (a descriptor, not a path)
            data = file.read(limit + 1)
    finally:
        os.close(fd)
    if len(data) > limit:
        raise OSError(errno.EFBIG, os.strerror(errno.EFBIG), os.fsdecode(path))
    return data


def open_in_root(root: Path, path: bytes) -> int | None:
    """A descriptor (O_PATH) of what is at `path` inside, or None."""
    walk = _Walk(root)
    try:
        return _find(walk, path)
    except IsADirectoryError:
        return os.dup(walk.stack[-1])
    except (FileNotFoundError, NotADirectoryError):
        return None
    finally:
        walk.close()
