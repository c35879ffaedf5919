"""File handles (name_to_handle_at): good as long as the kernel knows the file; never another file's."""

from __future__ import annotations

import ctypes
import errno
import os
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / "conformance"))
sys.path.insert(0, str(Path(__file__).parent))

from calls import LIBC
from limited import OptionBox

from layerfs.layer.tree import Tree
from layerfs.store.root import StoreRoot

pytestmark = pytest.mark.root


class Handle(ctypes.Structure):
    _fields_ = [("size", ctypes.c_uint32), ("type", ctypes.c_int32), ("data", ctypes.c_ubyte * 128)]


@pytest.fixture
def box(store: StoreRoot, tree: Tree, tmp_path: Path) -> Iterator[OptionBox]:
    made = OptionBox(store, tree, tmp_path / "box")
    made.mount()
    yield made
    made.unmount()


def handle_of(path: Path) -> Handle:
    handle, mount_id = Handle(size=128), ctypes.c_int()
    if LIBC.name_to_handle_at(-100, os.fsencode(path), ctypes.byref(handle), ctypes.byref(mount_id), 0) < 0:
        raise OSError(ctypes.get_errno(), "name_to_handle_at")
    return handle


def read_by(root: Path, handle: Handle) -> bytes:
    place = os.open(root, os.O_RDONLY)
    try:
        fd = LIBC.open_by_handle_at(place, ctypes.byref(handle), os.O_RDONLY)
        if fd < 0:
            raise OSError(ctypes.get_errno(), "open_by_handle_at")
    finally:
        os.close(place)
    with os.fdopen(fd, "rb") as file:
        return file.read()


def test_a_handle_leads_to_its_file_under_any_name(box: OptionBox) -> None:
    (box.root / "new").write_bytes(b"new")
    with (box.root / "new").open(), (box.root / "a").open(), (box.root / "d/f").open():  # the kernel keeps them
        handles = [handle_of(box.root / name) for name in ("new", "a", "d/f")]
        (box.root / "new").rename(box.root / "d/moved")
        (box.root / "d/f").chmod(0o600)
        assert [read_by(box.root, handle) for handle in handles] == [b"new", b"linked", b"f"]


def test_a_handle_is_never_another_files(box: OptionBox) -> None:
    """The numbers of files that are gone are used again; their handles are not."""
    old = []
    for number in range(50):
        path = box.root / f"f{number}"
        path.write_bytes(b"old")
        old.append(handle_of(path))
        path.unlink()
    for number in range(50):
        (box.root / f"g{number}").write_bytes(b"new")
    for handle in old:
        with pytest.raises(OSError) as caught:
            read_by(box.root, handle)
        assert caught.value.errno == errno.ESTALE


def test_a_handle_of_an_earlier_mount_is_refused(box: OptionBox) -> None:
    """The node numbers of two mounts are the same."""
    handles = [handle_of(box.root / name) for name in ("a", "d", "big")]
    for name in ("big", "d", "a"):
        (box.mount() / name).lstat()
    for handle in handles:
        with pytest.raises(OSError) as caught:
            read_by(box.root, handle)
        assert caught.value.errno == errno.ESTALE
