"""FUSE over io_uring is a switch of the whole host (`fuse.enable_uring`): tests turn it on only while they mount."""

from __future__ import annotations

import contextlib
import fcntl
import os
from collections.abc import Iterator
from pathlib import Path

from tests.looking import places_of

PARAMETER = Path("/sys/module/fuse/parameters/enable_uring")
_LOCK = Path("/tmp/layerfs-tests-uring.lock")  # of all sessions on the host, which have a TMPDIR each


def available() -> bool:
    return PARAMETER.exists() and os.access(PARAMETER, os.W_OK)


@contextlib.contextmanager
def switched_on() -> Iterator[None]:
    """A connection keeps what it was given at its start. One test process at a time; the lock's file keeps what the
    switch was before, for the next one to restore if this one is killed."""
    with _LOCK.open("a+") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        lock.seek(0)
        before = lock.read() or PARAMETER.read_text().strip()
        lock.truncate(0)
        lock.write(before)
        lock.flush()
        try:
            PARAMETER.write_text("Y")
            yield
        finally:
            PARAMETER.write_text(before)
            lock.truncate(0)


def rings(pid: int) -> int:
    """How many rings a server has."""
    return list(places_of(pid)).count("anon_inode:[io_uring]")
