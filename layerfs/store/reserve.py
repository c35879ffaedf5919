"""A little space held back for a full disk: what makes room needs some for its own lease and pages, and so does who
only reads (saves, compares, mounts). A container may take what was given back before it is held again, so readers get a
part of it alone: removing and collecting still work.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable
from pathlib import Path

from layerfs._lazy import TYPE_CHECKING
from layerfs.errors import NoSpace
from layerfs.store.durable import writing

if TYPE_CHECKING:
    from typing import TypeVar

    T = TypeVar("T")


SIZE = 1 << 20  # bytes, for what makes room
FOR_READERS = 256 << 10  # on top of that
_STEP = 64 << 10


def reserve_path(store: Path) -> Path:
    return store / "index" / "reserve"


def keep_reserve(store: Path) -> None:
    """Allocates the reserve unless it is there; a disk that is too full for it is no error."""
    path = reserve_path(store)
    with contextlib.suppress(OSError):
        if path.stat().st_size >= SIZE + FOR_READERS:
            return
    with contextlib.suppress(OSError):
        fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            _allocate(fd)
        finally:
            os.close(fd)


def _allocate(fd: int) -> None:
    """As much as there is room for; some file systems give all that is asked for or nothing."""
    try:
        os.posix_fallocate(fd, 0, SIZE + FOR_READERS)
    except OSError:
        for size in range(_STEP, SIZE + FOR_READERS, _STEP):
            os.posix_fallocate(fd, 0, size)


def spend_reserve(store: Path, least: int = 0) -> bool:
    """Gives all but `least` bytes of the space back to the disk; False when there was none."""
    path = reserve_path(store)
    with contextlib.suppress(OSError):
        status = path.stat()
        if status.st_size > least and status.st_blocks * 512 > least:
            os.truncate(path, least)
            return True
    return False


def with_reserve(store: Path, action: Callable[[], T], again: Callable[[], T] | None = None, *, least: int = 0) -> T:
    """The action, and on a full disk once more (or `again`) with the space held back, but for `least` bytes of it: it
    may have begun before."""
    try:
        return action()
    except NoSpace:
        if not spend_reserve(store, least):
            raise
    try:
        return (again or action)()
    finally:
        keep_reserve(store)


def reading(store: Path, action: Callable[[], T]) -> T:
    """The action, of somebody who only reads, on a full disk with what is held back for those."""
    return with_reserve(store, action, least=SIZE)


def make_directory(store: Path, place: Path, what: str, *, mode: int = 0o700) -> None:
    """Unless it is there; for somebody who only reads."""

    def make() -> None:
        with writing(what):
            try:
                os.mkdir(place, mode)  # noqa: PTH102 (some in every run)
            except FileExistsError:
                if not os.path.isdir(place):  # noqa: PTH112
                    raise

    reading(store, make)
