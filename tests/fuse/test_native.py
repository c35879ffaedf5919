"""Engine `native`: what it does beyond the shared conformance suite, with each negotiated feature on and off."""

from __future__ import annotations

import contextlib
import ctypes
import errno
import fcntl
import mmap
import os
import random
import signal
import struct
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / "conformance"))

import uring
import worlds
from calls import acl, punch_hole, renameat2
from trees import Shelf, directory, file, hardlink

from layerfs import mount
from layerfs.errors import MountError, Unsupported
from layerfs.layer.tree import Tree
from layerfs.snapshot import native
from layerfs.snapshot.native import SWITCHES, encode_orders, start_native
from tests.looking import eventually, mountinfo

pytestmark = pytest.mark.root

BIG = bytes(range(256)) * 8192  # 2 MiB: passed through
MIDDLE = b"m" * 300_000  # an object, but cached
URING = "uring"  # no switch of the server, but of the host
OLD = "old"  # as on Linux 5.4
WITHOUT_NICE = "without_nice"  # the server may not raise a priority
MODES = {
    "default": (),
    "strict": ("strict",),
    "server": ("no_passthrough",),
    "uring": (URING,),
    "uring-server": (URING, "no_passthrough"),
    "old": (OLD,),
    "plain": tuple(switch for switch in SWITCHES if switch not in ("strict", "no_uring")),
}


def without_nice(folder: Path) -> Path:
    """The server, started without CAP_SYS_NICE."""
    script = folder / "server"
    script.write_text(f'#!/bin/sh\nexec setpriv --bounding-set=-sys_nice {native.SERVER} "$@"\n')
    script.chmod(0o755)
    return script


class Box:
    """One mount of the engine, without the store's records."""

    def __init__(self, shelf: Shelf, tree: Tree, home: Path, flags: tuple[str, ...]) -> None:
        self.shelf, self.tree, self.flags = shelf, tree, flags
        self.upper, self.work, self.root = home / "upper", home / "work", home / "m"
        for folder in (self.upper, self.work, self.root):
            folder.mkdir(parents=True)
        self.pid = 0

    def orders(self, *, writable: bool = True) -> dict[str, str]:
        orders = {
            "tree": str(self.tree.path),
            "packs": str(self.shelf.packs),
            "objects": str(self.shelf.objects),
            "target": str(self.root),
            "name": f"layerfs:{self.root.parent.name}",
        }
        if writable:
            orders |= {"upper": str(self.upper), "work": str(self.work)}
        return orders

    def mount(self, *flags: str, writable: bool = True) -> Path:
        orders = self.orders(writable=writable)
        if OLD in self.flags:
            orders["minor"] = "31"
        wanted = [flag for flag in (*self.flags, *flags) if flag not in (URING, OLD, WITHOUT_NICE)]
        server = without_nice(self.root.parent) if WITHOUT_NICE in self.flags else None
        with uring.switched_on() if URING in self.flags else contextlib.nullcontext():
            self.pid = start_native(orders, wanted, server=server)
        return self.root

    def unmount(self) -> None:
        if mount.entry_of(self.root) is not None:
            mount.detach(self.root)
        self.await_end()

    def await_end(self) -> None:
        worlds.await_end(self.pid)

    def remount(self, *flags: str) -> Path:
        self.unmount()
        return self.mount(*flags)

    def descriptors(self) -> int:
        return len(os.listdir(f"/proc/{self.pid}/fd"))

    def resident(self) -> int:
        """Bytes that belong to the process alone."""
        fields = dict(line.split(":", 1) for line in Path(f"/proc/{self.pid}/status").read_text().splitlines())
        return int(fields["RssAnon"].split()[0]) * 1024


@pytest.fixture(scope="module")
def shelf(tmp_path_factory: pytest.TempPathFactory) -> Shelf:
    return Shelf(tmp_path_factory.mktemp("native"))


@pytest.fixture(scope="module")
def tree(shelf: Shelf) -> Tree:
    return shelf.tree(
        [
            file("small", b"small"),
            file("packed", bytes(range(256)) * 300),
            file("middle", MIDDLE),
            file("big", BIG),
            file("empty"),
            file("l1", b"l" * 9000),
            hardlink("l2", "l1"),
            file("b1", BIG[::-1]),
            hardlink("b2", "b1"),
            directory("d"),
            *[file(f"d/{number:04}", b"%d" % number) for number in range(3000)],
        ]
    )


@pytest.fixture(params=[mode for mode in MODES if uring.available() or URING not in MODES[mode]])
def flags(request: pytest.FixtureRequest) -> tuple[str, ...]:
    return MODES[request.param]


@pytest.fixture
def make(shelf: Shelf, tree: Tree, tmp_path: Path) -> Iterator[Callable[..., Box]]:
    made: list[Box] = []

    def new(*flags: str) -> Box:
        made.append(Box(shelf, tree, tmp_path / f"box{len(made)}", flags))
        return made[-1]

    yield new
    for box in made:
        box.unmount()


@pytest.fixture
def box(make: Callable[..., Box], flags: tuple[str, ...]) -> Box:
    made = make(*flags)
    made.mount()
    return made


# --- bytes ---------------------------------------------------------------------------------------------------------


class Exerciser:
    """Random reads and writes of one file by several descriptors and a mapping, against a bytearray (after fsx)."""

    LIMIT = 3 << 20

    def __init__(self, path: Path, seed: int) -> None:
        self.path, self.chance = path, random.Random(seed)
        self.model = bytearray(path.read_bytes())
        self.fds = [os.open(path, os.O_RDWR) for _ in range(2)]

    def close(self) -> None:
        for fd in self.fds:
            os.close(fd)

    def step(self) -> None:
        self.chance.choice(
            [self.read, self.read, self.write, self.write, self.truncate, self.punch, self.map, self.turn]
        )()

    def _at(self) -> int:
        size = len(self.model)
        return max(0, min(self.LIMIT, self.chance.choice([self.chance.randrange(size + 5000), size, 4096, 65536])))

    def read(self) -> None:
        at, count = self._at(), self.chance.randrange(1, 200_000)
        assert os.pread(self.chance.choice(self.fds), count, at) == bytes(self.model[at : at + count])

    def write(self) -> None:
        at, data = self._at(), self.chance.randbytes(self.chance.choice([1, 100, 4096, 70_000]))
        assert os.pwrite(self.chance.choice(self.fds), data, at) == len(data)
        self._grow(at + len(data))
        self.model[at : at + len(data)] = data

    def _grow(self, size: int) -> None:
        if size > len(self.model):
            self.model.extend(bytes(size - len(self.model)))

    def truncate(self) -> None:
        size = self._at()
        os.ftruncate(self.fds[0], size) if self.chance.random() < 0.5 else os.truncate(self.path, size)
        self._grow(size)
        del self.model[size:]

    def punch(self) -> None:
        at, count = self._at(), self.chance.randrange(1, 100_000)
        punch_hole(self.fds[0], at, count)
        end = min(at + count, len(self.model))
        if at < end:
            self.model[at:end] = bytes(end - at)

    def map(self) -> None:
        if not self.model:
            return
        with mmap.mmap(self.fds[0], 0) as mapping:
            at = self.chance.randrange(len(self.model))
            data = self.chance.randbytes(min(5000, len(self.model) - at))
            mapping[at : at + len(data)] = data
            self.model[at : at + len(data)] = data
            assert mapping[:] == self.model

    def turn(self) -> None:
        """One descriptor is opened again, and the size is right."""
        os.close(self.fds.pop(0))
        self.fds.append(os.open(self.path, os.O_RDWR))
        assert os.stat(self.path).st_size == len(self.model)


@pytest.mark.parametrize("name", ["small", "packed", "middle", "big", "empty", "l1"])
def test_random_reads_and_writes(box: Box, name: str) -> None:
    exerciser = Exerciser(box.root / name, seed=len(name) + len(box.flags))
    try:
        for _ in range(int(os.environ.get("LAYERFS_STEPS", "150"))):
            exerciser.step()
    finally:
        exerciser.close()
    box.remount()
    assert (box.root / name).read_bytes() == bytes(exerciser.model)


def test_an_old_descriptor_of_a_big_lower_file_keeps_its_bytes_and_strict_does_not(box: Box) -> None:
    """docs/limits.md: the one exception to coherence; `strict` has none."""
    passed_through = not {"strict", "no_passthrough", OLD} & set(box.flags)
    with (box.root / "big").open("rb", buffering=0) as reader:
        number = os.fstat(reader.fileno()).st_ino
        with (box.root / "big").open("r+b", buffering=0) as writer:
            writer.write(b"NEW")
            assert os.fstat(writer.fileno()).st_ino == number
        assert reader.read(3) == (BIG[:3] if passed_through else b"NEW")
        assert os.fstat(reader.fileno()).st_ino == number
        assert (box.root / "big").read_bytes()[:3] == b"NEW"


def test_metadata_changes_reach_old_descriptors_of_a_replaced_big_file(box: Box) -> None:
    with (box.root / "big").open("rb") as reader:
        (box.root / "big").open("r+b").close()
        assert (box.root / "big").stat().st_mode & 0o777 == 0o644  # the kernel keeps it
        os.fchmod(reader.fileno(), 0o600)
        assert (box.root / "big").stat().st_mode & 0o777 == 0o600
        assert os.fstat(reader.fileno()).st_mode & 0o777 == 0o600


def test_hard_linked_big_files_stay_coherent(box: Box) -> None:
    with (box.root / "b1").open("rb", buffering=0) as reader, (box.root / "b2").open("r+b", buffering=0) as writer:
        writer.write(b"NEW")
        assert reader.read(3) == b"NEW"


def test_a_mapped_write_changes_the_time(box: Box) -> None:
    path = box.root / "new"
    path.write_bytes(b"x" * 8192)
    os.utime(path, (1, 1))
    assert path.stat().st_mtime == 1
    with path.open("r+b") as stream, mmap.mmap(stream.fileno(), 0) as mapping:
        mapping[0:1] = b"y"
        mapping.flush()
        os.fsync(stream.fileno())
    assert path.stat().st_mtime > 1


@pytest.mark.parametrize("mode", [0o4755, 0o2755, 0o6755])
def test_writing_by_others_strips_set_id_bits(box: Box, mode: int) -> None:
    box.root.chmod(0o755)
    path = box.root / "program"
    path.write_bytes(b"x")
    path.chmod(mode | 0o002)
    command = ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups", "sh", "-c", "echo y >> program"]
    subprocess.run(command, cwd=box.root, check=True)
    assert path.stat().st_mode & 0o7777 == 0o757


@pytest.mark.parametrize("name", ["empty", "small"])
def test_opening_with_o_trunc_changes_the_time_also_of_an_empty_file(box: Box, name: str) -> None:
    """dpkg opens its lock like this."""
    os.close(os.open(box.root / name, os.O_RDWR | os.O_CREAT | os.O_TRUNC))
    assert (box.root / name).stat().st_mtime > 1_600_000_000


def read_twice(path: Path) -> tuple[bool, bool]:
    """Whether the first read since a change sets the access time, and whether the next one does."""
    seen = [path.stat().st_atime_ns]
    for _ in range(2):
        time.sleep(0.011)
        path.read_bytes()
        seen.append(path.stat().st_atime_ns)
    return seen[1] > seen[0], seen[2] > seen[1]


@pytest.mark.parametrize(
    ("rule", "expected"),
    [(None, (True, False)), ("noatime", (False, False)), ("strictatime", (True, True))],
    ids=["relatime", "noatime", "strictatime"],
)
def test_access_times_follow_the_mounts_own_rule(
    make: Callable[..., Box], rule: str | None, expected: tuple[bool, bool]
) -> None:
    """xfstests generic/003 and 120: passthrough reads followed the rule of the host's mount."""
    box = make(*([rule] if rule else []))
    (box.mount() / "new").write_bytes(b"x" * 5000)
    os.utime(box.root / "new", ns=(1, 10**18))
    box.remount()
    assert read_twice(box.root / "new") == expected


def test_reading_changes_nothing_in_the_store(box: Box) -> None:
    objects = [path for path in box.shelf.objects.rglob("*") if path.is_file()]
    for path in objects:
        os.utime(path, ns=(1, 10**18))
    for name in ("big", "middle", "b1"):
        (box.root / name).read_bytes()
    assert {path.stat().st_atime_ns for path in objects} == {1}


def test_changing_flags_changes_the_time(box: Box) -> None:
    """xfstests generic/277."""
    path = box.root / "small"
    path.chmod(0o600)
    before = path.stat().st_ctime_ns
    time.sleep(0.011)
    with path.open("rb") as stream:
        flags = struct.unpack("i", fcntl.ioctl(stream, 0x80086601, bytes(4)))[0]  # FS_IOC_GETFLAGS
        fcntl.ioctl(stream, 0x40086602, struct.pack("i", flags | 0x80))  # FS_IOC_SETFLAGS, FS_NOATIME_FL
    assert path.stat().st_ctime_ns > before


def test_lower_files_have_holes_where_the_object_has(box: Box) -> None:
    fd = os.open(box.root / "packed", os.O_RDONLY)
    try:
        assert os.lseek(fd, 5, os.SEEK_DATA) == 5
        assert os.lseek(fd, 5, os.SEEK_HOLE) == 76800
        with pytest.raises(OSError) as caught:
            os.lseek(fd, 76800, os.SEEK_DATA)
        assert caught.value.errno == errno.ENXIO
    finally:
        os.close(fd)


# --- names ---------------------------------------------------------------------------------------------------------


def test_reading_a_directory_while_removing_misses_nothing(box: Box) -> None:
    """The directory is copied up while it is being read; its offsets stay good."""
    removed = 0
    with os.scandir(box.root / "d") as entries:
        for entry in entries:
            os.unlink(entry.path)
            removed += 1
    assert removed == 3000
    os.rmdir(box.root / "d")


def test_names_made_while_reading_appear_at_most_once(box: Box) -> None:
    seen = []
    with os.scandir(box.root / "d") as entries:
        for number, entry in enumerate(entries):
            seen.append(entry.name)
            if number < 500:
                (box.root / "d" / f"new{number}").touch()
    assert len(seen) == len(set(seen))
    assert {f"{number:04}" for number in range(3000)} <= set(seen)


def test_a_path_as_long_as_the_system_allows(box: Box) -> None:
    here = os.open(box.root, os.O_RDONLY)
    try:
        for _ in range(40):
            os.mkdir("n" * 250, dir_fd=here)
            below = os.open("n" * 250, os.O_RDONLY, dir_fd=here)
            os.close(here)
            here = below
        os.close(os.open("file", os.O_CREAT | os.O_WRONLY, dir_fd=here))
        assert os.listdir(here) == ["file"]
    finally:
        os.close(here)


def test_names_of_any_bytes_and_none_over_255(box: Box) -> None:
    root = os.fsencode(box.root)
    for name in (b"\xff\xfe", b"new\nline", b".wh.x", b"n" * 255):
        os.close(os.open(root + b"/" + name, os.O_CREAT))
        assert name in os.listdir(root)
    with pytest.raises(OSError) as caught:
        os.stat(root + b"/" + b"n" * 256)
    assert caught.value.errno == errno.ENAMETOOLONG


def test_renaming_twice_and_into_another_directory_keeps_the_lower_half(box: Box) -> None:
    (box.root / "other").mkdir()
    (box.root / "d").rename(box.root / "other/d")
    (box.root / "other/d").rename(box.root / "other/e")
    box.remount()
    assert (box.root / "other/e/0007").read_bytes() == b"7"
    assert not (box.root / "d").exists()
    (box.root / "other/e").rename(box.root / "d")
    assert len(os.listdir(box.root / "d")) == 3000


def test_exchanging_a_lower_directory_and_a_file(box: Box) -> None:
    renameat2(box.root / "d", box.root / "small", 2)
    box.remount()
    assert (box.root / "d").read_bytes() == b"small"
    assert (box.root / "small/0001").read_bytes() == b"1"


def test_default_acls_are_inherited_also_over_a_whiteout(box: Box) -> None:
    nobody = 2**32 - 1
    entries = [(1, 7, nobody), (2, 5, 1234), (4, 5, nobody), (16, 7, nobody), (32, 0, nobody)]
    default = acl(*entries)
    if "no_acl" in box.flags:
        return
    os.setxattr(box.root / "d", "system.posix_acl_default", default)
    (box.root / "d/0001").unlink()
    for name in ("0001", "fresh"):
        fd = os.open(box.root / "d" / name, os.O_CREAT | os.O_WRONLY, 0o666)
        os.close(fd)
        assert "system.posix_acl_access" in os.listxattr(box.root / "d" / name)
        assert (box.root / "d" / name).stat().st_mode & 0o777 == 0o660


def worker(root: str, seed: int, rounds: int) -> None:
    """One of several clients: its own files, shared directories, and everybody's copy-ups."""
    chance, mine = random.Random(seed), {}
    for turn in range(rounds):
        name = f"{root}/d/w{seed}-{turn % 40}"
        kind = chance.randrange(7)
        if kind == 0 or name not in mine:
            mine[name] = chance.randbytes(chance.choice([1, 5000, 70_000]))
            Path(name).write_bytes(mine[name])
        elif kind == 1:
            os.rename(name, name + "r")
            os.rename(name + "r", name)
        elif kind == 2:
            os.unlink(name)
            del mine[name]
        elif kind == 3:
            with open(f"{root}/{chance.choice(['big', 'middle', 'b1', 'l1'])}", "r+b", buffering=0) as stream:
                stream.read(100)
        elif kind == 4:
            os.listdir(f"{root}/d")
        elif kind == 5:
            os.chmod(f"{root}/d/{chance.randrange(3000):04}", 0o600 + seed)
        else:
            assert Path(name).read_bytes() == mine[name]
    for name, data in mine.items():
        assert Path(name).read_bytes() == data


def test_several_clients_at_once(box: Box) -> None:
    code = f"import sys; sys.path[:0] = {sys.path!r}; from test_native import worker; worker(*eval(sys.argv[1]))"
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parent)}
    rounds = int(os.environ.get("LAYERFS_STEPS", "300"))
    clients = [
        subprocess.Popen([sys.executable, "-c", code, repr((str(box.root), seed, rounds))], env=environment)
        for seed in range(4)
    ]
    assert [client.wait() for client in clients] == [0] * 4
    assert (box.root / "big").read_bytes() == BIG


# --- the server ----------------------------------------------------------------------------------------------------


def policies(pid: int) -> set[int]:
    found = set()
    for task in os.listdir(f"/proc/{pid}/task"):
        with contextlib.suppress(ProcessLookupError):
            found.add(os.sched_getscheduler(int(task)))
    return found


def policies_while_reading(box: Box, seconds: float = 60.0) -> set[int]:
    """Of the server's threads, until one gives way, or for so long."""
    found: set[int] = set()
    deadline = time.monotonic() + seconds
    while os.SCHED_IDLE not in found and time.monotonic() < deadline:
        for number in range(50):
            (box.root / "d" / f"{number:04}").read_bytes()
        found |= policies(box.pid)
    with (box.root / "synced").open("wb") as file:  # another thread does this, made by the one that gives way
        file.write(b"x")
        os.fsync(file.fileno())
    return found


@pytest.mark.parametrize("mode", ["default", *(["uring"] if uring.available() else [])])
def test_one_caller_is_given_way_to_and_only_while_it_asks(make: Callable[..., Box], mode: str) -> None:
    box = make(*MODES[mode])
    box.mount()
    assert os.SCHED_IDLE in policies_while_reading(box)
    deadline = time.monotonic() + 60
    while policies(box.pid) != {os.SCHED_OTHER}:
        assert time.monotonic() < deadline, "a reader goes on to give way to everybody"
        time.sleep(0.01)


def test_who_may_not_take_a_policy_back_gives_way_to_nobody(make: Callable[..., Box]) -> None:
    """CAP_SYS_NICE: without it SCHED_IDLE would be for ever."""
    box = make(WITHOUT_NICE)
    box.mount()
    policies_while_reading(box, 1)
    time.sleep(0.1)
    assert policies(box.pid) == {os.SCHED_OTHER}


def test_a_server_beside_busy_processes_goes_on(make: Callable[..., Box]) -> None:
    """Twice as many as processors that compute: who gives way would starve."""
    box = make()
    box.mount()
    busy = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(2 * (os.cpu_count() or 1))]
    try:
        for number in range(3000):
            assert (box.root / "d" / f"{number:04}").read_bytes() == b"%d" % number
        with open(box.root / "d/0001", "rb") as opened, open(box.root / "d/0002", "rb") as other:
            assert (opened.read(), other.read()) == (b"1", b"2")
    finally:
        for process in busy:
            process.kill()
            process.wait()


def test_thousands_of_open_files_take_few_descriptors(box: Box) -> None:
    before = box.descriptors()
    fds = [os.open(box.root / "d" / f"{number:04}", os.O_RDONLY) for number in range(3000)]
    fds += [os.open(box.root / f"new{number}", os.O_CREAT | os.O_RDWR) for number in range(1500)]
    try:
        for fd in fds[3000:]:
            os.write(fd, b"x")
        for fd in fds:
            os.pread(fd, 1, 0)
        assert box.descriptors() < before + 900
    finally:
        for fd in fds:
            os.close(fd)


def test_report_8_memory_and_descriptors_follow_forget(make: Callable[..., Box]) -> None:
    """fuse-overlayfs#210."""
    box = make()
    box.mount()
    (box.root / "start").mkdir()
    before, descriptors = box.resident(), box.descriptors()
    for _ in range(3):
        for number in range(1500):
            path = box.root / f"f{number}"
            path.write_bytes(b"x")
            path.unlink()
            (box.root / f"d{number}").mkdir()
            (box.root / f"d{number}").rmdir()
        for name in os.listdir(box.root / "d"):
            os.stat(box.root / "d" / name)
    Path("/proc/sys/vm/drop_caches").write_text("2")
    assert eventually(lambda: box.descriptors() <= descriptors + 8)
    if "LAYERFS_TEST_SERVER" not in os.environ:  # sanitizers keep freed memory
        assert eventually(lambda: box.resident() < before + (2 << 20))


def test_a_removed_working_directory_and_o_path_descriptors_go_on(box: Box) -> None:
    (box.root / "gone").mkdir()
    (box.root / "file").write_bytes(b"x")
    folder, name = os.open(box.root / "gone", os.O_RDONLY), os.open(box.root / "file", os.O_PATH)
    try:
        (box.root / "gone").rmdir()
        (box.root / "file").unlink()
        assert os.listdir(folder) == []
        assert os.fstat(name).st_nlink == 0
        with pytest.raises(FileNotFoundError):
            os.mkdir("below", dir_fd=folder)
    finally:
        os.close(folder)
        os.close(name)


def test_sigterm_unmounts(make: Callable[..., Box]) -> None:
    box = make()
    box.mount()
    os.kill(box.pid, signal.SIGTERM)
    box.await_end()
    assert mount.entry_of(box.root) is None


def test_a_server_whose_starter_is_gone_unmounts(make: Callable[..., Box]) -> None:
    box = make()
    read_end, write_end = os.pipe()
    os.close(read_end)
    orders = {
        "tree": str(box.tree.path),
        "packs": str(box.shelf.packs),
        "objects": str(box.shelf.objects),
        "target": str(box.root),
        "name": "layerfs:orphan",
        "report": str(write_end),
    }
    with subprocess.Popen([native.SERVER], stdin=subprocess.PIPE, pass_fds=[write_end]) as process:
        process.communicate(encode_orders(orders), timeout=60)
    os.close(write_end)
    assert mount.entry_of(box.root) is None


def mounted_privately(box: Box, *command: str) -> None:
    """By a program in a mount namespace of its own, which it ends with."""
    code = f"from layerfs.snapshot.native import start_native; print(start_native({box.orders()!r}), flush=True)"
    code += f"\nwith open({str(box.root / 'middle')!r}, 'rb') as file: assert file.read(1) == {MIDDLE[:1]!r}"
    private = ["unshare", "-m", "--propagation", "private", *command, sys.executable, "-c", code]
    done = subprocess.run(private, capture_output=True, text=True, check=False)
    assert not done.returncode, done.stderr
    box.pid = int(done.stdout)


def test_a_mount_in_a_private_namespace_ends_with_it(make: Callable[..., Box]) -> None:
    """test-suites.md 5.9: a server must not keep the namespace, and so its mount, alive."""
    box = make()
    mounted_privately(box)
    box.await_end()


def test_who_has_another_root_mounts_below_that(make: Callable[..., Box], tmp_path: Path) -> None:
    """The server leaves the namespace and comes back to mount: with the root that it had."""
    box = make()
    (tmp_path / "root").mkdir()
    script = 'mount --rbind / "$0" && exec chroot "$0" "$@"'
    mounted_privately(box, "sh", "-c", script, str(tmp_path / "root"))
    box.await_end()


def test_a_read_only_image_mount_asks_nothing_to_read_again(make: Callable[..., Box]) -> None:
    box = make()
    root = box.mount(writable=False)
    assert (root / "middle").read_bytes() == MIDDLE
    assert (root / "big").read_bytes() == BIG
    with pytest.raises(OSError) as caught:
        (root / "new").touch()
    assert caught.value.errno == errno.EROFS


@pytest.mark.skipif(not uring.available(), reason="this kernel has no FUSE over io_uring (Linux 6.14)")
def test_requests_come_over_io_uring_where_the_host_has_it_switched_on(make: Callable[..., Box]) -> None:
    box = make(URING)
    box.mount()
    assert uring.rings(box.pid) == len(os.sched_getaffinity(0))
    assert (box.root / "middle").read_bytes() == MIDDLE
    box.remount("no_uring")
    assert uring.rings(box.pid) == 0


@pytest.mark.skipif(not uring.available(), reason="this kernel has no FUSE over io_uring (Linux 6.14)")
def test_buffers_of_large_requests_are_given_back(make: Callable[..., Box]) -> None:
    box = make(URING, "no_passthrough")
    box.mount()
    (box.root / "large").write_bytes(bytes(64 << 20))
    deadline = time.monotonic() + 60
    while box.resident() > 4 << 20 and "LAYERFS_TEST_SERVER" not in os.environ:
        assert time.monotonic() < deadline, f"{box.resident()} bytes"
        time.sleep(0.1)


NO_IO_URING = """
import ctypes, struct, sys
from layerfs.snapshot.native import start_native
def step(code, yes, no, value): return struct.pack("HBBI", code, yes, no, value)
call, orders = int(sys.argv[1]), eval(sys.argv[2])
program = step(0x20, 0, 0, 0) + step(0x15, 0, 1, call) + step(0x06, 0, 0, 0x50001) + step(0x06, 0, 0, 0x7FFF0000)
buffer = ctypes.create_string_buffer(program)
libc = ctypes.CDLL(None)
filter = ctypes.create_string_buffer(struct.pack("HxxxxxxP", 4, ctypes.addressof(buffer)))
assert libc.prctl(22, 2, filter, 0, 0) == 0  # PR_SET_SECCOMP: EPERM for that call
print(start_native(orders))
"""


@pytest.mark.skipif(not uring.available(), reason="this kernel has no FUSE over io_uring (Linux 6.14)")
@pytest.mark.parametrize("call", [425, 427], ids=["setup", "register"])
def test_where_io_uring_is_forbidden_the_device_is_used(make: Callable[..., Box], call: int) -> None:
    """The second call fails after the kernel was told that rings would come."""
    box = make()
    command = [sys.executable, "-c", NO_IO_URING, str(call), repr(box.orders())]
    with uring.switched_on():
        done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=60)
    box.pid = int(done.stdout)
    assert (box.root / "middle").read_bytes() == MIDDLE
    (box.root / "new").write_bytes(b"x")


@pytest.mark.parametrize("count", [1, 6])
def test_slow_requests_do_not_hold_up_others(box: Box, count: int) -> None:
    """One, which was the only caller so far, or more of them than threads: clients that sync for ever beside others."""
    (box.root / "synced").write_bytes(b"x")
    code = "import os, sys; fd = os.open(sys.argv[1], os.O_RDWR)\nwhile os.write(fd, b'x' * 4096): os.fsync(fd)"
    clients = [subprocess.Popen([sys.executable, "-c", code, box.root / "synced"]) for _ in range(count)]
    try:
        time.sleep(0.1)
        for number in range(300):
            assert (box.root / "d" / f"{number:04}").read_bytes() == b"%d" % number
    finally:
        for client in clients:
            client.kill()
            client.wait()


def test_an_aborted_connection_ends_the_server(box: Box, tmp_path: Path) -> None:
    (box.root / "file").write_bytes(b"x")
    number = os.minor(box.root.stat().st_dev)
    connections = tmp_path / "connections"
    connections.mkdir()
    mount.attach("fusectl", [], connections)
    try:
        (connections / f"{number}/abort").write_text("1")
    finally:
        mount.detach(connections)
    box.await_end()
    with pytest.raises(OSError) as caught:
        (box.root / "file").stat()
    assert caught.value.errno == errno.ENOTCONN


def test_forcing_the_unmount_under_load_ends_the_server(box: Box) -> None:
    code = "import sys\nwhile True:\n try: open(sys.argv[1], 'ab').write(b'x')\n except OSError: sys.exit()"
    clients = [subprocess.Popen([sys.executable, "-c", code, f"file{n}"], cwd=box.root) for n in range(3)]
    time.sleep(0.2)
    subprocess.run(["umount", "-f", box.root], check=False, stderr=subprocess.DEVNULL)  # busy, but aborted
    assert [client.wait(60) for client in clients] == [0] * 3
    box.await_end()


def test_orders_that_make_no_sense_are_refused() -> None:
    for data in (b"\x05", struct.pack("<HI", 4, 1 << 31) + b"tree", encode_orders({"colour": "red"}), b""):
        done = subprocess.run([native.SERVER], input=data, capture_output=True, timeout=60, check=False)
        assert done.returncode == 1
        assert done.stderr or "LAYERFS_TEST_SERVER" in os.environ  # which keeps it for itself


@pytest.mark.parametrize(
    "flags", [(), ("nosuid", "nodev", "noexec", "noatime", "read_only"), ("strictatime", "private")]
)
def test_a_mount_looks_the_same_where_it_cannot_be_made_before_it_is_attached(
    make: Callable[..., Box], tmp_path: Path, flags: tuple[str, ...]
) -> None:
    if "LAYERFS_TEST_SERVER" in os.environ:
        pytest.skip("a sanitizer's library has to be the first one")
    library, source = tmp_path / "nofsopen.so", Path(__file__).with_name("nofsopen.c")
    subprocess.run(["gcc", "-shared", "-fPIC", "-O1", "-Wall", "-Werror", "-o", library, source], check=True)
    box, seen = make(), []
    for environment in ({}, {"LD_PRELOAD": str(library)}):
        if seen:
            box.unmount()
        box.pid = start_native(box.orders(), flags, environment=environment)
        line = next(line for line in mountinfo().splitlines() if line.split()[4] == str(box.root))
        seen.append(line.split()[3:])
        assert (box.root / "small").read_bytes() == b"small"
    assert seen[0] == seen[1] and "fuse.layerfs" in seen[0]


def test_a_damaged_tree_is_a_clear_error(make: Callable[..., Box], tmp_path: Path) -> None:
    box = make()
    orders = {
        "packs": str(box.shelf.packs),
        "objects": str(box.shelf.objects),
        "target": str(box.root),
        "name": "layerfs:x",
    }
    (tmp_path / "bad").write_bytes(bytes(8192))
    with pytest.raises(MountError, match="not a tree file"):
        start_native({**orders, "tree": str(tmp_path / "bad")})
    with pytest.raises(Unsupported, match="missing"):
        start_native({**orders, "tree": "x"}, server=tmp_path / "none")


def test_a_lost_object_is_an_input_output_error(shelf: Shelf, tmp_path: Path) -> None:
    tree = shelf.tree([file("lost", os.urandom(200_000))])
    box = Box(shelf, tree, tmp_path / "lost", ())
    identity = tree.content(tree.lookup(tree.root, b"lost"))
    assert identity
    name = identity.hex()
    (shelf.objects / name[:2] / name[2:]).unlink()
    try:
        with pytest.raises(OSError) as caught:
            (box.mount() / "lost").read_bytes()
        assert caught.value.errno == errno.EIO
    finally:
        box.unmount()


def test_the_file_system_tells_the_truth_about_itself(box: Box) -> None:
    host, here = os.statvfs(box.upper), os.statvfs(box.root)
    assert here.f_namemax == 255
    assert here.f_blocks == host.f_blocks
    libc = ctypes.CDLL(None, use_errno=True)
    fd = os.open(box.root, os.O_RDONLY)
    try:
        assert libc.syncfs(fd) == 0
    finally:
        os.close(fd)
