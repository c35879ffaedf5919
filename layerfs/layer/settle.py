"""Completing hard links that the kernel keeps in `work/index`: after it every name of such a file is in the upper."""

from __future__ import annotations

import contextlib
import os
import secrets
import stat
from collections.abc import Iterator
from pathlib import Path

from layerfs.layer.changes import Step, UpperWalk, with_parents
from layerfs.layer.host import Descent
from layerfs.layer.links import encode_handle
from layerfs.layer.tree import Inode, Tree


def settle(upper: Path, work: Path, lower: Tree, *, prefix: bytes | None = None) -> int:
    """Links the index's copies under all names that a user of the mount would see; the number of links made.

    Directories on the way that only the lower has are copied up. The index stays: remove it afterwards. Nothing may be
    mounted on the upper. After a crash half way call it again.
    """
    with UpperWalk(upper, lower, prefix, work / "index", compare=False) as walk:
        steps = list(with_parents(walk, _is_copy))
        marks = walk.marks
    if not steps:
        return 0
    with Descent(work) as place, Descent(work / "index") as index:
        for step in steps:
            if step.upper is None and step.base is not None:
                _copy_up(upper, step.path, step.base, lower, marks, place)
            elif step.upper is not None and step.upper.indexed:
                _link(upper, step.path, marks, index, step.upper.name)
    return sum(map(_is_copy, steps))


def _is_copy(step: Step) -> bool:
    return step.upper is not None and step.upper.indexed


def _link(upper: Path, path: bytes, marks: bytes, index: Descent, copy: bytes) -> None:
    with _parent_of(upper, path, marks) as (parent, name):
        os.link(copy, name, src_dir_fd=index.fd, dst_dir_fd=parent, follow_symlinks=False)


def _copy_up(upper: Path, path: bytes, inode: Inode, lower: Tree, marks: bytes, work: Descent) -> None:
    """A directory of the lower, finished in the work directory and then renamed into the upper."""
    temporary = b"settle-" + secrets.token_hex(8).encode()
    os.mkdir(temporary, 0o700, dir_fd=work.fd)
    work.enter(temporary)
    for name, value in lower.xattrs(inode).items():
        os.setxattr(work.fd, name, value)
    os.setxattr(work.fd, marks + b"origin", encode_handle(inode.nid, lower.subject[:16]))
    os.fchown(work.fd, inode.uid, inode.gid)
    os.fchmod(work.fd, stat.S_IMODE(inode.mode))
    os.utime(work.fd, ns=(inode.mtime_ns, inode.mtime_ns))
    work.leave()
    with _parent_of(upper, path, marks) as (parent, name):
        os.rename(temporary, name, src_dir_fd=work.fd, dst_dir_fd=parent)


@contextlib.contextmanager
def _parent_of(upper: Path, path: bytes, marks: bytes) -> Iterator[tuple[int, bytes]]:
    """(descriptor, last name); the parent keeps its times and is marked to hold entries with an origin."""
    *directories, name = path.split(b"/")
    with Descent(upper) as place:
        for directory in directories:
            place.enter(directory)
        status = os.fstat(place.fd)
        yield place.fd, name
        os.setxattr(place.fd, marks + b"impure", b"y")
        os.utime(place.fd, ns=(status.st_atime_ns, status.st_mtime_ns))
