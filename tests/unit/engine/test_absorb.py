"""Absorbing: big files of a frozen directory become objects without a copy, as long as nobody sees them."""

from __future__ import annotations

import contextlib
import os
import random
import signal
import stat
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

import layerfs
from layerfs._record import replace
from layerfs.errors import NoSpace
from layerfs.snapshot.absorb import GaveWay, absorb, absorb_loose
from layerfs.snapshot.states import States
from tests.disks import filled, host, is_shared, small_disk

pytestmark = pytest.mark.root
BIG = os.urandom(300_000)


@pytest.fixture
def box(store: layerfs.Store, image: layerfs.Image) -> layerfs.Container:
    return store.create(image, name="box")


def objects(store: layerfs.Store) -> set[int]:
    return {path.stat().st_ino for path in (store.path / "objects").rglob("*") if path.is_file()}


def files(box: layerfs.Container) -> dict[str, bytes]:
    with box.mount() as root:
        return {path.name: path.read_bytes() for path in root.iterdir() if path.is_file()}


def test_a_big_file_is_moved_into_the_store(store: layerfs.Store, box: layerfs.Container) -> None:
    with box.mount() as root:
        (root / "big").write_bytes(BIG)
        (root / "big").chmod(0o4777)
        os.link(root / "big", root / "again")
        (root / "small").write_bytes(b"s")
    inode = (box.upper / "big").stat().st_ino
    box.snapshot("one")
    assert absorb_loose(store.root) == 1
    assert inode in objects(store) and not list((store.path / "uppers").glob("*/upper/big"))
    object = next(
        path for path in (store.path / "objects").rglob("*") if path.is_file() and path.stat().st_ino == inode
    )
    assert object.stat().st_nlink == 1 and stat.S_IMODE(object.stat().st_mode) == 0o400
    with box.mount() as root:
        assert (root / "big").read_bytes() == BIG and (root / "small").read_bytes() == b"s"
        assert stat.S_IMODE((root / "big").stat().st_mode) == 0o4777 and (root / "big").stat().st_nlink == 2
    assert store.fsck() == []


def test_a_file_that_the_store_has_already_is_not_kept_twice(store: layerfs.Store, box: layerfs.Container) -> None:
    for name in ("one", "two"):
        with box.mount() as root:
            (root / name).write_bytes(BIG)
        box.snapshot(name)
    before = objects(store)
    assert absorb_loose(store.root) == 2 and len(objects(store) - before) == 1
    assert files(box) == {"one": BIG, "two": BIG}


def test_a_file_with_holes_keeps_them_and_is_whole(store: layerfs.Store, box: layerfs.Container) -> None:
    with box.mount() as root, (root / "holes").open("wb") as file:
        file.write(BIG)
        file.truncate(8 << 20)
    box.snapshot("one")
    assert absorb_loose(store.root) == 1
    assert files(box)["holes"] == BIG + bytes((8 << 20) - len(BIG)) and store.fsck() == []


def test_what_is_mounted_shows_no_link(store: layerfs.Store, box: layerfs.Container) -> None:
    with box.mount(engine="native") as root:
        (root / "big").write_bytes(BIG)
        box.snapshot("one")
        absorb_loose(store.root)
        assert (root / "big").stat().st_nlink == 1 and (root / "big").read_bytes() == BIG
    assert files(box)["big"] == BIG and store.fsck() == []


def test_a_file_that_somebody_still_writes_to_is_copied(store: layerfs.Store, box: layerfs.Container) -> None:
    """Passthrough outlives a server that was killed: so does the right to write to a frozen file."""
    handle = box.mount(engine="native")
    fd = os.open(handle.path / "big", os.O_RDWR | os.O_CREAT)
    try:
        os.write(fd, BIG)
        os.kill(store.mounts()[0].pid, signal.SIGKILL)
        while store.mounts():
            time.sleep(0.01)
        box.snapshot("one")
        inode = next((store.path / "containers").glob("*/upper/big")).stat().st_ino
        assert absorb_loose(store.root) == 1 and inode not in objects(store)
        with contextlib.suppress(OSError):
            os.pwrite(fd, b"late", 0)
        assert files(box)["big"] == BIG and store.fsck() == []
    finally:
        os.close(fd)


def moving(store: layerfs.Store, wanted: bool) -> None:
    with store.root.index.update() as txn:
        for state in States(txn).all():
            States(txn).put(replace(state, moving=wanted))


def test_who_was_killed_while_moving_is_taken_over_by_a_mount(store: layerfs.Store, box: layerfs.Container) -> None:
    with box.mount() as root:
        (root / "big").write_bytes(BIG)
    box.snapshot("one")
    moving(store, True)
    assert files(box)["big"] == BIG
    with store.root.index.view() as txn:
        assert all(state.absorbed and not state.moving for state in States(txn).all())


def test_the_background_gives_way(store: layerfs.Store, box: layerfs.Container) -> None:
    with box.mount() as root:
        (root / "big").write_bytes(BIG)
    box.snapshot("one")
    state = box.record.base
    with store.root.lock(f"absorb-{state[:2]}-next", exclusive=False), pytest.raises(GaveWay):
        absorb(store.root, state, yielding=True)
    with store.root.lock(f"absorb-{state[:2]}"), pytest.raises(GaveWay):
        absorb(store.root, state, yielding=True)
    with store.root.index.view() as txn:
        assert not States(txn).get(state).moving
    assert absorb(store.root, state, yielding=True).absorbed and files(box)["big"] == BIG


def test_a_mount_and_absorbing_at_once_get_into_nobodys_way(store: layerfs.Store, box: layerfs.Container) -> None:
    for number in range(4):
        with box.mount() as root:
            (root / "big").write_bytes(BIG + bytes([number]))
        box.snapshot()
        worker = threading.Thread(target=absorb_loose, args=(store.root,))
        worker.start()
        with box.mount(engine="native") as root:
            assert (root / "big").stat().st_nlink == 1 and (root / "big").read_bytes() == BIG + bytes([number])
        worker.join()
    assert store.fsck() == []


@pytest.mark.parametrize("kind", ["tmpfs", "ext4"])
def test_absorbing_on_a_full_disk_loses_nothing(tmp_path: Path, kind: str) -> None:
    """Moving takes no room for the files; where there is none at all, everything stays as it was."""
    with small_disk(kind, tmp_path, size=32 << 20) as disk, layerfs.Store(disk / "store") as store:
        (tmp_path / "plain").mkdir()
        box = store.create(store.import_archive(tmp_path / "plain"), name="box")
        with box.mount(engine="native") as root:
            (root / "big").write_bytes(BIG * 40)
            (root / "small").write_bytes(BIG[:100_000])
        box.snapshot("one")
        with filled(disk), pytest.raises(NoSpace):
            absorb_loose(store.root)
        with filled(disk, 200_000), box.mount(engine="native", read_only=True) as root:
            assert (root / "big").read_bytes() == BIG * 40
        with filled(disk, 1 << 20):
            assert absorb_loose(store.root) == 1
        with box.mount(engine="native") as root:
            assert (root / "big").read_bytes() == BIG * 40 and (root / "small").read_bytes() == BIG[:100_000]
        assert store.fsck() == []


def loose(store: layerfs.Store) -> int:
    with store.root.index.view() as txn:
        return sum(not state.absorbed for state in States(txn).all())


def eventually(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def test_the_background_absorbs_what_nobody_has_mounted(store: layerfs.Store, box: layerfs.Container) -> None:
    with box.mount() as root:
        (root / "big").write_bytes(BIG)
    box.snapshot("one", absorb=True)
    eventually(lambda: not loose(store))
    child = box.fork("child")
    with child.mount(engine="native") as root:
        (root / "big").write_bytes(BIG[::-1])
        child.snapshot("mounted", absorb=True)
        with box.mount() as other:
            (other / "mine").write_bytes(BIG)
        box.snapshot("two")
        store.absorb(background=True)
        eventually(lambda: loose(store) == 1)
        assert (root / "big").stat().st_nlink == 1
    store.absorb(background=True)
    eventually(lambda: not loose(store))
    assert files(child)["big"] == BIG[::-1] and files(box) == {"big": BIG, "mine": BIG}
    assert store.fsck() == []


def test_the_background_may_be_killed_at_any_moment(store: layerfs.Store, box: layerfs.Container) -> None:
    chance = random.Random(7)
    for number in range(5):
        with box.mount(engine="native") as root:
            (root / "big").write_bytes(BIG * 10 + bytes([number]))
        box.snapshot()
        process = subprocess.Popen([sys.executable, "-m", "layerfs.snapshot.absorber", str(store.path)])
        time.sleep(chance.uniform(0.1, 0.6))
        process.kill()
        process.wait()
        with box.mount(engine="native", read_only=True) as root:
            assert (root / "big").read_bytes() == BIG * 10 + bytes([number])
    store.absorb()
    assert not loose(store) and store.absorb("box") == 0 and store.fsck() == []


@pytest.mark.parametrize("kind", ["xfs", "btrfs", "xfs-plain"])
def test_bytes_are_shared_where_the_host_can(tmp_path: Path, kind: str) -> None:
    """By a commit, and by absorbing what is mounted."""
    with host(kind, tmp_path) as place, layerfs.Store(place / "store") as store:
        (tmp_path / "plain").mkdir()
        box = store.create(store.import_archive(tmp_path / "plain"), name="box")
        with box.mount(engine="native") as root:
            (root / "big").write_bytes(BIG)
            os.sync()
            image = box.commit("big:1")
            (root / "other").write_bytes(BIG[::-1])
            os.sync()
            box.snapshot("one")
            store.absorb()
            os.sync()
            found = [path for path in (store.path / "objects").rglob("*") if path.is_file()]
            assert len(found) == 2 and {is_shared(path) for path in found} == {kind != "xfs-plain"}
            (root / "big").write_bytes(b"changed")
        with image.mount() as root, box.find_snapshot("one").mount() as taken:
            assert (root / "big").read_bytes() == (taken / "big").read_bytes() == BIG
            assert (taken / "other").read_bytes() == BIG[::-1]
        assert store.fsck() == []
