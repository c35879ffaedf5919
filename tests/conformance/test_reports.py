"""File-system cases of public reports that have no place in the other modules; each names its report."""

from __future__ import annotations

import os
import tarfile
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from calls import allocated, listed_inodes, names, stat_inodes
from trees import Entry, Shelf, directory, file, hardlink
from worlds import WORLDS, EngineWorld, World

pytestmark = pytest.mark.root

MIB = 1 << 20
BASE = [
    directory("d"),
    directory("d/sub"),
    file("d/f", b"x" * 5000),
    file("d/g", b"g"),
    file("d/l1", b"linked"),
    hardlink("d/l2", "d/l1"),
    file("big", b"B" * (4 * MIB)),
]
base = pytest.mark.layers(BASE)


def numbers(root: Path) -> dict[str, int]:
    return {str(path.relative_to(root)): path.lstat().st_ino for path in root.rglob("*")}


@base
def test_report_4_inode_numbers_never_change(world: World) -> None:
    """agentfs PR 203, apptainer#1267, fuse-overlayfs#391: "file changed as we read it"."""
    before = numbers(world.root)
    (world.root / "d/f").chmod(0o600)
    with (world.root / "d/g").open("ab") as stream:
        stream.write(b"+")
    (world.root / "d/sub").chmod(0o700)
    if not world.reference:
        (world.root / "d/l1").write_bytes(b"changed")
    assert numbers(world.root) == before
    Path("/proc/sys/vm/drop_caches").write_text("2")
    assert numbers(world.root) == before
    world.remount()
    assert numbers(world.root) == before
    assert listed_inodes(world.root / "d") == stat_inodes(world.root / "d")


LAYERS_5 = (
    [
        directory("d1"),
        directory("d1/d2"),
        file("d1/d2/foo", b"old"),
        directory("o"),
        directory("o/p"),
        file("o/p/foo", b"x"),
    ],
    [file(".wh.d1"), directory("o"), file("o/.wh..wh..opq")],
    [directory("d1"), directory("d1/d2"), directory("o/p")],
)


@pytest.mark.layers(*LAYERS_5)
@pytest.mark.parametrize("first", ["d1", "d1/d2", "o", "o/p"])
def test_report_5_a_directory_made_again_in_a_later_layer_stays_empty(world: World, first: str) -> None:
    """fuse-overlayfs#136, #324, #425: old grandchildren, depending on the order of lookups."""
    os.listdir(world.root / first)
    assert names(world.root / "d1/d2") == [] == names(world.root / "o/p")
    assert not (world.root / "d1/d2/foo").exists()


@base
def test_report_7_a_file_of_the_users_that_looks_like_a_tar_whiteout(world: World) -> None:
    """fuse-overlayfs#151: `.wh.test` hid every `test`."""
    for folder in (world.root, world.root / "d"):
        (folder / ".wh.test").write_bytes(b"mine")
        (folder / "test").write_bytes(b"visible")
    (world.root / "d/.wh..wh..opq").write_bytes(b"")
    (world.root / "d/.wh.f").write_bytes(b"")
    world.remount()
    for folder in (world.root, world.root / "d"):
        assert (folder / ".wh.test").read_bytes() == b"mine"
        assert (folder / "test").read_bytes() == b"visible"
    assert (world.root / "d/f").exists()


@base
@pytest.mark.no_remount
def test_report_8_descriptors_and_directories_do_not_pile_up(world: World) -> None:
    """fuse-overlayfs#210, #34, #238, #360."""
    if world.server is None:
        pytest.skip("no server")
    descriptors = Path(f"/proc/{world.server}/fd")

    def rounds(count: int) -> int:
        for number in range(count):
            path = world.root / f"d/sub/{number}"
            path.mkdir()
            (path / "f").write_bytes(b"x")
            (path / "f").unlink()
            path.rmdir()
        return len(list(descriptors.iterdir()))

    first, then = rounds(40), rounds(160)
    deadline = time.monotonic() + 60
    while then > first + 8 and time.monotonic() < deadline:  # the kernel says later what it has forgotten
        time.sleep(0.05)
        then = len(list(descriptors.iterdir()))
    assert then <= first + 8


@base
@pytest.mark.diverges("overlayfs", reason="metacopy is off: reference K FAIL")
@pytest.mark.parametrize("act", ["chmod", "chown", "utime", "setxattr", "rename", "link"])
def test_report_11_metadata_changes_store_no_bytes(world: World, act: str) -> None:
    """moby#17876: chmod of a big file copied all of it."""
    path = world.root / "big"
    {
        "chmod": lambda: path.chmod(0o600),
        "chown": lambda: os.chown(path, 5, 5),
        "utime": lambda: os.utime(path, ns=(1, 1)),
        "setxattr": lambda: os.setxattr(path, "user.a", b"1"),
        "rename": lambda: path.rename(world.root / "d/big").rename(path),
        "link": lambda: os.link(path, world.root / "d/big"),
    }[act]()
    assert allocated(world.upper / "big") <= 8192
    assert path.read_bytes() == b"B" * (4 * MIB)


@base
def test_report_13_holes_stay_holes_in_copies(world: World) -> None:
    """moby#5419: lastlog with a big uid. An upper file with holes is copied nowhere; a lower one keeps them."""
    path = world.root / "sparse"
    with path.open("wb") as stream:
        stream.truncate(1 << 34)
        stream.seek(1 << 33)
        stream.write(b"data")
    assert path.stat().st_size == 1 << 34
    assert allocated(world.upper / "sparse") <= 64 * 1024
    path.rename(world.root / "d/sparse")
    assert allocated(world.upper / "d/sparse") <= 64 * 1024


class Sparse(Entry):
    """A member in GNU's sparse format 1.0: `data` at `offset` in a file of `size` bytes."""

    size, offset = 1 << 40, 1 << 39

    def info(self) -> tarfile.TarInfo:
        info = super().info()
        info.pax_headers |= {"GNU.sparse.major": "1", "GNU.sparse.minor": "0", "GNU.sparse.name": self.name}
        info.pax_headers["GNU.sparse.realsize"] = str(self.size)
        return info


@pytest.mark.parametrize("engine", [name for name, kind in WORLDS.items() if issubclass(kind, EngineWorld)])
def test_report_13_a_lower_file_with_holes_is_copied_up_with_them(
    make_world: Callable[..., World], engine: str
) -> None:
    """Of a terabyte with four bytes in it only their surroundings are copied, and SEEK_DATA finds them."""
    sparse_map = f"1\n{Sparse.offset}\n4\n".encode().ljust(512, b"\0")
    world = make_world(engine, [Sparse("sparse", data=sparse_map + b"data")])
    path = world.root / "sparse"
    with path.open("r+b", buffering=0) as stream:
        stream.write(b"first")
    assert path.stat().st_size == Sparse.size
    assert allocated(world.upper / "sparse") <= 2 * MIB
    with path.open("rb", buffering=0) as stream:
        assert os.pread(stream.fileno(), 6, Sparse.offset - 1) == b"\0data\0"
        assert os.pread(stream.fileno(), 6, 0) == b"first\0"
        if engine != "python":  # libfuse 2 knows no SEEK_DATA
            assert os.lseek(stream.fileno(), 1 << 20, os.SEEK_DATA) == Sparse.offset


@pytest.mark.layers([directory("many"), *(file(f"many/{n:05}") for n in range(800))])
@pytest.mark.no_remount
def test_report_14_delete_while_reading_removes_everything(world: World) -> None:
    """toolbox#513, fuse-overlayfs#360: entries came back or were skipped."""
    folder = world.root / "many"
    for number in range(200):
        (folder / f"new-{number}").write_bytes(b"")
    seen = []
    with os.scandir(folder) as entries:
        for entry in entries:
            seen.append(entry.name)
            os.unlink(entry.path)
    assert len(seen) == len(set(seen)) == 1000
    assert names(folder) == []
    folder.rmdir()
    assert not folder.exists()


@pytest.mark.layers([directory("big")])
@pytest.mark.no_remount
def test_report_14_big_directories_are_not_quadratic(world: World) -> None:
    if world.name != "python":
        pytest.skip("the kernel's own")

    def seconds(count: int) -> float:
        start = time.monotonic()
        for number in range(count):
            (world.root / f"big/{number}").touch()
        assert len(os.listdir(world.root / "big")) == count
        for number in range(count):
            (world.root / f"big/{number}").unlink()
        return time.monotonic() - start

    seconds(50)
    assert any(seconds(600) < seconds(150) * 4 * 3 for _ in range(5))  # others may compute at any moment


def test_report_21_500_layers_mount_list_and_read(shelf: Shelf, tmp_path: Path) -> None:
    """moby#26380, buildkit#4810: 70 to 127 layers and the mount failed, by path length."""
    from worlds import KernelWorld, NativeWorld, PlainNativeWorld, PythonWorld

    name = "a-rather-long-name-so-that-paths-add-up-" * 5
    layers = tuple([directory(name), file(f"{name}/{number:03}", b"layer %d" % number)] for number in range(500))
    for kind in (KernelWorld, PythonWorld, NativeWorld, PlainNativeWorld):
        world: EngineWorld = kind(tmp_path / kind.name, layers)
        try:
            world.mount()
            assert len(world.tree.packs) == 500
            assert len(names(world.root / name)) == 500
            assert (world.root / name / "007").read_bytes() == b"layer 7"
            (world.root / name / "499").write_bytes(b"changed")
            world.remount()
            assert (world.root / name / "499").read_bytes() == b"changed"
        finally:
            world.unmount()
