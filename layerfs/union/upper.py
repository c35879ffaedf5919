"""Performs plans on an upper directory: every change is prepared in the work directory and renamed into place."""

from __future__ import annotations

import contextlib
import errno
import itertools
import os
import stat
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from layerfs.layer.tree import Tree
from layerfs.union import plan
from layerfs.union.content import Contents
from layerfs.union.format import Marks, marks_of
from layerfs.union.host import EXCHANGE, NOREPLACE, WHITEOUT, HostDir, rename
from layerfs.union.layerview import LayerNode, LayerView, require
from layerfs.union.node import Attributes, Content, View, join, split
from layerfs.union.parted import file_of, noted_names
from layerfs.union.treeview import TreeView

SCRATCH = "scratch"  # below work/; overlayfs itself only touches work/work and work/index
_CHUNK = 1 << 20
_WHITEOUT = b"whiteout"  # the shared one, in scratch
_LINKS = b"links-"  # in scratch: a finished copy of a hard-linked file that is getting its names


class Upper:
    """The upper directory of a LayerView with its work directory. Not safe from two threads at once.

    `sync`: copied bytes are on disk before they replace the lower file's (as overlayfs does it, but for `volatile`).
    """

    def __init__(self, view: LayerView, work: Path, *, sync: bool = True) -> None:
        self.view, self.host, self.marks, self._sync = view, view.host, view.marks, sync
        scratch = work / SCRATCH
        scratch.mkdir(mode=0o700, exist_ok=True)
        self.scratch, self._place = HostDir(scratch), scratch
        self._names = itertools.count()
        self._alternate = False  # whiteouts in their xattr form
        self._recover()

    def close(self) -> None:
        self.scratch.close()
        self.view.close()

    # scratch

    def _recover(self) -> None:
        """What a crash left: hard-linked files that have not got all their names get them; the rest goes."""
        for note, paths in noted_names(self._place):
            for path in paths:
                self.copy_parents(path)
            self._finish_links(os.fsencode(file_of(note).name), paths)
        for entry in self.scratch.scan(b""):
            if entry.name.startswith(_LINKS):
                names = self.view.named(int(entry.name[len(_LINKS) :], 16))
                for path in names:
                    self.copy_parents(path)
                self._finish_links(entry.name, names)
            else:
                self.scratch.remove_tree(entry.name)

    def temporary(self) -> bytes:
        return b"%x-%d" % (os.getpid(), next(self._names))

    @contextlib.contextmanager
    def _prepared(self, name: bytes) -> Iterator[bytes]:
        """Removes the scratch entry unless the body renamed it away."""
        try:
            yield name
        except BaseException:
            with contextlib.suppress(OSError):
                self.scratch.remove_tree(name)
            raise

    # performing

    def copy_parents(self, path: bytes) -> LayerNode:
        """Copies up the directories above a name that is going to change. Returns the last one's node."""
        parts = path.split(b"/")[:-1]
        here = []
        for count in range(1, len(parts) + 1):
            directory = b"/".join(parts[:count])
            node = self._node(directory)
            if not node.is_dir:
                raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR), os.fsdecode(path))
            if node.here:
                here.append(directory)
        self.perform(plan.plan_parents(path, here))
        return self._node(split(path)[0])

    def perform(self, steps: Iterable[plan.Step]) -> None:
        for step in steps:
            action: Callable[[Upper, plan.Step], None] = _ACTIONS[type(step)]
            action(self, step)

    def _copy_directory(self, step: plan.CopyDirectory) -> None:
        node = self._node(step.path)
        with self._prepared(self.temporary()) as name:
            os.mkdir(name, 0o700, dir_fd=self.scratch.fd)
            self._dress(name, node)
            self._publish_copy(name, step.path)
        self.view.drop(step.path)

    def _copy_file(self, step: plan.CopyFile) -> None:
        node = self._node(step.path)
        attributes = self.view.attributes(node)
        with self._prepared(self.temporary()) as name:
            self._make_copy(name, node, attributes, step.data)
            if len(step.names) == 1:
                self._publish_copy(name, step.path)
                return
            complete = links_name(attributes.ino)
            rename(self.scratch.fd, name, self.scratch.fd, complete)
        self._finish_links(complete, step.names)

    def _finish_links(self, name: bytes, paths: Iterable[bytes]) -> None:
        """Gives a hard-linked copy every name at which the lower inode is still visible; `_recover` does the rest."""
        for path in paths:
            with self._same_times(split(path)[0]) as (fd, directory), contextlib.suppress(FileExistsError):
                self._impure(directory)
                entry = split(path)[1]
                os.link(name, entry, src_dir_fd=self.scratch.fd, dst_dir_fd=fd, follow_symlinks=False)
        os.unlink(name, dir_fd=self.scratch.fd)

    @contextlib.contextmanager
    def _same_times(self, directory: bytes) -> Iterator[tuple[int, bytes]]:
        """A copy-up is no change of the directory that it happens in."""
        fd = os.dup(self.host.directory(directory))
        try:
            before = os.fstat(fd)
            yield fd, directory
            os.utime(b"/proc/self/fd/%d" % fd, ns=(before.st_atime_ns, before.st_mtime_ns))
        finally:
            os.close(fd)

    def _publish_copy(self, name: bytes, path: bytes) -> None:
        directory, entry = split(path)
        with self._same_times(directory) as (fd, _):
            self._impure(directory)
            rename(self.scratch.fd, name, fd, entry, NOREPLACE)

    def _make_copy(self, name: bytes, node: LayerNode, attributes: Attributes, data: plan.Data) -> None:
        kind = node.kind
        if kind == stat.S_IFREG:
            self._copy_regular(name, node, attributes, data)
        elif kind == stat.S_IFLNK:
            os.symlink(self.view.readlink(node), name, dir_fd=self.scratch.fd)
        else:
            os.mknod(name, kind | 0o600, attributes.rdev, dir_fd=self.scratch.fd)
        self._dress(name, node)
        if kind == stat.S_IFREG and data is plan.Data.NONE and attributes.size:
            self.scratch.set_mark(name, self.marks.name(b"metacopy"), b"")

    def _copy_regular(self, name: bytes, node: LayerNode, attributes: Attributes, data: plan.Data) -> None:
        fd = self.scratch.open(name, os.O_RDWR | os.O_CREAT | os.O_EXCL)
        try:
            if data is plan.Data.NONE:
                os.ftruncate(fd, attributes.size)
            elif data is plan.Data.ALL and attributes.size:
                self._fill(fd, self.view.content(node))
        finally:
            os.close(fd)

    def _fill(self, fd: int, content: Content) -> None:
        """Copies the bytes, holes stay holes; closes the content."""
        try:
            os.ftruncate(fd, content.size)
            copy_content(content, fd)
            if self._sync and content.size:
                os.fsync(fd)  # before a mark goes that says that bytes are missing
        finally:
            content.close()

    def _dress(self, name: bytes, node: LayerNode) -> None:
        """Owner, mode, xattrs, origin and times of a node go to its copy in scratch; times last."""
        attributes = self.view.attributes(node)
        with self.scratch.handle(name) as target:
            os.chown(target, attributes.uid, attributes.gid)
            for key, value in self.view.xattrs(node).items():
                self._carry(target, self.marks.escape(key), value)
            mark, value = self.view.origin(node)
            self._carry(target, self.marks.name(mark), value)
            if node.kind != stat.S_IFLNK:
                os.chmod(target, stat.S_IMODE(attributes.mode))
            os.utime(target, ns=(attributes.atime_ns, attributes.mtime_ns))

    def _carry(self, target: bytes, name: bytes, value: bytes) -> None:
        """An xattr that this host or user cannot hold is left out, as overlayfs does it."""
        try:
            os.setxattr(target, name, value)
        except OSError as error:
            if error.errno not in (errno.ENOTSUP, errno.EPERM):
                raise

    def _complete(self, step: plan.Complete) -> None:
        """In place: while the mark is there the bytes are the lower file's, so a crash changes nothing."""
        node = self._node(step.path)
        fd = self.host.open(step.path, os.O_RDWR)
        try:
            if step.data is plan.Data.ALL:
                before = os.fstat(fd)
                self._fill(fd, self.view.content(node))
                os.utime(fd, ns=(before.st_atime_ns, before.st_mtime_ns))
                self._drop_metacopy(fd)
            else:
                os.ftruncate(fd, 0)
                self._drop_metacopy(fd)
        finally:
            os.close(fd)

    def _drop_metacopy(self, fd: int) -> None:
        for mark in (b"metacopy", b"redirect", b"layerfs.blocks"):
            try:
                os.removexattr(fd, self.marks.name(mark))
            except OSError as error:
                if error.errno != errno.ENODATA:
                    raise

    def _unlink(self, step: plan.Unlink) -> None:
        fd, name = self.host.place(step.path)
        os.unlink(name, dir_fd=fd)

    def _remove_directory(self, step: plan.RemoveDirectory) -> None:
        fd, name = self.host.place(step.path)
        try:
            os.rmdir(name, dir_fd=fd)
        except OSError as error:
            if error.errno not in (errno.ENOTEMPTY, errno.EEXIST):
                raise
            aside = self.temporary()
            rename(fd, name, self.scratch.fd, aside)
            self._forget()
            self.scratch.remove_tree(aside)
        self._forget()

    # whiteouts

    def whiteout_in_scratch(self) -> bytes:
        """A new name in scratch for the shared whiteout inode (a link takes 39 µs, a device of its own 900)."""
        for _ in range(3):
            name = self.temporary()
            try:
                os.link(_WHITEOUT, name, src_dir_fd=self.scratch.fd, dst_dir_fd=self.scratch.fd, follow_symlinks=False)
                return name
            except FileNotFoundError:
                self._make_shared_whiteout()
            except OSError as error:
                if error.errno != errno.EMLINK:
                    raise
                os.unlink(_WHITEOUT, dir_fd=self.scratch.fd)
        raise OSError(errno.EMLINK, os.strerror(errno.EMLINK))

    def _make_shared_whiteout(self) -> None:
        if not self._alternate:
            try:
                os.mknod(_WHITEOUT, stat.S_IFCHR, 0, dir_fd=self.scratch.fd)
                return
            except PermissionError:
                self._alternate = True
        os.close(self.scratch.open(_WHITEOUT, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o000))
        self.scratch.set_mark(_WHITEOUT, self.marks.name(b"whiteout"), b"y")

    def _place_whiteout(self, path: bytes) -> None:
        """Links the whiteout to a free name, or over a non-directory."""
        with self._prepared(self.whiteout_in_scratch()) as name:
            self._allow_alternate(split(path)[0])
            fd, entry = self.host.place(path)
            rename(self.scratch.fd, name, fd, entry)

    def _allow_alternate(self, directory: bytes) -> None:
        """A directory must say that it holds whiteouts in their xattr form; an opaque one needs no whiteouts."""
        name = self.marks.name(b"opaque")
        if self._alternate and self.host.mark(directory, name) is None:
            self.host.set_mark(directory, name, b"x")
            self.view.drop(directory)

    def _whiteout(self, step: plan.Whiteout) -> None:
        self._place_whiteout(step.path)
        self._forget()

    def _cover_file(self, step: plan.CoverFile) -> None:
        self._place_whiteout(step.path)

    def _cover_directory(self, step: plan.CoverDirectory) -> None:
        with self._prepared(self.whiteout_in_scratch()) as name:
            self._allow_alternate(split(step.path)[0])
            fd, entry = self.host.place(step.path)
            rename(self.scratch.fd, name, fd, entry, EXCHANGE)
            self._forget()
            self.scratch.remove_tree(name)

    def _clear(self, step: plan.Clear) -> None:
        self.host.set_mark(step.path, self.marks.name(b"opaque"), b"y")
        self._forget()
        for entry in self.host.scan(step.path):
            self.host.remove_tree(join(step.path, entry.name))

    def _opaque(self, step: plan.Opaque) -> None:
        self.host.set_mark(step.path, self.marks.name(b"opaque"), b"y")
        self.view.forget()

    def _redirect(self, step: plan.Redirect) -> None:
        node = self._node(step.path)
        assert node.below is not None
        below = node.below.path
        value = split(below)[1] if step.same_parent else b"/" + below
        try:
            self.host.set_mark(step.path, self.marks.name(b"redirect"), value)
        except OSError as error:  # too long for this host's xattrs: mv(1) then copies
            if error.errno in (errno.ENOSPC, errno.E2BIG, errno.ERANGE):
                raise OSError(errno.EXDEV, os.strerror(errno.EXDEV), os.fsdecode(step.path)) from error
            raise

    def _mark_impure(self, step: plan.Impure) -> None:
        self._impure(step.path)

    def _impure(self, directory: bytes) -> None:
        name = self.marks.name(b"impure")
        if self.host.mark(directory, name) is None:
            self.host.set_mark(directory, name, b"y")

    def _move(self, step: plan.Move) -> None:
        """One rename shows the whole change; only a host without RENAME_WHITEOUT needs two."""
        old_fd, old = self.host.place(step.old)
        old_fd = os.dup(old_fd)
        try:
            new_fd, new = self.host.place(step.new)
            new_fd = os.dup(new_fd)
            try:
                self._move_entry(step, old_fd, old, new_fd, new)
            finally:
                os.close(new_fd)
        finally:
            os.close(old_fd)
            self._forget()

    def _move_entry(self, step: plan.Move, old_fd: int, old: bytes, new_fd: int, new: bytes) -> None:
        if step.leave is plan.Leave.THE_OTHER:
            rename(old_fd, old, new_fd, new, EXCHANGE)
        elif step.leave is plan.Leave.NOTHING and not step.over_whiteout:
            rename(old_fd, old, new_fd, new)
        elif step.over_visible:
            self._move_leaving_whiteout(step, old_fd, old, new_fd, new)
        else:
            if not step.over_whiteout:
                self._place_whiteout(step.new)
            self._allow_alternate(split(step.old)[0])
            rename(old_fd, old, new_fd, new, EXCHANGE)
            if step.leave is plan.Leave.NOTHING:
                os.unlink(old, dir_fd=old_fd)

    def _move_leaving_whiteout(self, step: plan.Move, old_fd: int, old: bytes, new_fd: int, new: bytes) -> None:
        try:
            rename(old_fd, old, new_fd, new, WHITEOUT)
        except OSError as error:
            if error.errno not in (errno.EINVAL, errno.EPERM, errno.ENOSYS):
                raise
            rename(old_fd, old, new_fd, new)
            self._place_whiteout(step.old)

    # creating

    def create(self, path: bytes, make: Callable[[int, bytes], None], facts: plan.Facts, *, opaque: bool) -> None:
        """Publishes what `make(scratch_fd, name)` makes at a name that shows nothing, whiteout or not."""
        name = self.temporary()
        with self._prepared(name):
            make(self.scratch.fd, name)
            if opaque:
                self.scratch.set_mark(name, self.marks.name(b"opaque"), b"y")
            fd, entry = self.host.place(path)
            if not facts.whiteout:
                rename(self.scratch.fd, name, fd, entry, NOREPLACE)
            elif opaque:
                rename(self.scratch.fd, name, fd, entry, EXCHANGE)
                os.unlink(name, dir_fd=self.scratch.fd)
            else:
                rename(self.scratch.fd, name, fd, entry)

    def anonymous(self) -> int:
        """A new file without a name, for what was removed while open."""
        name = self.temporary()
        fd = self.scratch.open(name, os.O_RDWR | os.O_CREAT | os.O_EXCL)
        os.unlink(name, dir_fd=self.scratch.fd)
        return fd

    def _node(self, path: bytes) -> LayerNode:
        return require(self.view.find(path), path)

    def _forget(self) -> None:
        self.host.forget()
        self.view.forget()


def links_name(ino: int) -> bytes:
    """Where in scratch a copy of a hard-linked lower inode waits for its names."""
    return _LINKS + b"%x" % ino


def open_upper(
    tree: Tree,
    contents: Contents | None,
    upper: Path,
    work: Path,
    frozen: Sequence[Path] = (),
    *,
    marks: Marks | None = None,
    sync: bool = True,
) -> Upper:
    """The writable stack: `upper` over `frozen` (newest first) over a tree. `close` frees all of it."""
    view = stack_view(tree, contents, [upper, *frozen], marks or marks_of(upper))
    try:
        assert isinstance(view, LayerView)
        return Upper(view, work, sync=sync)
    except BaseException:
        view.close()
        raise


def stack_view(tree: Tree, contents: Contents | None, layers: Sequence[Path], marks: Marks) -> View:
    """Upper-format directories, newest first, over a tree."""
    view: View = TreeView(tree, contents)
    try:
        for directory in reversed(layers):
            view = LayerView(HostDir(directory), view, marks)
    except BaseException:
        view.close()
        raise
    return view


def copy_content(content: Content, fd: int) -> None:
    """Writes the data extents of a content at their places; what lies between stays as it is."""
    for start, length in content.extents():
        at, end = start, start + length
        while at < end:
            data = content.pread(min(_CHUNK, end - at), at)
            if not data:
                raise OSError(errno.EIO, "a lower file became shorter while it was copied")
            at += _write_all(fd, data, at)


def _write_all(fd: int, data: bytes, at: int) -> int:
    view = memoryview(data)
    while view:
        written = os.pwrite(fd, view, at)
        view, at = view[written:], at + written
    return len(data)


_ACTIONS: dict[type, Any] = {
    plan.CopyDirectory: Upper._copy_directory,
    plan.CopyFile: Upper._copy_file,
    plan.Complete: Upper._complete,
    plan.Unlink: Upper._unlink,
    plan.RemoveDirectory: Upper._remove_directory,
    plan.Whiteout: Upper._whiteout,
    plan.CoverFile: Upper._cover_file,
    plan.CoverDirectory: Upper._cover_directory,
    plan.Clear: Upper._clear,
    plan.Opaque: Upper._opaque,
    plan.Redirect: Upper._redirect,
    plan.Impure: Upper._mark_impure,
    plan.Move: Upper._move,
}
