"""Writing to the host's file system."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager

from layerfs.errors import NoSpace


@contextmanager
def no_space(path: str | None = None) -> Iterator[None]:
    """Turns ENOSPC and EDQUOT into NoSpace."""
    try:
        yield
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT) and not isinstance(error, NoSpace):
            raise NoSpace("no space left on the store's file system", path=path) from error
        raise


def write_at(fd: int, data: bytes | bytearray | memoryview, offset: int) -> None:
    """Write all of `data` at `offset`."""
    view = memoryview(data)
    with no_space():
        while view:
            count = os.pwrite(fd, view, offset)
            view, offset = view[count:], offset + count
