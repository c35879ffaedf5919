"""A layer from what an upper directory changes: the canonical tar goes straight into the store."""

from __future__ import annotations

import itertools
import os
import stat
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from layerfs.layer.blocks import DELTA_FROM, BlockContent, DeltaContent
from layerfs.layer.changes import Step, UpperWalk, with_parents
from layerfs.layer.directory import directory_entries, host_entry
from layerfs.layer.entry import Content, Entry, FileContent, whiteout
from layerfs.layer.ingest import Ingest
from layerfs.layer.layers import Layer, Source
from layerfs.layer.progress import Progress, Report
from layerfs.layer.sparse import Extents
from layerfs.layer.tree import Inode, Tree
from layerfs.layer.write import TarWriter
from layerfs.store.format import PACK_MAX

if TYPE_CHECKING:
    from layerfs.store import StoreRoot
    from layerfs.store.contents import Contents
    from layerfs.store.leases import Lease

PIECE = 1 << 20


def commit_layer(
    root: StoreRoot,
    upper: Path,
    lower: Tree,
    *,
    lease: Lease,
    prefix: bytes | None = None,
    index: Path | None = None,
    latest_ns: int | None = None,
    progress: Report | None = None,
    move: bool = False,
    check: Callable[[], object] = lambda: None,
    hidden: frozenset[bytes] = frozenset(),
) -> Layer | None:
    """The layer of what `upper` changes against `lower`, published; None when that is nothing.

    Nothing but the upper is read (and what a moved directory or a metacopy refers to).

    prefix, index, hidden: as for `changes`. latest_ns: later modification times are set to this one. move: nobody sees
    or changes the upper any more, and it is removed afterwards, so its big files are linked into the store, not copied
    (where the host can, their bytes are shared in any case). check: called at every piece; it may raise.

    Raises:
        InvalidInput: a name that a layer cannot hold (`.wh.*`), named by its path.
        InUse: the upper changed while it was read.
        Corrupt: the upper refers to what the lower tree lacks.
    """
    entries = upper_entries(root, upper, lower, prefix=prefix, index=index, hidden=hidden)
    first = next(entries, None)
    if first is None:
        return None
    found = itertools.chain([first], entries)
    return store_entries(
        root, found, lease=lease, latest_ns=latest_ns, progress=progress, move=move, check=check, own=True
    )


def import_directory(
    root: StoreRoot,
    top: Path,
    *,
    lease: Lease,
    source: Source | None = None,
    latest_ns: int | None = None,
    progress: Report | None = None,
) -> Layer:
    """The layer of a directory of the host. Errors as `directory_entries` and TarWriter."""
    entries = directory_entries(top)
    return store_entries(root, entries, lease=lease, source=source, latest_ns=latest_ns, progress=progress)


def store_entries(
    root: StoreRoot,
    entries: Iterable[Entry],
    *,
    lease: Lease,
    source: Source | None = None,
    latest_ns: int | None = None,
    progress: Report | None = None,
    move: bool = False,
    own: bool = False,
    check: Callable[[], object] = lambda: None,
) -> Layer:
    """The canonical layer of these entries, published; their contents are read one after the other. `own`: files are
    the store's, on its file system; `move`, `check`: as for `commit_layer`."""
    with Ingest(root, lease) as ingest:

        def feed(data: bytes) -> None:
            check()
            ingest.feed(data)

        def hand_over(content: Content) -> bool:
            if not isinstance(content, DeltaContent):
                return False
            with content.open() as delta:
                ingest.feed_delta(delta, check)
            content.confirm()
            return True

        writer = TarWriter(feed, latest_ns=latest_ns, hand_over=hand_over)
        for count, entry in enumerate(entries, 1):
            entry = _by_delta(entry, ingest, writer)
            writer.add(_by_file(entry, ingest, writer, move) if own else entry)
            if progress is not None and count % 100 == 0:
                progress(Progress("pack", "", writer.size))
        writer.finish()
        ingest.finish()
        layer = ingest.publish(source=source)
        if progress is not None:
            progress(Progress("pack", str(layer.diff_id), writer.size, writer.size))
        return layer


def upper_entries(
    root: StoreRoot,
    upper: Path,
    lower: Tree,
    *,
    prefix: bytes | None = None,
    index: Path | None = None,
    hidden: frozenset[bytes] = frozenset(),
) -> Iterator[Entry]:
    """The entries of the layer that makes `lower` into what the upper shows; read each content before the next entry.

    Directories above a change come with it. The root comes when its own attributes changed, or along with other
    changes when only its time did.
    """
    with UpperWalk(upper, lower, prefix, index, root.path / "objects", hidden) as walk:
        build = _Builder(root.contents, walk)
        for step in with_parents(walk, lambda step: build.enters(step)):
            entry = build.entry(step)
            if entry is not None:
                yield entry


def _by_delta(entry: Entry, ingest: Ingest, writer: TarWriter) -> Entry:
    """A block-level file that has few bytes of its own is stored as a delta."""
    content = entry.content
    if not isinstance(content, BlockContent) or content.size < DELTA_FROM:
        return entry
    with content.open() as reader:
        head = reader.delta()
        made = ingest.add_delta(head, reader.pieces_of(head.ranges)) if head is not None else None
    if made is None:
        return entry
    number, path = made
    writer.flush()
    ingest.expect_delta(number)
    return replace(entry, content=DeltaContent(content.file, path, content.objects))


def _by_file(entry: Entry, ingest: Ingest, writer: TarWriter, move: bool) -> Entry:
    """A big whole file is not copied where it can become an object as it is, or share its bytes with one."""
    content = entry.content
    if not isinstance(content, FileContent) or content.size <= PACK_MAX or not content.is_dense():
        return entry
    if move and content.status.st_mode & 0o400 and (number := ingest.link_file(content.directory, content.name)):
        writer.flush()
        ingest.expect_delta(number)
        return entry
    cloned = _cloned(content, ingest)
    if cloned is None:
        return entry
    number, content = cloned
    writer.flush()
    ingest.expect_delta(number)
    return replace(entry, content=content)


def _cloned(content: FileContent, ingest: Ingest) -> tuple[int, Content] | None:
    fd = content.open()
    try:
        made = ingest.clone_file(fd)
    finally:
        os.close(fd)
    if made is None:
        return None
    number, directory, name = made
    status = os.stat(name, dir_fd=directory, follow_symlinks=False)
    return number, ClonedContent(FileContent(directory, name, status, content.path), content)


@dataclass(frozen=True, slots=True)
class ClonedContent:
    """A file's content, read from a clone of it. Reading raises as FileContent."""

    clone: FileContent
    file: FileContent

    @property
    def size(self) -> int:
        return self.clone.size

    def extents(self) -> Extents:
        return ((0, self.size),)

    def pieces(self, extents: Extents) -> Iterator[bytes]:
        yield from self.clone.pieces(extents)
        os.close(self.file.open())  # raises when it has changed since


@dataclass(frozen=True, slots=True)
class StoredContent:
    """A content of the store."""

    contents: Contents
    identity: bytes
    size: int

    def extents(self) -> Extents:
        with self.contents.open(self.identity) as reader:
            return tuple(reader.extents()) if reader.sparse else ((0, reader.size),)

    def pieces(self, extents: Extents) -> Iterator[bytes]:
        with self.contents.open(self.identity) as reader:
            for offset, length in extents:
                end = offset + length
                while offset < end:
                    data = reader.pread(offset, min(PIECE, end - offset))
                    offset += len(data)
                    yield data


class _Builder:
    """Turns steps into entries; remembers the first name of inodes with several."""

    def __init__(self, contents: Contents, walk: UpperWalk) -> None:
        self._contents, self._lower, self._walk = contents, walk.lower, walk
        self._links: dict[tuple[int, ...], Entry] = {}

    def enters(self, step: Step) -> bool:
        """Whether the step must be in the layer for itself."""
        if step.kind == "D":
            return not step.replaced
        if step.upper is not None and stat.S_ISSOCK(step.upper.mode):
            return step.here is not None and not step.replaced
        return step.kind != "=" or step.replaced or step.shared

    def entry(self, step: Step) -> Entry | None:
        if step.kind == "D" or (step.upper is not None and stat.S_ISSOCK(step.upper.mode)):
            return whiteout(step.path)  # sockets are not archived, but the old file is gone
        if step.upper is None:
            return self._lower_entry(step) if step.base is not None else None
        if not step.path and step.kind == "=" and step.upper.status.st_mtime_ns == self._lower.root.mtime_ns:
            return None
        key = step.upper.inode
        if step.upper.linked and key in self._links:
            return self._links[key].linked(step.path, self._links[key].path)
        entry = self._upper_entry(step)
        if step.upper.linked:
            self._links[key] = entry
        return entry

    def _upper_entry(self, step: Step) -> Entry:
        upper = step.upper
        assert upper is not None
        entry = host_entry(upper.place, upper.name, step.path, upper.status, upper.xattrs, opaque=step.opaque)
        uid, gid = self._walk.owner(upper.status, step.here)
        entry = replace(entry, uid=uid, gid=gid)
        if upper.metacopy and step.base is not None:
            return replace(entry, content=self._content(step.base), size=step.base.size)
        if upper.base is not None and not upper.metacopy:
            return replace(entry, content=self._walk.blocks(upper, step.path))
        return entry

    def _lower_entry(self, step: Step) -> Entry:
        inode = step.base
        assert inode is not None
        shared = inode.nlink > 1 and not stat.S_ISDIR(inode.mode)
        key = (inode.nid,)
        if shared and key in self._links:
            return self._links[key].linked(step.path, self._links[key].path)
        entry = Entry(
            step.path,
            inode.mode,
            inode.uid,
            inode.gid,
            inode.mtime_ns,
            target=self._lower.readlink(inode) if stat.S_ISLNK(inode.mode) else b"",
            rdev=inode.rdev,
            xattrs=tuple(sorted(self._lower.xattrs(inode).items())),
            opaque=step.opaque,
        )
        if stat.S_ISREG(inode.mode):
            entry = replace(entry, content=self._content(inode), size=inode.size)
        if shared:
            self._links[key] = entry
        return entry

    def _content(self, inode: Inode) -> Content | None:
        identity = self._lower.content(inode)
        return StoredContent(self._contents, identity, inode.size) if identity is not None else None
