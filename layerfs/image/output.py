"""Where archives are written: a tar on a stream, or a directory. Equal input gives equal bytes."""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import os
import stat
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, Protocol, cast

from layerfs.errors import AlreadyExists, Corrupt
from layerfs.layer.entry import Entry
from layerfs.layer.sparse import Extents
from layerfs.layer.write import TarWriter
from layerfs.oci import Index, layout
from layerfs.oci.descriptor import REF_NAME
from layerfs.oci.fields import dump
from layerfs.store.durable import replacing, writing

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


class GrownLayout:
    """An OCI layout that is there already, or one that is begun, also by a copy that was cut short: blobs without a
    header. The index and the header of a new one come last and at once, so that such a copy leaves nothing but blobs
    that nobody names. Who writes to it at the same time waits.
    """

    def __init__(self, path: Path) -> None:
        self._path, self._index = path, b""
        with writing(f"the directory {path}"):
            path.mkdir(parents=True, exist_ok=True)
            if (path / layout.HEADER).is_file():
                layout.check_header((path / layout.HEADER).read_bytes())
            elif any(one.name not in ("blobs", layout.INDEX) for one in path.iterdir()):
                raise AlreadyExists("the directory is not empty", path=str(path))

    def add(self, name: str, size: int, open: Callable[[], BinaryIO]) -> None:
        if name == layout.INDEX:
            self._index = b"".join(_pieces(open, size))
        elif name != layout.HEADER and not self._has(name, size):
            self._write(name, _pieces(open, size))

    def _has(self, name: str, size: int) -> bool:
        """Whether a blob is there, with the right bytes."""
        path = self._path / name
        if not path.is_file() or path.stat().st_size != size:
            return False
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest() == path.name

    def _write(self, name: str, pieces: Iterable[bytes]) -> None:
        target = self._path / name
        with writing(f"the file {target}"):
            target.parent.mkdir(parents=True, exist_ok=True)
            with replacing(target) as file:
                file.writelines(pieces)

    def finish(self) -> None:
        with self._alone():
            there = self._path / layout.INDEX
            self._write(layout.INDEX, [self._joined(there.read_bytes()) if there.exists() else self._index])
            if not (self._path / layout.HEADER).exists():
                self._write(layout.HEADER, [layout.HEADER_BYTES])

    def _joined(self, raw: bytes) -> bytes:
        """The two indexes: an entry goes for a new one of its name, or of its digest when it has no name."""
        Index.parse(raw, what=layout.INDEX)  # refuses what is none
        old, entries = json.loads(raw), json.loads(self._index)["manifests"]
        taken = {name for entry in entries for name in (_name_of(entry), ("", str(entry["digest"])))}
        kept = [entry for entry in old.get("manifests") or () if _name_of(entry) not in taken]
        return dump({**old, "manifests": [*kept, *entries]})

    @contextlib.contextmanager
    def _alone(self) -> Iterator[None]:
        fd = os.open(self._path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            fcntl.flock(fd, fcntl.LOCK_EX)
            yield
        finally:
            os.close(fd)


def _name_of(entry: Mapping[str, Any]) -> tuple[str, str]:
    """What tells one entry of a layout's index from another: its tag, else its digest."""
    tag = (entry.get("annotations") or {}).get(REF_NAME)
    return ("tag", str(tag)) if tag else ("", str(entry.get("digest")))


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
    with replacing(Path(os.path.realpath(path))) as file:
        yield cast(Callable[[bytes], object], file.write)
