"""Engine native for ordinary users (through fusermount3) and in user namespaces, each with a store of his own."""

from __future__ import annotations

import errno
import io
import os
import shutil
import signal
import stat
import tarfile
import time
from pathlib import Path

import pytest

import layerfs
from layerfs import mount
from layerfs.errors import InUse, Unsupported
from layerfs.snapshot.states import States
from layerfs.store.leases import process_start
from tests.fuse.users import USER, as_other
from tests.looking import eventually, mountinfo

pytestmark = [
    pytest.mark.root,
    pytest.mark.skipif(not shutil.which("fusermount3"), reason="needs fusermount3 (Debian: fuse3)"),
]
everybody = pytest.mark.parametrize("who", ["user", "single", "mapped"])

FILES = {  # name: mode, uid, data
    "plain": (0o644, 33, b"plain"),
    "big": (0o644, 0, b"B" * 2_000_000),
    "locked": (0o000, 7, b"locked" * 1000),
    "kept/read-only": (0o400, 0, b"kept"),
    "gone/a": (0o644, 0, b"a"),
}


def image_file(place: Path) -> Path:
    with tarfile.open(place / "image.tar", "w") as archive:
        for name, mode in (("kept", 0o555), ("gone", 0o755)):
            info = tarfile.TarInfo(name)
            info.type, info.mode = tarfile.DIRTYPE, mode
            archive.addfile(info)
        for name, (mode, uid, data) in FILES.items():
            info = tarfile.TarInfo(name)
            info.mode, info.uid, info.gid, info.size, info.mtime = mode, uid, uid, len(data), 1_000_000_000
            archive.addfile(info, io.BytesIO(data))
        info = tarfile.TarInfo("null")
        info.type, info.mode, info.devmajor, info.devminor = tarfile.CHRTYPE, 0o666, 1, 3
        archive.addfile(info)
    return place / "image.tar"


def change(root: Path) -> None:
    """All sorts of copy-ups, in and of what its owner may not write or read."""
    (root / "plain").write_bytes(b"changed")
    with (root / "big").open("r+b") as file:
        file.write(b"12")
    (root / "kept/read-only").chmod(0o600)
    (root / "kept/read-only").write_bytes(b"written")
    (root / "kept/read-only").chmod(0o000)
    (root / "locked").chmod(0o200)
    shutil.rmtree(root / "gone")
    (root / "gone").mkdir()
    (root / "gone/new").write_bytes(b"new")
    (root / "gone").chmod(0)
    (root / "kept").rename(root / "moved")
    (root / "link").symlink_to("plain")
    with pytest.raises(OSError) as caught:
        os.mknod(root / "device", 0o20644, os.makedev(1, 3))
    assert caught.value.errno == errno.EPERM


def check(root: Path) -> None:
    assert sorted(path.name for path in root.iterdir()) == ["big", "gone", "link", "locked", "moved", "null", "plain"]
    assert (root / "plain").read_bytes() == b"changed"
    assert (root / "big").read_bytes() == b"12" + FILES["big"][2][2:]
    modes = {name: stat.S_IMODE((root / name).stat().st_mode) for name in ("gone", "locked", "moved")}
    assert modes == {"gone": 0, "locked": 0o200, "moved": 0o555}
    assert stat.S_IMODE((root / "moved/read-only").stat().st_mode) == 0
    for name, content in (("locked", FILES["locked"][2]), ("moved/read-only", b"written")):
        before = (root / name).stat().st_mode
        (root / name).chmod(0o600)
        assert (root / name).read_bytes() == content
        (root / name).chmod(stat.S_IMODE(before))
    (root / "gone").chmod(0o700)
    assert [path.name for path in (root / "gone").iterdir()] == ["new"]
    (root / "gone").chmod(0)


def work(place: Path) -> None:
    with layerfs.Store(place / "store") as store:
        box = store.create(store.import_archive(image_file(place), tag="base:1"), name="box")
        handle = box.mount()
        assert handle.engine == "native"
        change(handle.path)
        check(handle.path)
        with pytest.raises(InUse):
            box.mount(place / "again")
        kinds = {(each.kind, each.path) for each in box.diff()}
        assert kinds >= {("C", "/plain"), ("C", "/big"), ("A", "/gone/new"), ("A", "/moved/read-only"), ("D", "/kept")}
        assert not any(path == "/null" for _, path in kinds)
        with (handle.path / "plain").open(), pytest.raises(InUse):
            handle.unmount()
        handle.unmount()
        assert mount.entry_of(handle.path) is None
        with box.mount() as root:
            check(root)
        image = box.commit("base:2")
        assert store.fsck() == []
        with image.mount() as root:
            check_image(root)
        box.remove()
        assert list((place / "store/containers").iterdir()) == []


def check_image(root: Path) -> None:
    assert (root / "plain").read_bytes() == b"changed"
    with pytest.raises(OSError) as caught:
        (root / "new").touch()
    assert caught.value.errno == errno.EROFS


@pytest.fixture(autouse=True, scope="module")
def imported(tmp_path_factory: pytest.TempPathFactory) -> None:
    """All that the parts import, by doing the same as root: see `as_other`."""
    place = tmp_path_factory.mktemp("warm")
    with layerfs.Store(place / "store") as store:
        box = store.create(store.import_archive(image_file(place), tag="base:1"))
        with box.mount() as root, (root / "plain").open() as file:
            file.read()
            (root / "locked").unlink()
            with pytest.raises(InUse):
                box.mount(place / "again")
        list(box.diff())
        with box.commit("base:2").mount(engine="kernel"):
            pass
        store.fsck()
        store.gc()
        box.remove()


@everybody
def test_a_container_from_its_image_to_the_next_one(who: str) -> None:
    as_other(who, work)


@pytest.mark.parametrize(("who", "owners"), [("user", {USER}), ("single", {0}), ("mapped", {0, 7, 33})])
def test_files_of_ids_that_he_cannot_name_are_his_own(who: str, owners: set[int]) -> None:
    def part(place: Path) -> None:
        with layerfs.Store(place / "store") as store, store.import_archive(image_file(place)).mount() as root:
            found = {(root / name).stat().st_uid for name in FILES}
            assert found == owners

    as_other(who, part)


def test_a_commit_gives_files_back_to_whom_they_belong() -> None:
    def part(place: Path) -> None:
        with layerfs.Store(place / "store") as store:
            box = store.create(store.import_archive(image_file(place), tag="base:1"))
            with box.mount() as root:
                (root / "plain").write_bytes(b"changed")
                (root / "new").touch()
            tree = box.commit("base:2").tree()
            assert [tree.resolve(name).uid for name in (b"plain", b"new", b"locked")] == [33, 0, 7]

    as_other("user", part)


def test_a_device_that_is_not_for_him_is_a_clear_error() -> None:
    def part(place: Path) -> None:
        with layerfs.Store(place / "store") as store, pytest.raises(Unsupported, match="not for ordinary users"):
            store.import_archive(image_file(place)).mount(engine="native")
        assert list((place / "store/mounts").iterdir()) == []

    as_other("user", part, device_mode=0o600)


def test_without_fusermount3_is_a_clear_error(monkeypatch: pytest.MonkeyPatch) -> None:
    def part(place: Path) -> None:
        monkeypatch.setenv("PATH", "/nonexistent")
        with layerfs.Store(place / "store") as store, pytest.raises(Unsupported, match="fusermount3 is not installed"):
            store.import_archive(image_file(place)).mount(engine="native")

    as_other("user", part)


@pytest.mark.parametrize("line", ["user_allow_other\n", "# user_allow_other\n", ""])
def test_others_may_look_when_the_administrator_says_so(line: str) -> None:
    def part(place: Path) -> None:
        with layerfs.Store(place / "store") as store, store.import_archive(image_file(place)).mount() as root:
            entry = mount.entry_of(root)
            assert entry is not None
            assert ("allow_other" in entry.super_options) == (line == "user_allow_other\n")
            assert {"nosuid", "nodev"} <= set(entry.options.split(","))

    as_other("user", part, fuse_conf=line)


@everybody
def test_a_killed_server_is_cleared_away_by_the_next_mount(who: str) -> None:
    def part(place: Path) -> None:
        with layerfs.Store(place / "store") as store:
            box = store.create(store.import_archive(image_file(place), tag="base:1"), name="box")
            place_of = box.mount().path
            (place_of / "new").write_bytes(b"new")
            [record] = store.mounts()
            os.kill(record.pid, signal.SIGKILL)
            while process_start(record.pid) == record.pid_start:
                time.sleep(0.01)
            with box.mount() as root:
                assert (root / "new").read_bytes() == b"new"
            assert str(place_of) not in mountinfo()

    as_other(who, part)


@everybody
def test_sigterm_unmounts(who: str) -> None:
    def part(place: Path) -> None:
        with layerfs.Store(place / "store") as store:
            handle = store.import_archive(image_file(place)).mount()
            [record] = store.mounts()
            os.kill(record.pid, signal.SIGTERM)
            assert eventually(lambda: mount.entry_of(handle.path) is None)

    as_other(who, part)


def test_root_reads_a_users_container_right_and_the_kernel_engine_refuses_it() -> None:
    """Its marks are `user.overlay.*`: taken for root's, a copy of attributes alone would be a file of zeros."""

    def part(place: Path) -> None:
        with layerfs.Store(place / "store") as store:
            box = store.create(store.import_archive(image_file(place), tag="base:1"), name="box")
            with box.mount() as root:
                (root / "big").chmod(0o600)
                shutil.rmtree(root / "gone")
                (root / "gone").mkdir()

    def then(place: Path) -> None:
        with layerfs.Store(place / "store") as store:
            box = store.container("box")
            for engine in ("native", "python"):
                with box.mount(engine=engine) as root:
                    assert (root / "big").read_bytes() == FILES["big"][2]
                    assert list((root / "gone").iterdir()) == []
            with pytest.raises(Unsupported, match="ordinary user"):
                box.mount(engine="kernel")
            assert {(each.kind, each.path) for each in box.diff()} == {("C", "/big"), ("D", "/gone")}

    as_other("user", part, then=then)


@everybody
def test_forks_and_rollbacks_whose_directories_come_late(who: str) -> None:
    """An upper that could not be made as the image has it still counts as untouched, once it was frozen so."""

    def part(place: Path) -> None:
        with layerfs.Store(place / "store") as store:
            box = store.create(store.import_archive(image_file(place), tag="x:1"), name="box")
            with box.mount(engine="native") as root:
                (root / "plain").write_bytes(b"changed")
                looks = root.stat()
            before = {path.name for path in (place / "store/containers").iterdir()}
            child = box.fork("child")
            child.rollback(child.snapshot())
            grandchild = child.fork("grandchild")
            assert {path.name for path in (place / "store/containers").iterdir()} == before
            for each in (box, child, grandchild):
                with each.mount(engine="native") as root:
                    found = root.stat()
                    assert (found.st_mode, found.st_uid) == (looks.st_mode, looks.st_uid)
                    assert (root / "plain").read_bytes() == b"changed" and (root / "big").stat().st_size == 2_000_000
                each.snapshot()
            with store.root.index.view() as txn:
                assert len(States(txn).all()) == 1
            assert store.fsck() == []
            owners = {
                path.stat().st_uid for top in ("containers", "uppers") for path in (place / "store" / top).iterdir()
            }
            assert owners == {os.geteuid()}

    as_other(who, part)
