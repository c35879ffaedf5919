"""Where archives are written: a tar on a stream, or a directory. Equal input gives equal bytes."""

from __future__ import annotations

import contextlib
import os
import secrets
import stat
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Protocol, cast

from layerfs.errors import AlreadyExists, Corrupt
from layerfs.layer.entry import Entry
from layerfs.layer.sparse import Extents
from layerfs.layer.write import TarWriter
from layerfs.oci import layout
from layerfs.store.durable import writing

_PIECE = 1 << 20


class Output(Protocol):
    def add(self, name: str, size: int, open: Callable[[], BinaryIO]) -> None:
        """One member, of `size` bytes."""
        ...

    def finish(self) -> None: ...


@dataclass(frozen=True, slots=True)
class _Stream:
    """A member's bytes as the content of a tar entry."""

    size: int
    source: Callable[[], BinaryIO]

    def extents(self) -> Extents:
        return ((0, self.size),)

    def pieces(self, extents: Extents) -> Iterator[bytes]:
        yield from _pieces(self.source, self.size)


def _pieces(source: Callable[[], BinaryIO], size: int) -> Iterator[bytes]:
    """All the bytes, to the very end of the stream, where verifying readers speak."""
    left = size
    with source() as file:
        while data := file.read(_PIECE):
            left -= len(data)
            if left < 0:
                break
            yield data
    if left:
        raise Corrupt(f"a member has {size - left} bytes instead of {size}")


class TarOutput:
    """A tar with entries owned by 0:0, time 0, and the directories that its members need."""

    def __init__(self, write: Callable[[bytes], object]) -> None:
        self._writer = TarWriter(write)
        self._made: set[str] = set()

    def add(self, name: str, size: int, open: Callable[[], BinaryIO]) -> None:
        for depth in range(1, name.count("/") + 1):
            directory = "/".join(name.split("/")[:depth])
            if directory not in self._made:
                self._made.add(directory)
                self._writer.add(Entry(directory.encode(), stat.S_IFDIR | 0o755))
        content = _Stream(size, open)
        self._writer.add(Entry(name.encode(), stat.S_IFREG | 0o644, size=size, content=content))

    def finish(self) -> None:
        self._writer.finish()


class DirectoryOutput:
    """A new directory, or an empty one. Its `oci-layout` comes last, so one that was cut short is no layout."""

    def __init__(self, path: Path) -> None:
        self._path = path
        with writing(f"the directory {path}"):
            path.mkdir(parents=True, exist_ok=True)
            if any(path.iterdir()):
                raise AlreadyExists("the directory is not empty", path=str(path))
        self._last: tuple[int, Callable[[], BinaryIO]] | None = None

    def add(self, name: str, size: int, open: Callable[[], BinaryIO]) -> None:
        if name == layout.HEADER and self._last is None:
            self._last = (size, open)
            return
        target = self._path / name
        with writing(f"the file {target}"):
            target.parent.mkdir(parents=True, exist_ok=True)
            with target.open("xb") as file:
                for piece in _pieces(open, size):
                    file.write(piece)

    def finish(self) -> None:
        if self._last is not None:
            size, source = self._last
            self.add(layout.HEADER, size, source)


@contextlib.contextmanager
def output_file(target: str | os.PathLike[str] | BinaryIO) -> Iterator[Callable[[bytes], object]]:
    """The `write` of a stream, or of a file that appears under its name when all went well.

    A name that is there and no regular file (a pipe, /dev/stdout) is written to directly.
    """
    if not isinstance(target, str | os.PathLike):
        yield target.write
        target.flush()
        return
    path = Path(target)
    if path.exists() and not path.is_file():
        with writing(f"the file {path}"), path.open("wb") as file:
            yield file.write
        return
    path = Path(os.path.realpath(path))
    temporary = path.with_name(f".{path.name[:200]}.{secrets.token_hex(6)}")
    try:
        with writing(f"the file {path}"), temporary.open("xb") as file:
            yield cast(Callable[[bytes], object], file.write)
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
