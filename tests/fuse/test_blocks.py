"""Engine `native`: of a big lower file only the blocks that change are stored, and every byte is right all the same."""

from __future__ import annotations

import contextlib
import ctypes
import errno
import mmap
import os
import signal
import struct
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / "conformance"))
sys.path.insert(0, str(Path(__file__).parent))

import uring
from test_native import MODES, Box
from trees import Shelf, file, hardlink, tar

from layerfs import mount
from layerfs.errors import Corrupt
from layerfs.layer.blocks import MARK, Base, complete_upper
from layerfs.layer.tree import Tree
from layerfs.layer.upper import TRUSTED
from layerfs.native import sha256
from layerfs.union import Contents, Union
from tests.disks import KINDS, host, is_shared

pytestmark = pytest.mark.root

MIB = 1 << 20
BLOCK = 4096
DATA = bytes(range(256)) * 11_000 + b"the end"  # 2.7 MiB, no whole number of blocks
NAME = TRUSTED + MARK
MODES = {name: MODES[name] for name in ("default", "server", *(["uring"] if uring.available() else []))}
_LIBC = ctypes.CDLL(None, use_errno=True)
KEEP, PUNCH, ZERO = 1, 2, 16


@pytest.fixture(scope="module")
def shelf(tmp_path_factory: pytest.TempPathFactory) -> Shelf:
    return Shelf(tmp_path_factory.mktemp("blocks"))


@pytest.fixture(scope="module")
def tree(shelf: Shelf) -> Tree:
    return shelf.tree([file("big", DATA), file("b1", DATA[::-1]), hardlink("b2", "b1"), file("other", DATA * 2)])


@pytest.fixture
def box(shelf: Shelf, tree: Tree, tmp_path: Path) -> Iterator[Box]:
    made = Box(shelf, tree, tmp_path / "box", ())
    made.mount()
    yield made
    made.unmount()


def mark(path: Path) -> Base | None:
    try:
        return Base.parse(os.getxattr(path, NAME))
    except OSError as error:
        assert error.errno == errno.ENODATA
        return None


def stored(path: Path) -> int:
    """Bytes of the file's own; what xattrs take is not in it."""
    fd = os.open(path, os.O_RDONLY)
    try:
        size, at = os.fstat(fd).st_size, 0
        total = 0
        while at < size:
            try:
                start = os.lseek(fd, at, os.SEEK_DATA)
            except OSError:
                break
            at = os.lseek(fd, start, os.SEEK_HOLE)
            total += at - start + -(at - start) % BLOCK
        return total
    finally:
        os.close(fd)


def fallocate(fd: int, mode: int, offset: int, length: int) -> None:
    done = _LIBC.fallocate(fd, mode, ctypes.c_long(offset), ctypes.c_long(length))
    assert done == 0, os.strerror(ctypes.get_errno())


def patched(data: bytes, at: int, new: bytes) -> bytes:
    return data[:at].ljust(at, b"\0") + new + data[at + len(new) :]


def kill(box: Box) -> Path:
    """The server dies, and the container is mounted again."""
    os.kill(box.pid, signal.SIGKILL)
    box.await_end()
    while mount.entry_of(box.root) is not None:
        mount.detach(box.root, lazy=True)
    return box.mount()


# --- what is stored ------------------------------------------------------------------------------------------------


def test_one_byte_stores_one_block(box: Box) -> None:
    with (box.root / "big").open("r+b", buffering=0) as out:
        assert os.pwrite(out.fileno(), b"!", MIB + 5) == 1
    assert stored(box.upper / "big") == BLOCK
    assert mark(box.upper / "big") == Base(sha256(DATA), len(DATA))
    assert (box.root / "big").read_bytes() == patched(DATA, MIB + 5, b"!")
    assert (kill(box) / "big").read_bytes() == patched(DATA, MIB + 5, b"!")


def test_opening_to_write_stores_nothing(box: Box) -> None:
    with (box.root / "big").open("r+b", buffering=0):
        pass
    os.chmod(box.root / "big", 0o600)
    assert (stored(box.upper / "big"), (box.root / "big").read_bytes()) == (0, DATA)
    assert (box.root / "big").stat().st_blocks * 512 >= len(DATA)


def test_changed_attributes_store_no_bytes_and_writing_comes_after_them(box: Box) -> None:
    os.chmod(box.root / "big", 0o640)
    assert mark(box.upper / "big") is None
    assert stored(box.upper / "big") == 0
    with (box.root / "big").open("ab") as out:
        out.write(b"more")
    assert (mark(box.upper / "big"), stored(box.upper / "big")) == (Base(sha256(DATA), len(DATA)), BLOCK)
    assert (box.root / "big").read_bytes() == DATA + b"more"


def test_truncating_open_stores_nothing_and_needs_no_base(box: Box) -> None:
    with (box.root / "big").open("wb") as out:
        out.write(b"new")
    assert (mark(box.upper / "big"), (box.root / "big").read_bytes()) == (None, b"new")
    with (box.root / "other").open("r+b") as out:
        out.write(b"x")
    with (box.root / "other").open("wb") as out:
        out.write(b"new")
    assert (mark(box.upper / "other"), (box.root / "other").read_bytes()) == (None, b"new")


def test_small_files_and_the_switch_copy_all(box: Box, shelf: Shelf, tree: Tree, tmp_path: Path) -> None:
    other = Box(shelf, tree, tmp_path / "other", ("no_blocks",))
    root = other.mount()
    with (root / "big").open("r+b") as out:
        out.write(b"x")
    other.unmount()
    assert (mark(other.upper / "big"), (other.upper / "big").read_bytes()) == (None, b"x" + DATA[1:])


# --- every way to change bytes ---------------------------------------------------------------------------------------


def test_written_zeros_are_stored_and_stay(box: Box) -> None:
    with (box.root / "big").open("r+b", buffering=0) as out:
        os.pwrite(out.fileno(), bytes(3 * BLOCK), 10 * BLOCK)
    assert stored(box.upper / "big") == 3 * BLOCK
    assert (kill(box) / "big").read_bytes() == patched(DATA, 10 * BLOCK, bytes(3 * BLOCK))


@pytest.mark.parametrize("mode", [PUNCH | KEEP, ZERO | KEEP, ZERO])
@pytest.mark.parametrize(
    "at, count",
    [(8192, 8192), (5000, 20_000), (100, 50), (len(DATA) - 5000, 5000), (MIB, len(DATA)), (len(DATA) - 3, 3), (0, MIB)],
)
def test_zeroed_ranges(box: Box, mode: int, at: int, count: int) -> None:
    fd = os.open(box.root / "big", os.O_RDWR)
    try:
        os.pwrite(fd, b"h", at)
        fallocate(fd, mode, at, count)
    finally:
        os.close(fd)
    end = at + count if mode == ZERO else min(at + count, len(DATA))
    wanted = patched(DATA, at, bytes(end - at))
    assert (box.root / "big").read_bytes() == wanted
    assert (kill(box) / "big").read_bytes() == wanted


@pytest.mark.parametrize("keep", [0, KEEP])
@pytest.mark.parametrize(
    "at, count", [(5000, 100_000), (len(DATA) - 2, 1), (len(DATA), 10_000), (len(DATA) + 50_000, 5000)]
)
def test_allocated_ranges_keep_their_bytes(box: Box, keep: int, at: int, count: int) -> None:
    fd = os.open(box.root / "big", os.O_RDWR)
    try:
        fallocate(fd, keep, at, count)
    finally:
        os.close(fd)
    wanted = DATA if keep else DATA.ljust(max(len(DATA), at + count), b"\0")
    assert (box.root / "big").read_bytes() == wanted
    assert (kill(box) / "big").read_bytes() == wanted


@pytest.mark.parametrize("by_name", [True, False])
@pytest.mark.parametrize("size", [0, 1, 4096, 5000, MIB + 1, len(DATA) - 1, len(DATA)])
def test_what_was_cut_off_does_not_come_back(box: Box, size: int, by_name: bool) -> None:
    path = box.root / "big"
    wanted = patched(DATA, 2 * MIB, b"x")
    with path.open("r+b", buffering=0) as out:
        os.pwrite(out.fileno(), b"x", 2 * MIB)
        os.truncate(path, size) if by_name else os.ftruncate(out.fileno(), size)
        wanted = wanted[:size]
        assert path.read_bytes() == wanted
    path = kill(box) / "big"
    assert path.read_bytes() == wanted
    os.truncate(path, len(DATA) + 10_000)
    wanted = wanted.ljust(len(DATA) + 10_000, b"\0")
    assert path.read_bytes() == wanted
    assert (kill(box) / "big").read_bytes() == wanted


def test_writing_far_behind_the_end(box: Box) -> None:
    with (box.root / "big").open("r+b", buffering=0) as out:
        os.pwrite(out.fileno(), b"far", len(DATA) + 100_000)
    wanted = patched(DATA, len(DATA) + 100_000, b"far")
    assert (box.root / "big").read_bytes() == wanted
    assert stored(box.upper / "big") <= 2 * BLOCK
    assert (kill(box) / "big").read_bytes() == wanted


def test_mappings_write_blocks(box: Box) -> None:
    with (box.root / "big").open("r+b") as out, mmap.mmap(out.fileno(), 0) as mapped:
        assert mapped[MIB : MIB + 4] == DATA[MIB : MIB + 4]
        mapped[5 * BLOCK + 17] = 1
        mapped[-1] = 2
        mapped.flush()
    wanted = patched(patched(DATA, 5 * BLOCK + 17, b"\1"), len(DATA) - 1, b"\2")
    assert (box.root / "big").read_bytes() == wanted
    assert stored(box.upper / "big") == 2 * BLOCK
    assert (kill(box) / "big").read_bytes() == wanted


def test_direct_reads_and_writes(box: Box) -> None:
    fd = os.open(box.root / "big", os.O_RDWR | os.O_DIRECT)
    buffer = mmap.mmap(-1, 4 * BLOCK)
    try:
        buffer[:] = b"d" * (4 * BLOCK)
        assert os.pwritev(fd, [buffer], 7 * BLOCK) == 4 * BLOCK
        assert os.preadv(fd, [buffer], 5 * BLOCK) == 4 * BLOCK
        assert buffer[:] == DATA[5 * BLOCK : 7 * BLOCK] + b"d" * (2 * BLOCK)
    finally:
        os.close(fd)
    assert (box.root / "big").read_bytes() == patched(DATA, 7 * BLOCK, b"d" * (4 * BLOCK))


def test_who_only_writes_and_who_reads_agree(box: Box) -> None:
    """The writer goes past the page cache; the reader's pages, and a mapping's, are never older than a write."""
    wanted = bytearray(DATA)
    stop = threading.Event()

    def read_on(fd: int) -> None:
        while not stop.is_set():
            for at in range(0, 64 * BLOCK, BLOCK):
                os.pread(fd, BLOCK, at)

    with (box.root / "big").open("r+b", buffering=0) as both, mmap.mmap(both.fileno(), len(DATA)) as mapped:
        fd = os.open(box.root / "big", os.O_WRONLY)
        others = [threading.Thread(target=read_on, args=(both.fileno(),)) for _ in range(2)]
        for other in others:
            other.start()
        try:
            for number in range(1500):
                at, data = number * 5003 % (60 * BLOCK), b"%06d" % number * (1 + number % 900)
                assert os.pwrite(fd, data, at) == len(data)
                wanted[at : at + len(data)] = data
                assert os.pread(both.fileno(), len(data), at) == data
                assert mapped[at : at + len(data)] == data
                if not number % 3:
                    mapped[at : at + 3] = wanted[at : at + 3] = b"map"
        finally:
            stop.set()
            for other in others:
                other.join()
            os.close(fd)
    assert (box.root / "big").read_bytes() == wanted


def test_who_only_writes_drops_capabilities(box: Box) -> None:
    """Those that were there, and those that came while the file was open."""
    name, value = "security.capability", struct.pack("<IIIII", 0x02000000, 1 << 10, 0, 0, 0)
    for path in (box.root / "big", box.root / "other"):
        if path.name == "big":
            os.setxattr(path, name, value)
        fd = os.open(path, os.O_WRONLY)
        if path.name == "other":
            os.setxattr(path, name, value)
        assert os.getxattr(path, name) == value
        os.pwrite(fd, b"new", 5 * BLOCK)
        with pytest.raises(OSError, match="No data"):
            os.getxattr(path, name)
        os.close(fd)


def test_a_directory_s_capability_is_no_file_s(box: Box) -> None:
    """What is known of an open directory is its listing (found by fuzzing, with the address sanitizer)."""
    value = struct.pack("<IIIII", 0x02000000, 1 << 10, 0, 0, 0)
    with os.scandir(box.root) as listing:
        next(listing)
        os.setxattr(box.root, "security.capability", value)
        assert {entry.name for entry in listing} <= {"big", "b1", "b2", "other"}
    assert os.getxattr(box.root, "security.capability") == value


def test_copying_ranges_between_such_files(box: Box) -> None:
    with (box.root / "big").open("r+b") as out, (box.root / "other").open("r+b") as source:
        source.write(b"source")
        source.flush()
        count = os.copy_file_range(source.fileno(), out.fileno(), 50_000, 0, MIB + 7)
    assert count == 50_000
    wanted = patched(DATA, MIB + 7, (b"source" + DATA[6:])[:50_000])
    assert (box.root / "big").read_bytes() == wanted


def test_hard_links_renames_and_removed_names_keep_the_bytes(box: Box) -> None:
    root = box.root
    with (root / "b1").open("r+b", buffering=0) as out:
        out.write(b"one")
        assert (root / "b2").read_bytes() == b"one" + DATA[::-1][3:]
        os.rename(root / "b2", root / "moved")
        os.mkdir(root / "d")
        os.link(root / "b1", root / "d/linked")
        os.unlink(root / "b1")
        os.pwrite(out.fileno(), b"two", MIB)
    wanted = patched(b"one" + DATA[::-1][3:], MIB, b"two")
    assert [(root / name).read_bytes() for name in ("moved", "d/linked")] == [wanted] * 2
    root = kill(box)
    assert [(root / name).read_bytes() for name in ("moved", "d/linked")] == [wanted] * 2
    assert (root / "moved").stat().st_nlink == 2


def test_a_removed_file_goes_on_while_it_is_open(box: Box) -> None:
    with (box.root / "big").open("r+b", buffering=0) as out:
        out.write(b"first")
        os.unlink(box.root / "big")
        os.pwrite(out.fileno(), b"second", MIB)
        os.ftruncate(out.fileno(), 2 * MIB)
        wanted = patched(b"first" + DATA[5:], MIB, b"second")[: 2 * MIB]
        assert os.pread(out.fileno(), 4 * MIB, 0) == wanted


def test_a_lower_file_that_was_removed_while_open_is_written_by_blocks(box: Box) -> None:
    with (box.root / "b1").open("rb", buffering=0) as reader:
        os.unlink(box.root / "b1")
        os.unlink(box.root / "b2")
        fd = os.open(f"/proc/self/fd/{reader.fileno()}", os.O_RDWR)
        try:
            os.pwrite(fd, b"late", 77)
            assert os.pread(fd, len(DATA) + 1, 0) == patched(DATA[::-1], 77, b"late")
        finally:
            os.close(fd)


def test_old_descriptors_of_lower_files(box: Box) -> None:
    """Passed through they keep the lower bytes, as everywhere; cached (two names) they see what is written."""
    with (box.root / "big").open("rb", buffering=0) as old, (box.root / "b1").open("rb", buffering=0) as shared:
        for name in ("big", "b1"):
            with (box.root / name).open("r+b") as out:
                out.write(b"new")
        assert old.read() == DATA
        assert shared.read() == b"new" + DATA[::-1][3:]


def test_holes_and_data_are_told(box: Box) -> None:
    fd = os.open(box.root / "big", os.O_RDWR)
    os.ftruncate(fd, 8 * MIB)
    os.pwrite(fd, b"x", 6 * MIB)
    os.close(fd)
    fd = os.open(kill(box) / "big", os.O_RDONLY)
    try:
        assert os.lseek(fd, 0, os.SEEK_DATA) == 0
        hole = os.lseek(fd, 0, os.SEEK_HOLE)
        assert len(DATA) <= hole <= len(DATA) + BLOCK
        assert os.lseek(fd, hole, os.SEEK_DATA) == 6 * MIB
        assert os.lseek(fd, 6 * MIB, os.SEEK_HOLE) == 6 * MIB + BLOCK
        with pytest.raises(OSError, match="No such device"):
            os.lseek(fd, 7 * MIB, os.SEEK_DATA)
    finally:
        os.close(fd)


@pytest.mark.parametrize("mode", MODES)
def test_synced_bytes_and_times(shelf: Shelf, tree: Tree, tmp_path: Path, mode: str) -> None:
    box = Box(shelf, tree, tmp_path / "synced", MODES[mode])
    path = box.mount() / "big"
    try:
        with path.open("r+b", buffering=0) as out:
            out.write(b"synced")
            os.fsync(out.fileno())
        os.utime(path, ns=(1, 2))
        assert (path.stat().st_mtime_ns, path.read_bytes()) == (2, b"synced" + DATA[6:])
    finally:
        box.unmount()


# --- completing ------------------------------------------------------------------------------------------------------


def await_whole(path: Path) -> None:
    deadline = time.monotonic() + 60
    while mark(path) is not None:
        assert time.monotonic() < deadline, "nobody completed the file"
        time.sleep(0.01)


def test_a_file_that_was_mostly_written_is_completed_and_passed_through(box: Box) -> None:
    path = box.root / "big"
    with path.open("r+b", buffering=0) as out:
        out.write(b"w" * (2 * MIB))
    os.utime(path, ns=(5, 6))
    await_whole(box.upper / "big")
    wanted = b"w" * (2 * MIB) + DATA[2 * MIB :]
    assert (box.upper / "big").read_bytes() == wanted
    assert (path.read_bytes(), path.stat().st_mtime_ns) == (wanted, 6)
    with path.open("r+b") as out:
        out.write(b"passed")
    assert (box.upper / "big").read_bytes() == path.read_bytes() == b"passed" + wanted[6:]


def test_holes_of_the_base_stay_holes_in_a_completed_file(shelf: Shelf, tmp_path: Path) -> None:
    data = b"d" * MIB + bytes(2 * MIB) + b"e" * (3 * MIB) + bytes(BLOCK + 5)
    tree = shelf.tree([file("holes", data)])
    identity = sha256(data).hex()
    with (shelf.objects / identity[:2] / identity[2:]).open("r+b") as out:
        for at, count in ((MIB + 100, 2 * MIB - 100), (6 * MIB, 2 * BLOCK)):
            assert _LIBC.fallocate(out.fileno(), PUNCH | KEEP, ctypes.c_long(at), ctypes.c_long(count)) == 0
    box = Box(shelf, tree, tmp_path / "holes", ())
    path = box.mount() / "holes"
    try:
        with path.open("r+b", buffering=0) as out:
            os.pwrite(out.fileno(), b"w" * (3 * MIB), 3 * MIB)
            os.pwrite(out.fileno(), b"in a hole", 2 * MIB)
        await_whole(box.upper / "holes")
        wanted = data[: 2 * MIB] + b"in a hole" + data[2 * MIB + 9 : 3 * MIB] + b"w" * (3 * MIB) + data[6 * MIB :]
        assert path.read_bytes() == (box.upper / "holes").read_bytes() == wanted
        assert stored(box.upper / "holes") == 4 * MIB + 2 * BLOCK  # one that is data in part, and what was written
    finally:
        box.unmount()


def test_little_changed_files_are_not_completed(box: Box) -> None:
    with (box.root / "big").open("r+b", buffering=0) as out:
        out.write(b"w" * MIB)
    time.sleep(0.2)
    assert (stored(box.upper / "big"), mark(box.upper / "big") is None) == (MIB, False)


def test_writers_win_over_the_filler(shelf: Shelf, tmp_path: Path) -> None:
    size = 32 * MIB
    tree = shelf.tree([file("huge", b"base" * (size // 4))])
    box = Box(shelf, tree, tmp_path / "huge", ())
    path = box.mount() / "huge"
    wanted = bytearray(b"base" * (size // 4))
    try:
        with path.open("r+b", buffering=0) as out:  # all but every 300th block
            for at in range(0, size, 300 * BLOCK):
                piece = b"f" * min(299 * BLOCK, size - at)
                os.pwrite(out.fileno(), piece, at)
                wanted[at : at + len(piece)] = piece
        with path.open("r+b", buffering=0) as out:
            for number, at in enumerate(range(299 * BLOCK, size - BLOCK, 300 * BLOCK)):
                piece = b"%06d" % number
                os.pwrite(out.fileno(), piece, at + 5)
                wanted[at + 5 : at + 11] = piece
        await_whole(box.upper / "huge")
        assert path.read_bytes() == bytes(wanted)
        assert (box.upper / "huge").read_bytes() == bytes(wanted)
    finally:
        box.unmount()


def test_other_engines_get_whole_files(box: Box, shelf: Shelf, tree: Tree) -> None:
    with (box.root / "big").open("r+b") as out:
        out.write(b"x")
    box.unmount()
    assert os.getxattr(box.upper, NAME) == b"y"
    before = (box.upper / "big").stat()
    assert complete_upper(box.upper, shelf.objects, TRUSTED) == 1
    assert complete_upper(box.upper, shelf.objects, TRUSTED) == 0
    after = (box.upper / "big").stat()
    assert ((box.upper / "big").read_bytes(), mark(box.upper / "big")) == (b"x" + DATA[1:], None)
    assert (after.st_mtime_ns, after.st_mode) == (before.st_mtime_ns, before.st_mode)
    assert (box.mount() / "big").read_bytes() == b"x" + DATA[1:]


def test_the_union_in_python_reads_and_completes_them(box: Box, shelf: Shelf, tree: Tree) -> None:
    for name in ("big", "other", "b1"):
        with (box.root / name).open("r+b") as out:
            out.write(b"x")
    box.unmount()
    wanted = {"big": b"x" + DATA[1:], "other": b"x" + (DATA * 2)[1:], "b1": b"x" + DATA[::-1][1:]}
    packs = [(number, shelf.pack_path(number)) for number in tree.packs]
    union = Union(tree, Contents(shelf.objects, packs), upper=box.upper, work=box.work)
    with contextlib.closing(union):
        for name, data in wanted.items():
            body = union.open(name.encode(), os.O_RDONLY)
            assert body.read(len(data) + 1, 0) == data
            union.release(body)
        body = union.open(b"big", os.O_RDWR)
        assert body.write(b"union", 5) == 5
        assert body.read(12, 0) == b"x" + DATA[1:5] + b"union" + DATA[10:12]
        union.release(body)
        union.release(union.open(b"other", os.O_RDWR | os.O_TRUNC))
    assert [mark(box.upper / name) is None for name in wanted] == [True, True, False]
    assert (box.upper / "big").read_bytes() == (box.mount() / "big").read_bytes()
    assert ((box.root / "other").read_bytes(), (box.root / "b2").read_bytes()) == (b"", wanted["b1"])


@pytest.mark.parametrize("engine", ["kernel", "python", "native"])
def test_commits_and_other_engines_see_all_bytes(engine: str, tmp_path: Path) -> None:
    from layerfs import Store

    (tmp_path / "layer.tar").write_bytes(tar([file("big", DATA), file("other", DATA[::-1]), file("same", DATA * 2)]))
    wanted = patched(patched(DATA, MIB, b"changed"), len(DATA) + 9000, b"far")
    with Store(tmp_path / "store") as store:
        box = store.create(store.import_archive(tmp_path / "layer.tar", tag="base:1"), name="box")
        with box.mount(engine="native") as root:
            before = (root / "same").stat()
            with (root / "big").open("r+b") as out, (root / "other").open("r+b"), (root / "same").open("r+b") as same:
                os.pwrite(out.fileno(), b"changed", MIB)
                os.pwrite(out.fileno(), b"far", len(DATA) + 9000)
                os.pwrite(same.fileno(), DATA[:10], 0)
            os.utime(root / "same", ns=(before.st_mtime_ns, before.st_mtime_ns))
        assert [(change.kind, change.path) for change in box.diff()] == [("C", "/big")]
        image = box.commit("changed:1")
        with image.mount() as root:
            assert ((root / "big").read_bytes(), (root / "other").read_bytes()) == (wanted, DATA[::-1])
        with box.mount(engine=engine) as root:
            assert ((root / "big").read_bytes(), (root / "other").read_bytes()) == (wanted, DATA[::-1])
            with (root / "big").open("ab") as out:
                out.write(b"!")
        with box.mount(engine="native") as root:
            assert (root / "big").read_bytes() == wanted + b"!"
        assert not store.fsck()


def test_fsck_finds_files_without_their_base(tmp_path: Path) -> None:
    from layerfs import Store

    (tmp_path / "layer.tar").write_bytes(tar([file("d/big", DATA)]))
    with Store(tmp_path / "store") as store:
        box = store.create(store.import_archive(tmp_path / "layer.tar", tag="base:1"), name="box")
        with box.mount(engine="native") as root, (root / "d/big").open("r+b") as out:
            out.write(b"x")
        assert not store.fsck()
        value = os.getxattr(box.upper / "d/big", NAME)
        os.setxattr(box.upper / "d/big", NAME, b"\1" * 32 + value[32:])
        assert [(each.kind, each.key, "/d/big: the base" in each.message) for each in store.fsck()] == [
            ("container", box.id, True)
        ]


def test_snapshots_and_forks_have_all_bytes(tmp_path: Path) -> None:
    from layerfs import Store

    (tmp_path / "layer.tar").write_bytes(tar([file("big", DATA), file("other", DATA[::-1])]))
    with Store(tmp_path / "store") as store:
        box = store.create(store.import_archive(tmp_path / "layer.tar", tag="base:1"), name="box")
        first, second = patched(DATA, MIB, b"first"), patched(patched(DATA, MIB, b"first"), 5, b"second")
        with box.mount(engine="native") as root, (root / "big").open("r+b", buffering=0) as out:
            os.pwrite(out.fileno(), b"first", MIB)
            snapshot = box.snapshot("one")
            os.pwrite(out.fileno(), b"second", 5)
            child = box.fork("child")
            os.ftruncate(out.fileno(), 5000)
            assert (root / "big").read_bytes() == second[:5000]
        with snapshot.mount() as root:
            assert (root / "big").read_bytes() == first
        with child.mount(engine="native") as root:
            assert (root / "big").read_bytes() == second
            with (root / "big").open("ab") as more:
                more.write(b"!")
            assert (root / "big").read_bytes() == second + b"!"
        store.gc()
        with child.mount(engine="kernel") as root:
            assert (root / "big").read_bytes() == second + b"!"
        box.rollback("one")
        with box.mount(engine="native") as root:
            assert (root / "big").read_bytes() == first


def test_a_lost_base_is_an_error(box: Box, shelf: Shelf, tree: Tree) -> None:
    with (box.root / "other").open("r+b") as out:
        out.write(b"x")
    box.unmount()
    value = os.getxattr(box.upper / "other", NAME)
    os.setxattr(box.upper / "other", NAME, b"\1" * 32 + value[32:])
    root = box.mount()
    with (root / "other").open("rb") as reader, pytest.raises(OSError, match="Input/output"):
        reader.read(1)
    box.unmount()
    with pytest.raises(Corrupt, match="base"):
        complete_upper(box.upper, shelf.objects, TRUSTED)
    box.mount()


@pytest.mark.parametrize("value", [b"", b"short", b"x" * 41])
def test_a_damaged_mark_is_an_error(box: Box, value: bytes) -> None:
    with (box.root / "other").open("r+b") as out:
        out.write(b"x")
    box.unmount()
    os.setxattr(box.upper / "other", NAME, value)
    root = box.mount()
    with (root / "other").open("rb") as reader, pytest.raises(OSError, match="Input/output"):
        reader.read(1)


# --- other hosts -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
def test_what_a_first_write_makes_on_other_hosts(kind: str, tmp_path: Path) -> None:
    """Shared blocks where the host can share, blocks of our own where it can tell them, else a copy."""
    with host(kind, tmp_path) as place:
        shelf = Shelf(place)
        box = Box(shelf, shelf.tree([file("big", DATA)]), place / "box", ())
        root = box.mount()
        try:
            with (root / "big").open("r+b", buffering=0) as out:
                os.pwrite(out.fileno(), b"x", MIB)
            wanted = patched(DATA, MIB, b"x")
            assert (root / "big").read_bytes() == wanted
            assert (mark(box.upper / "big") is None) == (kind != "xfs-plain")
            if kind != "xfs-plain":
                assert (box.upper / "big").read_bytes() == wanted
            if kind in ("xfs", "btrfs"):
                os.sync()
                assert is_shared(box.upper / "big")
            assert (kill(box) / "big").read_bytes() == wanted
        finally:
            box.unmount()
