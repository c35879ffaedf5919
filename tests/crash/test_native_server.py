"""The native engine's server killed at any moment, and a disk that fills at any moment: each name is old or new.

LAYERFS_ROUNDS: how many kills.
"""

from __future__ import annotations

import errno
import os
import random
import signal
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

sys.path[:0] = [str(Path(__file__).parents[1] / "fuse"), str(Path(__file__).parents[1] / "conformance")]

from test_native import Box
from trees import Shelf, directory, file, hardlink

from layerfs import mount
from layerfs.layer.tree import Tree
from layerfs.snapshot.settle import settle
from tests.crash.harness import finish, start
from tests.disks import filled, small_disk
from tests.looking import eventually

pytestmark = [pytest.mark.root, pytest.mark.timeout(36_000)]

ROUNDS = int(os.environ.get("LAYERFS_ROUNDS", "20"))
BIG = bytes(range(256)) * 6000
CONTENTS = {b"", b"small", BIG, b"m" * 90_000}
FOLDERS = ("a", "b", "a/sub")


@pytest.fixture(scope="module")
def shelf(tmp_path_factory: pytest.TempPathFactory) -> Shelf:
    return Shelf(tmp_path_factory.mktemp("native-crash"))


@pytest.fixture(scope="module")
def tree(shelf: Shelf) -> Tree:
    files = [file(f"{place}/l{n}", data) for place in FOLDERS for n, data in enumerate([b"small", BIG, b"m" * 90_000])]
    links = [hardlink("b/h0", "a/l0"), hardlink("b/h1", "a/l1")]
    return shelf.tree([*map(directory, FOLDERS), *files, *links])


def whole(data: bytes) -> bool:
    """One of the lower contents, or what `work` wrote in one piece."""
    return data in CONTENTS or (len(data) % 64 == 0 and data == data[:64] * (len(data) // 64))


class Work:
    """Random changes, each of which leaves every name old or new."""

    def __init__(self, root: Path, seed: int) -> None:
        self.root, self.chance = root, random.Random(seed)
        self.look()

    def step(self, note: int) -> None:
        """Says before what it is going to do, and after that it is done."""
        names = sorted(self.files)
        name = self.chance.choice(names)
        new = f"{self.chance.choice(FOLDERS)}/n{self.chance.randrange(40)}"
        kind = self.chance.choice(["write", "rename", "unlink", "link", "chmod", "trunc"])
        os.write(note, f"{kind} {name} {new}\n".encode())
        data = b"%d" % self.chance.randrange(10**9)
        data = data.ljust(64) * self.chance.choice([1, 100, 9000])
        match kind:
            case "write":
                (self.root / ".new").write_bytes(data)
                (self.root / ".new").rename(self.root / new)
            case "rename":
                (self.root / name).rename(self.root / new)
            case "unlink" if len(names) > 6:
                (self.root / name).unlink()
            case "link" if new not in self.files:
                os.link(self.root / name, self.root / new)
            case "chmod":
                (self.root / name).chmod(0o600)
            case "trunc":
                os.truncate(self.root / name, 0)
        os.write(note, b"done\n")
        self.look()

    def look(self) -> None:
        self.files = {str(path.relative_to(self.root)) for path in self.root.rglob("*") if path.is_file()}


def client(root: Path, log: Path, seed: int) -> None:
    note = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    work = Work(root, seed)
    try:
        while True:
            work.step(note)
            os.write(note, ("names " + " ".join(sorted(work.files)) + "\n").encode())
    except OSError as error:
        # ECANCELED from a ring, EIO when the request was just handed over
        assert error.errno in (errno.ENOTCONN, errno.ECONNABORTED, errno.ECANCELED, errno.EIO), error


def allowed(log: Path) -> tuple[set[str], set[str]]:
    """The names that must be there after the last finished step, and those that the one under way may have changed."""
    names: set[str] = set()
    pending: set[str] = set()
    for line in log.read_text().splitlines():
        word, *rest = line.split()
        if word == "names":
            names, pending = set(rest), set()
        elif word != "done":
            pending = {*rest, ".new"}
    return names, pending


def shown(root: Path) -> dict[str, bytes]:
    return {str(path.relative_to(root)): path.read_bytes() for path in root.rglob("*") if path.is_file()}


def test_a_killed_server_leaves_every_name_old_or_new(shelf: Shelf, tree: Tree, tmp_path: Path) -> None:
    chance = random.Random(9)
    box = Box(shelf, tree, tmp_path / "box", ())
    for number in range(ROUNDS):
        root = box.mount()
        log = tmp_path / "log"
        child = start(lambda seed, root=root, log=log: client(root, log, seed), number)
        assert eventually(lambda log=log: log.exists() and b"names" in log.read_bytes())  # type: ignore[misc]
        time.sleep(chance.uniform(0, 0.3))
        os.kill(box.pid, signal.SIGKILL)
        assert finish(*child) == 0
        mount.detach(root, lazy=True)
        box.await_end()
        settle(tree, box.upper, box.work)
        found = shown(box.mount())
        names, pending = allowed(log)
        assert names - pending <= found.keys()
        assert found.keys() - names <= pending
        assert [name for name, data in found.items() if name != ".new" and not whole(data)] == []
        (root / ".new").unlink(missing_ok=True)
        log.unlink()
        box.unmount()
        if number % 10 == 9:
            box = Box(shelf, tree, tmp_path / f"box{number}", ())


@pytest.fixture(params=["tmpfs", "ext4"])
def disk(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Path]:
    with small_disk(request.param, tmp_path, size=16 << 20) as place:
        yield place


@pytest.mark.parametrize("leave", [0, 4096, 20_000, 200_000, 1_000_000])
def test_a_full_disk_is_an_error_and_nothing_else(disk: Path, shelf: Shelf, tree: Tree, leave: int) -> None:
    """Every change works or gives ENOSPC; then every name is old or new, also after a remount; with room all works."""
    box = Box(shelf, tree, disk / "box", ())
    work = Work(box.mount(), seed=leave)
    note = os.open("/dev/null", os.O_WRONLY)
    full = 0
    try:
        with filled(disk, leave):
            for _ in range(60):
                before = set(work.files)
                try:
                    work.step(note)
                except OSError as error:
                    assert error.errno == errno.ENOSPC
                    full += 1
                    (box.root / ".new").unlink(missing_ok=True)
                    work.look()
                    assert len(before ^ set(work.files)) <= 1
            assert full
            assert [name for name, data in shown(box.root).items() if not whole(data)] == []
        before_remount = shown(box.root)
        box.remount()
        assert shown(box.root) == before_remount
        for _ in range(10):
            work.step(note)
        assert [name for name, data in shown(box.root).items() if not whole(data)] == []
    finally:
        os.close(note)
        box.unmount()


@pytest.mark.parametrize("size", [60_000, 8 << 20])
def test_what_a_removed_file_took_is_there_for_the_next(tmp_path: Path, shelf: Shelf, tree: Tree, size: int) -> None:
    """On a disk with no other room. unlink(2) returns before the kernel has told the server to forget the file."""
    with small_disk("ext4", tmp_path, size=24 << 20) as disk:
        box = Box(shelf, tree, disk / "box", ())
        try:
            file = box.mount() / "file"
            file.write_bytes(b"0" * size)
            with filled(disk, 16_384):
                for _ in range(100):
                    file.unlink()
                    file.write_bytes(b"1" * size)
        finally:
            box.unmount()
