"""Random operations on the native engine with what test_union_stateful lacks: descriptors kept over other operations,
mappings, files without a name, xattrs, times, owners, flags of rename, and commits with a new container on top.
Beside it the kernel's overlayfs does the same; a dict says what both must show.

LAYERFS_STEPS: about how many steps in all.
"""

from __future__ import annotations

import contextlib
import errno
import mmap
import os
import shutil
import stat
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, rule, run_state_machine_as_test

sys.path[:0] = [str(Path(__file__).parent), str(Path(__file__).parents[1] / "conformance")]

from calls import renameat2
from filemodel import EXCHANGE, NOREPLACE, Beside, Inode, Model, Refused
from trees import directory, file, hardlink, symlink, tar
from worlds import OverlayWorld

import layerfs
from layerfs import mount
from tests.crash.world import docker_archive
from tests.property.profiles import lives

pytestmark = [pytest.mark.root, pytest.mark.timeout(36_000)]

STEPS = int(os.environ.get("LAYERFS_STEPS", "600"))
IN_EXAMPLE = 40
MTIME = 1_500_000_000 * 10**9
BIG = bytes(range(256)) * 5000  # passed through while nobody has written to it
MIDDLE = bytes(range(256)) * 600
LAYERS = (
    [
        file("a", b"lower a"),
        hardlink("c", "a"),
        file("b", MIDDLE),
        directory("d"),
        hardlink("d/b", "b"),
        file("d/a", b"lower d/a", xattrs={"user.t": b"lower"}),
        directory("d/e"),
        file("d/e/a", BIG, mode=0o600),
        symlink("s", "nowhere"),
        directory("x"),
        file("x/a", b"hidden"),
        file("x/b", b"kept"),
    ],
    [file("x/.wh.a"), directory("y"), file("y/a", b"y", uid=7, gid=8), file("d/c", b"from the top")],
)
FOLDERS = ("", "d", "d/e", "x", "y", "y/e")
NAMES = ("a", "b", "c", "e", "x", "y")
paths = st.builds(lambda f, n: f"{f}/{n}" if f else n, st.sampled_from(FOLDERS), st.sampled_from(NAMES))
slots = st.integers(0, 3)
offsets = st.sampled_from([0, 3, 4095, 100_000])
pieces = st.one_of(st.binary(min_size=1, max_size=20), st.sampled_from([b"z" * 4096, b"q" * 70_000]))


@dataclass
class Node(Inode):
    mtime: int | None = None  # None: when it was changed, whenever that was
    uid: int = 0
    gid: int = 0
    linkable: bool = False  # made without a name, and not given one yet


class KeptModel(Model):
    """With descriptors: slot -> inode."""

    def __init__(self) -> None:
        super().__init__()
        self.kept: dict[int, Node] = {}
        for entries in LAYERS:
            for entry in entries:
                self._lay(entry)

    def _lay(self, entry: Any) -> None:
        folder, name = self.parent(entry.name)
        if name.startswith(".wh."):
            del folder.children[name[4:]]
        elif entry.info().islnk():
            folder.children[name] = self.find(entry.target)
        else:
            info = entry.info()
            kind = "dir" if info.isdir() else "link" if info.issym() else "file"
            node = Node(kind, entry.mode, entry.data, entry.target, dict(entry.xattrs))
            node.mtime, node.uid, node.gid = (MTIME if kind != "dir" else None), entry.uid, entry.gid
            folder.children[name] = node

    def create(self, path: str, data: bytes, mode: int) -> None:
        self._place(path, Node("file", mode, data))

    def mkdir(self, path: str, mode: int) -> None:
        self._place(path, Node("dir", mode))

    def symlink(self, path: str, target: str) -> None:
        self._place(path, Node("link", 0o777, target=target))

    def _touch(self, node: Any) -> None:
        node.mtime = None

    def write(self, path: str, offset: int, data: bytes) -> None:
        super().write(path, offset, data)
        self._touch(self.find(path))

    def truncate(self, path: str, size: int) -> None:
        super().truncate(path, size)
        self._touch(self.find(path))

    def cut(self, path: str) -> None:
        self.truncate(path, 0)

    def utime(self, path: str, time: int) -> None:
        node: Any = self.find(path)
        node.mtime = time

    def chown(self, path: str, uid: int, gid: int) -> None:
        node: Any = self.find(path)
        node.uid, node.gid = uid, gid

    def removexattr(self, path: str, name: str) -> None:
        node = self.find(path)
        if node.kind == "link" and name.startswith("user."):
            raise Refused(errno.EPERM)
        if name not in node.xattrs:
            raise Refused(errno.ENODATA)
        del node.xattrs[name]

    # descriptors

    def keep(self, slot: int, path: str) -> None:
        self.kept[slot] = self._file(path)  # type: ignore[assignment]

    def keep_nameless(self, slot: int, folder: str) -> None:
        node = self.find(folder) if folder else self.root
        if node.kind == "link":
            raise Refused(errno.ENOENT)
        if node.kind != "dir":
            raise Refused(errno.ENOTDIR)
        self.kept[slot] = Node("file", 0o600, linkable=True)

    def kept_read(self, slot: int) -> bytes:
        return self.kept[slot].data

    def kept_write(self, slot: int, offset: int, data: bytes) -> None:
        node = self.kept[slot]
        padded = node.data.ljust(offset, b"\0")
        node.data = padded[:offset] + data + padded[offset + len(data) :]
        self._touch(node)

    def kept_map(self, slot: int, data: bytes) -> None:
        node = self.kept[slot]
        if node.data:
            data = data[: len(node.data)]
            node.data = data + node.data[len(data) :]
            self._touch(node)

    def kept_truncate(self, slot: int, size: int) -> None:
        node = self.kept[slot]
        node.data = node.data[:size].ljust(size, b"\0")
        self._touch(node)

    def kept_chmod(self, slot: int, mode: int) -> None:
        self.kept[slot].mode = mode

    def kept_setxattr(self, slot: int, value: bytes) -> None:
        self.kept[slot].xattrs["user.kept"] = value

    def kept_stat(self, slot: int) -> tuple[int, ...]:
        node = self.kept[slot]
        return len(node.data), node.mode, node.uid, node.gid, self.names_of(node)

    def kept_link(self, slot: int, path: str) -> None:
        node = self.kept[slot]
        folder, name = self.parent(path)
        if name in folder.children:
            raise Refused(errno.EEXIST)
        if not self.names_of(node) and not node.linkable:
            raise Refused(errno.ENOENT)
        folder.children[name] = node
        node.linkable = False

    def drop(self, slot: int) -> None:
        self.kept.pop(slot)


class Mounted:
    """System calls on a mount; `world` mounts, remounts and commits."""

    def __init__(self, world: Any) -> None:
        self.world, self.root = world, world.mount()
        self.kept: dict[int, int] = {}

    def _at(self, path: str) -> Path:
        return self.root / path

    def create(self, path: str, data: bytes, mode: int) -> None:
        fd = os.open(self._at(path), os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, mode & 0o777)
        try:
            os.write(fd, data)
            os.fchmod(fd, mode)
        finally:
            os.close(fd)

    def mkdir(self, path: str, mode: int) -> None:
        os.mkdir(self._at(path))
        os.chmod(self._at(path), mode)

    def symlink(self, path: str, target: str) -> None:
        os.symlink(target, self._at(path))

    @contextlib.contextmanager
    def _open(self, path: str, flags: int) -> Any:
        fd = os.open(self._at(path), flags | os.O_NOFOLLOW)
        try:
            yield fd
        finally:
            os.close(fd)

    def write(self, path: str, offset: int, data: bytes) -> None:
        with self._open(path, os.O_WRONLY) as fd:
            os.pwrite(fd, data, offset)

    def truncate(self, path: str, size: int) -> None:
        if os.lstat(self._at(path)).st_mode & stat.S_IFMT(0o170000) == stat.S_IFLNK:
            raise OSError(errno.ELOOP, "symlink")
        os.truncate(self._at(path), size)

    def cut(self, path: str) -> None:
        with self._open(path, os.O_WRONLY | os.O_TRUNC):
            pass

    def read(self, path: str) -> bytes:
        with self._open(path, os.O_RDONLY) as fd:
            return os.read(fd, 1 << 24)

    def chmod(self, path: str, mode: int) -> None:
        if stat.S_ISLNK(os.lstat(self._at(path)).st_mode):
            raise OSError(errno.ENOTSUP, "not supported")
        os.chmod(self._at(path), mode)

    def chown(self, path: str, uid: int, gid: int) -> None:
        os.chown(self._at(path), uid, gid, follow_symlinks=False)

    def utime(self, path: str, time: int) -> None:
        os.utime(self._at(path), ns=(time, time), follow_symlinks=False)

    def setxattr(self, path: str, name: str, value: bytes) -> None:
        os.setxattr(self._at(path), name, value, follow_symlinks=False)

    def removexattr(self, path: str, name: str) -> None:
        os.removexattr(self._at(path), name, follow_symlinks=False)

    def unlink(self, path: str) -> None:
        os.unlink(self._at(path))

    def rmdir(self, path: str) -> None:
        os.rmdir(self._at(path))

    def link(self, old: str, new: str) -> None:
        os.link(self._at(old), self._at(new), follow_symlinks=False)

    def rename(self, old: str, new: str, flags: int = 0) -> None:
        renameat2(self._at(old), self._at(new), flags)

    # descriptors

    def keep(self, slot: int, path: str) -> None:
        self.kept[slot] = os.open(self._at(path), os.O_RDWR | os.O_NOFOLLOW)

    def keep_nameless(self, slot: int, folder: str) -> None:
        self.kept[slot] = os.open(self._at(folder), os.O_RDWR | os.O_TMPFILE, 0o600)

    def kept_read(self, slot: int) -> bytes:
        return os.pread(self.kept[slot], 1 << 24, 0)

    def kept_write(self, slot: int, offset: int, data: bytes) -> None:
        os.pwrite(self.kept[slot], data, offset)

    def kept_map(self, slot: int, data: bytes) -> None:
        size = os.fstat(self.kept[slot]).st_size
        if size:
            with mmap.mmap(self.kept[slot], size) as mapping:
                mapping[: min(size, len(data))] = data[:size]

    def kept_truncate(self, slot: int, size: int) -> None:
        os.ftruncate(self.kept[slot], size)

    def kept_chmod(self, slot: int, mode: int) -> None:
        os.fchmod(self.kept[slot], mode)

    def kept_setxattr(self, slot: int, value: bytes) -> None:
        os.setxattr(self.kept[slot], "user.kept", value)

    def kept_stat(self, slot: int) -> tuple[int, ...]:
        entry = os.fstat(self.kept[slot])
        return entry.st_size, stat.S_IMODE(entry.st_mode), entry.st_uid, entry.st_gid, entry.st_nlink

    def kept_link(self, slot: int, path: str) -> None:
        fd = self.kept[slot]
        os.link(f"/proc/self/fd/{fd}", self._at(path), src_dir_fd=fd, follow_symlinks=True)

    def drop(self, slot: int) -> None:
        os.close(self.kept.pop(slot))

    # the whole

    def remount(self) -> None:
        self.root = self.world.remount()

    def commit(self) -> None:
        self.root = self.world.commit()

    def snapshot(self) -> None:
        self.world.snapshot()

    def close(self) -> None:
        for fd in self.kept.values():
            os.close(fd)
        self.kept.clear()
        self.world.unmount()

    def look(self) -> dict[str, tuple[Any, ...]]:
        found = {}
        for path in sorted(self.root.rglob("*")):
            entry = path.lstat()
            names = os.listxattr(path, follow_symlinks=False)
            attributes = {name: os.getxattr(path, name, follow_symlinks=False) for name in names}
            facts: tuple[Any, ...] = (entry.st_uid, entry.st_gid, attributes)
            if stat.S_ISDIR(entry.st_mode):
                facts += ("dir", stat.S_IMODE(entry.st_mode))
            elif stat.S_ISLNK(entry.st_mode):
                facts += ("link", os.readlink(path), entry.st_nlink, entry.st_mtime_ns)
            else:
                facts += ("file", stat.S_IMODE(entry.st_mode), path.read_bytes(), entry.st_nlink, entry.st_mtime_ns)
            found[str(path.relative_to(self.root))] = facts
        return found


class StoreWorld:
    """A container of a store, on the native engine."""

    def __init__(self, home: Path) -> None:
        self.store = layerfs.Store(home)
        archive = docker_archive(home.parent / "base.tar", {"base:1": [tar(layer) for layer in LAYERS]}, compress=False)
        self.store.import_archive(archive)
        self.box = self.store.create("base:1")
        self.handle: Any = None

    def mount(self) -> Path:
        self.handle = self.box.mount(engine="native", options=("volatile",))
        return Path(self.handle.path)

    def unmount(self) -> None:
        if self.handle:
            self.handle.unmount()
            self.handle = None
        self.store.close()

    def remount(self) -> Path:
        self.handle.unmount()
        return self.mount()

    def commit(self) -> Path:
        self.handle.unmount()
        self.box = self.store.create(self.box.commit())
        return self.mount()

    def snapshot(self) -> None:
        self.box.snapshot()


class Overlay(OverlayWorld):
    """The kernel's overlayfs with everything on. A commit changes nothing for it: an upper that became a lower
    directory has lost its hard links to the lower ones below.
    """

    def __init__(self, home: Path) -> None:
        super().__init__(home, LAYERS)

    def mount(self) -> Path:
        upper = mount.Upper(self.upper, self.work)
        mount.overlay(self.root, lower=list(reversed(self.lowers)), upper=upper, volatile=True)
        self._mounted = True
        return self.root

    def commit(self) -> Path:
        return self.remount()

    def snapshot(self) -> None:
        pass


def expected(model: KeptModel) -> dict[str, tuple[Any, ...]]:
    found: dict[str, tuple[Any, ...]] = {}
    for path, some in model.walk():
        node: Any = some
        facts: tuple[Any, ...] = (node.uid, node.gid, node.xattrs)
        if node.kind == "dir":
            found[path] = (*facts, "dir", node.mode)
        elif node.kind == "link":
            found[path] = (*facts, "link", node.target, model.names_of(node), node.mtime)
        else:
            found[path] = (*facts, "file", node.mode, node.data, model.names_of(node), node.mtime)
    return found


def assert_shows(driver: Mounted, model: KeptModel, when: str) -> None:
    wanted, found = expected(model), driver.look()
    for path in wanted.keys() & found.keys():
        if "dir" not in found[path] and (wanted[path][-1] is None or isinstance(driver.world, Overlay)):
            found[path] = (*found[path][:-1], wanted[path][-1])  # nobody set it; overlayfs loses it when it copies up
    different = {path: (found.get(path), wanted.get(path)) for path in found.keys() | wanted.keys()}
    shown = [(p, f"{a!s:.300}", f"{b!s:.300}") for p, (a, b) in different.items() if a != b]
    assert not shown, f"{driver.world} shows another tree {when}"


class Machine(Beside, RuleBasedStateMachine):
    scratch: ClassVar[Path]

    @initialize()
    def start(self) -> None:
        self.home = Path(tempfile.mkdtemp(dir=self.scratch))
        self.model = KeptModel()
        self.stack = contextlib.ExitStack()
        makers: dict[str, Callable[[Path], Any]] = {"native": StoreWorld, "overlay": Overlay}
        self.tested: dict[str, Mounted] = {}
        for name, maker in makers.items():
            self.tested[name] = Mounted(maker(self.home / name))
            self.stack.callback(self.tested[name].close)

    def teardown(self) -> None:
        if not hasattr(self, "stack"):
            return
        try:
            self._check("at the end")
            self._drop_all()
            for driver in self.tested.values():
                driver.remount()
            self._check("after a remount")
        finally:
            self.stack.close()
            shutil.rmtree(self.home, ignore_errors=True)

    def _check(self, when: str) -> None:
        for driver in self.tested.values():
            assert_shows(driver, self.model, when)

    def _drop_all(self) -> None:
        for slot in list(self.model.kept):
            self.act("drop", slot)

    def with_kept(self, operation: str, slot: int, *arguments: Any) -> None:
        if slot in self.model.kept:
            self.act(operation, slot, *arguments)

    # names

    @rule(path=paths, data=pieces, mode=st.sampled_from([0o600, 0o755, 0o4711]))
    def create(self, path: str, data: bytes, mode: int) -> None:
        self.act("create", path, data, mode)

    @rule(path=paths)
    def mkdir(self, path: str) -> None:
        self.act("mkdir", path, 0o755)

    @rule(path=paths)
    def unlink(self, path: str) -> None:
        self.act("unlink", path)

    @rule(path=st.sampled_from(FOLDERS[1:]))
    def remove_tree(self, path: str) -> None:
        self.act_on_tree(path)

    @rule(old=paths, new=paths)
    def link(self, old: str, new: str) -> None:
        self.act("link", old, new)

    @rule(old=paths, new=paths, flags=st.sampled_from([0, 0, NOREPLACE, EXCHANGE]))
    def rename(self, old: str, new: str, flags: int) -> None:
        self.act("rename", old, new, flags)

    @rule(old=st.sampled_from(FOLDERS[1:]), new=st.sampled_from(FOLDERS[1:]), flags=st.sampled_from([0, EXCHANGE]))
    def rename_directory(self, old: str, new: str, flags: int) -> None:
        self.act("rename", old, new, flags)

    # bytes and attributes by name

    @rule(path=paths, offset=offsets, data=pieces)
    def write(self, path: str, offset: int, data: bytes) -> None:
        self.act("write", path, offset, data)

    @rule(path=paths, size=st.sampled_from([0, 1, 4096, 50_000]))
    def truncate(self, path: str, size: int) -> None:
        self.act("truncate", path, size)

    @rule(path=paths)
    def cut(self, path: str) -> None:
        self.act("cut", path)

    @rule(path=paths, mode=st.sampled_from([0o600, 0o644, 0o2755]))
    def chmod(self, path: str, mode: int) -> None:
        self.act("chmod", path, mode)

    @rule(path=paths, time=st.sampled_from([0, 1, MTIME + 1, 2**32 * 10**9 + 5, -(10**9)]))
    def utime(self, path: str, time: int) -> None:
        self.act("utime", path, time)

    @rule(path=paths, name=st.sampled_from(["user.t", "user.kept"]), value=st.binary(max_size=5))
    def setxattr(self, path: str, name: str, value: bytes) -> None:
        self.act("setxattr", path, name, value)

    @rule(path=paths, name=st.sampled_from(["user.t", "user.kept"]))
    def removexattr(self, path: str, name: str) -> None:
        self.act("removexattr", path, name)

    # by descriptors that stay open

    @rule(slot=slots, path=paths)
    def keep(self, slot: int, path: str) -> None:
        self.with_kept("drop", slot)
        self.act("keep", slot, path)

    @rule(slot=slots, folder=st.sampled_from(FOLDERS))
    def keep_nameless(self, slot: int, folder: str) -> None:
        self.with_kept("drop", slot)
        self.act("keep_nameless", slot, folder)

    @rule(slot=slots)
    def kept_read(self, slot: int) -> None:
        self.with_kept("kept_read", slot)
        self.with_kept("kept_stat", slot)

    @rule(slot=slots, offset=offsets, data=pieces)
    def kept_write(self, slot: int, offset: int, data: bytes) -> None:
        self.with_kept("kept_write", slot, offset, data)

    @rule(slot=slots, data=pieces)
    def kept_map(self, slot: int, data: bytes) -> None:
        self.with_kept("kept_map", slot, data)

    @rule(slot=slots, size=st.sampled_from([0, 1, 4096, 50_000]))
    def kept_truncate(self, slot: int, size: int) -> None:
        self.with_kept("kept_truncate", slot, size)

    @rule(slot=slots, mode=st.sampled_from([0o600, 0o644, 0o2755]))
    def kept_chmod(self, slot: int, mode: int) -> None:
        self.with_kept("kept_chmod", slot, mode)

    @rule(slot=slots, value=st.binary(max_size=5))
    def kept_setxattr(self, slot: int, value: bytes) -> None:
        self.with_kept("kept_setxattr", slot, value)

    @rule(slot=slots, path=paths)
    def kept_link(self, slot: int, path: str) -> None:
        self.with_kept("kept_link", slot, path)

    @rule(slot=slots)
    def drop(self, slot: int) -> None:
        self.with_kept("drop", slot)

    # the whole

    @rule()
    def remount(self) -> None:
        self._drop_all()
        for driver in self.tested.values():
            driver.remount()

    @rule()
    def commit(self) -> None:
        self._drop_all()
        for driver in self.tested.values():
            driver.commit()

    @rule()
    def snapshot(self) -> None:
        """With whatever is open: nobody notices."""
        for driver in self.tested.values():
            driver.snapshot()

    @rule()
    def drop_caches(self) -> None:
        Path("/proc/sys/vm/drop_caches").write_text("2")

    @rule()
    def check(self) -> None:
        self._check("in between")


def test_random_operations_with_open_files_and_commits(tmp_path: Path) -> None:
    Machine.scratch = tmp_path
    run_state_machine_as_test(Machine, settings=lives(STEPS, IN_EXAMPLE))
