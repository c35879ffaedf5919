"""flock files below `locks/`. Each hold opens the file anew, so threads exclude each other like processes."""

from __future__ import annotations

import contextlib
import fcntl
import os
from collections.abc import Iterator
from pathlib import Path

from layerfs.store.durable import writing


@contextlib.contextmanager
def hold(path: str | Path, *, exclusive: bool = True, wait: bool = True) -> Iterator[None]:
    """Holds the lock for the body. Raises BlockingIOError when it is taken and `wait` is false."""
    with writing("a lock file"):
        fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        mode = fcntl.LOCK_EX if exclusive else fcntl.LOCK_SH
        fcntl.flock(fd, mode if wait else mode | fcntl.LOCK_NB)
        try:
            yield
        finally:
            fcntl.flock(fd, fcntl.LOCK_UN)  # a child forked meanwhile has the descriptor too: closing would not do
    finally:
        os.close(fd)
