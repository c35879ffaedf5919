"""A little space held back, so that what makes room can run on a full disk: its own lease and pages need some."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from layerfs.errors import NoSpace

T = TypeVar("T")

SIZE = 1 << 20  # bytes


def reserve_path(store: Path) -> Path:
    return store / "index" / "reserve"


def keep_reserve(store: Path) -> None:
    """Allocates the reserve unless it is there; a disk that is too full for it is no error."""
    path = reserve_path(store)
    with contextlib.suppress(OSError):
        if path.stat().st_size >= SIZE:
            return
    with contextlib.suppress(OSError):
        fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            os.posix_fallocate(fd, 0, SIZE)
        finally:
            os.close(fd)


def spend_reserve(store: Path) -> bool:
    """Gives the space back to the disk; False when there was none."""
    path = reserve_path(store)
    with contextlib.suppress(OSError):
        freed = path.stat().st_blocks > 0
        os.truncate(path, 0)
        return freed
    return False


def with_reserve(store: Path, action: Callable[[], T], again: Callable[[], T] | None = None) -> T:
    """The action, and on a full disk once more (or `again`) with the space held back: it may have begun before."""
    try:
        return action()
    except NoSpace:
        if not spend_reserve(store):
            raise
    try:
        return (again or action)()
    finally:
        keep_reserve(store)
