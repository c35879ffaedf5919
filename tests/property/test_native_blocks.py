"""Random changes of block-level files, with reopening, remounting and kill -9 in between, against byte arrays.

LAYERFS_STEPS: about how many steps in all (a hundred thousand once by hand).
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import itertools
import mmap
import os
import signal
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

sys.path[:0] = [str(Path(__file__).parents[1] / "fuse"), str(Path(__file__).parents[1] / "conformance")]

from test_native import Box
from trees import Shelf, file

from layerfs import mount
from layerfs.layer.blocks import Base, BlockReader, complete_upper
from layerfs.layer.tree import Tree
from layerfs.layer.upper import TRUSTED
from tests.disks import host

pytestmark = [pytest.mark.root, pytest.mark.timeout(36_000)]

STEPS = int(os.environ.get("LAYERFS_STEPS", "1500"))
IN_EXAMPLE = 25
BLOCK = 4096
SIZE = 40 * BLOCK + 1234
DATA = b"".join(b"%08d" % number for number in range(SIZE // 8 + 1))[:SIZE]
LIMIT = SIZE + 20 * BLOCK
NAMES = ("a", "b")
_LIBC = ctypes.CDLL(None, use_errno=True)
_numbers = itertools.count()

places = st.one_of(
    st.integers(0, SIZE + 3 * BLOCK),
    st.builds(lambda block, near: max(0, block * BLOCK + near), st.integers(0, 44), st.integers(-2, 2)),
    st.sampled_from([SIZE, SIZE - 1, SIZE + 1]),
)
counts = st.one_of(st.sampled_from([1, BLOCK, 2 * BLOCK, 3 * BLOCK + 7]), st.integers(1, 12 * BLOCK))
names = st.sampled_from(NAMES)
steps = st.one_of(
    st.tuples(st.just("write"), names, places, counts),
    st.tuples(st.just("write"), names, places, counts),
    st.tuples(st.just("overwrite"), names, places, counts),
    st.tuples(st.just("map"), names, places, counts),
    st.tuples(st.just("cut"), names, places, st.booleans()),
    st.tuples(st.just("allocate"), names, places, counts, st.sampled_from([0, 1, 3, 16, 17])),
    st.tuples(st.just("append"), names, counts),
    st.tuples(st.just("empty"), names),
    st.tuples(st.just("copy"), places, places, counts),
    st.tuples(st.just("sync"), names),
    st.tuples(st.just("close"), names),
    st.tuples(st.just("chmod"), names),
    st.tuples(st.just("swap")),
    st.tuples(st.just("remount")),
    st.tuples(st.just("kill")),
    st.tuples(st.just("complete")),
)


class Work:
    """A mount, the bytes its files must have, and descriptors that stay open."""

    def __init__(self, box: Box, objects: Path) -> None:
        self.box, self.objects = box, objects
        self.bytes = {name: bytearray(DATA) for name in NAMES}
        self.fds: dict[str, int] = {}
        self.stamp = itertools.count(1)
        self.root = box.mount()

    def fd(self, name: str) -> int:
        if name not in self.fds:
            self.fds[name] = os.open(self.root / name, os.O_RDWR)
        return self.fds[name]

    def forget(self) -> None:
        while self.fds:
            with contextlib.suppress(OSError):  # its server was killed
                os.close(self.fds.popitem()[1])

    def fresh(self, count: int) -> bytes:
        return (b"<%d>" % next(self.stamp) * count)[:count]

    def put(self, name: str, at: int, data: bytes) -> None:
        body = self.bytes[name]
        body.extend(bytes(max(0, at + len(data) - len(body))))
        body[at : at + len(data)] = data

    def write(self, name: str, at: int, count: int) -> None:
        data = self.fresh(min(count, LIMIT - at))
        assert os.pwrite(self.fd(name), data, at) == len(data)
        self.put(name, at, data)

    def overwrite(self, name: str, at: int, count: int) -> None:
        """By one who cannot read."""
        data = self.fresh(min(count, LIMIT - at))
        fd = os.open(self.root / name, os.O_WRONLY)
        assert os.pwrite(fd, data, at) == len(data)
        os.close(fd)
        self.put(name, at, data)

    def map(self, name: str, at: int, count: int) -> None:
        size = len(self.bytes[name])
        count = min(count, size - at)
        if count <= 0:
            return
        data = self.fresh(count)
        with mmap.mmap(self.fd(name), size) as mapped:
            mapped[at : at + count] = data
            mapped.flush()
        self.put(name, at, data)

    def cut(self, name: str, size: int, by_name: bool) -> None:
        os.truncate(self.root / name, size) if by_name else os.ftruncate(self.fd(name), size)
        body = self.bytes[name]
        body.extend(bytes(max(0, size - len(body))))
        del body[size:]

    def allocate(self, name: str, at: int, count: int, mode: int) -> None:
        done = _LIBC.fallocate(self.fd(name), mode, ctypes.c_long(at), ctypes.c_long(count))
        assert done == 0, os.strerror(ctypes.get_errno())
        body = self.bytes[name]
        if not mode & 1:
            body.extend(bytes(max(0, at + count - len(body))))
        if mode & 18:
            end = min(at + count, len(body))
            body[at:end] = bytes(max(0, end - at))

    def append(self, name: str, count: int) -> None:
        if len(self.bytes[name]) + count > LIMIT:
            return
        with (self.root / name).open("ab", buffering=0) as out:
            data = self.fresh(count)
            assert out.write(data) == count
        self.put(name, len(self.bytes[name]), data)

    def empty(self, name: str) -> None:
        with (self.root / name).open("wb"):
            pass
        self.bytes[name].clear()

    def copy(self, at: int, to: int, count: int) -> None:
        data = bytes(self.bytes["a"][at : at + count])
        done = os.copy_file_range(self.fd("a"), self.fd("b"), count, at, to)
        assert done <= len(data)
        if done:
            self.put("b", to, data[:done])

    def sync(self, name: str) -> None:
        os.fsync(self.fd(name))

    def close(self, name: str) -> None:
        if name in self.fds:
            os.close(self.fds.pop(name))

    def chmod(self, name: str) -> None:
        (self.root / name).chmod(0o600)

    def swap(self) -> None:
        for old, new in ("ac", "ba", "cb"):
            (self.root / old).rename(self.root / new)
        self.bytes["a"], self.bytes["b"] = self.bytes["b"], self.bytes["a"]
        fds = {"a": "b", "b": "a"}
        self.fds = {fds[name]: fd for name, fd in self.fds.items()}

    def remount(self) -> None:
        self.forget()
        self.root = self.box.remount()

    def kill(self) -> None:
        os.kill(self.box.pid, signal.SIGKILL)
        self.box.await_end()
        self.forget()
        while mount.entry_of(self.box.root) is not None:
            mount.detach(self.box.root, lazy=True)
        self.root = self.box.mount()

    def complete(self) -> None:
        """For another engine."""
        self.forget()
        self.box.unmount()
        self.check_stored()
        complete_upper(self.box.upper, self.objects, TRUSTED)
        for name in NAMES:
            if self.mark(name, b"origin") and self.mark(name, b"metacopy") is None:
                assert (self.box.upper / name).read_bytes() == self.bytes[name]
        self.root = self.box.mount()

    def check_stored(self) -> None:
        """Who reads the upper directory itself finds the same bytes."""
        for name in NAMES:
            value = self.mark(name, b"layerfs.blocks")
            if value is None:
                continue
            base = Base.parse(value)
            fd = os.open(self.box.upper / name, os.O_RDONLY)
            with BlockReader(fd, base.open(self.objects), base) as reader:
                assert b"".join(reader.pieces(0, reader.size)) == self.bytes[name]
                zeros = bytearray(reader.size)
                for offset, length in reader.extents():
                    zeros[offset : offset + length] = self.bytes[name][offset : offset + length]
                assert zeros == self.bytes[name]

    def mark(self, name: str, mark: bytes) -> bytes | None:
        try:
            return os.getxattr(self.box.upper / name, TRUSTED + mark)
        except OSError as error:
            assert error.errno in (errno.ENODATA, errno.ENOENT)
            return None

    def check(self) -> None:
        for name in NAMES:
            found = (self.root / name).read_bytes()
            assert len(found) == len(self.bytes[name]), name
            if found != self.bytes[name]:
                first = next(i for i, (a, b) in enumerate(zip(found, self.bytes[name], strict=True)) if a != b)
                wanted = bytes(self.bytes[name][first : first + 8])
                raise AssertionError(f"{name}: byte {first} is {found[first : first + 8]!r}, not {wanted!r}")


@pytest.fixture(scope="module")
def shelf(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Shelf]:
    yield Shelf(tmp_path_factory.mktemp("random-blocks"))


@pytest.fixture(scope="module")
def tree(shelf: Shelf) -> Tree:
    return shelf.tree([file(name, DATA) for name in NAMES])


class SmallBox(Box):
    """With a border that lets small files be block-level files, so that examples are quick."""

    def orders(self, *, writable: bool = True) -> dict[str, str]:
        return super().orders(writable=writable) | {"blocks_size": "131073"}


class LimitedBox(SmallBox):
    """With a limit blocks are not shared with the lower file, but counted."""

    def orders(self, *, writable: bool = True) -> dict[str, str]:
        return super().orders(writable=writable) | {"size": str(100 << 20)}


@pytest.mark.parametrize("flags", [(), ("no_passthrough", "no_cache")], ids=["default", "uncached"])
def test_random_changes_against_a_model(flags: tuple[str, ...], shelf: Shelf, tree: Tree, tmp_path: Path) -> None:
    run(SmallBox, flags, shelf, tree, tmp_path, STEPS // 2)


@pytest.mark.parametrize("kind", ["xfs-plain", "btrfs"])
def test_random_changes_on_other_hosts(kind: str, tmp_path: Path) -> None:
    """What is partly in a hole when a file is cut or grows, a host may write zeros to."""
    with host(kind, tmp_path) as place:
        shelf = Shelf(place)
        tree = shelf.tree([file(name, DATA) for name in NAMES])
        run(LimitedBox, (), shelf, tree, place, STEPS // 4)


def run(kind: type[Box], flags: tuple[str, ...], shelf: Shelf, tree: Tree, home: Path, count: int) -> None:
    @settings(
        max_examples=max(1, count // IN_EXAMPLE),
        deadline=None,
        database=None,
        suppress_health_check=list(HealthCheck),
        phases=[Phase.generate, Phase.shrink],
    )
    @given(st.lists(steps, min_size=5, max_size=2 * IN_EXAMPLE))
    def examples(script: list[tuple[object, ...]]) -> None:
        work = Work(kind(shelf, tree, home / f"box{next(_numbers)}", flags), shelf.objects)
        try:
            for step, *arguments in script:
                getattr(work, str(step))(*arguments)
                work.check()
            work.complete()
            work.check()
        finally:
            work.forget()
            work.box.unmount()

    examples()
