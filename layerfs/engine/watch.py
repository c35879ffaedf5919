"""Waiting for changes in a directory, by inotify(7): nothing polls."""

from __future__ import annotations

import contextlib
import ctypes
import errno
import os
from pathlib import Path
from types import TracebackType

_MODIFY, _MOVED_FROM, _MOVED_TO, _CREATE, _DELETE = 0x2, 0x40, 0x80, 0x100, 0x200
_FLAGS = os.O_NONBLOCK | os.O_CLOEXEC


class Watch:
    """Readable (for `select`) when a file in the directory was written, made, moved or removed; a context manager."""

    def __init__(self, directory: Path) -> None:
        libc = ctypes.CDLL(None, use_errno=True)
        self._fd: int = libc.inotify_init1(_FLAGS)
        mask = _MODIFY | _MOVED_FROM | _MOVED_TO | _CREATE | _DELETE
        if self._fd < 0 or libc.inotify_add_watch(self._fd, os.fsencode(directory), mask) < 0:
            number = ctypes.get_errno()
            self.close()
            if number in (errno.EMFILE, errno.ENOSPC):
                raise OSError(number, "too many files are watched on this machine (fs.inotify limits)")
            raise OSError(number, os.strerror(number), str(directory))

    def fileno(self) -> int:
        return self._fd

    def clear(self) -> None:
        """Forgets what has happened so far. Look at the files after it, not before."""
        with contextlib.suppress(BlockingIOError):
            os.read(self._fd, 1 << 16)

    def close(self) -> None:
        if self._fd >= 0:
            fd, self._fd = self._fd, -1
            os.close(fd)

    def __enter__(self) -> Watch:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
