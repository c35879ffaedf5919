"""Walking directories of the host by descriptors: no path is built, so depth and length do not matter."""

from __future__ import annotations

import errno
import os
from pathlib import Path
from types import TracebackType
from typing import Self

from layerfs.errors import InUse

_OPEN = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_KEPT = 64  # descriptors of the directories above that stay open
_NO_XATTRS = {errno.ENOTSUP, errno.ENODATA}
XATTR_SPACES = (b"user.", b"trusted.", b"security.", b"system.posix_acl_")
HOST_LABELS = frozenset({b"security.selinux", b"security.ima", b"security.evm"})  # the host's policy, not the image's


class Descent:
    """Where one is below a top directory. A context manager; `fd` is the current directory's descriptor."""

    def __init__(self, top: Path | bytes | str) -> None:
        self._stack: list[tuple[int, tuple[int, int]]] = []
        self._push(os.open(top, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC))

    def _push(self, fd: int) -> None:
        status = os.fstat(fd)
        self._stack.append((fd, (status.st_dev, status.st_ino)))

    @property
    def fd(self) -> int:
        return self._stack[-1][0]

    def enter(self, name: bytes) -> None:
        """Goes into a directory. Raises OSError (ELOOP or ENOTDIR) when it is none any more."""
        self._push(os.open(name, _OPEN, dir_fd=self.fd))
        if len(self._stack) > _KEPT:
            fd, identity = self._stack[-_KEPT]
            self._stack[-_KEPT] = (-1, identity)
            if fd >= 0:
                os.close(fd)

    def leave(self) -> None:
        """Goes back to the parent."""
        fd, _ = self._stack.pop()
        try:
            if self._stack and self._stack[-1][0] < 0:
                self._reopen(fd)
        finally:
            os.close(fd)

    def _reopen(self, child: int) -> None:
        identity = self._stack[-1][1]
        fd = os.open(b"..", _OPEN, dir_fd=child)
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
            names = os.listxattr(target, follow_symlinks=False)
            return {os.fsencode(key): os.getxattr(target, key, follow_symlinks=False) for key in names}
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
            fd, _ = self._stack.pop()
            if fd >= 0:
                os.close(fd)


def image_xattrs(found: dict[bytes, bytes]) -> dict[bytes, bytes]:
    """Those that belong into a layer."""
    return {name: found[name] for name in found if name.startswith(XATTR_SPACES) and name not in HOST_LABELS}
