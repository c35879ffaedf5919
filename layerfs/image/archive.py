"""Members of an image archive by name: a tar that can be sought, or a directory.

Links are followed inside the archive only. Members can be read by several threads at once.
"""

from __future__ import annotations

import io
import os
import posixpath
import stat
from pathlib import Path
from types import TracebackType
from typing import BinaryIO, Protocol, Self, cast

from layerfs.errors import InvalidArchive
from layerfs.image.tarindex import Member, read_index
from layerfs.oci.fields import DOCUMENT_MAX

MEMBERS_MAX = 1_000_000
_HOPS = 40


class Archive(Protocol):
    """A context manager. `where` names it in messages, `kind` is "tar" or "directory"."""

    where: str
    kind: str

    def has(self, name: str) -> bool:
        """Whether there is such a member, of any type."""
        ...

    def open(self, name: str) -> BinaryIO:
        """A regular member. Raises InvalidArchive when it is missing, no file, or a link that leads nowhere."""
        ...

    def size(self, name: str) -> int: ...

    def close(self) -> None: ...

    def __enter__(self) -> Self: ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...


def read_member(archive: Archive, name: str, *, limit: int = DOCUMENT_MAX) -> bytes:
    """A small member in memory. Raises InvalidArchive when it has more than `limit` bytes."""
    if (size := archive.size(name)) > limit:
        raise InvalidArchive(f"{name} is {size} bytes long, more than the {limit} allowed", path=archive.where)
    with archive.open(name) as file:
        return file.read(limit + 1)


class _Base:
    where: str
    kind: str

    def close(self) -> None:
        raise NotImplementedError

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _wrong(self, text: str) -> InvalidArchive:
        return InvalidArchive(text, path=self.where)


class TarArchive(_Base):
    """A plain tar in a file that can be sought; owns the descriptor. A name that comes twice means its last member."""

    kind = "tar"

    def __init__(self, fd: int, where: str, *, start: int = 0) -> None:
        self.where, self._fd, self._start = where, fd, start
        self._members: dict[str, Member] = {}
        try:
            total = os.fstat(fd).st_size - start
            for member in read_index(lambda at, count: os.pread(fd, count, start + at), total):
                self._members[clean(member.name)] = member
                if len(self._members) > MEMBERS_MAX:
                    raise InvalidArchive(f"more than {MEMBERS_MAX} members")
        except InvalidArchive as error:
            os.close(fd)
            raise self._wrong(error.message) from None
        except BaseException:
            os.close(fd)
            raise

    def stream(self) -> BinaryIO:
        """The whole tar, from its start."""
        raw = _Range(self._fd, self._start, os.fstat(self._fd).st_size - self._start)
        return cast(BinaryIO, io.BufferedReader(raw, 1 << 18))

    def has(self, name: str) -> bool:
        return clean(name) in self._members

    def _find(self, name: str) -> Member:
        wanted = clean(name)
        for _ in range(_HOPS):
            member = self._members.get(wanted)
            if member is None:
                raise self._wrong(f"member {name!r} is missing")
            if member.link is None:
                if not member.is_file:
                    raise self._wrong(f"member {name!r} is not a regular file")
                return member
            directory = posixpath.dirname(wanted) if member.is_symlink else ""
            wanted = clean(posixpath.join("/", directory, member.link))
        raise self._wrong(f"member {name!r} is a link that leads nowhere")

    def size(self, name: str) -> int:
        return self._find(name).size

    def open(self, name: str) -> BinaryIO:
        member = self._find(name)
        raw = _Range(self._fd, self._start + member.offset, member.size)
        return cast(BinaryIO, io.BufferedReader(raw, 1 << 18))

    def close(self) -> None:
        fd, self._fd = self._fd, -1
        if fd >= 0:
            os.close(fd)


class DirectoryArchive(_Base):
    """An unpacked archive or layout. Nothing outside the directory is read, whatever its links say."""

    kind = "directory"

    def __init__(self, path: Path) -> None:
        self.where = str(path)
        self._root = path.resolve(strict=True)

    def has(self, name: str) -> bool:
        return os.path.lexists(self._root / clean(name))

    def _open(self, name: str) -> tuple[int, os.stat_result]:
        path = Path(os.path.realpath(self._root / clean(name)))
        if path != self._root and self._root not in path.parents:
            raise self._wrong(f"{name!r} is a link out of the directory")
        try:
            fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
        except (FileNotFoundError, NotADirectoryError):
            raise self._wrong(f"{name!r} is missing") from None
        except OSError as error:
            raise self._wrong(f"{name!r} cannot be read: {error.strerror}") from None
        status = os.fstat(fd)
        if not stat.S_ISREG(status.st_mode):
            os.close(fd)
            raise self._wrong(f"{name!r} is not a regular file")
        return fd, status

    def size(self, name: str) -> int:
        fd, status = self._open(name)
        os.close(fd)
        return status.st_size

    def open(self, name: str) -> BinaryIO:
        fd, _ = self._open(name)
        return os.fdopen(fd, "rb", buffering=1 << 18)

    def close(self) -> None:
        pass


class _Range(io.RawIOBase):
    """A part of a file, read by position, so that several threads can read parts of one descriptor."""

    def __init__(self, fd: int, start: int, size: int) -> None:
        self._fd, self._start, self._size, self._at = fd, start, size, 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = os.SEEK_SET, /) -> int:
        base = {os.SEEK_SET: 0, os.SEEK_CUR: self._at, os.SEEK_END: self._size}[whence]
        if base + offset < 0:
            raise ValueError("a negative position")
        self._at = base + offset
        return self._at

    def tell(self) -> int:
        return self._at

    def readinto(self, buffer: bytearray | memoryview, /) -> int:  # type: ignore[override]
        room = memoryview(buffer)[: max(self._size - self._at, 0)]  # a slice of a bytearray would be a copy
        if not room:
            return 0
        done = os.preadv(self._fd, [room], self._start + self._at)
        if done == 0:
            raise InvalidArchive("the archive ends in the middle of a member")
        self._at += done
        return done


def clean(name: str) -> str:
    """A member's name by text: no leading slash, `.` and `..` resolved, `..` clamped at the root."""
    return posixpath.normpath("/" + name.replace("\0", "\ufffd")).lstrip("/")
