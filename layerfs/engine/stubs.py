"""Places for a step's mounts in its root: made where they are missing, and taken away again when they are still empty,
so that a mount leaves nothing in a layer. The directories around them keep their times.
"""

from __future__ import annotations

import contextlib
import os
import stat
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING

from layerfs.build.transfer import Below

if TYPE_CHECKING:
    from layerfs.layer.tree import Tree

_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_NEW = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
_ELSEWHERE = (b"dev", b"proc", b"sys")  # file systems of the run's own


class Stubs:
    """Of mount targets, each with whether it is a directory. Links on the way are followed as the image has them."""

    def __init__(self, tree: Tree, root: Path, targets: Sequence[tuple[bytes, bool]]) -> None:
        below = Below(tree)
        self._root = root
        self._wanted: list[tuple[bytes, bool]] = []
        for target, is_dir in targets:
            real = below.real(target)
            if real.split(b"/")[0] in _ELSEWHERE:
                continue
            parts = real.split(b"/")
            missing = [b"/".join(parts[:count]) for count in range(1, len(parts) + 1)]
            self._wanted += [(path, True if path != real else is_dir) for path in missing if below.find(path) is None]
        self._made: list[tuple[bytes, bool]] = []

    def __enter__(self) -> None:
        for path, is_dir in dict(self._wanted).items():
            with contextlib.suppress(OSError):  # told by the run
                self._change(path, is_dir, make=True)
                self._made.append((path, is_dir))

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for path, is_dir in reversed(self._made):
            with contextlib.suppress(OSError):  # not empty, or gone: the program's own now
                self._change(path, is_dir, make=False)

    def _change(self, path: bytes, is_dir: bool, *, make: bool) -> None:
        *above, name = path.split(b"/")
        fd = os.open(self._root, _DIRECTORY)
        try:
            for part in above:
                inner = os.open(part, _DIRECTORY, dir_fd=fd)
                os.close(fd)
                fd = inner
            before = os.fstat(fd)
            _make(name, fd, is_dir) if make else _take(name, fd, is_dir)
            os.utime(fd, ns=(before.st_atime_ns, before.st_mtime_ns))
        finally:
            os.close(fd)


def _make(name: bytes, directory: int, is_dir: bool) -> None:
    if is_dir:
        os.mkdir(name, 0o755, dir_fd=directory)
    else:
        os.close(os.open(name, _NEW, 0o644, dir_fd=directory))


def _take(name: bytes, directory: int, is_dir: bool) -> None:
    if is_dir:
        os.rmdir(name, dir_fd=directory)
        return
    found = os.stat(name, dir_fd=directory, follow_symlinks=False)
    if not stat.S_ISREG(found.st_mode) or found.st_size or found.st_nlink != 1:
        raise FileExistsError
    os.unlink(name, dir_fd=directory)
