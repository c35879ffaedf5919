"""The writable union: a tree (and frozen upper directories) below one upper directory. Knows no FUSE.

Paths are bytes without a leading slash; the root is b"". Errors are OSErrors with the errno that the system call
would give. Permissions are the caller's business (the kernel checks them with `default_permissions`).
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from layerfs.layer.tree import Tree
from layerfs.union import plan
from layerfs.union.body import Body
from layerfs.union.content import Contents
from layerfs.union.format import USER, Marks, marks_of
from layerfs.union.host import EXCHANGE, NOREPLACE
from layerfs.union.layerview import LayerNode, require
from layerfs.union.node import Attributes, Content, Listed, Node, View, find, split
from layerfs.union.plan import Data, Facts
from layerfs.union.upper import Upper, copy_content, open_upper, stack_view

__all__ = ["Union"]

_NAME_MAX = 255


def _error(number: int, path: bytes) -> OSError:
    return OSError(number, os.strerror(number), os.fsdecode(path))


class Union:
    """One mounted file tree. Not safe from two threads at once.

    `upper` and `work` are directories of one file system; without them the union is read-only (EROFS).
    `frozen` are upper-format directories between the upper one and the tree, newest first.
    """

    def __init__(
        self,
        tree: Tree,
        contents: Contents,
        *,
        upper: Path | None = None,
        work: Path | None = None,
        frozen: Sequence[Path] = (),
        sync: bool = True,
    ) -> None:
        self._marks: Marks = next((marks_of(each) for each in (upper, *frozen) if each is not None), USER)
        self._upper: Upper | None = None
        if upper is not None and work is not None:
            self._upper = open_upper(tree, contents, upper, work, frozen, marks=self._marks, sync=sync)
            self._view: View = self._upper.view
        else:
            self._view = stack_view(tree, contents, frozen, self._marks)
        self._bodies: dict[int, Body] = {}

    def close(self) -> None:
        for body in self._bodies.values():
            body.close()
        self._bodies.clear()
        (self._view if self._upper is None else self._upper).close()

    @property
    def writable(self) -> bool:
        return self._upper is not None

    # reading

    def lookup(self, path: bytes) -> Node:
        """Raises FileNotFoundError, NotADirectoryError, or OSError(ENAMETOOLONG)."""
        name = split(path)[1]
        if len(name) > _NAME_MAX:
            raise _error(errno.ENAMETOOLONG, path)
        node = find(self._view, path)
        if node is None:
            raise _error(self._why_missing(path), path)
        return node

    def _why_missing(self, path: bytes) -> int:
        """ENOTDIR when something on the way is no directory."""
        while path:
            path = split(path)[0]
            above = find(self._view, path)
            if above is not None:
                return errno.ENOENT if above.is_dir else errno.ENOTDIR
        return errno.ENOENT

    def getattr(self, path: bytes) -> Attributes:
        return self._view.attributes(self.lookup(path))

    def listdir(self, path: bytes) -> dict[bytes, Listed]:
        node = self.lookup(path)
        if not node.is_dir:
            raise _error(errno.ENOTDIR, path)
        return self._view.listing(node)

    def readlink(self, path: bytes) -> bytes:
        node = self.lookup(path)
        if node.kind != stat.S_IFLNK:
            raise _error(errno.EINVAL, path)
        return self._view.readlink(node)

    def listxattr(self, path: bytes) -> list[bytes]:
        return list(self._view.xattrs(self.lookup(path)))

    def getxattr(self, path: bytes, name: bytes) -> bytes:
        found = self._view.xattrs(self.lookup(path)).get(name)
        if found is None:
            raise _error(errno.ENODATA, path)
        return found

    def statvfs(self) -> os.statvfs_result | None:
        """Of the upper directory's file system; None for a read-only union."""
        return os.fstatvfs(self._upper.host.fd) if self._upper is not None else None

    # open files

    def open(self, path: bytes, flags: int) -> Body:
        """Opens a regular file; a copy-up happens here when the flags allow writing (reference 3.2)."""
        node = self.lookup(path)
        if node.is_dir:
            raise _error(errno.EISDIR, path)
        writing = flags & os.O_ACCMODE != os.O_RDONLY or flags & os.O_TRUNC
        if writing:
            self._copy_up(path, Data.EMPTY if flags & os.O_TRUNC else Data.ALL)
            node = self.lookup(path)
        body = self._body(node)
        if writing:
            self._reopen(body, path)
            if flags & os.O_TRUNC and os.fstat(body.fd).st_size:
                body.truncate(0)
        body.references += 1
        return body

    def release(self, body: Body) -> None:
        body.references -= 1
        if body.references <= 0:
            body.close()
            self._bodies.pop(body.ino, None)

    def _body(self, node: Node) -> Body:
        attributes = self._view.attributes(node)
        body = self._bodies.get(attributes.ino)
        if body is None:
            body = Body(attributes, self._view.content(node))
            self._bodies[attributes.ino] = body
        return body

    def _reopen(self, body: Body, path: bytes) -> None:
        """Puts a body on the upper file, open for writing."""
        if self._upper is None or (body.fd >= 0 and body.complete):
            return
        body.move(self._upper.host.open(path, os.O_RDWR), complete=True)

    # what changes have in common

    def _writer(self) -> Upper:
        if self._upper is None:
            raise OSError(errno.EROFS, os.strerror(errno.EROFS))
        return self._upper

    def _facts(self, path: bytes) -> Facts:
        view = self._writer().view
        directory, name = split(path)
        if len(name) > _NAME_MAX:
            raise _error(errno.ENAMETOOLONG, path)
        parent = require(view.find(directory), directory)
        if not parent.is_dir:
            raise _error(errno.ENOTDIR, path)
        node = view.child(parent, name)
        lower = view.below is not None and parent.below is not None and view.below.child(parent.below, name) is not None
        if node is None:
            return Facts(path, lower=lower, whiteout=parent.here and view.host.lstat(path) is not None)
        return Facts(
            path,
            exists=True,
            is_dir=node.is_dir,
            here=node.here,
            lower=lower,
            merged=node.is_dir and node.below is not None,
            metacopy=view.is_metacopy(node),
            litter=node.is_dir and node.here and bool(view.host.scan(path)),
        )

    def _parent_here(self, path: bytes) -> LayerNode:
        return self._writer().copy_parents(path)

    def _copy_up(self, path: bytes, data: Data) -> None:
        upper = self._writer()
        node = require(upper.view.find(path), path)
        if node.here and (node.is_dir or data is Data.NONE or not upper.view.lacks_bytes(node)):
            return
        self._parent_here(path)
        names: tuple[bytes, ...] = (path,)
        if not node.is_dir and not node.here:
            names = tuple(upper.view.links(node)) or names
            for other in names:
                self._parent_here(other)
        ino = upper.view.attributes(node).ino
        regular = node.kind == stat.S_IFREG
        facts = Facts(path, True, node.is_dir, node.here, metacopy=upper.view.lacks_bytes(node))
        upper.perform(plan.plan_copy_up(facts, names, data if regular else Data.ALL))
        if ino in self._bodies and regular and data is not Data.NONE:
            self._reopen(self._bodies[ino], path)

    @contextmanager
    def _changing(self, path: bytes) -> Iterator[bytes]:
        """Copies up an entry's attributes; gives a name of it for the calls that change them."""
        self._copy_up(path, Data.NONE)
        with self._writer().host.handle(path) as target:
            yield target
        self._writer().view.drop(path)

    # attributes

    def chmod(self, path: bytes, mode: int) -> None:
        with self._changing(path) as target:
            os.chmod(target, stat.S_IMODE(mode))

    def chown(self, path: bytes, uid: int, gid: int) -> None:
        """-1 leaves an id as it is. A change drops set-id bits of non-directories, as chown(2)."""
        with self._changing(path) as target:
            os.chown(target, uid, gid)

    def utimens(self, path: bytes, atime_ns: int | None, mtime_ns: int | None) -> None:
        """None leaves a time as it is."""
        with self._changing(path) as target:
            set_times(target, atime_ns, mtime_ns)

    def truncate(self, path: bytes, size: int) -> None:
        node = self.lookup(path)
        if node.is_dir:
            raise _error(errno.EISDIR, path)
        if node.kind != stat.S_IFREG:
            raise _error(errno.EINVAL, path)
        self._copy_up(path, Data.ALL if size else Data.EMPTY)
        body = self._bodies.get(self.getattr(path).ino)
        if body is not None:
            self._reopen(body, path)
        with self._writer().host.handle(path) as target:
            os.truncate(target, size)

    def setxattr(self, path: bytes, name: bytes, value: bytes, flags: int = 0) -> None:
        with self._changing(path) as target:
            os.setxattr(target, self._marks.escape(name), value, flags)

    def removexattr(self, path: bytes, name: bytes) -> None:
        """An absent name is ENODATA and copies nothing up."""
        self._writer()
        self.getxattr(path, name)
        with self._changing(path) as target:
            os.removexattr(target, self._marks.escape(name))

    # creating

    def create(self, path: bytes, mode: int, *, uid: int, gid: int) -> Body:
        """A new regular file, open for reading and writing whatever its mode."""
        opened: list[int] = []

        def make(fd: int, name: bytes) -> None:
            flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
            opened.append(os.open(name, flags, 0o600, dir_fd=fd))

        try:
            self._create(path, make, stat.S_IFREG | stat.S_IMODE(mode), uid, gid)
            body = Body(self.getattr(path), None, opened[0])
        except BaseException:
            for fd in opened:
                os.close(fd)
            raise
        self._bodies[body.ino] = body
        body.references += 1
        return body

    def mknod(self, path: bytes, mode: int, rdev: int, *, uid: int, gid: int) -> None:
        """A file, FIFO, socket or device. A device 0:0 would be a whiteout: EPERM."""
        if stat.S_ISCHR(mode) and rdev == 0:
            raise _error(errno.EPERM, path)

        def make(fd: int, name: bytes) -> None:
            os.mknod(name, stat.S_IFMT(mode) | 0o600, rdev, dir_fd=fd)

        self._create(path, make, mode, uid, gid)

    def symlink(self, path: bytes, target: bytes, *, uid: int, gid: int) -> None:
        self._create(path, lambda fd, name: os.symlink(target, name, dir_fd=fd), None, uid, gid)

    def mkdir(self, path: bytes, mode: int, *, uid: int, gid: int) -> None:
        def make(fd: int, name: bytes) -> None:
            os.mkdir(name, 0o700, dir_fd=fd)

        self._create(path, make, stat.S_IFDIR | stat.S_IMODE(mode), uid, gid)

    def _create(self, path: bytes, make: Callable[[int, bytes], None], mode: int | None, uid: int, gid: int) -> None:
        upper = self._writer()
        facts = self._facts(path)
        if facts.exists:
            raise _error(errno.EEXIST, path)
        parent = upper.view.attributes(self._parent_here(path))
        directory = mode is not None and stat.S_ISDIR(mode)
        if parent.mode & stat.S_ISGID:  # the directory hands on its group, and to directories the bit
            gid = parent.gid
            mode = mode | stat.S_ISGID if mode is not None and directory else mode

        def make_owned(fd: int, name: bytes) -> None:
            make(fd, name)
            os.chown(name, uid, gid, dir_fd=fd, follow_symlinks=False)
            if mode is not None:
                os.chmod(name, stat.S_IMODE(mode), dir_fd=fd)

        upper.create(path, make_owned, facts, opaque=directory and (facts.lower or facts.whiteout))

    def link(self, old: bytes, new: bytes) -> None:
        """A second name: the file is copied up first, under all its names."""
        upper = self._writer()
        facts = self._facts(new)
        source = self.lookup(old)
        if facts.exists:
            raise _error(errno.EEXIST, new)
        if source.is_dir:
            raise _error(errno.EPERM, old)
        self._copy_up(old, Data.NONE)
        self._parent_here(new)
        if self._facts(old).metacopy:
            upper.perform([plan.Redirect(old, same_parent=False)])
        old_fd, name = upper.host.place(old)
        old_fd = os.dup(old_fd)
        try:
            upper.perform([plan.Impure(split(new)[0])])
            upper.create(
                new,
                lambda fd, entry: os.link(name, entry, src_dir_fd=old_fd, dst_dir_fd=fd, follow_symlinks=False),
                facts,
                opaque=False,
            )
        finally:
            os.close(old_fd)

    # removing and renaming

    def unlink(self, path: bytes) -> None:
        self._writer()
        facts = self._existing(path)
        if facts.is_dir:
            raise _error(errno.EISDIR, path)
        self._remove(facts)

    def rmdir(self, path: bytes) -> None:
        self._writer()
        if not path:
            raise _error(errno.EBUSY, path)
        facts = self._existing(path)
        if not facts.is_dir:
            raise _error(errno.ENOTDIR, path)
        if self.listdir(path):
            raise _error(errno.ENOTEMPTY, path)
        self._remove(facts)

    def _existing(self, path: bytes) -> Facts:
        facts = self._facts(path)
        if not facts.exists:
            raise _error(errno.ENOENT, path)
        return facts

    def _remove(self, facts: Facts) -> None:
        self._parent_here(facts.path)
        self._writer().perform(plan.plan_remove(facts))

    def rename(self, old: bytes, new: bytes, flags: int = 0) -> None:
        """renameat2(2) with RENAME_NOREPLACE and RENAME_EXCHANGE; other flags are EINVAL."""
        upper = self._writer()
        if flags & ~(NOREPLACE | EXCHANGE) or flags == NOREPLACE | EXCHANGE:
            raise _error(errno.EINVAL, old)
        source, target = self._facts(old), self._facts(new)
        if flags & EXCHANGE:
            self._exchange(source, target)
            return
        if not flags and source.exists and target.exists and self.getattr(old).ino == self.getattr(new).ino:
            return
        empty = not (target.exists and target.is_dir) or not self.listdir(new)
        plan.check_rename(source, target, new_empty=empty, replace=not flags & NOREPLACE)
        self._copy_up(old, Data.NONE)
        parent = self._parent_here(new)
        source, target = self._facts(old), self._facts(new)
        upper.perform(plan.plan_rename(source, target, merged_parent=parent.below is not None))

    def _exchange(self, source: Facts, target: Facts) -> None:
        for facts in (source, target):
            if not facts.exists:
                raise _error(errno.ENOENT, facts.path)
        old, new = source.path, target.path
        if new.startswith(old + b"/") or old.startswith(new + b"/"):
            raise _error(errno.EINVAL, old)
        if old == new:
            return
        self._copy_up(old, Data.NONE)
        self._copy_up(new, Data.NONE)
        parents = [self._parent_here(path).below is not None for path in (old, new)]
        steps = plan.plan_exchange(
            self._facts(old), self._facts(new), old_parent_merged=parents[0], new_parent_merged=parents[1]
        )
        self._writer().perform(steps)

    # files without names

    def orphan(self, path: bytes) -> Body:
        """Removes a name whose file is open; the file lives on in its body until the last `release`."""
        node = self.lookup(path)
        body = self._body(node)
        if self._upper is not None and isinstance(node, LayerNode) and node.here and body.fd < 0:
            complete = not self._upper.view.lacks_bytes(node)
            body.move(self._upper.host.open(path, os.O_RDWR), complete=complete)
        body.references += 1
        try:
            self.unlink(path)
        except BaseException:
            self.release(body)
            raise
        return body

    def materialise(self, body: Body) -> int:
        """The fd of a nameless file, fit for changes."""
        upper = self._writer()

        def fill(fd: int, content: Content) -> None:
            os.ftruncate(fd, content.size)
            copy_content(content, fd)

        return body.materialise(upper.anonymous, fill)

    def sync(self, path: bytes) -> None:
        """fsync of a directory; lower ones are on disk already."""
        node = self.lookup(path)
        if self._upper is not None and isinstance(node, LayerNode) and node.here:
            fd = self._upper.host.open(path, os.O_RDONLY | os.O_DIRECTORY) if path else os.dup(self._upper.host.fd)
            try:
                os.fsync(fd)
            finally:
                os.close(fd)


def set_times(target: bytes | int, atime_ns: int | None, mtime_ns: int | None) -> None:
    """utimensat(2) with None for UTIME_OMIT."""
    if atime_ns is None or mtime_ns is None:
        now = os.stat(target)
        atime_ns = now.st_atime_ns if atime_ns is None else atime_ns
        mtime_ns = now.st_mtime_ns if mtime_ns is None else mtime_ns
    os.utime(target, ns=(atime_ns, mtime_ns))
