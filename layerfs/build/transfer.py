"""COPY, ADD and WORKDIR as the entries of a layer: what goes where is decided from the tree below, nothing is mounted.

The rules are BuildKit's. Directories that are there keep their attributes at the destination itself, and take the
source's further down; what has to be made is 0755, of the time of the step, and has the owner and mode that were
asked for. Parents that are there come along as they are, their times too.
"""

from __future__ import annotations

import posixpath
import stat
from collections.abc import Generator, Hashable, Iterator, Sequence
from typing import NamedTuple

from layerfs._record import dataclass, field, replace
from layerfs.build.contentkeys import digest_of
from layerfs.build.context import DirectoryFiles
from layerfs.build.files import Files, Item, Skip, TreeFiles, below, walk
from layerfs.build.find import find, is_wild, matches, unescaped
from layerfs.build.modes import Change
from layerfs.errors import InUse, InvalidInput, NotFound
from layerfs.layer.entry import Entry
from layerfs.layer.tree import Inode, Tree

_LINKS_MAX = 255


@dataclass(frozen=True, slots=True)
class Job:
    """One source. `name`: what it is called in a directory; `rest`: with --parents, its path below the destination,
    with the directories above it. `replace`: of an archive, whose entries take the place of whatever is there."""

    files: Files
    item: Item
    name: bytes
    rest: bytes = b""
    above: tuple[Item, ...] = ()
    skip: Skip | None = None
    replace: bool = False

    def key(self) -> bytes:
        """What of it decides about the layer."""
        modes = b",".join(b"%o" % item.mode for item in self.above)
        parts = (self.name, self.rest, modes, digest_of(self.files, self.item, self.skip))
        return b"".join(b"%d:%b" % (len(part), part) for part in parts)


def check_same(job: Job, key: bytes) -> None:
    """Raises InUse when a context is not any more what the key was made of: its layer must not be found by that key."""
    if isinstance(job.files, DirectoryFiles) and job.key() != key:
        raise InUse("the context changed while it was read", path=b"/" + job.item.path)


@dataclass(frozen=True, slots=True)
class Rules:
    """`destination` is absolute; a slash at its end says that it is a directory. `owner` and `mode` None: the source's
    (a context's files belong to root). `linked`: directories on the way are left to the tree below."""

    destination: bytes
    created_ns: int
    owner: tuple[int, int] | None = None
    mode: Change | None = None
    linked: bool = False
    instruction: str = "COPY"


def choose(files: Files, source: bytes, *, parents: bool = False, skip: Skip | None = None) -> list[Job]:
    """The jobs of one source as it is written; a pattern may have none.

    Raises:
        NotFound: in BuildKit's words.
    """
    pivot, rest = _pivot(source) if parents else (b"", source)
    path = clean(b"/".join((pivot, rest)))
    if is_wild(path):
        found = matches(files, path)
    else:
        item = find(files, unescaped(path))
        if item is None:
            raise NotFound(f'failed to compute cache key: "/{_text(unescaped(path))}": not found')
        found = [(unescaped(path), item)]
    jobs = []
    for place, item in found:
        name = place.rpartition(b"/")[2]
        if skip is not None and not item.is_dir and skip(name, False):
            continue
        job = Job(files, item, name, skip=skip)
        if parents:
            start = len(clean(pivot).split(b"/")) if clean(pivot) else 0
            parts = place.split(b"/")
            above = [find(files, b"/".join(parts[:end])) for end in range(start + 1, len(parts))]
            job = replace(job, rest=b"/".join(parts[start:]), above=tuple(each for each in above if each is not None))
        jobs.append(job)
    return jobs


def _pivot(source: bytes) -> tuple[bytes, bytes]:
    before, dot, after = source.partition(b"/./")
    return (before, after) if dot else (b"", source)


def clean(path: bytes) -> bytes:
    """Below the root of the source, whatever `..` says; without slashes around."""
    return posixpath.normpath(b"/" + path).strip(b"/")


def destination(text: bytes, workdir: bytes) -> bytes:
    """Absolute; with a slash at its end when it names a directory."""
    joined = posixpath.join(workdir or b"/", text)
    path = b"/" + clean(joined)
    last = joined.rpartition(b"/")[2]
    return path if last not in (b"", b".", b"..") or path == b"/" else path + b"/"


class _Place(NamedTuple):
    """What comes to one path: a directory that is there (`kept`), one that is made (neither), or a copy of `item`."""

    kept: Inode | None = None
    files: Files | None = None
    item: Item | None = None


class Below:
    """The tree that a layer comes on; `None`: one that nothing is known of (--link), or nothing."""

    def __init__(self, tree: Tree | None) -> None:
        self.tree = tree

    def find(self, path: bytes) -> Inode | None:
        return self.tree.resolve(path) if self.tree is not None else None

    def directory(self, path: bytes) -> Inode | None:
        found = self.find(path)
        return found if found is not None and stat.S_ISDIR(found.mode) else None

    def child(self, directory: Inode | None, name: bytes) -> Inode | None:
        return self.tree.lookup(directory, name) if self.tree is not None and directory is not None else None

    def real(self, path: bytes) -> bytes:
        """The path with all links followed, as inside; what is missing stays as it is written."""
        if self.tree is None:
            return clean(path)
        names: list[bytes] = []
        parts, links = path.split(b"/")[::-1], 0
        while parts:
            name = parts.pop()
            if name in (b"", b"."):
                continue
            if name == b"..":
                del names[-1:]
                continue
            found = self.tree.resolve(b"/".join([*names, name]))
            if found is None or not stat.S_ISLNK(found.mode):
                names.append(name)
                continue
            links += 1
            if links > _LINKS_MAX:
                raise InvalidInput("too many levels of symbolic links", path=b"/" + path.strip(b"/"))
            target = self.tree.readlink(found)
            if target.startswith(b"/"):
                names = []
            parts += target.split(b"/")[::-1]
        return b"/".join(names)


@dataclass(slots=True)
class Transfer:
    """The entries of one instruction's layer. `entries()` reads contents as it goes: take each before the next."""

    below: Below
    rules: Rules
    _told: set[bytes] = field(default_factory=lambda: {b""})  # directories that came already
    _links: dict[Hashable, Entry] = field(default_factory=dict)

    def entries(self, jobs: Sequence[Job]) -> Iterator[Entry]:
        """Parents before what is in them; of several sources for one path the last one.

        Raises:
            InvalidInput: a file where a directory is, or the other way round.
        """
        self._check_several(jobs)
        empty = True
        for path, place in self._places(jobs[0]) if len(jobs) == 1 else self._merged(jobs):
            if place.item is not None or not self.rules.linked:
                empty = False
                yield self._entry(path, place)
        if empty and self.rules.linked and jobs:
            yield self._entry(clean(self.rules.destination), _Place())

    def _merged(self, jobs: Sequence[Job]) -> Iterator[tuple[bytes, _Place]]:
        chosen: dict[bytes, _Place] = {}
        for job in jobs:
            for path, place in self._places(job):
                self._choose(chosen, path, place)
        for path in sorted(chosen, key=lambda path: path.split(b"/")):
            yield path, chosen[path]

    def directory(self) -> Iterator[Entry]:
        """What WORKDIR makes."""
        path = self.below.real(self.rules.destination)
        for each, place in self._parents(path + b"/."):
            if place.kept is None:
                yield self._entry(each, place)

    def _check_several(self, jobs: Sequence[Job]) -> None:
        if len(jobs) < 2 or self.rules.destination.endswith(b"/"):
            return
        found = self.below.find(self.below.real(self.rules.destination))
        if found is None or not stat.S_ISDIR(found.mode):
            raise InvalidInput(
                f"When using {self.rules.instruction} with more than one source file, "
                "the destination must be a directory and end with a /"
            )

    def _choose(self, chosen: dict[bytes, _Place], path: bytes, place: _Place) -> None:
        old = chosen.get(path)
        if old is not None and place.item is None:
            return
        if old is not None and self._is_dir(old) != self._is_dir(place):
            raise self._clash(path, is_dir=self._is_dir(place))
        chosen[path] = place

    @staticmethod
    def _is_dir(place: _Place) -> bool:
        return place.item is None or place.item.is_dir

    def _clash(self, path: bytes, *, is_dir: bool) -> InvalidInput:
        shown = _text(path)
        if is_dir:
            return InvalidInput(f"cannot copy to non-directory: /{shown}")
        return InvalidInput(f"cannot replace to directory /{shown} with file")

    # where things go

    def _places(self, job: Job) -> Iterator[tuple[bytes, _Place]]:
        real = self.below.real(self.rules.destination)
        found = self.below.find(real)
        into = self.rules.destination.endswith(b"/") or (found is not None and stat.S_ISDIR(found.mode))
        if found is not None and not stat.S_ISDIR(found.mode) and (into or job.item.is_dir):
            raise self._clash(real, is_dir=True)
        if job.rest or job.above:
            top = yield from self._with_parents(job, real)
        elif job.item.is_dir:
            yield from self._parents(real + b"/.")
            yield from self._tree(job, real)
            return
        else:
            top = below(real, job.name) if into else real
        yield from self._parents(top)
        self._told |= {top} if job.item.is_dir else set()
        yield top, self._copy(job, top, job.item, self.below.find(top))
        if job.item.is_dir:
            yield from self._tree(job, top)

    def _with_parents(self, job: Job, real: bytes) -> Generator[tuple[bytes, _Place], None, bytes]:
        """The directories of --parents between the destination and the file; returns the file's place."""
        yield from self._parents(real + b"/.")
        parts = job.rest.split(b"/")
        for count, item in enumerate(job.above, 1):
            path = below(real, b"/".join(parts[:count]))
            if path not in self._told:
                self._told.add(path)
                yield path, self._copy(job, path, item, self.below.find(path))
        return below(real, job.rest)

    def _parents(self, path: bytes) -> Iterator[tuple[bytes, _Place]]:
        """The directories above a path that have not come yet."""
        parts = path.split(b"/")
        for count in range(1, len(parts)):
            place = b"/".join(parts[:count])
            if place in self._told:
                continue
            found = self.below.find(place)
            if found is not None and not stat.S_ISDIR(found.mode):
                raise InvalidInput(f"mkdir /{_text(place)}: not a directory")
            self._told.add(place)
            yield place, _Place(kept=found)

    def _tree(self, job: Job, top: bytes) -> Iterator[tuple[bytes, _Place]]:
        """What is in a directory."""
        # the directories one is in: their path in the source, at the destination, and what is there already
        where: list[tuple[bytes, bytes, Inode | None]] = [(b"", top, self.below.directory(top))]
        for path, item in walk(job.files, job.item, job.skip):
            if not path:
                continue
            parent, _, name = path.rpartition(b"/")
            while where[-1][0] != parent:
                where.pop()
            target, found = below(where[-1][1], name), self.below.child(where[-1][2], name)
            if item.is_dir:
                implicit = job.replace and isinstance(job.files, TreeFiles) and job.files.implicit(item)
                if implicit:
                    target = self.below.real(target)
                    where.append((path, target, self.below.directory(target)))
                    yield from self._parents(target + b"/.")
                    continue
                where.append((path, target, found if found is not None and stat.S_ISDIR(found.mode) else None))
                self._told.add(target)
            yield from self._parents(target)
            yield target, self._copy(job, target, item, found)

    def _copy(self, job: Job, path: bytes, item: Item, found: Inode | None) -> _Place:
        if found is not None and stat.S_ISDIR(found.mode) != item.is_dir and not job.replace:
            raise self._clash(path, is_dir=item.is_dir)
        if stat.S_ISCHR(item.mode) and item.rdev == 0:
            raise InvalidInput("a layer cannot hold a device 0:0 (a whiteout there)", path=b"/" + item.path)
        return _Place(files=job.files, item=item)

    # what it becomes

    def _entry(self, path: bytes, place: _Place) -> Entry:
        if place.item is not None and place.files is not None:
            return self._copied(path, place.files, place.item)
        if place.kept is not None:
            return self._kept(path, place.kept)
        mode = stat.S_IFDIR | 0o755
        uid, gid = self.rules.owner or (0, 0)
        return Entry(path, self._mode(mode), uid, gid, self.rules.created_ns)

    def _kept(self, path: bytes, inode: Inode) -> Entry:
        tree = self.below.tree
        assert tree is not None
        xattrs = tuple(sorted(tree.xattrs(inode).items()))
        return Entry(path, inode.mode, inode.uid, inode.gid, inode.mtime_ns, xattrs=xattrs)

    def _copied(self, path: bytes, files: Files, item: Item) -> Entry:
        key = (id(files), item.inode) if item.inode is not None else None
        if key is not None and key in self._links:
            return self._links[key].linked(path, self._links[key].path)
        uid, gid = self.rules.owner or ((item.uid, item.gid) if files.owned else (0, 0))
        entry = Entry(
            path,
            item.mode if item.is_link else self._mode(item.mode),
            uid,
            gid,
            item.mtime_ns,
            item.size,
            files.readlink(item) if item.is_link else b"",
            rdev=item.rdev,
            xattrs=files.xattrs(item),
            content=files.content(item) if item.is_file else None,
        )
        if key is not None:
            self._links[key] = entry
        return entry

    def _mode(self, mode: int) -> int:
        return self.rules.mode(mode) if self.rules.mode is not None else mode


def _text(path: bytes) -> str:
    return path.decode(errors="replace")
