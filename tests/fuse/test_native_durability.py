"""fsync means it: what was written is on the host's disk when it returns. The host tells: blocks that it has only
promised to allocate (delayed allocation) hold bytes that no disk has.
"""

from __future__ import annotations

import fcntl
import mmap
import os
import shutil
import struct
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / "conformance"))
sys.path.insert(0, str(Path(__file__).parent))

from limited import OptionBox
from trees import Shelf, directory, file

from layerfs.layer.tree import Tree
from layerfs.snapshot import control
from layerfs.snapshot.uppers import Look, new_place
from layerfs.store.root import StoreRoot
from tests.disks import make_image, mounted

pytestmark = pytest.mark.root

_FIEMAP, _DELAYED, _EXTENTS = 0xC020660B, 0x4, 16
SIZE = 1 << 20


def is_on_disk(path: Path) -> bool:
    fd = os.open(path, os.O_RDONLY)
    try:
        request = struct.pack("=QQIIII", 0, 1 << 40, 0, 0, _EXTENTS, 0) + bytes(56 * _EXTENTS)
        answer = fcntl.ioctl(fd, _FIEMAP, request)
    finally:
        os.close(fd)
    count = struct.unpack_from("=I", answer, 20)[0]
    assert count
    return not any(struct.unpack_from("=I", answer, 32 + 56 * at + 40)[0] & _DELAYED for at in range(count))


@pytest.fixture
def box(store: StoreRoot, tree: Tree, tmp_path: Path) -> Iterator[OptionBox]:
    probe = tmp_path / "probe"
    probe.write_bytes(b"x" * SIZE)
    if is_on_disk(probe):
        pytest.skip("this host allocates at once, so that nothing can be told from its blocks")
    made = OptionBox(store, tree, tmp_path / "box")
    yield made
    made.unmount()


def by_fsync(path: Path) -> None:
    with path.open("wb") as out:
        out.write(b"x" * SIZE)
        out.flush()
        os.fsync(out.fileno())


def by_fdatasync(path: Path) -> None:
    with path.open("wb") as out:
        out.write(b"x" * SIZE)
        out.flush()
        os.fdatasync(out.fileno())


def by_writing_through(path: Path) -> None:
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_SYNC)
    os.write(fd, b"x" * SIZE)
    os.close(fd)


def by_msync(path: Path) -> None:
    fd = os.open(path, os.O_RDWR | os.O_CREAT)
    os.truncate(fd, SIZE)
    with mmap.mmap(fd, SIZE) as view:
        view[:] = b"x" * SIZE
        view.flush()
    os.close(fd)


def by_another_descriptor(path: Path) -> None:
    path.write_bytes(b"x" * SIZE)
    fd = os.open(path, os.O_RDONLY)
    os.fsync(fd)
    os.close(fd)


@pytest.mark.parametrize("options", ["", "size=1g"], ids=["passthrough", "cached"])
@pytest.mark.parametrize("act", [by_fsync, by_fdatasync, by_writing_through, by_msync, by_another_descriptor])
def test_what_was_synced_is_on_disk(box: OptionBox, options: str, act: Callable[[Path], None]) -> None:
    act(box.mount(options) / "new")
    assert is_on_disk(box.upper / "new")


def test_what_was_copied_up_is_on_disk(box: OptionBox) -> None:
    with (box.mount() / "big").open("r+b"):
        assert is_on_disk(box.upper / "big")


def test_volatile_syncs_nothing(box: OptionBox) -> None:
    by_fsync(box.mount("volatile") / "new")
    assert not is_on_disk(box.upper / "new")


# --- names: what a loss of power leaves is what the disk holds at that moment ---------------------------------------


@pytest.fixture
def disk_box(store: StoreRoot, tree: Tree, tmp_path: Path) -> Iterator[OptionBox]:
    """Its upper directory is on an ext4 of its own."""
    image = make_image(tmp_path / "disk.image", ["mkfs.ext4", "-q"], 32 << 20)
    with mounted(image, tmp_path / "disk") as disk:
        made = OptionBox(store, tree, disk / "box")
        made.mount()
        os.sync()
        yield made
        made.unmount()


def after_power_loss(box: OptionBox, below: str = "box/upper", name: str = "*") -> list[str]:
    top = box.home.parents[1]
    shutil.copy(top / "disk.image", top / "copy.image")
    with mounted(top / "copy.image", top / "copy") as disk:
        return sorted(f"{path.name} {path.stat().st_mode & 0o777:o}" for path in (disk / below).glob(name))


def syncs_spared(box: OptionBox) -> int:
    assert box.handle is not None
    spared: int = box.handle.stats()["counters"]["synced_before"]
    return spared


def make_synced(path: Path) -> None:
    fd = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
    os.write(fd, b"x")
    os.fchown(fd, 0, 0)
    os.fdatasync(fd)
    os.close(fd)


def sync(path: Path) -> None:
    fd = os.open(path, os.O_RDONLY)
    os.fsync(fd)
    os.close(fd)


def test_a_directory_is_on_disk_with_the_new_file_that_was_synced(disk_box: OptionBox) -> None:
    (disk_box.root / "before").mkdir(0o700)
    make_synced(disk_box.root / "new")
    sync(disk_box.root)
    assert syncs_spared(disk_box) == 1
    assert after_power_loss(disk_box) == ["before 700", "new 644"]


def test_a_new_file_that_was_not_synced_is_synced_with_its_directory(disk_box: OptionBox) -> None:
    (disk_box.root / "new").touch(0o644)
    assert after_power_loss(disk_box) == []
    sync(disk_box.root)
    assert after_power_loss(disk_box) == ["new 644"]


@pytest.mark.parametrize(
    ("change", "left"),
    [
        (lambda root: (root / "two").mkdir(0o700), ["new 644", "two 700"]),
        (lambda root: (root / "two").touch(0o600), ["new 644", "two 600"]),
        (lambda root: (root / "new").rename(root / "two"), ["two 644"]),
        (lambda root: os.link(root / "new", root / "two"), ["new 644", "two 644"]),
        (lambda root: (root / "new").unlink(), []),
    ],
)
def test_what_happened_to_names_since_is_synced_with_the_directory(
    disk_box: OptionBox, change: Callable[[Path], None], left: list[str]
) -> None:
    make_synced(disk_box.root / "new")
    change(disk_box.root)
    sync(disk_box.root)
    assert after_power_loss(disk_box) == left
    assert syncs_spared(disk_box) == 0


def test_only_the_directory_of_the_new_file_is_synced_with_it(disk_box: OptionBox) -> None:
    (disk_box.root / "other").mkdir()
    make_synced(disk_box.root / "other/new")
    sync(disk_box.root)
    assert syncs_spared(disk_box) == 0


@pytest.mark.parametrize("name", ["a", "big"])
def test_attributes_of_a_file_whose_bytes_are_below_are_synced_with_it(disk_box: OptionBox, name: str) -> None:
    (disk_box.root / name).chmod(0o606)
    sync(disk_box.root / name)
    assert f"{name} 606" in after_power_loss(disk_box)


# --- a freeze syncs nothing: who syncs afterwards means what was done before, too -----------------------------------


@pytest.fixture
def freezing_box(tmp_path: Path) -> Iterator[OptionBox]:
    """The whole store is on that disk."""
    image = make_image(tmp_path / "disk.image", ["mkfs.ext4", "-q"], 32 << 20)
    options = ["-o", "loop,commit=600"]  # nothing goes to the disk because time passes
    with mounted(image, tmp_path / "disk", *options) as disk, StoreRoot.open(disk / "store") as store:
        tree = Shelf(store.path).tree([directory("d"), file("d/f", b"f"), file("d/g", b"g")])
        made = OptionBox(store, tree, disk / "box")
        made.mount()
        yield made
        made.unmount()


def freeze_after(box: OptionBox, *changes: Callable[[Path], object]) -> None:
    """Once after each of them."""
    places = [new_place(box.store, Look.of_upper(box.upper), (os.geteuid(), os.getegid())) for _ in changes]
    os.sync()
    assert box.handle is not None
    for change, place in zip(changes, places, strict=True):
        change(box.root)
        assert not control.request(box.store, box.handle.id, f"freeze {place}")["failed"]


@pytest.mark.parametrize("name", [".", "d"])
def test_names_of_before_freezes_are_synced_with_their_directory(freezing_box: OptionBox, name: str) -> None:
    freeze_after(
        freezing_box, lambda root: (root / "d/f").rename(root / name / "new"), lambda root: (root / "d/later").touch()
    )
    assert after_power_loss(freezing_box, "box/upper", f"{name}/new") == []
    sync(freezing_box.root / name)
    assert after_power_loss(freezing_box, "box/upper", f"{name}/new") == ["new 644"]


def test_attributes_of_before_a_freeze_are_synced_with_their_file(freezing_box: OptionBox) -> None:
    freeze_after(freezing_box, lambda root: (root / "d/f").chmod(0o606))
    (freezing_box.root / "d/g").chmod(0o606)
    assert after_power_loss(freezing_box, "box/upper", "d/*") == []
    sync(freezing_box.root / "d/f")
    assert "f 606" in after_power_loss(freezing_box, "box/upper", "d/*")
