"""A snapshot of a container that the native engine has mounted: its upper is copied, and the copy becomes a state.

The copy is brought up to date several times, first while everybody goes on, and last with all requests to the server
held up; what is copied anew is told by inode, ctime and size. Between the look at a file and its copy its pages are
written, so that any later store through a mapping shows in its ctime. What the kernel writes past the server (files
open for writing in passthrough) is not held up: such a file is copied again until it was the same before and after.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import shutil
import stat
import time
from collections.abc import Iterator
from pathlib import Path

from layerfs.errors import InUse, Unsupported
from layerfs.layer.host import open_at
from layerfs.store.durable import sync_file_system, writing

__all__ = ["UpperCopy"]

_FICLONE = 0x40049409
_PIECE = 1 << 20
_TRIES = 8
_FEW = 16  # up to this many files an fdatasync of each beats one syncfs
_TICKS = 20_000_000  # ns; before Linux 6.13 two changes within a tick of the clock have one ctime
_Stamp = tuple[int, int, int, int, int]  # device, inode, ctime, size, mode


class UpperCopy:
    """A copy of an upper directory, as it was at the last `update`. `bytes`: how much was copied by that."""

    def __init__(self, source: Path, target: Path) -> None:
        self._source, self._target = os.fsencode(source), os.fsencode(target)
        self._lent = contextlib.ExitStack()
        self._made: dict[bytes, _Stamp] = {}  # by path: what the copy was made of
        self.bytes = 0

    def update(self, *, final: bool) -> int:
        """Makes the copy like the source; how much was not so. What goes or changes meanwhile is left for the next
        time, unless `final`.

        Raises:
            InUse: `final`, and a file is being written to all the time. Unsupported: a path over 4095 bytes.
        """
        self.bytes = 0
        with writing("a snapshot"), _short_paths(), contextlib.ExitStack() as self._lent:
            found = dict(self._scan())
            changed = [path for path in sorted(found) if self._made.get(path) != _stamp(found[path])]
            directories = [path for path in changed if stat.S_ISDIR(found[path].st_mode)]
            for path in directories:
                if path in self._made and stat.S_ISDIR(self._made[path][4]):
                    os.chmod(self._to(path), 0o700)  # noqa: PTH101
            for path in sorted(self._made.keys() - found.keys(), reverse=True):
                self._remove(path)
            links = self._kept_links(found, set(changed))
            if not final:
                self._write_pages([path for path in changed if stat.S_ISREG(found[path].st_mode)])
            for path in changed:
                with _going(final):
                    self._copy(path, found[path], links, final)
            for path in reversed(self._with_parents(directories, changed)):
                with _going(final):
                    self._finish_directory(path, found[path])
        return len(changed)

    def _write_pages(self, files: list[bytes]) -> None:
        if len(files) > _FEW:
            sync_file_system(Path(os.fsdecode(self._source)))
            return
        for path in files:
            with _going(False), self._opened(path) as fd:
                os.fdatasync(fd)

    def _scan(self) -> Iterator[tuple[bytes, os.stat_result]]:
        yield b"", os.lstat(self._source)
        pending = [b""]
        while pending:
            prefix = pending.pop()
            with contextlib.suppress(FileNotFoundError, NotADirectoryError), self._listing(prefix) as entries:
                for entry in entries:
                    with contextlib.suppress(FileNotFoundError):
                        path = prefix + b"/" + entry.name if prefix else entry.name
                        yield path, entry.stat(follow_symlinks=False)
                        if entry.is_dir(follow_symlinks=False):
                            pending.append(path)

    def _listing(self, path: bytes) -> contextlib.AbstractContextManager[Iterator[os.DirEntry[bytes]]]:
        """An ordinary user's own modes may keep him out: then he has all permissions until the update is over."""
        try:
            return os.scandir(self._at(path))
        except PermissionError:
            mode = stat.S_IMODE(os.lstat(self._at(path)).st_mode)
            os.chmod(self._at(path), mode | 0o700)  # noqa: PTH101
            self._lent.callback(os.chmod, self._at(path), mode)
            return os.scandir(self._at(path))

    def _at(self, path: bytes) -> bytes:
        return self._source + b"/" + path if path else self._source

    def _to(self, path: bytes) -> bytes:
        return self._target + b"/" + path if path else self._target

    def _kept_links(self, found: dict[bytes, os.stat_result], changed: set[bytes]) -> dict[tuple[int, int], bytes]:
        """Inodes with several names that are there already, by one of these."""
        return {
            (status.st_dev, status.st_ino): path
            for path, status in found.items()
            if status.st_nlink > 1 and not stat.S_ISDIR(status.st_mode) and path not in changed
        }

    def _with_parents(self, directories: list[bytes], changed: list[bytes]) -> list[bytes]:
        """The directories whose times our own changes in them have spoiled come too."""
        return sorted({*directories, *(path.rpartition(b"/")[0] for path in changed if path)})

    def _remove(self, path: bytes) -> None:
        target = self._to(path)
        if self._made.pop(path, None) is None and not os.path.lexists(target):
            return
        if os.path.isdir(target) and not os.path.islink(target):  # noqa: PTH112, PTH114
            for below in [each for each in self._made if each.startswith(path + b"/")]:
                del self._made[below]
            shutil.rmtree(target)
        else:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(target)  # noqa: PTH108

    def _copy(self, path: bytes, status: os.stat_result, links: dict[tuple[int, int], bytes], final: bool) -> None:
        target, kind = self._to(path), stat.S_IFMT(status.st_mode)
        if kind == stat.S_IFDIR:
            if path and not (os.path.isdir(target) and not os.path.islink(target)):  # noqa: PTH112, PTH114
                self._remove(path)
                os.mkdir(target, 0o700)  # noqa: PTH102
            return  # what it looks like comes when what is in it has come
        self._remove(path)
        known = links.get((status.st_dev, status.st_ino))
        if known is not None:
            os.link(self._to(known), target)
        elif kind == stat.S_IFREG:
            copied = self._copy_file(path, target, status, final)
            if copied is None:
                return
            status = copied
        elif kind == stat.S_IFLNK:
            os.symlink(os.readlink(self._at(path)), target)  # noqa: PTH115, PTH211
        elif kind != stat.S_IFSOCK:
            os.mknod(target, status.st_mode, status.st_rdev)
        else:
            return
        if known is None:
            self._dress(path, target, status)
            links[status.st_dev, status.st_ino] = path
        self._made[path] = _stamp(status)

    @contextlib.contextmanager
    def _opened(self, path: bytes) -> Iterator[int]:
        directory, _, name = self._at(path).rpartition(b"/")
        folder = os.open(directory, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            fd = open_at(name, folder, os.O_RDONLY | os.O_NONBLOCK, own=True)
        finally:
            os.close(folder)
        try:
            yield fd
        finally:
            os.close(fd)

    def _copy_file(self, path: bytes, target: bytes, before: os.stat_result, final: bool) -> os.stat_result | None:
        """The file's status when it was copied, whole; None when it changed since `before` (and it is not `final`)."""
        with self._opened(path) as source:
            for _ in range(_TRIES if final else 1):
                before = os.fstat(source) if final else before
                self.bytes += _copy_bytes(source, before.st_size, target)
                young = not final and before.st_ctime_ns > time.time_ns() - _TICKS
                if not young and _stamp(os.fstat(source)) == _stamp(before):
                    return before
                os.unlink(target)  # noqa: PTH108
        if final:
            raise InUse("it is being written to all the time: pause the container", path=b"/" + path)
        return None

    def _dress(self, path: bytes, target: bytes, status: os.stat_result) -> None:
        source = self._at(path)
        os.chown(target, status.st_uid, status.st_gid, follow_symlinks=False)
        if not stat.S_ISLNK(status.st_mode):
            os.chmod(target, stat.S_IMODE(status.st_mode))  # noqa: PTH101
        wanted = os.listxattr(source, follow_symlinks=False)
        for name in set(os.listxattr(target, follow_symlinks=False)) - set(wanted):
            os.removexattr(target, name, follow_symlinks=False)
        for name in wanted:
            value = os.getxattr(source, name, follow_symlinks=False)
            with contextlib.suppress(PermissionError):  # the host's own labels
                os.setxattr(target, name, value, follow_symlinks=False)
        os.utime(target, ns=(status.st_atime_ns, status.st_mtime_ns), follow_symlinks=False)

    def _finish_directory(self, path: bytes, status: os.stat_result) -> None:
        self._dress(path, self._to(path), status)
        self._made[path] = _stamp(status)


def _stamp(status: os.stat_result) -> _Stamp:
    return status.st_dev, status.st_ino, status.st_ctime_ns, status.st_size, status.st_mode


def _copy_bytes(source: int, size: int, target: bytes) -> int:
    """By reflink where the host can; else data alone, holes stay holes. The bytes that had to be copied."""
    fd = os.open(target, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    try:
        with contextlib.suppress(OSError):
            fcntl.ioctl(fd, _FICLONE, source)
            return 0
        copied = at = 0
        while at < size:
            try:
                start = os.lseek(source, at, os.SEEK_DATA)
                at = end = os.lseek(source, start, os.SEEK_HOLE)
            except OSError as error:
                if error.errno != errno.ENXIO:  # no data any more
                    raise
                break
            while start < end:
                done = os.copy_file_range(source, fd, min(_PIECE, end - start), start, start)
                if not done:
                    break
                start, copied = start + done, copied + done
        os.ftruncate(fd, size)
        return copied
    finally:
        os.close(fd)


@contextlib.contextmanager
def _going(final: bool) -> Iterator[None]:
    """Something may be gone by the time we come to it, while others go on."""
    try:
        yield
    except (FileNotFoundError, NotADirectoryError, FileExistsError):
        if final:
            raise


@contextlib.contextmanager
def _short_paths() -> Iterator[None]:
    try:
        yield
    except OSError as error:
        if error.errno != errno.ENAMETOOLONG:
            raise
        raise Unsupported("a path of over 4095 bytes: no snapshot while it is mounted") from None
