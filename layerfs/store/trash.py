"""Taking files out of the store: renamed away while a lock is held (short), removed afterwards (long)."""

from __future__ import annotations

import contextlib
import os
import stat
from collections import deque
from pathlib import Path

from layerfs._lazy import pattern
from layerfs.store.durable import writing

_OCTAL = pattern(rb"\\([0-7]{3})")


class Trash:
    """A directory below `tmp/` that takes what is to be removed."""

    def __init__(self, path: Path) -> None:
        with writing("the trash"):
            path.mkdir(0o700, exist_ok=True)
        self.path, self._count = path, 0

    def take(self, path: Path) -> bool:
        """Moves a file or directory in; False when it is gone or cannot be moved (it is a mount point)."""
        self._count += 1
        try:
            path.rename(self.path / f"{self._count:x}")
        except OSError:
            return False
        return True

    def empty(self) -> int:
        """Removes what was taken; the bytes of disk space that gave back."""
        freed = remove_tree(self.path)
        self.path.mkdir(0o700, exist_ok=True)
        return freed


def remove_tree(path: Path, *, linked_mode: int | None = None) -> int:
    """Removes a directory and all in it, as far as the host lets us; never through symlinks or into mounts.
    `linked_mode`: files with names elsewhere get that mode.

    Not recursive: every directory found is moved up to the top first, so depth costs neither stack nor long paths.
    Returns the bytes that were allocated to its files.
    """
    top = os.fspath(path)
    try:
        device = os.lstat(top).st_dev
    except FileNotFoundError:
        return 0
    pending, number, freed = deque([top]), 0, 0
    while pending:
        directory = pending.popleft()
        size, directories = _clear(directory, device, linked_mode)
        freed += size
        for found in directories:
            number += 1
            target = found if directory == top else f"{top}/.layerfs-removed-{number:x}"
            with contextlib.suppress(OSError):
                if target != found:
                    _open_up(found)
                    os.rename(found, target)
                pending.append(target)
        if directory != top:
            with contextlib.suppress(OSError):
                os.rmdir(directory)
    with contextlib.suppress(OSError):
        os.rmdir(top)
    return freed


def _open_up(directory: str) -> None:
    """An ordinary user can neither empty nor move a directory whose mode keeps him out."""
    with contextlib.suppress(OSError):
        if os.lstat(directory).st_mode & 0o700 != 0o700:
            os.chmod(directory, 0o700)


def _clear(directory: str, device: int, linked_mode: int | None) -> tuple[int, list[str]]:
    """Unlinks the files of a directory: (bytes given back, its directories on the same file system)."""
    _open_up(directory)
    freed, directories = 0, []
    with contextlib.suppress(OSError), os.scandir(directory) as entries:
        for entry in entries:
            with contextlib.suppress(OSError):
                status = entry.stat(follow_symlinks=False)
                if not entry.is_dir(follow_symlinks=False):
                    if linked_mode is not None and status.st_nlink > 1 and stat.S_ISREG(status.st_mode):
                        os.chmod(entry, linked_mode)
                    os.unlink(entry)
                    freed += status.st_blocks * 512 if status.st_nlink == 1 else 0
                elif status.st_dev == device:
                    directories.append(entry.path)
    return freed, directories


def mounts_below(path: Path) -> bool:
    """Whether something is mounted at or below a path (in this mount namespace)."""
    top = os.fsencode(path.resolve())
    with contextlib.suppress(FileNotFoundError):
        for line in Path("/proc/self/mountinfo").read_bytes().splitlines():
            target = _OCTAL.sub(lambda match: bytes([int(match[1], 8)]), line.split(b" ")[4])
            if target == top or target.startswith(top + b"/"):
                return True
    return False
