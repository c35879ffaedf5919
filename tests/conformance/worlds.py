"""The implementations that the suite runs on: each mounts layers with one writable directory.

`python`, `kernel` and `native` are layerfs's engines, `uring` is `native` over io_uring, `native-plain` without every
optional feature; `overlayfs` is the kernel's own with its default options over unpacked copies of the same layers: the
reference, whose known divergences are marked on the tests.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import stat
import time
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, ClassVar

import uring
from trees import Entry, Shelf

from layerfs import mount
from layerfs.layer.tree import Tree
from layerfs.snapshot import MountHandle, MountTable, Writable, mount_tree
from layerfs.snapshot.native import SWITCHES, start_native
from layerfs.snapshot.settle import settle
from layerfs.store.root import StoreRoot
from layerfs.union import Contents, Union

IN_PROCESS = bool(os.environ.get("LAYERFS_TEST_IN_PROCESS"))  # the native server as a thread of the tests
Layers = tuple[Sequence[Entry], ...]


class World:
    """One writable layer over given layers. `root` is the mounted tree."""

    name: ClassVar[str]
    reference: ClassVar[bool] = False
    stable_links: ClassVar[bool] = True  # st_ino of hard-linked copies survives a remount

    def __init__(self, home: Path, layers: Layers) -> None:
        self.home, self.layers = home, layers
        self.upper, self.work, self.root = home / "upper", home / "work", home / "merged"
        for directory in (self.upper, self.work, self.root):
            directory.mkdir(parents=True)

    def mount(self) -> Path:
        raise NotImplementedError

    def unmount(self) -> None:
        raise NotImplementedError

    def remount(self) -> Path:
        self.unmount()
        return self.mount()

    @property
    def server(self) -> int | None:
        """The process that serves the mount; None: the kernel does."""
        return None

    def in_upper(self, path: str) -> os.stat_result | None:
        with suppress(FileNotFoundError, NotADirectoryError):
            return (self.upper / path).lstat()
        return None

    def is_whiteout(self, path: str) -> bool:
        found = self.in_upper(path)
        return found is not None and stat.S_ISCHR(found.st_mode) and found.st_rdev == 0

    def mark(self, path: str, name: str) -> bytes | None:
        with suppress(OSError):
            return os.getxattr(self.upper / path, f"trusted.overlay.{name}", follow_symlinks=False)
        return None


class EngineWorld(World):
    engine: ClassVar[str]
    store: ClassVar[StoreRoot]
    shelf: ClassVar[Shelf]
    trees: ClassVar[dict[int, tuple[Layers, Tree]]] = {}

    def __init__(self, home: Path, layers: Layers) -> None:
        super().__init__(home, layers)
        self._handle: MountHandle | None = None

    @property
    def table(self) -> MountTable:
        return MountTable(self.store)

    @property
    def tree(self) -> Tree:
        known = EngineWorld.trees.get(id(self.layers))
        if known is None:
            known = self.layers, self.shelf.tree(*self.layers)
            EngineWorld.trees[id(self.layers)] = known
        return known[1]

    @property
    def container(self) -> str:
        return hashlib.sha256(os.fsencode(self.home)).hexdigest()

    def mount(self) -> Path:
        return self.mount_with(self.engine)

    def mount_with(self, engine: str) -> Path:
        writable = Writable(self.container, self.upper, self.work)
        self._handle = mount_tree(
            self.store,
            self.tree,
            engine=engine,
            target=self.root,
            writable=writable,
            in_process=IN_PROCESS and engine == "native",
            options=("volatile",),
        )
        return self.root

    @property
    def server(self) -> int | None:
        return next(
            (r.pid for r in self.table.records() if r.container == self.container and r.engine != "kernel"), None
        )

    def union(self) -> Union:
        """The union in this process; nothing may be mounted."""
        settle(self.tree, self.upper, self.work)
        packs = [(number, self.shelf.pack_path(number)) for number in self.tree.packs]
        return Union(self.tree, Contents(self.shelf.objects, packs), upper=self.upper, work=self.work, sync=False)

    def unmount(self) -> None:
        if self._handle is not None:
            handle, self._handle = self._handle, None
            handle.unmount()


class PythonWorld(EngineWorld):
    name = engine = "python"


class KernelWorld(EngineWorld):
    name = engine = "kernel"


class NativeWorld(EngineWorld):
    name = engine = "native"


class UringWorld(NativeWorld):
    """The native engine over io_uring."""

    name = "uring"

    def mount_with(self, engine: str) -> Path:
        with uring.switched_on():
            return super().mount_with(engine)


class PlainNativeWorld(NativeWorld):
    """The same as on Linux 5.4: protocol 7.31, and every feature switched off: no passthrough, no caches."""

    name = "native-plain"
    pid = 0

    def mount_with(self, engine: str) -> Path:
        if engine != self.engine:
            return super().mount_with(engine)
        settle(self.tree, self.upper, self.work)
        orders = {
            "tree": str(self.tree.path),
            "packs": str(self.store.path / "packs"),
            "objects": str(self.store.path / "objects"),
            "target": str(self.root),
            "name": f"layerfs:{self.home.name}",
            "upper": str(self.upper),
            "work": str(self.work),
            "minor": "31",
        }
        self.pid = start_native(orders, ["volatile", *(set(SWITCHES) - {"strict"})])
        return self.root

    @property
    def server(self) -> int | None:
        return self.pid or super().server

    def unmount(self) -> None:
        super().unmount()
        pid, self.pid = self.pid, 0
        if pid:
            mount.detach(self.root)
            await_end(pid)


class OverlayWorld(World):
    name = "overlayfs"
    reference = True
    stable_links = False

    def __init__(self, home: Path, layers: Layers) -> None:
        super().__init__(home, layers)
        self.lowers = []
        for number, entries in enumerate(layers):
            lower = home / f"lower{number}"
            lower.mkdir()
            unpack(lower, entries)
            self.lowers.append(lower)
        self._mounted = False

    def mount(self) -> Path:
        options: list[mount.Option] = [("lowerdir+", str(path)) for path in reversed(self.lowers)]
        options += [("upperdir", str(self.upper)), ("workdir", str(self.work)), ("volatile", None)]
        mount.attach("overlay", options, self.root)
        self._mounted = True
        return self.root

    def unmount(self) -> None:
        if self._mounted:
            mount.detach(self.root)
            self._mounted = False
            shutil.rmtree(self.work / "work" / "incompat", ignore_errors=True)


def await_end(pid: int) -> None:
    """Until a server that was unmounted is gone, and has let go of its files."""
    deadline = time.monotonic() + 60  # others may have copied the mount namespace meanwhile
    while os.path.exists(f"/proc/{pid}/exe"):  # Path.exists raises for a process that ends in between
        assert time.monotonic() < deadline, "the server outlives its mount"
        time.sleep(0.005)


def unpack(root: Path, entries: Sequence[Entry]) -> None:
    """A layer as a directory in overlayfs's format; times of directories last."""
    later = []
    for entry in entries:
        path = root / entry.name
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.name == ".wh..wh..opq":
            os.setxattr(path.parent, "trusted.overlay.opaque", b"y")
        elif path.name.startswith(".wh."):
            os.mknod(path.with_name(path.name.removeprefix(".wh.")), stat.S_IFCHR, 0)
        else:
            make(root, path, entry)
            later.append((path, entry))
    for path, entry in reversed(later):
        time = round(entry.mtime * 1_000_000_000)
        os.utime(path, ns=(time, time), follow_symlinks=False)


def make(root: Path, path: Path, entry: Entry) -> None:
    info = entry.info()
    if info.isdir():
        path.mkdir(exist_ok=True)
    elif info.issym():
        path.symlink_to(entry.target)
    elif info.islnk():
        path.hardlink_to(root / entry.target)
        return
    elif info.isfile():
        path.write_bytes(entry.data)
    else:
        kind = {b"3": stat.S_IFCHR, b"4": stat.S_IFBLK, b"6": stat.S_IFIFO}[entry.type]
        os.mknod(path, kind | 0o600, os.makedev(*entry.device))
    os.chown(path, entry.uid, entry.gid, follow_symlinks=False)
    for name, value in entry.xattrs.items():
        os.setxattr(path, name, value, follow_symlinks=False)
    if not info.issym():
        path.chmod(entry.mode)


_ALL: tuple[type[World], ...] = (PythonWorld, KernelWorld, NativeWorld, UringWorld, PlainNativeWorld, OverlayWorld)
WORLDS: dict[str, type[World]] = {world.name: world for world in _ALL}


# --- comparing trees ---------------------------------------------------------------------------------------------


def picture(root: Path, *, inodes: bool = True, ctime: bool = False) -> dict[bytes, tuple[Any, ...]]:
    """Everything a user can see of a tree, by path. Directory sizes and nlinks are the file system's own business."""
    found = {}
    for path in walk(os.fsencode(root)):
        entry = os.lstat(path)
        kind = stat.S_IFMT(entry.st_mode)
        facts: list[Any] = [entry.st_mode, entry.st_uid, entry.st_gid, entry.st_mtime_ns, entry.st_rdev]
        facts.append(
            tuple(
                sorted(
                    (n, os.getxattr(path, n, follow_symlinks=False)) for n in os.listxattr(path, follow_symlinks=False)
                )
            )
        )
        if kind != stat.S_IFDIR:
            facts += [entry.st_nlink, entry.st_size]
        if kind == stat.S_IFREG:
            facts.append(digest(path, entry.st_size))
        if kind == stat.S_IFLNK:
            facts.append(os.readlink(path))
        if inodes and path != os.fsencode(root):
            facts.append(entry.st_ino)
        found[path[len(os.fsencode(root)) :]] = tuple(facts)
    return found


def digest(path: bytes, size: int) -> str:
    if size > 1 << 26:
        return "big"
    with open(path, "rb") as file:
        return hashlib.sha256(file.read()).hexdigest()


def walk(root: bytes) -> Iterator[bytes]:
    yield root
    with os.scandir(root) as entries:
        names = sorted(entries, key=lambda entry: entry.name)
    for entry in names:
        if entry.is_dir(follow_symlinks=False):
            yield from walk(entry.path)
        else:
            yield entry.path


def union_picture(union: Union, *, inodes: bool) -> dict[bytes, tuple[Any, ...]]:
    """The same picture from the union rules alone, without a mount."""
    found: dict[bytes, tuple[Any, ...]] = {}

    def visit(path: bytes) -> None:
        entry = union.getattr(path)
        kind = stat.S_IFMT(entry.mode)
        facts: list[Any] = [entry.mode, entry.uid, entry.gid, entry.mtime_ns, entry.rdev]
        facts.append(tuple(sorted((n.decode(), union.getxattr(path, n)) for n in union.listxattr(path))))
        if kind != stat.S_IFDIR:
            facts += [entry.nlink, entry.size]
        if kind == stat.S_IFREG:
            facts.append(union_digest(union, path, entry.size))
        if kind == stat.S_IFLNK:
            facts.append(union.readlink(path))
        if inodes and path:
            facts.append(entry.ino)
        found[b"/" + path if path else b""] = tuple(facts)
        for name in sorted(union.listdir(path)) if kind == stat.S_IFDIR else ():
            visit(path + b"/" + name if path else name)

    visit(b"")
    return found


def union_digest(union: Union, path: bytes, size: int) -> str:
    if size > 1 << 26:
        return "big"
    body = union.open(path, os.O_RDONLY)
    try:
        return hashlib.sha256(body.read(size, 0)).hexdigest()
    finally:
        union.release(body)
