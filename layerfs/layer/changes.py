"""What an upper directory changes against a lower tree: the decisions, for `diff` and `commit` alike.

Only what is in the upper is read, plus the lower subtrees of directories that were moved. Times, owners, modes, xattrs
and contents that are equal to the lower's are no change, whatever was copied up.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Callable, Generator, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from layerfs.errors import Corrupt, InUse
from layerfs.layer.blocks import Base, BlockContent
from layerfs.layer.entry import FileContent
from layerfs.layer.host import Descent, open_at
from layerfs.layer.links import Links
from layerfs.layer.tree import Inode, Tree
from layerfs.layer.upper import OrdinaryUser, UpperEntry, prefix_of, read_upper, redirected
from layerfs.native import hash_fd

Kind = Literal["A", "C", "D"]
_PRIVATE = (b"trusted.overlay.", b"user.overlay.")  # never in a layer: not compared


@dataclass(frozen=True, slots=True)
class Change:
    """A line of `docker diff`: added, changed, deleted. `path` begins with a slash."""

    kind: Kind
    path: bytes


@dataclass(frozen=True, slots=True)
class Step:
    """One name that the upper says something about.

    `kind` "=": a directory without a change of its own, or (below a replaced directory) anything that is as it was.
    `upper`: the entry there; None for "D" and for what a moved directory brings along from the lower tree.
    `base`: the lower inode that has the bytes of a metacopy, or that is shown where there is no upper entry.
    `replaced`: some directory above does not show the lower's names any more. `opaque`: this is the topmost such one.
    `shared`: unchanged, but another name of the inode comes along with a moved directory.
    """

    path: bytes
    kind: Literal["A", "C", "D", "="]
    upper: UpperEntry | None = None
    base: Inode | None = None
    here: Inode | None = None
    replaced: bool = False
    opaque: bool = False
    shared: bool = False

    @property
    def is_dir(self) -> bool:
        mode = self.upper.mode if self.upper else self.base.mode if self.base else 0
        return stat.S_ISDIR(mode)


def changes(
    upper: Path,
    lower: Tree,
    *,
    prefix: bytes | None = None,
    index: Path | None = None,
    objects: Path | None = None,
    hidden: frozenset[bytes] = frozenset(),
) -> Iterator[Change]:
    """What `docker diff` lists: depth-first, names in byte order, the directories above a change as "C".

    A directory that stands for another one (removed and made again, or moved there) is listed as "D", then all that is
    in it, as "C" where the old one had the name, else as "A". Of a deleted directory only the top is listed. The root
    never is.

    prefix: of the upper's marks; by default those it has. index: `work/index` of a kernel mount. objects: of the store;
    without it block-level files count as changed. hidden: paths that are passed over while they are empty.

    Raises:
        Corrupt: the upper refers to something that the lower tree does not have.
        InUse: the upper changed while it was read.
    """
    replaced = b""
    with UpperWalk(upper, lower, prefix, index, objects, hidden) as walk:
        for step in with_parents(walk, lambda step: step.kind != "=" or step.replaced):
            if step.opaque and step.path:
                replaced = step.path
                yield Change("D", b"/" + step.path)
            elif step.kind == "D" and replaced and _below(step.path, replaced):
                continue
            elif step.path:
                yield Change("C" if step.kind == "=" else step.kind, b"/" + step.path)


def with_parents(steps: Iterable[Step], wanted: Callable[[Step], bool]) -> Iterator[Step]:
    """The wanted steps, each after the directories above it that were not wanted for themselves."""
    waiting: list[Step] = []
    for step in steps:
        while waiting and not _below(step.path, waiting[-1].path):
            waiting.pop()
        if wanted(step):
            yield from waiting
            waiting.clear()
            yield step
        elif step.is_dir:
            waiting.append(step)


def _below(path: bytes, directory: bytes) -> bool:
    return not directory or path.startswith(directory + b"/")


@dataclass(slots=True)
class _Frame:
    """A directory being walked: `upper`, `base` (merged from below it) and `here` (what was at this path before)."""

    prefix: bytes
    names: Iterator[bytes]
    upper: UpperEntry | None
    upper_names: frozenset[bytes]
    base: Inode | None
    here: Inode | None
    replaced: bool


class UpperWalk:
    """Iterates over the steps of an upper, in order. A context manager.

    While a step is current, `place` is in its directory: read contents before taking the next.
    """

    def __init__(
        self,
        upper: Path,
        lower: Tree,
        prefix: bytes | None = None,
        index: Path | None = None,
        objects: Path | None = None,
        hidden: frozenset[bytes] = frozenset(),
    ) -> None:
        self.lower, self.objects, self.hidden = lower, objects, hidden
        self.marks = prefix or prefix_of(upper)
        self.place = Descent(upper, own=True)
        self._user = OrdinaryUser.of(upper)
        self.links = Links(upper, lower, self.marks, index)
        self._steps = self._walk()

    def __enter__(self) -> UpperWalk:
        return self

    def __exit__(self, *_: object) -> None:
        self._steps.close()
        self.links.close()
        self.place.__exit__(None, None, None)

    def __iter__(self) -> Iterator[Step]:
        return self._steps

    def owner(self, status: os.stat_result, here: Inode | None) -> tuple[int, int]:
        """Whom an upper entry belongs to. What an ordinary user's container has is all his own on the host: it belongs
        to whom the lower file at its place does, or to root.
        """
        if self._user is None:
            return status.st_uid, status.st_gid
        uid, gid = (here.uid, here.gid) if here is not None else (0, 0)
        return self._user.owner(status.st_uid, uid), self._user.group(status.st_gid, gid)

    def blocks(self, entry: UpperEntry, path: bytes) -> BlockContent:
        """The content of a block-level file; its base is looked for in `objects`."""
        assert entry.base is not None
        assert self.objects is not None
        file = FileContent(entry.place.fd, entry.name, entry.status, path, entry.place.own)
        return BlockContent(file, Base.parse(entry.base), self.objects)

    def _walk(self) -> Generator[Step, None, None]:
        root = self.lower.root
        entry = read_upper(self.place, b".", self.marks)
        base = None if entry.opaque else root
        yield self._directory_step(b"", entry, base, root, replaced=False)
        stack = [self._frame(b"", entry, base, root, replaced=base is None)]
        while stack:
            frame = stack[-1]
            for name in frame.names:
                step = self._step(frame, name)
                if step is None:
                    continue
                yield step
                if step.is_dir:
                    if step.upper:
                        self._enter(name, step.path)
                    base = self._base_of(step)
                    replaced = step.replaced or not _is_same(base, step.here)
                    stack.append(self._frame(step.path + b"/", step.upper, base, step.here, replaced=replaced))
                    break
            else:
                stack.pop()
                if stack and frame.upper:
                    self.place.leave()

    def _base_of(self, step: Step) -> Inode | None:
        return step.base if step.base is not None and stat.S_ISDIR(step.base.mode) else None

    def _frame(
        self, prefix: bytes, upper: UpperEntry | None, base: Inode | None, here: Inode | None, *, replaced: bool
    ) -> _Frame:
        names = frozenset(self._names(prefix)) if upper else frozenset[bytes]()
        here = here if here is not None and stat.S_ISDIR(here.mode) else None
        every = set(names) | self.links.names(prefix[:-1])
        if replaced:  # then the lower's names count too: those that are brought along, and those that are gone
            for inode in (base, here):
                every.update(entry.name for entry in (self.lower.listdir(inode) if inode else ()))
        return _Frame(prefix, iter(sorted(every)), upper, names, base, here, replaced)

    def _names(self, prefix: bytes) -> Iterator[bytes]:
        return (name for name in self.place.names() if prefix + name not in self.hidden or not self._is_empty(name))

    def _is_empty(self, name: bytes) -> bool:
        """A file, or a directory with nothing but such hidden places in it."""
        try:
            status = os.stat(name, dir_fd=self.place.fd, follow_symlinks=False)
            if not stat.S_ISDIR(status.st_mode):
                return stat.S_ISREG(status.st_mode) and not status.st_size
            fd = os.open(name, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=self.place.fd)
        except OSError:
            return False
        try:
            return all(name + b"/" + os.fsencode(each) in self.hidden for each in os.listdir(fd))  # noqa: PTH208 (a descriptor)
        finally:
            os.close(fd)

    def _enter(self, name: bytes, path: bytes) -> None:
        try:
            self.place.enter(name)
        except (FileNotFoundError, NotADirectoryError):
            raise InUse("removed while it was read", path=b"/" + path) from None

    def _step(self, frame: _Frame, name: bytes) -> Step | None:
        path = frame.prefix + name
        here = self._child(frame.here, name)
        if name not in frame.upper_names:
            return self._lower_step(frame, path, self._child(frame.base, name), here)
        try:
            hides = frame.upper is not None and frame.upper.hides
            entry = read_upper(self.place, name, self.marks, hides=hides)
        except FileNotFoundError:
            raise InUse("removed while it was read", path=b"/" + path) from None
        if entry.whiteout:
            return Step(path, "D", here=here, replaced=frame.replaced) if here else None
        if entry.is_dir:
            base = (
                None
                if entry.opaque
                else redirected(self.lower, frame.base, entry, path) or self._child(frame.base, name)
            )
            base = base if base is not None and stat.S_ISDIR(base.mode) else None
            return self._directory_step(path, entry, base, here, replaced=frame.replaced)
        base = (
            redirected(self.lower, frame.base, entry, path) or self._child(frame.base, name) if entry.metacopy else None
        )
        return self._file_step(frame, path, entry, base, here)

    def _below(self, frame: _Frame, entry: UpperEntry, path: bytes) -> Inode | None:
        """The lower inode under an upper one: what it was moved from, or the same name."""
        return redirected(self.lower, frame.base, entry, path) or self._child(frame.base, entry.name)

    def _child(self, directory: Inode | None, name: bytes) -> Inode | None:
        return self.lower.lookup(directory, name) if directory is not None else None

    def _lower_step(self, frame: _Frame, path: bytes, base: Inode | None, here: Inode | None) -> Step | None:
        """A name without an upper entry: copied in the index, or on the way there; else brought along, or gone."""
        if base is None:
            return Step(path, "D", here=here, replaced=True) if here and frame.replaced else None
        entry = self.links.copy(base.nid)
        if entry is not None:
            return self._file_step(frame, path, entry, base if entry.metacopy else None, here)
        kind: Literal["A", "C", "="] = "A" if here is None else "=" if here.nid == base.nid else "C"
        shared = not frame.replaced and base.nid in self.links.moved
        return Step(path, kind, base=base, here=here, replaced=frame.replaced, shared=shared)

    def _directory_step(
        self, path: bytes, entry: UpperEntry, base: Inode | None, here: Inode | None, *, replaced: bool
    ) -> Step:
        old = here if here is not None and stat.S_ISDIR(here.mode) else None
        same = old is not None and self._same_attributes(entry, old, time=bool(path))
        kind: Literal["A", "C", "="] = "A" if here is None else "=" if same and _is_same(base, old) else "C"
        opaque = old is not None and not replaced and not _is_same(base, old)
        return Step(path, kind, entry, base, here, replaced, opaque)

    def _file_step(
        self, frame: _Frame, path: bytes, entry: UpperEntry, base: Inode | None, here: Inode | None
    ) -> Step | None:
        if entry.metacopy and (base is None or not stat.S_ISREG(base.mode)):
            raise Corrupt("the lower file of a metacopy is missing", path=b"/" + path)
        if here is None:
            return Step(path, "A", entry, base, replaced=frame.replaced)
        if not self._same_file(path, entry, base, here):
            return Step(path, "C", entry, base, here, frame.replaced)
        return Step(path, "=", entry, base, here, replaced=True) if frame.replaced else None

    def _same_attributes(self, entry: UpperEntry, here: Inode, *, time: bool = True) -> bool:
        status = entry.status
        return (
            status.st_mode == here.mode
            and self.owner(status, here) == (here.uid, here.gid)
            and (not time or status.st_mtime_ns == here.mtime_ns)
            and _comparable(entry.xattrs) == _comparable(self.lower.xattrs(here))
        )

    def _same_file(self, path: bytes, entry: UpperEntry, base: Inode | None, here: Inode) -> bool:
        if not self._same_attributes(entry, here) or not self.links.unchanged(entry, path, here):
            return False
        if stat.S_ISLNK(here.mode):
            return entry.place.readlink(entry.name) == self.lower.readlink(here)
        if not stat.S_ISREG(here.mode):
            return entry.status.st_rdev == here.rdev
        if entry.status.st_size != here.size:
            return False
        if base is not None:
            return self.lower.content(base) == self.lower.content(here)
        if entry.base is not None:
            return self.objects is not None and self.blocks(entry, path).is_same(self.lower.content(here), here.size)
        return here.size == 0 or _has_identity(entry, self.lower.content(here))


def _has_identity(entry: UpperEntry, identity: bytes | None) -> bool:
    fd = open_at(entry.name, entry.place.fd, os.O_RDONLY | os.O_NONBLOCK, own=True)
    try:
        if hash_fd(fd, False)[0] == identity:
            return True
        return entry.status.st_blocks * 512 < entry.status.st_size and hash_fd(fd, True)[0] == identity
    finally:
        os.close(fd)


def _is_same(one: Inode | None, other: Inode | None) -> bool:
    return one is not None and other is not None and one.nid == other.nid


def _comparable(xattrs: dict[bytes, bytes]) -> dict[bytes, bytes]:
    return {name: value for name, value in xattrs.items() if not name.startswith(_PRIVATE)}
