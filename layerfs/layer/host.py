"""Walking directories of the host by descriptors: no path is built, so depth and length do not matter."""

from __future__ import annotations

import contextlib
import errno
import os
import stat
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType

from layerfs._lazy import TYPE_CHECKING
from layerfs.errors import InUse

if TYPE_CHECKING:
    from typing import Self

_OPEN = os.O_RDONLY | os.O_DIRECTORY
_KEPT = 64  # descriptors of the directories above that stay open
_NO_XATTRS = {errno.ENOTSUP, errno.ENODATA}
XATTR_SPACES = (b"user.", b"trusted.", b"security.", b"system.posix_acl_")
HOST_LABELS = frozenset({b"security.selinux", b"security.ima", b"security.evm"})  # the host's policy, not the image's


def open_at(name: bytes, directory: int, flags: int, *, own: bool = False) -> int:
    """Opens an entry of a directory, never through a symlink. `own`: it is the store's; a mode that keeps its owner
    (us) out does not count.
    """
    try:
        return os.open(name, flags | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=directory)
    except PermissionError:
        if not own:
            raise
        with lent(name, directory):
            return os.open(name, flags | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=directory)


@contextlib.contextmanager
def lent(name: bytes, directory: int) -> Iterator[None]:
    """The owner has all permissions for a while. Raises PermissionError when that is not for us to give."""
    mode = stat.S_IMODE(os.stat(name, dir_fd=directory, follow_symlinks=False).st_mode)
    target = b"/proc/self/fd/%d/%b" % (directory, name)
    os.chmod(target, mode | 0o700)  # noqa: PTH101
    try:
        yield
    finally:
        os.chmod(target, mode)  # noqa: PTH101


class Descent:
    """Where one is below a top directory. A context manager; `fd` is the current directory's descriptor.

    `own`: all of it is the store's, see `open_at`.
    """

    def __init__(self, top: Path | bytes | str, *, own: bool = False) -> None:
        self.own = own
        self._stack: list[tuple[int, tuple[int, int]]] = []
        self._lent: list[int | None] = []  # the mode to give back
        self._push(os.open(top, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC))

    def _push(self, fd: int) -> None:
        status = os.fstat(fd)
        self._stack.append((fd, (status.st_dev, status.st_ino)))
        locked = self.own and status.st_mode & 0o700 != 0o700 and status.st_uid == os.geteuid() != 0
        self._lent.append(stat.S_IMODE(status.st_mode) if locked else None)
        if locked:
            os.fchmod(fd, status.st_mode | 0o700)

    def _pop(self) -> int:
        (fd, _), mode = self._stack.pop(), self._lent.pop()
        if mode is not None and fd >= 0:
            os.fchmod(fd, mode)
        return fd

    @property
    def fd(self) -> int:
        return self._stack[-1][0]

    def enter(self, name: bytes) -> None:
        """Goes into a directory. Raises OSError (ELOOP or ENOTDIR) when it is none any more."""
        self._push(open_at(name, self.fd, _OPEN, own=self.own))
        if len(self._stack) > _KEPT:
            fd, identity = self._stack[-_KEPT]
            self._stack[-_KEPT] = (-1, identity)
            if fd >= 0:
                os.close(fd)

    def leave(self) -> None:
        """Goes back to the parent."""
        fd = self._pop()
        try:
            if self._stack and self._stack[-1][0] < 0:
                self._reopen(fd)
        finally:
            os.close(fd)

    def _reopen(self, child: int) -> None:
        identity = self._stack[-1][1]
        fd = open_at(b"..", child, _OPEN, own=self.own)
        status = os.fstat(fd)
        self._stack[-1] = (fd, identity)
        if (status.st_dev, status.st_ino) != identity:
            raise InUse("a directory was moved while it was read")

    def names(self) -> list[bytes]:
        """The names in the current directory, sorted."""
        return sorted(os.fsencode(name) for name in os.listdir(self.fd))  # noqa: PTH208

    def status(self, name: bytes) -> os.stat_result:
        return os.stat(name, dir_fd=self.fd, follow_symlinks=False)

    def readlink(self, name: bytes) -> bytes:
        return os.readlink(name, dir_fd=self.fd)

    def xattrs(self, name: bytes) -> dict[bytes, bytes]:
        """All xattrs of an entry (b"." for the directory itself), symlinks not followed."""
        target = b"/proc/self/fd/%d/%b" % (self.fd, name)
        try:
            return _xattrs(target)
        except PermissionError:
            if not self.own:
                raise
            with lent(name, self.fd):
                return _xattrs(target)
        except OSError as error:
            if error.errno in _NO_XATTRS:
                return {}
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        while self._stack:
            fd = self._pop()
            if fd >= 0:
                os.close(fd)


def _xattrs(target: bytes) -> dict[bytes, bytes]:
    names = os.listxattr(target, follow_symlinks=False)
    return {os.fsencode(key): os.getxattr(target, key, follow_symlinks=False) for key in names}


def image_xattrs(found: dict[bytes, bytes]) -> dict[bytes, bytes]:
    """Those that belong into a layer."""
    return {name: found[name] for name in found if name.startswith(XATTR_SPACES) and name not in HOST_LABELS}
