"""Random operations: the union in Python, its FUSE mount, the kernel engine and overlayfs against a dict.

LAYERFS_DEEP=1 runs many more and longer examples.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import stat
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar

import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, rule, run_state_machine_as_test

sys.path[:0] = [str(Path(__file__).parent), str(Path(__file__).parents[1] / "conformance")]

from calls import renameat2
from filemodel import EXCHANGE, NOREPLACE, Beside, Inode, Model
from trees import Shelf, directory, file, hardlink, symlink
from worlds import EngineWorld, KernelWorld, NativeWorld, OverlayWorld, PythonWorld

from layerfs import mount
from layerfs.store.root import StoreRoot
from layerfs.union import Union

pytestmark = pytest.mark.root

DEEP = bool(os.environ.get("LAYERFS_DEEP"))
BIG = bytes(range(256)) * 600
LAYERS = (
    [
        file("a", b"lower a"),
        file("b", BIG),
        directory("d"),
        file("d/a", b"lower d/a"),
        directory("d/e"),
        file("d/e/a", b"deep"),
        hardlink("d/b", "b"),
        hardlink("c", "a"),
        symlink("s", "nowhere"),
        directory("x"),
        file("x/a", b"hidden"),
        file("x/b", b"kept"),
    ],
    [file("x/.wh.a"), directory("y"), file("y/a", b"y"), file("d/c", b"from the top")],
)

FOLDERS = ("", "d", "d/e", "x", "y", "y/e")
NAMES = ("a", "b", "c", "d", "e", "s", "x", "y")
paths = st.builds(lambda f, n: f"{f}/{n}" if f else n, st.sampled_from(FOLDERS), st.sampled_from(NAMES))
contents = st.one_of(st.binary(max_size=20), st.sampled_from([b"z" * 4096, b"q" * 70_000]))
modes = st.sampled_from([0o600, 0o644, 0o755, 0o4711])


def lower_model() -> Model:
    model = Model()
    linked, big = Inode("file", data=b"lower a"), Inode("file", data=BIG)
    model.root.children = {
        "a": linked,
        "b": big,
        "c": linked,
        "d": Inode("dir", 0o755),
        "s": Inode("link", 0o777, target="nowhere"),
        "x": Inode("dir", 0o755, children={"b": Inode("file", data=b"kept")}),
        "y": Inode("dir", 0o755, children={"a": Inode("file", data=b"y")}),
    }
    model.root.children["d"].children = {
        "a": Inode("file", data=b"lower d/a"),
        "b": big,
        "c": Inode("file", data=b"from the top"),
        "e": Inode("dir", 0o755, children={"a": Inode("file", data=b"deep")}),
    }
    return model


class Mounted:
    """System calls on a mount."""

    def __init__(self, world: Any) -> None:
        self.world, self.root = world, world.mount()

    def _at(self, path: str) -> Path:
        return self.root / path

    def create(self, path: str, data: bytes, mode: int) -> None:
        fd = os.open(self._at(path), os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, mode & 0o777)
        os.write(fd, data)
        os.fchmod(fd, mode)
        os.close(fd)

    def mkdir(self, path: str, mode: int) -> None:
        self._at(path).mkdir()
        self._at(path).chmod(mode)

    def symlink(self, path: str, target: str) -> None:
        self._at(path).symlink_to(target)

    def write(self, path: str, offset: int, data: bytes) -> None:
        fd = os.open(self._at(path), os.O_WRONLY | os.O_NOFOLLOW)
        os.pwrite(fd, data, offset)
        os.close(fd)

    def truncate(self, path: str, size: int) -> None:
        fd = os.open(self._at(path), os.O_WRONLY | os.O_NOFOLLOW)
        os.ftruncate(fd, size)
        os.close(fd)

    def read(self, path: str) -> bytes:
        fd = os.open(self._at(path), os.O_RDONLY | os.O_NOFOLLOW)
        try:
            return os.read(fd, 1 << 24)
        finally:
            os.close(fd)

    def chmod(self, path: str, mode: int) -> None:
        if self._at(path).is_symlink():
            raise OSError(95, "not supported")
        self._at(path).chmod(mode)

    def setxattr(self, path: str, name: str, value: bytes) -> None:
        os.setxattr(self._at(path), name, value, follow_symlinks=False)

    def unlink(self, path: str) -> None:
        self._at(path).unlink()

    def rmdir(self, path: str) -> None:
        self._at(path).rmdir()

    def link(self, old: str, new: str) -> None:
        os.link(self._at(old), self._at(new), follow_symlinks=False)

    def rename(self, old: str, new: str, flags: int = 0) -> None:
        renameat2(self._at(old), self._at(new), flags)

    def remount(self) -> None:
        self.world.remount()

    def close(self) -> None:
        self.world.unmount()

    def look(self) -> dict[str, tuple[Any, ...]]:
        found = {}
        for path in sorted(self.root.rglob("*")):
            entry = path.lstat()
            if stat.S_ISDIR(entry.st_mode):
                facts: tuple[Any, ...] = ("dir", stat.S_IMODE(entry.st_mode))
            elif stat.S_ISLNK(entry.st_mode):
                facts = ("link", os.readlink(path), entry.st_nlink)
            else:
                facts = ("file", stat.S_IMODE(entry.st_mode), path.read_bytes(), entry.st_nlink)
            attributes = {
                n: os.getxattr(path, n, follow_symlinks=False) for n in os.listxattr(path, follow_symlinks=False)
            }
            found[str(path.relative_to(self.root))] = (*facts, attributes)
        return found


class InProcess:
    """The union without a mount; what the kernel's own checks would do first is done here."""

    def __init__(self, world: EngineWorld) -> None:
        self.world = world
        self.union: Union = world.union()

    def _at(self, path: str) -> bytes:
        """Links on the way lead nowhere."""
        parts = path.split("/")[:-1]
        for count in range(1, len(parts) + 1):
            try:
                entry = self.union.getattr("/".join(parts[:count]).encode())
            except FileNotFoundError:
                break
            if stat.S_ISLNK(entry.mode):
                raise FileNotFoundError(2, "a link that leads nowhere")
        return path.encode()

    def create(self, path: str, data: bytes, mode: int) -> None:
        body = self.union.create(self._at(path), mode, uid=0, gid=0)
        body.write(data, 0)
        self.union.release(body)

    def mkdir(self, path: str, mode: int) -> None:
        self.union.mkdir(self._at(path), mode, uid=0, gid=0)

    def symlink(self, path: str, target: str) -> None:
        self.union.symlink(self._at(path), target.encode(), uid=0, gid=0)

    def _open(self, path: str, flags: int) -> Any:
        if stat.S_ISLNK(self.union.getattr(self._at(path)).mode):
            raise OSError(40, "symlink")
        return self.union.open(self._at(path), flags)

    def write(self, path: str, offset: int, data: bytes) -> None:
        body = self._open(path, os.O_WRONLY)
        body.write(data, offset)
        self.union.release(body)

    def truncate(self, path: str, size: int) -> None:
        body = self._open(path, os.O_WRONLY)
        body.truncate(size)
        self.union.release(body)

    def read(self, path: str) -> bytes:
        body = self._open(path, os.O_RDONLY)
        try:
            return bytes(body.read(1 << 24, 0))
        finally:
            self.union.release(body)

    def chmod(self, path: str, mode: int) -> None:
        if stat.S_ISLNK(self.union.getattr(self._at(path)).mode):
            raise OSError(95, "not supported")
        self.union.chmod(self._at(path), mode)

    def setxattr(self, path: str, name: str, value: bytes) -> None:
        if stat.S_ISLNK(self.union.getattr(self._at(path)).mode):
            raise PermissionError(1, "user xattrs are for files and directories")
        self.union.setxattr(self._at(path), name.encode(), value)

    def unlink(self, path: str) -> None:
        self.union.unlink(self._at(path))

    def rmdir(self, path: str) -> None:
        self.union.rmdir(self._at(path))

    def link(self, old: str, new: str) -> None:
        self.union.link(self._at(old), self._at(new))

    def rename(self, old: str, new: str, flags: int = 0) -> None:
        self.union.rename(self._at(old), self._at(new), flags)

    def remount(self) -> None:
        self.union.close()
        self.union = self.world.union()

    def close(self) -> None:
        self.union.close()

    def look(self) -> dict[str, tuple[Any, ...]]:
        found: dict[str, tuple[Any, ...]] = {}

        def visit(path: bytes) -> None:
            for name in self.union.listdir(path):
                child = path + b"/" + name if path else name
                entry = self.union.getattr(child)
                if entry.is_dir:
                    facts: tuple[Any, ...] = ("dir", stat.S_IMODE(entry.mode))
                    visit(child)
                elif stat.S_ISLNK(entry.mode):
                    facts = ("link", self.union.readlink(child).decode(), entry.nlink)
                else:
                    facts = ("file", stat.S_IMODE(entry.mode), self.read(child.decode()), entry.nlink)
                attributes = {n.decode(): self.union.getxattr(child, n) for n in self.union.listxattr(child)}
                found[child.decode()] = (*facts, attributes)

        visit(b"")
        return found


class FullOverlay(OverlayWorld):
    """The kernel's overlayfs with everything on, as the oracle."""

    def mount(self) -> Path:
        upper = mount.Upper(self.upper, self.work)
        mount.overlay(self.root, lower=list(reversed(self.lowers)), upper=upper, volatile=True)
        self._mounted = True
        return self.root


def expected(model: Model) -> dict[str, tuple[Any, ...]]:
    found: dict[str, tuple[Any, ...]] = {}
    for path, node in model.walk():
        if node.kind == "dir":
            found[path] = ("dir", node.mode, node.xattrs)
        elif node.kind == "link":
            found[path] = ("link", node.target, model.names_of(node), node.xattrs)
        else:
            found[path] = ("file", node.mode, node.data, model.names_of(node), node.xattrs)
    return found


class Machine(Beside, RuleBasedStateMachine):
    drivers: ClassVar[tuple[str, ...]] = ("union", "kernel", "overlay")

    @initialize()
    def start(self) -> None:
        self.home = Path(tempfile.mkdtemp(dir=SCRATCH[0]))
        self.model = lower_model()
        self.stack = contextlib.ExitStack()
        self.tested: dict[str, Any] = {}
        for name in self.drivers:
            driver = MAKERS[name](self.home / name)
            self.stack.callback(driver.close)
            self.tested[name] = driver

    def teardown(self) -> None:
        if not hasattr(self, "stack"):
            return
        try:
            wanted = expected(self.model)
            for name, driver in self.tested.items():
                assert driver.look() == wanted, f"{name} shows another tree"
                driver.remount()
                assert driver.look() == wanted, f"{name} shows another tree after a remount"
        finally:
            self.stack.close()
            shutil.rmtree(self.home, ignore_errors=True)

    @rule(path=paths, data=contents, mode=modes)
    def create(self, path: str, data: bytes, mode: int) -> None:
        self.act("create", path, data, mode)

    @rule(path=paths, mode=modes)
    def mkdir(self, path: str, mode: int) -> None:
        self.act("mkdir", path, mode)

    @rule(path=paths)
    def symlink(self, path: str) -> None:
        self.act("symlink", path, "nowhere")

    @rule(path=paths, offset=st.sampled_from([0, 3, 4095, 100_000]), data=st.binary(min_size=1, max_size=9))
    def write(self, path: str, offset: int, data: bytes) -> None:
        self.act("write", path, offset, data)

    @rule(path=paths, size=st.sampled_from([0, 1, 4096, 50_000]))
    def truncate(self, path: str, size: int) -> None:
        self.act("truncate", path, size)

    @rule(path=paths)
    def read(self, path: str) -> None:
        self.act("read", path)

    @rule(path=paths, mode=modes)
    def chmod(self, path: str, mode: int) -> None:
        self.act("chmod", path, mode)

    @rule(path=paths, value=st.binary(max_size=5))
    def setxattr(self, path: str, value: bytes) -> None:
        self.act("setxattr", path, "user.t", value)

    @rule(path=paths)
    def unlink(self, path: str) -> None:
        self.act("unlink", path)

    @rule(path=st.sampled_from([*FOLDERS[1:], "a", "e"]))
    def rmdir(self, path: str) -> None:
        self.act("rmdir", path)

    @rule(path=st.sampled_from(FOLDERS[1:]))
    def remove_tree(self, path: str) -> None:
        self.act_on_tree(path)

    @rule(old=paths, new=paths)
    def link(self, old: str, new: str) -> None:
        self.act("link", old, new)

    @rule(old=paths, new=paths)
    def rename(self, old: str, new: str) -> None:
        self.act("rename", old, new)

    @rule(old=st.sampled_from(FOLDERS[1:]), new=paths)
    def rename_directory(self, old: str, new: str) -> None:
        self.act("rename", old, new)

    @rule(old=paths, new=paths, flags=st.sampled_from([NOREPLACE, EXCHANGE]))
    def rename_with_flags(self, old: str, new: str, flags: int) -> None:
        if "python" not in self.drivers:
            self.act("rename", old, new, flags)

    @rule()
    def remount(self) -> None:
        for driver in self.tested.values():
            driver.remount()

    @rule()
    def check(self) -> None:
        wanted = expected(self.model)
        for name, driver in self.tested.items():
            assert driver.look() == wanted, f"{name} shows another tree"


class FuseMachine(Machine):
    drivers = ("python",)


class NativeMachine(Machine):
    drivers = ("native",)


MAKERS: dict[str, Callable[[Path], Any]] = {
    "union": lambda home: InProcess(PythonWorld(home, LAYERS)),
    "python": lambda home: Mounted(PythonWorld(home, LAYERS)),
    "kernel": lambda home: Mounted(KernelWorld(home, LAYERS)),
    "native": lambda home: Mounted(NativeWorld(home, LAYERS)),
    "overlay": lambda home: Mounted(FullOverlay(home, LAYERS)),
}
SCRATCH: list[Path] = []


@pytest.mark.parametrize(
    ("machine", "examples"), [(Machine, 30), (FuseMachine, 8), (NativeMachine, 30)], ids=["direct", "mounted", "native"]
)
@pytest.mark.timeout(7200 if DEEP else 300)
def test_random_operations(machine: type[Machine], examples: int, tmp_path: Path) -> None:
    with StoreRoot.open(tmp_path / "store") as store:
        EngineWorld.store, EngineWorld.shelf = store, Shelf(tmp_path / "store")
        EngineWorld.trees.clear()
        SCRATCH[:] = [tmp_path]
        profile = settings(
            max_examples=examples * (40 if DEEP else 1),
            stateful_step_count=60 if DEEP else 30,
            deadline=None,
            database=None,
            suppress_health_check=list(HealthCheck),
            phases=[Phase.explicit, Phase.generate, *([] if os.environ.get("LAYERFS_NO_SHRINK") else [Phase.shrink])],
        )
        run_state_machine_as_test(machine, settings=profile)
        EngineWorld.trees.clear()
