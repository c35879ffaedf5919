"""The entries of a directory of the host, for importing it as a layer.

Everything below the directory, in depth-first order, names in byte order. Other file systems mounted below are
read too, as tar does without --one-file-system; sockets are skipped, as tar does. Hard links are kept together,
holes stay holes, xattrs come along except labels of the host's own policy (SELinux, IMA, EVM).
"""

from __future__ import annotations

import os
import stat
from collections.abc import Generator
from pathlib import Path

from layerfs.errors import InUse
from layerfs.layer.entry import Entry, FileContent
from layerfs.layer.host import Descent, image_xattrs


def directory_entries(top: Path) -> Generator[Entry, None, None]:
    """Entries for a TarWriter, the root first. Read an entry's content before taking the next.

    Raises:
        InUse: something changed while it was read.
        OSError: the host's own, with the path.
    """
    links: dict[tuple[int, int], Entry] = {}
    with Descent(top) as place:
        yield _entry(place, b".", b"", place.status(b"."))
        stack = [(b"", iter(place.names()))]
        while stack:
            prefix, names = stack[-1]
            for name in names:
                entry = _child(place, name, prefix + name, links)
                if entry is None:
                    continue
                yield entry
                if stat.S_ISDIR(entry.mode):
                    _enter(place, name, entry.path)
                    stack.append((entry.path + b"/", iter(place.names())))
                    break
            else:
                stack.pop()
                if stack:
                    place.leave()


def _child(place: Descent, name: bytes, path: bytes, links: dict[tuple[int, int], Entry]) -> Entry | None:
    try:
        status = place.status(name)
        if stat.S_ISSOCK(status.st_mode):
            return None
        if status.st_nlink < 2 or stat.S_ISDIR(status.st_mode):
            return _entry(place, name, path, status)
        inode = (status.st_dev, status.st_ino)
        first = links.get(inode)
        if first is not None:
            return first.linked(path, first.path)
        entry = links[inode] = _entry(place, name, path, status)
        return entry
    except FileNotFoundError:
        raise InUse("removed while the directory was read", path=b"/" + path) from None


def _enter(place: Descent, name: bytes, path: bytes) -> None:
    try:
        place.enter(name)
    except (FileNotFoundError, NotADirectoryError):
        raise InUse("removed while the directory was read", path=b"/" + path) from None


def _entry(place: Descent, name: bytes, path: bytes, status: os.stat_result) -> Entry:
    xattrs = image_xattrs(place.xattrs(name))
    return host_entry(place, name, path, status, xattrs)


def host_entry(
    place: Descent,
    name: bytes,
    path: bytes,
    status: os.stat_result,
    xattrs: dict[bytes, bytes],
    *,
    opaque: bool = False,
) -> Entry:
    """The entry of something in the current directory of `place`."""
    mode = status.st_mode
    regular = stat.S_ISREG(mode)
    return Entry(
        path,
        mode,
        status.st_uid,
        status.st_gid,
        status.st_mtime_ns,
        status.st_size if regular else 0,
        place.readlink(name) if stat.S_ISLNK(mode) else b"",
        rdev=status.st_rdev if stat.S_ISCHR(mode) or stat.S_ISBLK(mode) else 0,
        xattrs=tuple(sorted(xattrs.items())),
        content=FileContent(place.fd, name, status, path, place.own) if regular else None,
        opaque=opaque,
    )
