"""Making files durable, and the host's errors in our words."""

from __future__ import annotations

import contextlib
import errno
import os
from collections.abc import Iterator, Sequence
from pathlib import Path

from layerfs._lazy import TYPE_CHECKING
from layerfs.errors import NoSpace, StoreReadOnly

if TYPE_CHECKING:
    from typing import BinaryIO

FEW = 16  # up to this many files an fsync of each beats one syncfs on a busy file system


@contextlib.contextmanager
def writing(what: str) -> Iterator[None]:
    """Turns ENOSPC, EDQUOT and EROFS of the body into NoSpace and StoreReadOnly; other errors pass."""
    try:
        yield
    except (NoSpace, StoreReadOnly):
        raise
    except OSError as error:
        path = error.filename if isinstance(error.filename, str | bytes) else None
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise NoSpace(f"no space left while writing {what}", path=path) from error
        if error.errno == errno.EROFS:
            raise StoreReadOnly(f"the store is read-only: cannot write {what}", path=path) from error
        raise


@contextlib.contextmanager
def replacing(place: Path) -> Iterator[BinaryIO]:
    """A file that takes the name `place` when the body ends well. Until then, and otherwise, what was there stays."""
    new = place.with_name(f".{place.name[:200]}.{os.urandom(6).hex()}")
    try:
        with writing(f"the file {place}"):
            with _opened(new, place) as file:
                yield file
            new.replace(place)
    finally:
        new.unlink(missing_ok=True)


def _opened(new: Path, place: Path) -> BinaryIO:
    """A new file; errors name the one that it is to become."""
    try:
        return new.open("xb")
    except OSError as error:
        error.filename = str(place)
        raise


def make_durable(paths: Sequence[Path], top: Path) -> None:
    """After return the files, and their names up to the directory `top`, survive a power cut."""
    if len(paths) > FEW:
        sync_file_system(top)
        return
    directories: set[Path] = set()
    for path in paths:
        _fsync(path)
        parent = path.parent
        while parent not in directories and parent != top.parent:
            directories.add(parent)
            parent = parent.parent
    for directory in sorted(directories, key=lambda d: -len(d.parts)):
        _fsync(directory, follow=directory == top)


def _fsync(path: Path, *, follow: bool = False) -> None:
    """follow: the store's own path may be a symbolic link; below it there are none."""
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | (0 if follow else os.O_NOFOLLOW))
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def sync_file_system(path: Path) -> None:
    """syncfs(2): one barrier for everything written to this file system. Reports write-back errors (Linux 5.8)."""
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        _syncfs(fd)
    finally:
        os.close(fd)


def _syncfs(fd: int) -> None:
    try:
        from layerfs._native import syncfs
    except ImportError:
        import ctypes

        if ctypes.CDLL(None, use_errno=True).syncfs(fd) < 0:
            code = ctypes.get_errno()
            raise OSError(code, os.strerror(code)) from None
    else:
        syncfs(fd)


def place_file(source: Path, target: Path) -> None:
    """Renames over `target`, making its directory; gc may remove that directory while it is empty."""
    for attempt in range(8):
        try:
            source.rename(target)
            return
        except FileNotFoundError:
            if attempt == 7 or not os.path.lexists(source):
                raise
            target.parent.mkdir(0o700, exist_ok=True)


def write_all(fd: int, data: bytes | memoryview) -> None:
    view = memoryview(data)
    while view:
        view = view[os.write(fd, view) :]


def pread_all(fd: int, count: int, offset: int) -> bytes:
    """`count` bytes at `offset`; fewer only at the end of the file."""
    data = os.pread(fd, count, offset)
    if len(data) == count or not data:
        return data
    parts = [data]
    got = len(data)
    while got < count and data:
        data = os.pread(fd, count - got, offset + got)
        parts.append(data)
        got += len(data)
    return b"".join(parts)
