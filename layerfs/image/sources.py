"""A layer's tar from where it once came from, for `fsck --repair`; not to be trusted, so the caller verifies it."""

from __future__ import annotations

import contextlib
import io
import os
import tarfile
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO, cast

from layerfs.digest import DiffID
from layerfs.errors import InvalidArchive, NotFound, Unsupported
from layerfs.image.archive import DirectoryArchive, TarArchive, clean
from layerfs.image.source import open_file
from layerfs.layer.codec import Decompressed, detect
from layerfs.layer.directory import directory_entries
from layerfs.layer.layers import Source
from layerfs.layer.write import TarWriter


def open_source(source: Source, diff_id: DiffID) -> BinaryIO:
    """The uncompressed tar that a source gives now; bounded memory, nothing is written. Close it.

    Raises:
        NotFound, InvalidArchive: it is not there any more, or not what it was.
        Unsupported: a kind of source that cannot be read here.
    """
    stack = contextlib.ExitStack()
    with contextlib.ExitStack() as undo:
        undo.push(stack.__exit__)
        compressed = _open(source, stack)
        undo.pop_all()
    return cast(BinaryIO, io.BufferedReader(_Stream(compressed, stack), 1 << 20))


def _open(source: Source, stack: contextlib.ExitStack) -> BinaryIO:
    path = Path(source.place)
    if source.kind == "tar":
        return stack.enter_context(open_file(path))
    if source.kind == "directory":
        return stack.enter_context(_directory(path))
    if source.kind not in ("archive", "layout"):
        raise Unsupported(f"layers cannot be had from a {source.kind or 'source without a kind'}", path=source.place)
    if path.is_dir():
        return stack.enter_context(DirectoryArchive(path).open(source.member))
    file = stack.enter_context(open_file(path))
    if detect(os.pread(file.fileno(), 6, 0)) == "plain":
        archive = stack.enter_context(TarArchive(os.dup(file.fileno()), source.place))
        return stack.enter_context(archive.open(source.member))
    return _member(file, source.member, stack)


def _member(file: BinaryIO, name: str, stack: contextlib.ExitStack) -> BinaryIO:
    """A regular member of a compressed tar, found by reading up to it."""
    try:
        plain = cast(BinaryIO, Decompressed(file))
        tar = stack.enter_context(tarfile.open(fileobj=plain, mode="r|", errors="surrogateescape"))  # noqa: SIM115
        for info in tar:
            if clean(info.name) == clean(name) and info.isreg():
                return cast(BinaryIO, tar.extractfile(info))
    except (tarfile.TarError, ValueError, EOFError) as error:
        raise InvalidArchive(f"not a readable tar archive: {error}") from None
    raise NotFound(f"member {name!r} is missing")


@contextlib.contextmanager
def _directory(path: Path) -> Iterator[BinaryIO]:
    """The canonical tar of a directory, through a pipe. One that changes meanwhile ends early, or with other bytes."""
    if not path.is_dir():
        raise NotFound("no such directory", path=str(path))
    out, into = os.pipe2(os.O_CLOEXEC)

    def write() -> None:
        with contextlib.suppress(OSError), os.fdopen(into, "wb", buffering=0) as pipe:
            writer = TarWriter(lambda data: _write_all(pipe.fileno(), data))
            writer.add_all(directory_entries(path))
            writer.finish()

    thread = threading.Thread(target=write, name="directory", daemon=True)
    thread.start()
    try:
        with os.fdopen(out, "rb") as pipe:
            yield pipe
    finally:
        thread.join()


def _write_all(fd: int, data: bytes) -> None:
    view = memoryview(data)
    while view:
        view = view[os.write(fd, view) :]


class _Stream(io.RawIOBase):
    """Decompresses on the way out, and closes what is below."""

    def __init__(self, compressed: BinaryIO, stack: contextlib.ExitStack) -> None:
        self._stack = stack
        self._plain = Decompressed(compressed)

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: bytearray | memoryview, /) -> int:  # type: ignore[override]
        data = self._plain.read(len(buffer))
        buffer[: len(data)] = data
        return len(data)

    def close(self) -> None:
        if not self.closed:
            self._stack.close()
        super().close()
