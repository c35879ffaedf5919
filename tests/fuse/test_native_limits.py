"""Engine `native`: size= and inodes= hold, and statfs says what the upper directory holds."""

from __future__ import annotations

import errno
import mmap
import os
import random
import signal
import sys
from collections.abc import Callable, Iterator
from itertools import pairwise
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / "conformance"))
sys.path.insert(0, str(Path(__file__).parent))

from calls import LIBC, link_descriptor, punch_hole, renameat2
from limited import OptionBox
from trees import Shelf, directory, file, hardlink

from layerfs.errors import InvalidInput, Unsupported
from layerfs.layer.tree import Tree
from layerfs.snapshot import mount_tree
from layerfs.store.root import StoreRoot
from tests.looking import eventually

pytestmark = pytest.mark.root

MIB = 1 << 20
OVER = 256 << 10  # docs/limits.md: what removing may take beyond the limit
STEPS = int(os.environ.get("LAYERFS_STEPS", "1500"))


@pytest.fixture
def lower(store: StoreRoot) -> Tree:
    return Shelf(store.path).tree(
        [
            file("small", b"s" * 5000),
            file("big", b"B" * (2 * MIB)),
            file("l1", b"l" * 9000),
            hardlink("l2", "l1"),
            directory("d"),
            *[directory(f"d/{n}") for n in range(20)],
            *[file(f"d/{n}/f", b"%d" % n * 3000) for n in range(20)],
        ]
    )


@pytest.fixture
def box(store: StoreRoot, lower: Tree, tmp_path: Path) -> Iterator[OptionBox]:
    made = OptionBox(store, lower, tmp_path / "box", "size=8m,inodes=500")
    made.mount()
    yield made
    made.unmount()


def refused(act: Callable[[], object]) -> bool:
    with pytest.raises(OSError) as caught:
        act()
    return caught.value.errno == errno.ENOSPC


def fill(path: Path, chunk: int = MIB, limit: int = 64) -> int:
    """Appends until there is no room; bytes that went in."""
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    try:
        for _ in range(limit):
            os.write(fd, b"x" * chunk)
    except OSError as error:
        assert error.errno == errno.ENOSPC
    finally:
        os.close(fd)
    return path.stat().st_size


def fallocate(fd: int, mode: int, offset: int, length: int) -> None:
    import ctypes

    if LIBC.fallocate(fd, mode, ctypes.c_long(offset), ctypes.c_long(length)) < 0:
        raise OSError(ctypes.get_errno(), "fallocate")


def test_a_write_goes_as_far_as_there_is_room(box: OptionBox) -> None:
    written = fill(box.root / "new")
    held, _ = box.held()
    assert 8 * MIB - 2 * mmap.PAGESIZE <= held <= 8 * MIB
    assert written > 7 * MIB
    assert os.statvfs(box.root).f_bavail <= 2
    assert refused(lambda: (box.root / "other").write_bytes(b"y" * 9000))
    assert (box.root / "new").read_bytes() == b"x" * written


def test_what_is_there_can_be_written_over_when_it_is_full(box: OptionBox) -> None:
    size = fill(box.root / "new")
    with (box.root / "new").open("r+b") as out:
        out.write(b"z" * size)
    assert (box.root / "new").read_bytes() == b"z" * size


def test_preallocated_blocks_can_be_written_when_it_is_full(box: OptionBox) -> None:
    fd = os.open(box.root / "kept", os.O_RDWR | os.O_CREAT)
    fallocate(fd, 0, 0, 2 * MIB)
    assert refused(lambda: fallocate(fd, 0, 0, 64 * MIB))
    fill(box.root / "rest")
    assert os.pwrite(fd, b"k" * 2 * MIB, 0) == 2 * MIB
    assert refused(lambda: os.pwrite(fd, b"k", 3 * MIB))
    os.close(fd)


def test_removing_truncating_and_punching_make_room(box: OptionBox) -> None:
    (box.root / "empty").touch()
    for make_room in (
        lambda path: path.unlink(),
        lambda path: os.truncate(path, 0),
        lambda path: path.open("wb").close(),
        lambda path: (box.root / "empty").rename(path),
    ):
        fill(box.root / "new")
        make_room(box.root / "new")
        assert_counted(box)
        assert box.held()[0] < MIB
    size = fill(box.root / "new")
    fd = os.open(box.root / "new", os.O_RDWR)
    punch_hole(fd, 0, size)
    os.close(fd)
    assert box.counted() == box.held()
    fill(box.root / "second")
    assert box.held()[0] <= 8 * MIB


def test_an_unlinked_file_counts_until_it_is_closed(box: OptionBox) -> None:
    fd = os.open(box.root / "gone", os.O_RDWR | os.O_CREAT)
    os.write(fd, b"g" * 3 * MIB)
    (box.root / "gone").unlink()
    assert box.counted()[0] >= 3 * MIB
    os.write(fd, b"g" * MIB)
    assert box.counted()[0] >= 4 * MIB
    os.close(fd)
    assert_counted(box)


def assert_counted(box: OptionBox) -> None:
    """RELEASE and FORGET come after close(2) has returned."""
    assert eventually(lambda: box.counted() == box.held()), (box.counted(), box.held())


def test_a_file_without_a_name_counts(box: OptionBox) -> None:
    fd = os.open(box.root, os.O_RDWR | os.O_TMPFILE)
    os.write(fd, b"t" * 2 * MIB)
    assert box.counted()[0] >= 2 * MIB
    link_descriptor(fd, box.root / "named")
    os.close(fd)
    assert_counted(box)
    assert box.held()[0] >= 2 * MIB


def test_a_mapping_cannot_take_more(box: OptionBox) -> None:
    fd = os.open(box.root / "holes", os.O_RDWR | os.O_CREAT)
    os.truncate(fd, 16 * MIB)
    with mmap.mmap(fd, 16 * MIB) as view:
        view[:] = b"m" * (16 * MIB)
        with pytest.raises(OSError):
            view.flush()
            os.fsync(fd)
    os.close(fd)
    assert MIB < box.held()[0] <= 8 * MIB


def test_copying_up_counts(box: OptionBox) -> None:
    fill(box.root / "new", limit=7)
    os.chmod(box.root / "big", 0o600)  # takes no bytes
    (box.root / "l1").write_bytes(b"L")
    with (box.root / "big").open("r+b", buffering=0) as out:  # neither does this
        written = 0
        with pytest.raises(OSError) as caught:
            while True:
                written += os.pwrite(out.fileno(), b"x" * 65536, written)
    assert (caught.value.errno, written < MIB) == (errno.ENOSPC, True)
    assert (box.root / "big").read_bytes() == b"x" * written + b"B" * (2 * MIB - written)
    assert box.counted() == box.held()


def test_entries_are_limited(box: OptionBox) -> None:
    with pytest.raises(OSError) as caught:
        for number in range(600):
            (box.root / f"n{number:03}").touch()
    assert caught.value.errno == errno.ENOSPC
    assert box.held()[1] == 500
    for act in (
        lambda: (box.root / "dir").mkdir(),
        lambda: os.symlink("x", box.root / "link"),
        lambda: os.mkfifo(box.root / "fifo"),
        lambda: os.chmod(box.root / "small", 0o600),
        lambda: os.close(os.open(box.root, os.O_RDWR | os.O_TMPFILE)),
    ):
        assert refused(act)
    os.link(box.root / "n000", box.root / "again")
    (box.root / "n001").unlink()
    (box.root / "dir").mkdir()
    assert box.counted()[1] == box.held()[1] == 500


def test_a_full_container_can_be_cleared(box: OptionBox) -> None:
    import shutil

    fill(box.root / "new")
    shutil.rmtree(box.root / "d")
    assert box.held()[0] <= 8 * MIB + OVER
    (box.root / "small").unlink()
    (box.root / "new").unlink()
    assert_counted(box)


def test_moving_names_about_cannot_take_more(box: OptionBox) -> None:
    """Directories that were large once stay so on ext4."""
    box.mount("size=3m")
    names = ["n" * 200 + str(number) for number in range(1500)]
    places = [box.root / f"p{number}" for number in range(40)]
    for place in places:
        place.mkdir()
    for name in names:
        (places[0] / name).touch()
    with pytest.raises(OSError) as caught:
        for source, target in pairwise(places):
            for name in names:
                (source / name).rename(target / name)
    assert caught.value.errno == errno.ENOSPC
    assert box.held()[0] <= 3 * MIB + OVER


def test_statfs_is_the_limits(box: OptionBox, store: StoreRoot) -> None:
    said, host = os.statvfs(box.root), os.statvfs(store.path)
    assert (said.f_blocks * said.f_frsize, said.f_files, said.f_namemax) == (8 * MIB, 500, 255)
    box.mount("inodes=77")
    said = os.statvfs(box.root)
    assert (said.f_files, said.f_ffree) == (77, 76)
    (box.root / "f").write_bytes(b"f" * MIB)  # bytes go past the server, and are counted when they matter again
    assert box.mount("size=8m") and box.counted()[0] == box.held()[0]
    box.mount("inodes=77")
    assert said.f_blocks * said.f_frsize == host.f_blocks * host.f_frsize


def test_a_lower_limit_than_what_there_is_refuses_only_more(box: OptionBox) -> None:
    (box.root / "new").write_bytes(b"x" * 3 * MIB)
    box.mount("size=1m")
    assert (box.root / "new").read_bytes() == b"x" * 3 * MIB
    assert os.statvfs(box.root).f_bfree == 0
    assert refused(lambda: (box.root / "other").write_bytes(b"y"))
    (box.root / "new").unlink()
    (box.root / "other").write_bytes(b"y")


def test_the_numbers_survive_a_clean_end_and_are_counted_again_after_another(box: OptionBox) -> None:
    (box.root / "f").write_bytes(b"f" * MIB)
    box.unmount()
    saved = box.work / "usage"
    assert saved.exists()
    true = saved.read_text()
    saved.write_text(true.replace(true.split()[2], str(5 * MIB)))
    box.mount()
    assert not saved.exists()
    assert box.counted()[0] == 5 * MIB  # it is believed
    os.kill(box.pid, signal.SIGKILL)
    assert box.handle is not None
    box.handle.unmount(lazy=True)
    box.handle = None
    assert not saved.exists()
    box.mount()
    assert box.counted() == box.held()


@pytest.mark.parametrize("engine", ["kernel", "python", "native"])
def test_numbers_are_not_believed_after_a_mount_that_did_not_count(box: OptionBox, engine: str) -> None:
    box.unmount()
    box.engine = engine
    (box.mount("") / "f").write_bytes(b"f" * MIB)
    box.unmount()
    box.engine = "native"
    box.mount("size=8m,inodes=500")
    assert box.counted() == box.held()


def test_limits_need_a_writable_native_mount(box: OptionBox, store: StoreRoot, lower: Tree, tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match="writable"):
        mount_tree(store, lower, engine="native", target=tmp_path / "x", options="size=1m")
    box.unmount()
    for engine in ("kernel", "python"):
        box.engine = engine
        with pytest.raises(Unsupported, match="native"):
            box.mount()


def test_several_writers_cannot_take_more_together(box: OptionBox) -> None:
    def write(number: int) -> None:
        for round_ in range(6):
            fill(box.root / f"w{number}-{round_}", chunk=100_000, limit=40)
            (box.root / f"w{number}-{round_ - 1}").unlink(missing_ok=True)

    children = []
    for number in range(4):
        pid = os.fork()
        if not pid:
            code = 1
            try:
                write(number)
                code = 0
            finally:
                os._exit(code)
        children.append(pid)
    most = 0
    while children:
        most = max(most, box.held_files())
        pid, status = os.waitpid(-1, os.WNOHANG)
        if pid:
            assert os.waitstatus_to_exitcode(status) in (0, 1)  # 1: no room for a name
            children.remove(pid)
    assert most <= 8 * MIB + OVER
    assert_counted(box)


class Mess:
    """Random changes, some of which there is no room for."""

    def __init__(self, root: Path, seed: int) -> None:
        self.root, self.chance, self.open = root, random.Random(seed), list[int]()

    def path(self) -> Path:
        chance = self.chance
        names = [f"n{chance.randrange(30)}", "small", "big", "l1", "l2"]
        folder = chance.choice([".", ".", f"d/{chance.randrange(20)}", f"made{chance.randrange(5)}"])
        return self.root / folder / chance.choice([*names, "f"])

    def step(self) -> None:
        chance = self.chance
        path, other, size = self.path(), self.path(), chance.randrange(1, 600_000)
        act = chance.choice(
            [
                lambda: path.write_bytes(b"w" * size),
                lambda: self.write_at(path, size),
                lambda: os.truncate(path, size),
                lambda: self.punch(path, size),
                lambda: path.unlink(),
                lambda: path.unlink(),
                lambda: path.rename(other),
                lambda: os.link(path, other),
                lambda: renameat2(path, other, 2),
                lambda: (self.root / f"made{chance.randrange(5)}").mkdir(),
                lambda: os.rmdir(self.root / f"made{chance.randrange(5)}"),
                lambda: os.symlink("t" * chance.randrange(1, 300), path),
                lambda: os.chmod(path, chance.choice([0o600, 0o644])),
                lambda: os.setxattr(path, "user.x", b"v" * chance.randrange(1, 3900)),
                lambda: os.removexattr(path, "user.x"),
                lambda: self.hold(path),
                lambda: self.let_go(),
                lambda: [(path.parent / (f"long{n}" + "x" * 200)).touch() for n in range(20)],
                lambda: [(path.parent / (f"long{n}" + "x" * 200)).unlink() for n in range(20)],
            ]
        )
        try:
            act()
        except OSError as error:
            assert error.errno not in (errno.EIO, errno.ENOTCONN, errno.EINVAL), error

    def write_at(self, path: Path, offset: int) -> None:
        with path.open("r+b") as file:
            file.seek(offset)
            file.write(b"a" * self.chance.randrange(1, 300_000))

    def punch(self, path: Path, size: int) -> None:
        fd = os.open(path, os.O_RDWR)
        try:
            punch_hole(fd, self.chance.randrange(100_000), size)
        finally:
            os.close(fd)

    def hold(self, path: Path) -> None:
        self.open.append(os.open(path, os.O_RDWR | os.O_APPEND))
        os.write(self.open[-1], b"h" * 50_000)

    def let_go(self) -> None:
        while self.open:
            os.close(self.open.pop())


@pytest.mark.parametrize("seed", [1, 2])
def test_random_changes_keep_the_numbers_right(box: OptionBox, seed: int) -> None:
    mess = Mess(box.root, seed)
    for number in range(STEPS):
        mess.step()
        if number % 100 == 0:
            assert box.held()[0] <= 8 * MIB + OVER
    mess.let_go()
    assert eventually(lambda: box.counted() == (max(box.held()[0], 0), box.held()[1]))
    box.mount()
    assert box.counted() == box.held()
