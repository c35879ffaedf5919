"""A build context that is a directory of the host, read by descriptors only: what lies behind its symlinks, or takes a
directory's place while it is read, is never reached.
"""

from __future__ import annotations

import hashlib
import os
import stat
import threading
from collections import OrderedDict
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from layerfs.build.contentkeys import Hashes, is_settled, now_ns
from layerfs.build.files import Ignore, Item, Xattrs, below, is_wanted
from layerfs.build.find import find
from layerfs.errors import InUse, NotFound
from layerfs.layer.host import XATTR_SPACES, image_xattrs
from layerfs.layer.sparse import Extents, data_extents

_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_FILE = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC
_OPEN_MAX = 32
_PIECE = 1 << 20
_SMALL = 64 << 10  # a file whose bytes are kept between its digest and its layer, while there is room


class DirectoryFiles:
    """The files of a directory that `ignore` leaves. A context manager; each thread needs one of its own (`again`)."""

    owned = False

    def __init__(self, top: Path, ignore: Ignore | None = None, hashes: Hashes | None = None) -> None:
        try:
            self._top = os.open(top, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        except FileNotFoundError:
            raise NotFound(f"unable to prepare context: path {str(top)!r} not found") from None
        self.path, self._ignore = top, ignore
        self._hashes = hashes if hashes is not None else Hashes(None)
        self._hashes.look_at(self._top)
        self.trees = self._hashes.trees
        self._open: OrderedDict[bytes, int] = OrderedDict()
        self._lock = threading.RLock()

    def again(self, ignore: Ignore | None = None) -> DirectoryFiles:
        """The same directory, whatever has its path now."""
        return DirectoryFiles(Path(f"/proc/self/fd/{self._top}"), ignore or self._ignore, self._hashes)

    def __enter__(self) -> DirectoryFiles:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        while self._open:
            os.close(self._open.popitem()[1])
        if self._top >= 0:
            os.close(self._top)
            self._top = -1

    @property
    def root(self) -> Item:
        return _item(b"", os.fstat(self._top))

    # directories

    def directory(self, path: bytes) -> int:
        """A descriptor of a directory below the top, good until the next call. Raises InUse when it is none."""
        if not path:
            return self._top
        found = self._open.get(path)
        if found is not None:
            self._open.move_to_end(path)
            return found
        parent, _, name = path.rpartition(b"/")
        fd = self._open_directory(parent, name, path)
        self._open[path] = fd
        if len(self._open) > _OPEN_MAX:
            os.close(self._open.popitem(last=False)[1])
        return fd

    def _open_directory(self, parent: bytes, name: bytes, path: bytes) -> int:
        missing = [name]
        while parent and parent not in self._open:  # a loop, as a path may be deeper than Python's stack
            parent, _, name = parent.rpartition(b"/")
            missing.append(name)
        fd = os.dup(self._open[parent]) if parent else os.dup(self._top)
        for name in reversed(missing):
            try:
                below_fd = os.open(name, _DIRECTORY, dir_fd=fd)
            except (FileNotFoundError, NotADirectoryError):
                raise InUse("changed while the context was read", path=b"/" + path) from None
            except OSError as error:
                error.filename = os.fsdecode(path)
                raise
            finally:
                os.close(fd)
            fd = below_fd
        return fd

    def child(self, directory: Item, name: bytes) -> Item | None:
        path = below(directory.path, name)
        if len(name) > 255:
            return None
        try:
            status = os.stat(name, dir_fd=self.directory(directory.path), follow_symlinks=False)
        except FileNotFoundError:
            return None
        item = _item(path, status)
        return item if self._wanted(item) else None

    def children(self, directory: Item) -> list[Item]:
        """Sorted by name; sockets, and what is ignored, are not there."""
        items = []
        fd = self.directory(directory.path)
        prefix = directory.path + b"/" if directory.path else b""
        for name in sorted(map(os.fsencode, os.listdir(fd))):  # noqa: PTH208
            try:
                status = os.stat(name, dir_fd=fd, follow_symlinks=False)
            except FileNotFoundError:
                raise InUse("removed while the context was read", path=b"/" + prefix + name) from None
            if not stat.S_ISSOCK(status.st_mode):
                items.append(_item(prefix + name, status))
        return [item for item in items if self._wanted(item)] if self._ignore is not None else items

    def _wanted(self, item: Item) -> bool:
        return not stat.S_ISSOCK(item.mode) and is_wanted(self, item, self._ignore)

    # files

    def readlink(self, item: Item) -> bytes:
        return os.readlink(item.name, dir_fd=self.directory(item.path.rpartition(b"/")[0]))

    def xattrs(self, item: Item) -> Xattrs:
        if item.is_file:
            known = self._hashes.get(item.handle)
            if known is not None and known[1]:
                return ()
        where = self.directory(item.path) if item.is_dir else self.directory(item.path.rpartition(b"/")[0])
        target = b"/proc/self/fd/%d" % where + (b"" if item.is_dir else b"/" + item.name)
        follow = item.is_dir
        try:
            names = os.listxattr(target, follow_symlinks=follow)
            found = {
                os.fsencode(name): os.getxattr(target, name, follow_symlinks=follow)
                for name in names
                if os.fsencode(name).startswith(XATTR_SPACES)
            }
        except OSError:  # not supported there, or a file that may not be asked: it has none then, as for docker
            return ()
        return tuple(sorted(image_xattrs(found).items())) if found else ()

    def open(self, item: Item) -> int:
        """An owned descriptor of a regular file, as it was when it was listed. Raises InUse when it is another one."""
        parent, _, name = item.path.rpartition(b"/")
        try:
            fd = os.open(name, _FILE, dir_fd=self.directory(parent))
        except FileNotFoundError:
            raise InUse("removed while the context was read", path=b"/" + item.path) from None
        except OSError as error:
            error.filename = os.fsdecode(item.path)
            raise
        try:
            check_unchanged(fd, item)
        except BaseException:
            os.close(fd)
            raise
        return fd

    def identity(self, item: Item) -> bytes:
        known = self._hashes.get(item.handle)
        if known is not None:
            return known[0]
        began, sha, parts = now_ns(), hashlib.sha256(), []
        fd = self.open(item)
        try:
            for data in _bytes_of(fd, item.size):
                sha.update(data)
                if item.size <= _SMALL:
                    parts.append(data)
            plain = _is_plain(fd)
            check_unchanged(fd, item)
        finally:
            os.close(fd)
        self._hashes.put(item.handle, sha.digest(), began, plain=plain)
        if parts:
            self._hashes.keep(item.handle, b"".join(parts))
        return sha.digest()

    def kept(self, item: Item) -> bytes | None:
        """The bytes that this build has made the file's digest of, once, if they are still there."""
        return self._hashes.take(item.handle)

    def content(self, item: Item) -> ContextContent | None:
        return ContextContent(self, item) if item.size else None


def subdirectory(files: DirectoryFiles, path: bytes) -> DirectoryFiles:
    """A directory of a context as one of its own; links in it stay inside. Raises NotFound."""
    item = find(files, path)
    if item is None or not item.is_dir:
        raise NotFound(f"no directory {os.fsdecode(path)} in the repository")
    return DirectoryFiles(Path(f"/proc/self/fd/{files.directory(item.path)}"))


@dataclass(frozen=True, slots=True)
class ContextContent:
    """The bytes of a file of a context."""

    files: DirectoryFiles
    item: Item

    @property
    def size(self) -> int:
        return self.item.size

    def extents(self) -> Extents:
        if self.item.handle.st_blocks * 512 >= self.size:
            return ((0, self.size),)
        fd = self.files.open(self.item)
        try:
            return tuple(data_extents(fd, self.size))
        finally:
            os.close(fd)

    def pieces(self, extents: Extents) -> Iterator[bytes]:
        """Raises InUse when it is not what its digest was made of: by its times, or, where these cannot tell, by its
        bytes."""
        kept = self.files.kept(self.item)
        if kept is not None:
            return iter(kept[offset : offset + length] for offset, length in extents)
        return self._read(extents)

    def _read(self, extents: Extents) -> Iterator[bytes]:
        fd = self.files.open(self.item)
        whole = extents == ((0, self.size),) and not is_settled(self.item.handle, now_ns())
        sha = hashlib.sha256() if whole else None
        wanted = self.files.identity(self.item) if whole else b""
        try:
            for offset, length in extents:
                end = offset + length
                while offset < end:
                    data = os.pread(fd, min(_PIECE, end - offset), offset)
                    if not data:
                        raise _changed(self.item)
                    if sha is not None:
                        sha.update(data)
                    offset += len(data)
                    yield data
            check_unchanged(fd, self.item)
            if sha is not None and sha.digest() != wanted:
                raise _changed(self.item)
        finally:
            os.close(fd)


def _is_plain(fd: int) -> bool:
    """Whether an open file has no xattrs."""
    try:
        return not os.listxattr(fd)
    except OSError:
        return False


def _bytes_of(fd: int, size: int) -> Iterator[bytes]:
    """All that a file holds, which should be `size` bytes: then the last piece, asked for one more, tells its end."""
    got = 0
    while data := os.read(fd, want := min(size + 1 - got, _PIECE) if got <= size else _PIECE):
        yield data
        got += len(data)
        if got == size and len(data) < want:
            return


def check_unchanged(fd: int, item: Item) -> None:
    now, then = os.fstat(fd), item.handle
    if (
        now.st_ino != then.st_ino
        or now.st_ctime_ns != then.st_ctime_ns
        or now.st_mtime_ns != then.st_mtime_ns
        or now.st_size != then.st_size
        or now.st_dev != then.st_dev
    ):
        raise _changed(item)


def _changed(item: Item) -> InUse:
    return InUse("the file changed while the context was read", path=b"/" + item.path)


def _item(path: bytes, status: os.stat_result) -> Item:
    mode = status.st_mode
    linked = status.st_nlink > 1 and not stat.S_ISDIR(mode)
    return Item(
        path,
        mode,
        0,
        0,
        status.st_mtime_ns,
        status.st_size if stat.S_ISREG(mode) else 0,
        status.st_rdev if stat.S_ISCHR(mode) or stat.S_ISBLK(mode) else 0,
        (status.st_dev, status.st_ino) if linked else None,
        status,
    )
