"""`cp`: files between a container and the host, by docker's rules, as one tar from here to there.

Paths of a container are looked up inside its root (openat2 with RESOLVE_IN_ROOT), a running one's with its volumes;
nothing that it does meanwhile leads outside.
"""

from __future__ import annotations

import contextlib
import errno
import os
import posixpath
import stat
import threading
from collections.abc import Callable, Generator, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

from layerfs import _native
from layerfs._record import dataclass, replace
from layerfs._threads import join
from layerfs.engine.events import record_event
from layerfs.engine.running import place_of
from layerfs.engine.userns import maps_of
from layerfs.errors import InvalidInput, NotFound

if TYPE_CHECKING:
    from layerfs.engine.container import Container
    from layerfs.layer.entry import Entry
    from layerfs.layer.unpack import Rules

_IN_ROOT = 0x10 | 0x02  # RESOLVE_IN_ROOT, RESOLVE_NO_MAGICLINKS
_PATH = os.O_PATH | os.O_CLOEXEC
_LINKS_MAX = 40
_MISSING = (errno.ENOENT, errno.ENOTDIR)


@dataclass(frozen=True, slots=True)
class Spot:
    """A path that was looked up: its directory (a descriptor), its name there, and what it is (None: nothing)."""

    parent: int
    name: bytes
    status: os.stat_result | None

    @property
    def is_directory(self) -> bool:
        return self.status is not None and stat.S_ISDIR(self.status.st_mode)


class Tree:
    """Paths below one root: a container's, or the host's. A context manager that closes what it opened."""

    def __init__(self, root: Path, *, inside: bool) -> None:
        self._inside = inside
        self._stack = contextlib.ExitStack()
        self._root = self._own(os.open(root, _PATH | os.O_DIRECTORY))

    def _own(self, fd: int) -> int:
        self._stack.callback(os.close, fd)
        return fd

    def __enter__(self) -> Tree:
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def _open(self, path: bytes, flags: int) -> int:
        if self._inside:
            return self._own(_native.openat2(self._root, path, flags, 0, _IN_ROOT))
        return self._own(os.open(path, flags))

    def find(self, path: bytes, *, follow: bool) -> Spot:
        """Raises NotFound when not even its directory is there; OSError."""
        for _ in range(_LINKS_MAX):
            parent, name = posixpath.split(path.rstrip(b"/") or b"/")
            if name in (b"", b".", b".."):
                parent, name = path, b"."
            try:
                directory = self._open(parent or b".", _PATH | os.O_DIRECTORY)
            except OSError as error:
                if error.errno in _MISSING:
                    raise NotFound("no such directory", path=parent) from None
                raise
            try:
                status = os.stat(name, dir_fd=directory, follow_symlinks=False)
            except FileNotFoundError:
                return Spot(directory, name, None)
            if not (follow and stat.S_ISLNK(status.st_mode)):
                return Spot(directory, name, status)
            path = posixpath.join(parent, os.readlink(name, dir_fd=directory))
        raise OSError(errno.ELOOP, os.strerror(errno.ELOOP), os.fsdecode(path))

    def directory(self, spot: Spot) -> int:
        """A descriptor of it, for reading and writing in it."""
        flags = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
        return self._own(os.open(spot.name, flags, dir_fd=spot.parent))

    def parent(self, spot: Spot) -> int:
        return self._own(os.open(b".", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC, dir_fd=spot.parent))


@contextlib.contextmanager
def _inside(box: Container) -> Iterator[Tree]:
    """The container's root: that of its program, or a mount for the time being."""
    with contextlib.ExitStack() as stack:
        pid = box.state.pid if maps_of(box.settings) is None else 0  # else its ids would be the host's ones
        root = Path(f"/proc/{pid}/root") if pid else stack.enter_context(place_of(box, None)).root
        yield stack.enter_context(Tree(root, inside=True))


def _absolute(path: str) -> bytes:
    return os.fsencode(path if path.startswith("/") else f"/{path}")


def _entries(tree: Tree, spot: Spot, name: bytes) -> Generator[Entry, None, None]:
    """Of what is there, under another name; b"" for what is in a directory only."""
    from layerfs.layer.directory import directory_entries, host_entry
    from layerfs.layer.host import Descent

    if not spot.is_directory:
        with Descent(f"/proc/self/fd/{tree.parent(spot)}") as place:
            status = place.status(spot.name)
            if stat.S_ISSOCK(status.st_mode):
                return
            yield host_entry(place, spot.name, name, status, place.xattrs(spot.name))
        return
    prefix = name + b"/" if name else b""
    for entry in directory_entries(Path(f"/proc/self/fd/{tree.directory(spot)}")):
        if entry.path or name:
            link = None if entry.link is None else prefix + entry.link
            yield replace(entry, path=prefix + entry.path if entry.path else name, link=link)


def _pump(write: Callable[[BinaryIO], None], read: Callable[[BinaryIO], None]) -> None:
    """From a writer in a thread to a reader here. What fails first on the writer's side is told first."""
    source, sink = os.pipe()
    problems: list[BaseException] = []

    def work() -> None:
        try:
            with open(sink, "wb") as file:  # noqa: PTH123
                write(file)
        except BaseException as error:
            problems.append(error)

    thread = threading.Thread(target=work, name="layerfs-copy")
    thread.start()
    try:
        with open(source, "rb") as file:  # noqa: PTH123
            read(file)
    except BaseException:
        join([thread])
        if problems and not isinstance(problems[0], BrokenPipeError):
            raise problems[0] from None
        raise
    join([thread])
    if problems:
        raise problems[0]


def _target(tree: Tree, source: Spot, path: bytes, name: bytes, contents: bool) -> tuple[int, bytes]:
    """docker's table: the directory to unpack in, and the name to give. Raises InvalidInput, NotFound."""
    found = tree.find(path, follow=True)
    if found.is_directory:
        return tree.directory(found), b"" if contents and source.is_directory else name
    shown = os.fsdecode(path)
    if source.is_directory and found.status is not None:
        raise InvalidInput(f"cannot copy directory onto the file {shown}")
    if path.endswith(b"/") and (found.status is not None or not source.is_directory):
        raise NotFound(f"no such directory: {shown}")
    return tree.parent(found), found.name


def _found(tree: Tree, path: bytes, follow: bool, missing: str) -> Spot:
    try:
        spot = tree.find(path, follow=follow or path.endswith((b"/", b"/.")))
    except NotFound:
        raise NotFound(missing) from None
    if spot.status is None or (path.endswith((b"/", b"/.")) and not spot.is_directory):
        raise NotFound(missing)
    return spot


def _name_of(path: bytes, spot: Spot) -> bytes:
    name = posixpath.basename(posixpath.normpath(path))
    return name if name not in (b"", b".", b"..", b"/") else b""


def _copy(source: Tree, path: bytes, follow: bool, missing: str, target: Tree, to: bytes, rules: Rules) -> None:
    from layerfs.image.export import export
    from layerfs.layer.unpack import unpack

    spot = _found(source, path, follow, missing)
    contents = path.endswith(b"/.") or path in (b".", b"/") or not _name_of(path, spot)
    base, name = _target(target, spot, to, _name_of(path, spot), contents)
    entries = _entries(source, spot, name)
    _pump(lambda file: export(entries, file), lambda file: unpack(file, base, rules))


def copy_directory(source: int, target: int, rules: Rules) -> None:
    """What is in one directory into another one, both open."""
    from layerfs.image.export import export
    from layerfs.layer.directory import directory_entries
    from layerfs.layer.unpack import unpack

    entries = (entry for entry in directory_entries(Path(f"/proc/self/fd/{source}")) if entry.path)
    _pump(lambda file: export(entries, file), lambda file: unpack(file, target, rules))


def copy_out(box: Container, path: str, target: str | BinaryIO, *, archive: bool = False, follow: bool = False) -> None:
    """From the container to a path of the host, or as a tar to a stream.

    Raises:
        NotFound, InvalidInput: in docker's words.
    """
    from layerfs.image.export import export
    from layerfs.layer.unpack import Rules

    missing = f"Could not find the file {path} in container {box.name}"
    raw = _absolute(path)
    with _inside(box) as tree:
        if isinstance(target, str):
            rules = Rules(owners=archive, set_id=archive, xattrs=archive)
            with Tree(Path("/"), inside=False) as host:
                _copy(tree, raw, follow, missing, host, os.fsencode(target), rules)
        else:
            spot = _found(tree, raw, follow, missing)
            export(_entries(tree, spot, _name_of(raw, spot)), target)
    record_event(box, "archive-path")


def copy_in(box: Container, source: str | BinaryIO, path: str, *, archive: bool = False, follow: bool = False) -> None:
    """From a path of the host, or a tar on a stream, to the container. Owned by root unless `archive`; a stream's
    owners are kept.

    Raises:
        NotFound, InvalidInput, InvalidArchive.
    """
    from layerfs.layer.unpack import Rules, unpack

    raw = _absolute(path)
    with _inside(box) as tree:
        if isinstance(source, str):
            rules = Rules(owners=archive, set_id=True, devices=True, xattrs=True)
            missing = f"lstat {source}: no such file or directory"
            with Tree(Path("/"), inside=False) as host:
                _copy(host, os.fsencode(source), follow, missing, tree, raw, rules)
        else:
            spot = _found(tree, raw, True, f"Could not find the file {path} in container {box.name}")
            if not spot.is_directory:
                raise InvalidInput(f'destination "{path}" must be a directory')
            unpack(source, tree.directory(spot), Rules(owners=True, set_id=True, devices=True, xattrs=True))
    record_event(box, "extract-to-dir")
