"""Random sessions of changes by random engines, snapshots, forks, rollbacks, removals, commits and collections; beside
each container a plain directory in which the same is done, and a copy of it for each snapshot.

LAYERFS_STEPS: about how many steps in all.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import stat
import subprocess
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, precondition, rule, run_state_machine_as_test

import layerfs
from tests.property.profiles import lives

pytestmark = [pytest.mark.root, pytest.mark.timeout(36_000)]

STEPS = int(os.environ.get("LAYERFS_STEPS", "150"))
IN_EXAMPLE = 30
BIG = bytes(range(256)) * 1000
FOLDERS = ("", "d", "d/e", "x")
paths = st.builds(lambda f, n: f"{f}/{n}" if f else n, st.sampled_from(FOLDERS), st.sampled_from(("a", "b", "e", "x")))
sizes = st.sampled_from([0, 1, 4, 255_999, 256_000])  # some are objects: moved when they are absorbed


def write(root: Path, path: str, size: int, offset: int) -> None:
    fd = os.open(root / path, os.O_WRONLY | os.O_CREAT | os.O_NOFOLLOW, 0o644)
    try:
        os.pwrite(fd, BIG[:size], offset)
    finally:
        os.close(fd)


def remove(root: Path, path: str) -> None:
    if (root / path).is_dir():
        shutil.rmtree(root / path)
    else:
        (root / path).unlink()


def truncate(root: Path, path: str, size: int) -> None:
    if not stat.S_ISREG((root / path).lstat().st_mode):
        raise OSError(22, "not a file")
    os.truncate(root / path, size)


OPERATIONS: list[st.SearchStrategy[tuple[Callable[..., Any], tuple[Any, ...]]]] = [
    st.tuples(st.just(write), st.tuples(paths, sizes, st.sampled_from([0, 5, 200_000, 1_000_000]))),
    st.tuples(st.just(truncate), st.tuples(paths, st.sampled_from([0, 3, 100_000]))),
    st.tuples(st.just(remove), st.tuples(paths)),
    st.tuples(st.just(lambda root, path: (root / path).mkdir()), st.tuples(paths)),
    st.tuples(st.just(lambda root, path: (root / path).symlink_to("a")), st.tuples(paths)),
    st.tuples(st.just(lambda root, old, new: os.link(root / old, root / new)), st.tuples(paths, paths)),
    st.tuples(st.just(lambda root, old, new: (root / old).rename(root / new)), st.tuples(paths, paths)),
    st.tuples(
        st.just(lambda root, path, mode: (root / path).chmod(mode)), st.tuples(paths, st.sampled_from([0o755, 0o600]))
    ),
    st.tuples(st.just(lambda root, path: os.setxattr(root / path, "user.k", b"v")), st.tuples(paths)),
    st.tuples(st.just(lambda root, path: os.utime(root / path, ns=(1, 5))), st.tuples(paths)),
]


def listing(root: Path) -> dict[str, Any]:
    """All that must be equal."""
    found, first = {}, dict[int, str]()
    for path in sorted(root.rglob("*")):
        status, name = path.lstat(), str(path.relative_to(root))
        kind = stat.S_IFMT(status.st_mode)
        facts: list[Any] = [oct(status.st_mode)]
        if kind == stat.S_IFLNK:
            facts.append(str(path.readlink()))
        else:
            facts.append([(each, os.getxattr(path, each)) for each in os.listxattr(path)])
        if kind == stat.S_IFREG:
            facts += [path.read_bytes(), status.st_mtime_ns == 5]
        if kind != stat.S_IFDIR:
            facts.append(first.setdefault(status.st_ino, name))
        found[name] = facts
    return found


def copy(old: Path, new: Path) -> Path:
    subprocess.run(["cp", "-a", old, new], check=True)
    return new


class Machine(RuleBasedStateMachine):
    scratch: ClassVar[Path]

    def __init__(self) -> None:
        super().__init__()
        self.home = Path(tempfile.mkdtemp(dir=self.scratch))
        self.store = layerfs.Store(self.home / "store")
        self.boxes: dict[str, Path] = {}  # name -> the directory beside it
        self.snapshots: dict[tuple[str, str], Path] = {}
        self.numbers = iter(range(10**6))

    def teardown(self) -> None:
        try:
            for name in self.boxes:
                self.compare(name)
            for (box, name), place in self.snapshots.items():
                with self.store.container(box).find_snapshot(name).mount(engine="kernel") as root:
                    assert listing(root) == listing(place), (box, name)
            assert self.store.fsck(quick=True) == []
            for name in self.boxes:
                self.store.container(name).remove()
            self.store.gc()
            assert not list((self.store.path / "uppers").iterdir())
        finally:
            with contextlib.suppress(OSError):
                for record in self.store.mounts():
                    self.store.umount(record.target, lazy=True)
            self.store.close()
            shutil.rmtree(self.home)

    def new(self) -> Path:
        return self.home / f"plain{next(self.numbers)}"

    def compare(self, name: str) -> None:
        with self.store.container(name).mount(engine="kernel", read_only=True) as root:
            assert listing(root) == listing(self.boxes[name]), name

    @initialize()
    def begin(self) -> None:
        plain = self.new()
        (plain / "d/e").mkdir(parents=True)
        (plain / "d/e/a").write_bytes(BIG)
        (plain / "a").write_bytes(b"lower")
        (plain / "b").write_bytes(BIG * 5)  # one that is changed by blocks
        os.link(plain / "a", plain / "d/b")
        (plain / "x").mkdir()
        (plain / "x/a").write_bytes(b"x")
        self.store.create(self.store.import_archive(plain, tag="base:1"), name="box")
        self.boxes["box"] = plain

    def pick(self, number: int) -> tuple[layerfs.Container, str]:
        name = sorted(self.boxes)[number % len(self.boxes)]
        return self.store.container(name), name

    def pick_snapshot(self, number: int) -> tuple[str, str]:
        return sorted(self.snapshots)[number % len(self.snapshots)]

    @rule(
        number=st.integers(0, 9),
        engine=st.sampled_from(["native", "native", "kernel", "python"]),
        operations=st.lists(st.one_of(OPERATIONS), min_size=1, max_size=12),
    )
    def session(self, number: int, engine: str, operations: list[Any]) -> None:
        box, name = self.pick(number)
        with box.mount(engine=engine) as root:
            self.do(root, name, operations)
            assert listing(root) == listing(self.boxes[name])

    def do(self, root: Path, name: str, operations: list[Any]) -> None:
        for action, arguments in operations:
            codes = []
            for place in (root, self.boxes[name]):
                try:
                    action(place, *arguments)
                    codes.append(0)
                except OSError as error:
                    codes.append(error.errno or -1)
            assert codes[0] == codes[1], (action, arguments)

    @rule(
        number=st.integers(0, 9),
        rounds=st.lists(st.lists(st.one_of(OPERATIONS), min_size=1, max_size=8), min_size=2, max_size=3),
        fork=st.booleans(),
        held=st.lists(paths, max_size=2),
        options=st.sampled_from(["", "", "size=64m", "inodes=500"]),
    )
    def live(self, number: int, rounds: list[list[Any]], fork: bool, held: list[str], options: str) -> None:
        """Snapshots, or a fork, of a container that goes on, also through descriptors that are kept."""
        box, name = self.pick(number)
        with box.mount(engine="native", options=options) as root, contextlib.ExitStack() as stack:
            opened = self.opened(stack, root, name, held)
            for operations in rounds:
                self.do(root, name, operations)
                for fd in opened:
                    os.pwrite(fd, b"held", 3 + len(operations))
                if fork and len(self.boxes) < 5:
                    self.boxes[box.fork(f"f{next(self.numbers)}").name] = copy(self.boxes[name], self.new())
                else:
                    taken = box.snapshot(f"s{next(self.numbers)}")
                    self.snapshots[name, taken.name] = copy(self.boxes[name], self.new())
            self.do(root, name, rounds[0])
            assert listing(root) == listing(self.boxes[name])

    def opened(self, stack: contextlib.ExitStack, root: Path, name: str, paths: list[str]) -> list[int]:
        """Descriptors of these files, in the mount and beside it."""
        found = []
        for path in paths:
            if stat.S_ISREG((root / path).lstat().st_mode if os.path.lexists(root / path) else 0):
                for place in (root, self.boxes[name]):
                    found.append(os.open(place / path, os.O_RDWR | os.O_NOFOLLOW))
                    stack.callback(os.close, found[-1])
        return found

    @rule(number=st.integers(0, 9))
    def absorb(self, number: int) -> None:
        _, name = self.pick(number)
        self.store.absorb(name)

    @rule(number=st.integers(0, 9))
    def snapshot(self, number: int) -> None:
        box, name = self.pick(number)
        self.snapshots[name, box.snapshot(f"s{next(self.numbers)}").name] = copy(self.boxes[name], self.new())

    @rule(number=st.integers(0, 9))
    @precondition(lambda self: len(self.boxes) < 5)
    def fork(self, number: int) -> None:
        box, name = self.pick(number)
        self.boxes[box.fork(f"f{next(self.numbers)}").name] = copy(self.boxes[name], self.new())

    @rule(number=st.integers(0, 9))
    @precondition(lambda self: self.snapshots)
    def rollback(self, number: int) -> None:
        box, name = self.pick_snapshot(number)
        self.store.container(box).rollback(name)
        self.boxes[box] = copy(self.snapshots[box, name], self.new())

    @rule(number=st.integers(0, 9))
    @precondition(lambda self: self.snapshots and len(self.boxes) < 5)
    def fork_of_snapshot(self, number: int) -> None:
        box, name = self.pick_snapshot(number)
        child = self.store.container(box).fork(f"f{next(self.numbers)}", snapshot=name)
        self.boxes[child.name] = copy(self.snapshots[box, name], self.new())

    @rule(number=st.integers(0, 9))
    @precondition(lambda self: self.snapshots)
    def remove_snapshot(self, number: int) -> None:
        box, name = self.pick_snapshot(number)
        self.store.container(box).find_snapshot(name).remove()
        del self.snapshots[box, name]

    @rule(number=st.integers(0, 9))
    @precondition(lambda self: len(self.boxes) > 1)
    def remove_container(self, number: int) -> None:
        box, name = self.pick(number)
        box.remove()
        del self.boxes[name]
        self.snapshots = {key: place for key, place in self.snapshots.items() if key[0] != name}

    @rule(number=st.integers(0, 9))
    def commit(self, number: int) -> None:
        box, name = self.pick(number)
        image = box.commit()
        assert len(image.layers) <= len(box.image.layers) + 1
        with image.mount(engine="kernel") as root:
            assert listing(root) == listing(self.boxes[name])

    @rule(number=st.integers(0, 9))
    @precondition(lambda self: self.snapshots)
    def commit_snapshot(self, number: int) -> None:
        key = self.pick_snapshot(number)
        with self.store.container(key[0]).find_snapshot(key[1]).commit().mount(engine="kernel") as root:
            assert listing(root) == listing(self.snapshots[key])

    @rule(number=st.integers(0, 9))
    def diff(self, number: int) -> None:
        box, name = self.pick(number)
        assert {change.path for change in box.diff() if change.kind == "A"} == {
            f"/{path}" for path in listing(self.boxes[name]).keys() - self.image_names
        }

    @property
    def image_names(self) -> set[str]:
        with self.store.image("base:1").mount(engine="kernel") as root:
            return set(listing(root))

    @rule()
    def collect(self) -> None:
        self.store.gc()


def test_random_lives_of_containers_with_snapshots(tmp_path: Path) -> None:
    Machine.scratch = tmp_path
    run_state_machine_as_test(Machine, settings=lives(STEPS, IN_EXAMPLE))
