"""An upper-format directory on the host, reached by directory descriptors alone.

No path is ever resolved through a symlink: directories are opened part by part with O_NOFOLLOW, and what is done to
an entry is done through an O_PATH descriptor of the entry itself.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import os
import stat
from collections import OrderedDict
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import NamedTuple

from layerfs.union.node import split

try:
    from layerfs import _native as _loaded

    _native: ModuleType | None = _loaded
except ImportError:
    _native = None

__all__ = ["EXCHANGE", "NOREPLACE", "WHITEOUT", "HostDir", "rename"]

NOREPLACE, EXCHANGE, WHITEOUT = 1, 2, 4  # renameat2(2)
_DIRECTORY = os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_KEPT = 128  # directory descriptors kept open
_MISSING = {errno.ENOENT, errno.ENOTDIR}


def rename(old_dir: int, old: bytes, new_dir: int, new: bytes, flags: int = 0) -> None:
    """renameat2(2); Python's own rename has no flags."""
    if not flags:
        os.rename(old, new, src_dir_fd=old_dir, dst_dir_fd=new_dir)
    elif _native is not None:
        _native.renameat2(old_dir, old, new_dir, new, flags)
    else:
        libc = ctypes.CDLL(None, use_errno=True)
        if libc.renameat2(old_dir, old, new_dir, new, ctypes.c_uint(flags)) < 0:
            number = ctypes.get_errno()
            raise OSError(number, os.strerror(number), os.fsdecode(old), None, os.fsdecode(new))


class HostEntry(NamedTuple):
    """`kind` is the type part of st_mode."""

    name: bytes
    kind: int
    ino: int

    @property
    def is_dir(self) -> bool:
        return self.kind == stat.S_IFDIR


def _kind(entry: os.DirEntry[str]) -> int:
    if entry.is_dir(follow_symlinks=False):
        return stat.S_IFDIR
    if entry.is_symlink():
        return stat.S_IFLNK
    if entry.is_file(follow_symlinks=False):
        return stat.S_IFREG
    return stat.S_IFMT(entry.stat(follow_symlinks=False).st_mode)


class HostDir:
    """One directory tree. Paths are bytes below it; the directory itself is b"". Not safe from two threads at once."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        self.device = os.fstat(self.fd).st_dev
        self._open: OrderedDict[bytes, int] = OrderedDict()

    def close(self) -> None:
        self.forget()
        if self.fd >= 0:
            os.close(self.fd)
            self.fd = -1

    def forget(self) -> None:
        """Drop what is remembered of directories' places: after a rename or removal of one."""
        for fd in self._open.values():
            os.close(fd)
        self._open.clear()

    def directory(self, path: bytes) -> int:
        """A borrowed descriptor of a directory, good until the next call. FileNotFoundError, NotADirectoryError."""
        if not path:
            return self.fd
        if path in self._open:
            self._open.move_to_end(path)
            return self._open[path]
        parent, name = split(path)
        fd = os.open(name, _DIRECTORY, dir_fd=self.directory(parent))
        self._open[path] = fd
        if len(self._open) > _KEPT:
            os.close(self._open.popitem(last=False)[1])
        return fd

    def place(self, path: bytes) -> tuple[int, bytes]:
        """(descriptor of the directory, name in it), for the *at calls; the root is named `.`."""
        parent, name = split(path)
        return self.directory(parent), name or b"."

    def lstat(self, path: bytes) -> os.stat_result | None:
        """None when there is no such entry."""
        try:
            fd, name = self.place(path)
            return os.stat(name, dir_fd=fd, follow_symlinks=False)
        except OSError as error:
            if error.errno in _MISSING:
                return None
            raise

    def scan(self, path: bytes) -> list[HostEntry]:
        """The entries of a directory, whiteouts included."""
        fd = self.open(path, os.O_RDONLY | os.O_DIRECTORY) if path else os.dup(self.fd)
        try:
            with os.scandir(fd) as entries:
                return [HostEntry(os.fsencode(entry.name), _kind(entry), entry.inode()) for entry in entries]
        finally:
            os.close(fd)

    def open(self, path: bytes, flags: int, mode: int = 0o600) -> int:
        """An owned descriptor; a symlink at the end is not followed."""
        fd, name = self.place(path)
        return os.open(name, flags | os.O_NOFOLLOW | os.O_CLOEXEC, mode, dir_fd=fd)

    @contextlib.contextmanager
    def handle(self, path: bytes) -> Iterator[bytes]:
        """A name for calls that take a path and would follow symlinks: it means the entry itself, whatever it is."""
        fd = self.open(path, os.O_PATH)
        try:
            yield b"/proc/self/fd/%d" % fd
        finally:
            os.close(fd)

    def marks(self, path: bytes, prefix: bytes = b"") -> dict[bytes, bytes]:
        """The xattrs whose names begin with `prefix`."""
        fd, name = self.place(path)
        target = b"/proc/self/fd/%d/%s" % (fd, name)
        try:
            names = [os.fsencode(found) for found in os.listxattr(target, follow_symlinks=False)]
        except OSError as error:
            if error.errno == errno.ENOTSUP:
                return {}
            raise
        found = {}
        for each in names:
            if each.startswith(prefix):
                with contextlib.suppress(OSError):
                    found[each] = os.getxattr(target, each, follow_symlinks=False)
        return found

    def mark(self, path: bytes, name: bytes) -> bytes | None:
        """One xattr, or None."""
        fd, entry = self.place(path)
        try:
            return os.getxattr(b"/proc/self/fd/%d/%s" % (fd, entry), name, follow_symlinks=False)
        except OSError as error:
            if error.errno in (errno.ENODATA, errno.ENOTSUP):
                return None
            raise

    def set_mark(self, path: bytes, name: bytes, value: bytes) -> None:
        fd, entry = self.place(path)
        os.setxattr(b"/proc/self/fd/%d/%s" % (fd, entry), name, value, follow_symlinks=False)

    def remove_tree(self, path: bytes) -> None:
        """Remove an entry and, when it is a directory, everything below."""
        fd, name = self.place(path)
        try:
            os.unlink(name, dir_fd=fd)
        except IsADirectoryError:
            for entry in self.scan(path):
                self.remove_tree(path + b"/" + entry.name)
            self.forget()
            fd, name = self.place(path)
            os.rmdir(name, dir_fd=fd)
