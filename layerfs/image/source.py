"""What a path or a stream is: docker archive, OCI layout, root file system; and how to read it."""

from __future__ import annotations

import contextlib
import os
import re
import secrets
import stat
from collections.abc import Iterator
from io import BytesIO
from pathlib import Path
from typing import BinaryIO, Literal, Protocol, cast

from layerfs.errors import InvalidArchive, InvalidInput, NotFound
from layerfs.image.archive import Archive, DirectoryArchive, TarArchive, clean
from layerfs.image.tarindex import read_index
from layerfs.layer.codec import Decompressed
from layerfs.oci import layout
from layerfs.store.durable import write_all, writing


class Scratch(Protocol):
    """What has a directory for temporary files; a lease is one."""

    tmp: Path


Kind = Literal["docker", "oci", "rootfs"]
DOCKER_MANIFEST = "manifest.json"
DOCKER_LEGACY = "repositories"

PEEK = 1 << 16
_ARCHIVE_NAME = re.compile(
    r"(blobs(/.*)?|oci-layout|index\.json|manifest\.json|repositories|sha256:[0-9a-f]{64}"
    r"|[0-9a-f]{64}(/.*)?|.*\.json|.*\.tar(\.gz|\.zst)?|[^/]*/VERSION)\Z"
)


def kind_of(archive: Archive) -> Kind:
    """What an archive or directory is by its members. docker's newer form is also an OCI layout: docker's names win."""
    if archive.has(DOCKER_MANIFEST) and not _is_object(archive, DOCKER_MANIFEST):
        return "docker"
    if archive.has(layout.HEADER) and archive.has(layout.INDEX):
        return "oci"
    if archive.has(DOCKER_LEGACY) and _is_object(archive, DOCKER_LEGACY):
        return "docker"  # of before 1.10: told as such, and no root file system
    return "rootfs"


def _is_object(archive: Archive, name: str) -> bool:
    """Whether a member is a JSON object. A web application's manifest.json is one; docker's is a list."""
    with contextlib.suppress(InvalidArchive), archive.open(name) as file:
        return file.read(PEEK).lstrip().startswith(b"{")
    return False


@contextlib.contextmanager
def open_archive(source: str | os.PathLike[str] | BinaryIO, lease: Scratch) -> Iterator[Archive]:
    """The members of an image archive: a directory, or a tar, plain or compressed.

    What cannot be sought (a pipe, a compressed file) is written to the lease's directory first.

    Raises:
        NotFound: no such file.
        InvalidArchive: no tar.
    """
    if isinstance(source, str | os.PathLike):
        path = Path(source)
        if path.is_dir():
            with DirectoryArchive(path) as directory:
                yield directory
            return
        with open_file(path) as file, _seekable(file, str(path), lease) as archive:
            yield archive
        return
    with _seekable(source, stream_name(source), lease) as archive:
        yield archive


@contextlib.contextmanager
def open_file(path: Path) -> Iterator[BinaryIO]:
    """A file of the user's. Raises NotFound, InvalidInput."""
    try:
        file = path.open("rb")
    except (FileNotFoundError, NotADirectoryError):
        raise NotFound(f"open {path}: no such file or directory") from None
    except OSError as error:
        raise InvalidInput(f"open {path}: {error.strerror}") from None
    with file:
        yield file


def stream_name(stream: BinaryIO) -> str:
    name = getattr(stream, "name", "-")
    return name if isinstance(name, str) and name != "<stdin>" else "-"


@contextlib.contextmanager
def _seekable(file: BinaryIO, where: str, lease: Scratch) -> Iterator[Archive]:
    fd = _regular_fd(file)
    if fd is not None:
        start = file.tell()
        head = os.pread(fd, 6, start)
        if _is_plain(head):
            with TarArchive(os.dup(fd), where, start=start) as archive:
                yield archive
            return
    with TarArchive(_spool(file, lease), where) as archive:
        yield archive


def _regular_fd(file: BinaryIO) -> int | None:
    """The descriptor of a regular file that the stream reads straight from."""
    try:
        fd = file.fileno()
        regular = stat.S_ISREG(os.fstat(fd).st_mode) and file.seekable()
    except (OSError, ValueError, AttributeError):
        return None
    return fd if regular else None


def _is_plain(head: bytes) -> bool:
    return Decompressed(cast(BinaryIO, BytesIO(head))).codec == "plain"


def _spool(file: BinaryIO, lease: Scratch) -> int:
    """The uncompressed bytes in a file without a name below the lease's directory; an owned descriptor."""
    path = lease.tmp / f"archive-{secrets.token_hex(8)}"
    with writing("a copy of the archive"):
        fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        path.unlink()
    try:
        for piece in Decompressed(file).pieces():
            with writing("a copy of the archive"):
                write_all(fd, piece)
    except BaseException:
        os.close(fd)
        raise
    return fd


class Peekable:
    """A stream whose beginning can be looked at; `read` then gives it all."""

    def __init__(self, stream: BinaryIO) -> None:
        self._stream, self._held = stream, b""

    def peek(self, count: int) -> bytes:
        while len(self._held) < count and (data := self._stream.read(count - len(self._held))):
            self._held += data
        return self._held[:count]

    def read(self, count: int = -1, /) -> bytes:
        if not self._held:
            return self._stream.read(count)
        count = len(self._held) if count is None or count < 0 else count
        data, self._held = self._held[:count], self._held[count:]
        return data if data or not count else self._stream.read(count)

    @property
    def name(self) -> str:
        return stream_name(self._stream)


def looks_like_archive(head: bytes) -> bool:
    """Whether the first member's name is one that image archives have; root file systems begin otherwise.

    head: the first `PEEK` bytes of the stream, compressed or not.
    """
    plain = b""
    with contextlib.suppress(InvalidArchive):  # cut short, as only the head is here
        for piece in Decompressed(cast(BinaryIO, BytesIO(head))).pieces():
            plain += piece
            if len(plain) > PEEK:
                break
    name = _first_name(plain)
    return name is not None and _ARCHIVE_NAME.match(name) is not None


def _first_name(head: bytes) -> str | None:
    """The name of the first member that is not the root's own entry."""
    try:
        index = read_index(lambda at, count: head[at : at + count], 1 << 62)
        return next((clean(member.name) for member in index if clean(member.name)), None)
    except InvalidArchive:
        return None
