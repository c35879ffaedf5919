"""The places in a root where a run mounts /proc, /dev, /sys and its three files of /etc.

Images may lack them. docker keeps them in a layer of their own that diff and commit do not see; here the first run
makes them and the last one takes them away again, and the directories keep their times. What a program put there
stays.
"""

from __future__ import annotations

import contextlib
import os
import stat
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_NEW_FILE = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC


def make_points(root: Path) -> list[bytes]:
    """Make in a mounted root what it lacks; what was made. Errors are left to the run, which tells them."""
    from layerfs.runtime.layout import MOUNT_POINTS

    files = [path.removeprefix(b"/etc/") for path in MOUNT_POINTS if path.startswith(b"/etc/")]
    directories = [*(path[1:] for path in MOUNT_POINTS if not path.startswith(b"/etc/")), b"etc"]
    with _directory(root) as top:
        made = _each(top, directories, lambda name: os.mkdir(name, 0o755, dir_fd=top))
        with _directory(b"etc", top) as etc:
            done = _each(etc, files, lambda name: os.close(os.open(name, _NEW_FILE, 0o755, dir_fd=etc)))
    return made + [b"etc/" + name for name in done]


def made_points(directory: Path) -> frozenset[bytes]:
    """Those of the container in `directory` that are there while it runs: no change of its own."""
    try:
        return frozenset((directory / "run/points").read_bytes().splitlines())
    except FileNotFoundError:
        return frozenset()


def clear_points(root: Path, made: Iterable[bytes]) -> None:
    """Take away what is still as it was made: empty."""
    made = list(made)
    with _directory(root) as top:
        with _directory(b"etc", top) as etc:
            files = [path.removeprefix(b"etc/") for path in made if b"/" in path]
            _each(etc, files, lambda name: _remove_empty_file(name, etc))
        _each(top, [path for path in made if b"/" not in path], lambda name: os.rmdir(name, dir_fd=top))


@contextlib.contextmanager
def _directory(path: Path | bytes, parent: int | None = None) -> Iterator[int]:
    """An open directory, never through a symlink: what a program left may lead anywhere. -1 when it is none."""
    fd = -1
    with contextlib.suppress(OSError):
        fd = os.open(path, _DIRECTORY, dir_fd=parent)
    try:
        yield fd
    finally:
        if fd >= 0:
            os.close(fd)


def _each(directory: int, names: Iterable[bytes], action: Callable[[bytes], object]) -> list[bytes]:
    """Does it to each name where it can be done, and says where; the directory keeps its times."""
    if directory < 0:
        return []
    before = os.fstat(directory)
    done = []
    for name in names:
        with contextlib.suppress(OSError):
            action(name)
            done.append(name)
    if done:
        with contextlib.suppress(OSError):
            os.utime(directory, ns=(before.st_atime_ns, before.st_mtime_ns))
    return done


def _remove_empty_file(name: bytes, directory: int) -> None:
    found = os.stat(name, dir_fd=directory, follow_symlinks=False)
    if not stat.S_ISREG(found.st_mode) or found.st_size or found.st_nlink != 1:
        raise FileExistsError
    os.unlink(name, dir_fd=directory)
