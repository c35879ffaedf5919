"""What a server leaves in an upper directory when it is killed while that becomes a frozen layer (freeze.c)."""

from __future__ import annotations

import os
from pathlib import Path

from layerfs.layer.host import Descent
from layerfs.store.trash import remove_tree
from layerfs.union.parted import file_of, noted_names

__all__ = ["reunite"]

_AGAIN = "again"
_OTHERS = ("links-", "whiteout")  # in scratch: not of freezing


def reunite(place: Path) -> None:
    """Of a file that was open some names may be those of the copy that was made for the layer, the others still the
    file's. It has what the copy has, and what was written since: so all are the file's again. Nobody writes to it.
    """
    scratch = place / "work" / "scratch"
    for note, paths in noted_names(scratch):
        for path in paths:
            _give_name(place / "upper", file_of(note), path)
        note.unlink()
    for left in scratch.iterdir() if scratch.is_dir() else ():
        if not left.name.startswith(_OTHERS):
            remove_tree(left) if left.is_dir() and not left.is_symlink() else left.unlink()


def _give_name(upper: Path, file: Path, path: bytes) -> None:
    *directories, name = path.split(b"/")
    again, wanted = file.with_name(_AGAIN), file.lstat()
    with Descent(upper, own=True) as walk:
        for directory in directories:
            walk.enter(directory)
        before, found = os.fstat(walk.fd), walk.status(name)
        if (found.st_dev, found.st_ino) == (wanted.st_dev, wanted.st_ino):
            return
        again.unlink(missing_ok=True)
        os.link(file, again, follow_symlinks=False)
        os.rename(again, name, dst_dir_fd=walk.fd)
        os.utime(walk.fd, ns=(before.st_atime_ns, before.st_mtime_ns))
