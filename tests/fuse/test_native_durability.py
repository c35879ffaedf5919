"""fsync means it: what was written is on the host's disk when it returns. The host tells: blocks that it has only
promised to allocate (delayed allocation) hold bytes that no disk has.
"""

from __future__ import annotations

import fcntl
import mmap
import os
import struct
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / "conformance"))
sys.path.insert(0, str(Path(__file__).parent))

from limited import OptionBox

from layerfs.layer.tree import Tree
from layerfs.store.root import StoreRoot

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
