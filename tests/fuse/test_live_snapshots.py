"""Snapshots of containers that are mounted, while somebody writes to them."""

from __future__ import annotations

import contextlib
import mmap
import os
import resource
import shutil
import subprocess
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

import layerfs
from layerfs.errors import InUse
from layerfs.snapshot import control, freezing, native
from tests.disks import filled, small_disk
from tests.fuse.users import as_other
from tests.looking import eventually, places_of

pytestmark = pytest.mark.root


@pytest.fixture
def box(tmp_path: Path) -> Iterator[layerfs.Container]:
    plain = tmp_path / "plain"
    (plain / "d").mkdir(parents=True)
    (plain / "d/lower").write_bytes(b"lower")
    (plain / "gone").write_bytes(b"x")
    with layerfs.Store(tmp_path / "store") as store:
        yield store.create(store.import_archive(plain, tag="small:1"), name="box")


def shown(snapshot: layerfs.Snapshot) -> dict[str, bytes]:
    with snapshot.mount() as root:
        return {str(path.relative_to(root)): path.read_bytes() for path in root.rglob("*") if path.is_file()}


def test_it_holds_what_was_written_before_the_call(box: layerfs.Container) -> None:
    with box.mount(engine="native") as root:
        (root / "gone").unlink()
        (root / "d/lower").write_bytes(b"changed")
        os.link(root / "d/lower", root / "link")
        (root / "new").symlink_to("d")
        open_file = (root / "open").open("wb", buffering=0)
        open_file.write(b"first")
        first = box.snapshot("first")
        assert os.statvfs(root).f_bfree
        open_file.write(b" second")
        (root / "d").rename(root / "e")
        second = box.snapshot("second")
        open_file.write(b" third")
        open_file.close()
        assert (root / "open").read_bytes() == b"first second third"
    assert shown(first) == {"d/lower": b"changed", "link": b"changed", "open": b"first"}
    assert shown(second) == {"e/lower": b"changed", "link": b"changed", "open": b"first second"}
    with first.mount() as root:
        assert (root / "link").stat().st_nlink == 2 and (root / "new").readlink() == Path("d")
    box.rollback(first)
    with box.mount() as root:
        assert (root / "open").read_bytes() == b"first" and not (root / "gone").exists()


def test_a_fork_of_a_mounted_container(box: layerfs.Container) -> None:
    with box.mount(engine="native") as root:
        (root / "a").write_bytes(b"1")
        child = box.fork("child")
        with child.mount(engine="native") as other:
            assert (other / "a").read_bytes() == b"1"
            (other / "a").write_bytes(b"2")
        assert (root / "a").read_bytes() == b"1"


def test_what_a_mapping_has_synced_is_in_it(box: layerfs.Container) -> None:
    with box.mount(engine="native") as root, (root / "m").open("w+b") as file:
        file.truncate(100_000)
        with mmap.mmap(file.fileno(), 0) as mapped:
            for number in range(1, 4):
                mapped[50_000] = number
                mapped.flush()
                assert shown(box.snapshot())["m"][50_000] == number


def test_every_file_is_whole_while_many_write(box: layerfs.Container) -> None:
    """Each file has one digit in all its bytes at a time, and a writer goes from one to the next."""
    with box.mount(engine="native") as root:
        stop, failed = threading.Event(), []

        def work(name: str) -> None:
            try:
                number = 0
                while not stop.is_set():
                    number += 1
                    (root / f"{name}.tmp").write_bytes(b"%d" % (number % 10) * 50_000)
                    (root / f"{name}.tmp").rename(root / name)
                    time.sleep(0.002)
            except OSError as error:
                failed.append(error)

        writers = [threading.Thread(target=work, args=(f"w{number}",)) for number in range(3)]
        for writer in writers:
            writer.start()
        try:
            assert eventually(lambda: all((root / f"w{number}").exists() for number in range(3)))
            taken = [box.snapshot() for _ in range(5)]
        finally:
            stop.set()
            for writer in writers:
                writer.join()
        assert failed == []
    for snapshot in taken:
        files = shown(snapshot)
        for number in range(3):
            data = files[f"w{number}"]
            assert len(data) == 50_000 and len(set(data)) == 1


def test_the_pause_ends_with_who_asked_for_it(box: layerfs.Container) -> None:
    with box.mount(engine="native") as root:
        [mounted] = box.store.mounts()
        with pytest.raises(ZeroDivisionError), control.paused(box.store.root, mounted.id):
            raise ZeroDivisionError
        (root / "after").write_bytes(b"1")
        with control.paused(box.store.root, mounted.id):
            done = []
            writer = threading.Thread(target=lambda: done.append((root / "held").write_bytes(b"1")))
            writer.start()
            time.sleep(0.1)
            assert done == []
        writer.join()
        assert done == [1]


@pytest.mark.parametrize("engine", ["kernel", "python"])
def test_other_engines_are_refused(box: layerfs.Container, engine: str) -> None:
    with box.mount(engine=engine), pytest.raises(InUse, match="not by the engine native"):
        box.snapshot()


@pytest.mark.skipif(shutil.which("busybox") is None, reason="needs busybox-static")
def test_a_running_container_goes_on(tmp_path: Path) -> None:
    place = tmp_path / "shell"
    (place / "bin").mkdir(parents=True)
    shutil.copy("/bin/busybox", place / "bin/busybox")
    (place / "bin/sh").symlink_to("busybox")
    with layerfs.Store(tmp_path / "store") as store:
        image = store.import_archive(place, tag="shell:1")
        loop = "i=0; while :; do i=$((i+1)); echo $i >> /log; done"
        box = store.create(image, name="box", command=["sh", "-c", loop])
        box.start()
        try:
            assert eventually((box.upper / "log").exists)
            first = box.snapshot()
            size = len(shown(first)["log"])
            log = box.upper / "log"
            assert eventually(lambda: log.exists() and log.stat().st_size > size)  # since it was written to again
            second = box.snapshot()
            assert box.status == "running"
        finally:
            box.stop(0)
        for snapshot in (first, second):
            lines = shown(snapshot)["log"].split(b"\n")
            assert lines[-1] == b"" and [int(line) for line in lines[:-1]] == list(range(1, len(lines)))
        assert len(shown(second)["log"]) > len(shown(first)["log"])


@pytest.mark.skipif(not shutil.which("fusermount3"), reason="needs fusermount3 (Debian: fuse3)")
@pytest.mark.parametrize("who", ["user", "single", "mapped"])
def test_ordinary_users_have_them(who: str, tmp_path: Path) -> None:
    def part(place: Path) -> None:
        (place / "plain/etc").mkdir(parents=True)
        (place / "plain/etc/motd").write_bytes(b"x")
        with layerfs.Store(place / "store") as store:
            box = store.create(store.import_archive(place / "plain", tag="small:1"), name="box")
            with box.mount() as root:
                (root / "a").write_bytes(b"1")
                (root / "etc/motd").unlink()
                (root / "locked").mkdir()
                (root / "locked/x").write_bytes(b"x")
                (root / "zero").write_bytes(b"z")
                for name in ("zero", "locked"):
                    (root / name).chmod(0)
                live = box.snapshot("live")
                (root / "a").write_bytes(b"2")
            rest = box.snapshot("rest")
            for snapshot, data in ((live, b"1"), (rest, b"2")):
                with snapshot.mount() as root:
                    assert (root / "a").read_bytes() == data and list((root / "etc").iterdir()) == []
                    assert (root / "locked").stat().st_mode & 0o777 == (root / "zero").stat().st_mode & 0o777 == 0
            box.rollback(live)
            child = box.fork()
            with child.mount() as root:
                (root / "locked").chmod(0o700)
                assert (root / "a").read_bytes() == b"1" and (root / "locked/x").read_bytes() == b"x"
            for each in store.containers():
                each.remove()
            store.gc()
            assert list((place / "store/uppers").iterdir()) == [] and store.fsck() == []

    part(tmp_path)  # also loads all modules, which the user cannot read here
    as_other(who, part)


def test_files_of_which_blocks_alone_are_stored(tmp_path: Path) -> None:
    """Written, cut, grown, punched, at rest and mounted: a snapshot has all their bytes."""
    big = os.urandom(1 << 20) * 8
    (tmp_path / "plain").mkdir()
    (tmp_path / "plain/big").write_bytes(big)
    with layerfs.Store(tmp_path / "store") as store:
        box = store.create(store.import_archive(tmp_path / "plain", tag="big:1"), name="box")
        wanted, taken = bytearray(big), []
        with box.mount(engine="native") as root, (root / "big").open("r+b", buffering=0) as file:
            for number, change in enumerate(("write", "zeros", "cut", "grow", "write")):
                if change == "cut":
                    file.truncate(5_000_001)
                    del wanted[5_000_001:]
                elif change == "grow":
                    file.truncate(6_000_000)
                    wanted.extend(bytes(6_000_000 - len(wanted)))
                else:
                    at, data = 1_000_003 * (number + 1), b"new" * 100 if change == "write" else bytes(20_000)
                    file.seek(at)
                    file.write(data)
                    wanted[at : at + len(data)] = data
                assert box.usage().bytes < 1_000_000  # else this would test nothing
                taken.append((box.snapshot(), bytes(wanted)))
            assert (root / "big").read_bytes() == wanted
        rest = box.snapshot("rest")
        for snapshot, data in (*taken, (rest, bytes(wanted))):
            assert shown(snapshot)["big"] == data
        with box.mount(engine="native") as root:
            with (root / "big").open("r+b") as file:
                file.write(b"again")
            wanted[:5] = b"again"
        box.snapshot("again")
        store.gc()
        with box.mount(engine="kernel") as root:
            assert (root / "big").read_bytes() == wanted
        assert {change.path: change.kind for change in box.diff()} == {"/big": "C"}
        with box.commit().mount() as root:
            assert (root / "big").read_bytes() == wanted
        assert store.fsck() == []


@pytest.mark.parametrize("limits", ["size=2m,inodes=40", "size=2m", "inodes=40"])
def test_limits_count_the_fresh_upper_alone(box: layerfs.Container, limits: str) -> None:
    def counted(*, bytes: int = 0, entries: int = 0) -> bool:
        """What the server says is what the upper directory has, and so much without a name."""
        said = control.request(box.store.root, box.store.mounts()[0].id, "quota")
        held = [path.lstat() for path in (box.upper, *box.upper.rglob("*")) if not path.is_char_device()]
        size = said["used"] == sum(each.st_blocks for each in held) * 512 + bytes or "size" not in limits
        return bool(size and said["used_inodes"] == len(held) + entries)

    def eventually(**nameless: int) -> None:
        deadline = time.monotonic() + 60
        while not counted(**nameless):
            assert time.monotonic() < deadline
            time.sleep(0.01)

    with box.mount(engine="native", options=limits) as root:
        (root / "d/e").mkdir(parents=True)
        (root / "a").write_bytes(bytes(1_500_000))
        (root / "gone").unlink()
        with (root / "d/e/open").open("wb", buffering=0) as file, (root / "nameless").open("wb", buffering=0) as other:
            file.write(b"f" * 100_000)
            other.write(b"n" * 50_000)
            (root / "nameless").unlink()
            first = box.snapshot("first")
            eventually(bytes=53_248, entries=1)
            (root / "b").write_bytes(bytes(1_500_000))
            if "size" in limits:
                with pytest.raises(OSError, match="No space"):
                    (root / "c").write_bytes(bytes(1_000_000))
                (root / "c").unlink()
                eventually(bytes=53_248, entries=1)
            file.write(b"more")
            other.write(b"more")
            eventually(bytes=53_248, entries=1)
            second = box.snapshot("second")
            file.write(b"!")
        eventually()
        if "inodes" in limits:
            with pytest.raises(OSError, match="No space"):
                for number in range(100):
                    (root / f"i{number}").touch()
    with box.mount(engine="native", options=limits):
        eventually()
    assert shown(first) == {"a": bytes(1_500_000), "d/e/open": b"f" * 100_000, "d/lower": b"lower"}
    assert shown(second)["b"] == bytes(1_500_000) and shown(second)["d/e/open"] == b"f" * 100_000 + b"more"


@pytest.mark.parametrize("known", [True, False])
def test_an_open_file_with_several_names_goes_on_with_all_of_them(box: layerfs.Container, known: bool) -> None:
    """Also when nobody has looked at some of its names since the mount."""
    names = ("d/file", "link", "d/other")

    def linked(root: Path, data: bytes) -> bool:
        return {(root / name).stat().st_ino for name in names} == {(root / "link").stat().st_ino} and all(
            (root / name).read_bytes() == data and (root / name).stat().st_nlink == 3 for name in names
        )

    with box.mount(engine="native") as root:
        (root / "d/file").write_bytes(b"1" * 5000)
        for name in names[1:]:
            os.link(root / "d/file", root / name)
    with box.mount(engine="native") as root:
        if known:
            assert linked(root, b"1" * 5000)
        with (root / "d/file").open("ab", buffering=0) as file:
            file.write(b"2")
            first = box.snapshot("first")
            assert "uppers" in box.upper.parts  # else it was copied
            file.write(b"3")
            assert linked(root, b"1" * 5000 + b"23")
            (root / "link").unlink()
            second = box.snapshot("second")
            file.write(b"4")
            os.link(root / "d/file", root / "link")
            assert linked(root, b"1" * 5000 + b"234")
    with box.mount(engine="kernel") as root:
        assert linked(root, b"1" * 5000 + b"234")
    with first.mount() as root:
        assert linked(root, b"1" * 5000 + b"2")
    with second.mount() as root:
        assert (root / "d/other").stat().st_nlink == 2 and (root / "d/other").read_bytes() == b"1" * 5000 + b"23"
    box.rollback(first)
    with box.mount(engine="native") as root:
        assert linked(root, b"1" * 5000 + b"2")
    assert box.store.fsck() == []


def test_a_snapshot_on_a_nearly_full_disk_loses_no_open_file(tmp_path: Path) -> None:
    """There is room for the copy that the snapshot gets, but not for the directories of the file in the fresh upper."""
    (tmp_path / "plain").mkdir()
    with small_disk("ext4", tmp_path, size=32 << 20) as disk, layerfs.Store(disk / "store") as store:
        box = store.create(store.import_archive(tmp_path / "plain", tag="empty:1"))
        with box.mount(engine="native") as root:
            for leave in range(28 << 10, 76 << 10, 8 << 10):
                deep = [root / f"{leave}-{number}/a/b/c/d/e/f" for number in range(6)]
                for directory in deep:
                    directory.mkdir(parents=True)
                with contextlib.ExitStack() as stack:
                    files = [stack.enter_context((directory / "open").open("wb", buffering=0)) for directory in deep]
                    for file in files:
                        file.write(b"before")
                    os.sync()
                    with filled(disk, leave), contextlib.suppress(layerfs.errors.LayerfsError):
                        box.snapshot()
                    for file in files:
                        file.write(b" after")
                assert [(directory / "open").read_bytes() for directory in deep] == [b"before after"] * 6


@pytest.fixture
def slow_server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[mmap.mmap]:
    """One that lets others go first whenever it has let a lock go, or waited for something. While the first byte is 1,
    a sync does not end; the second one says that it has begun.
    """
    if "LAYERFS_TEST_SERVER" in os.environ:
        pytest.skip("a sanitizer's library has to be the first one")
    library, script = tmp_path / "slow.so", tmp_path / "server"
    source = Path(__file__).with_name("slow.c")
    subprocess.run(["gcc", "-shared", "-fPIC", "-O1", "-Wall", "-Werror", "-o", library, source], check=True)
    held = tmp_path / "held"
    held.write_bytes(bytes(2))
    script.write_text(f"#!/bin/sh\nLAYERFS_HELD={held} LD_PRELOAD={library} exec {native.SERVER}\n")
    script.chmod(0o755)
    monkeypatch.setattr(native, "SERVER", script)
    with held.open("r+b") as file, mmap.mmap(file.fileno(), 2) as said:
        yield said


@pytest.mark.usefixtures("slow_server")
def test_a_copy_that_has_begun_with_one_file_begins_with_the_other(box: layerfs.Container) -> None:
    """It does not wait for the end of the freeze, which would wait for its end."""
    with box.mount(engine="native") as root:
        stop, copied = threading.Event(), set[int]()

        def work(number: int) -> None:
            with (root / f"from{number}").open("w+b", 0) as source, (root / f"to{number}").open("wb") as target:
                source.write(b"1")
                while not stop.is_set():
                    os.copy_file_range(source.fileno(), target.fileno(), 1, 0, 0)
                    copied.add(number)

        writers = [threading.Thread(target=work, args=(number,), daemon=True) for number in range(4)]
        for writer in writers:
            writer.start()
        try:
            for _ in range(5):
                box.snapshot()
                copied.clear()
                assert eventually(lambda: len(copied) == len(writers))
        finally:
            stop.set()
            for writer in writers:
                writer.join(60)


def test_a_long_sync_keeps_nothing_of_what_was_frozen_meanwhile(slow_server: mmap.mmap, box: layerfs.Container) -> None:
    with box.mount(engine="native", options="size=100m") as root:
        server = control.request(box.store.root, box.store.mounts()[0].id, "ping")["pid"]
        with (root / "kept").open("wb", buffering=0) as file:
            file.truncate(100 * 65536)
            slow_server[0] = 1
            sync = threading.Thread(target=os.fdatasync, args=(file.fileno(),))
            sync.start()
            try:
                assert eventually(lambda: slow_server[1])
                for number in range(3):
                    box.snapshot()
                    with (root / "kept").open("r+b", buffering=0) as other:  # copied up
                        assert os.pread(other.fileno(), 1, number * 30 * 65536) == b"\0"
                assert sync.is_alive()  # else this would test nothing
            finally:
                slow_server[0] = 0
                sync.join()
        assert eventually(lambda: not [name for name in places_of(server) if "/kept" in name])


def test_an_open_file_that_lost_the_name_it_was_opened_by(box: layerfs.Container) -> None:
    """Its other one, deep in directories, is one that nobody has looked at since the mount."""
    with box.mount(engine="native") as root:
        (root / "new/deep").mkdir(parents=True)
        (root / "file").write_bytes(b"1")
        os.symlink("file", root / "symlink")
        os.link(root / "file", root / "new/deep/other")
        os.link(root / "symlink", root / "new/link", follow_symlinks=False)
    with box.mount(engine="native") as root, (root / "file").open("ab", buffering=0) as file:
        (root / "file").unlink()
        kept = os.open(root / "symlink", os.O_PATH | os.O_NOFOLLOW)
        (root / "symlink").unlink()
        file.write(b"2")
        snapshot = box.snapshot()
        assert "uppers" in box.upper.parts  # else it was copied
        file.write(b"3")
        assert (root / "new/deep/other").read_bytes() == b"123" and os.readlink("", dir_fd=kept) == "file"
        os.close(kept)
    for shows, data in ((snapshot, b"12"), (box, b"123")):
        with shows.mount() as root:
            assert (root / "new/deep/other").read_bytes() == data and (root / "new/link").readlink() == Path("file")
            assert not (root / "file").exists() and not (root / "symlink").exists()


def test_a_server_short_of_descriptors_finds_names_of_frozen_files_later(box: layerfs.Container) -> None:
    """Also when it has seen some of them before it could not go on: once that ended in memory it did not own."""
    with box.mount(engine="native") as root:
        for directory in range(12):
            (root / f"dir{directory}").mkdir()
        for directory in range(12):
            for number in range(200):
                (root / f"dir{directory}/a{number}").touch()
                os.link(root / f"dir{directory}/a{number}", root / f"dir{11 - directory}/b{directory}-{number}")
    box.snapshot()
    with box.mount(engine="native") as root:
        server = control.request(box.store.root, box.store.mounts()[0].id, "ping")["pid"]
        limits = resource.prlimit(server, resource.RLIMIT_NOFILE)
        used = len(list(Path(f"/proc/{server}/fd").iterdir()))
        failed = 0
        for number in range(40):
            resource.prlimit(server, resource.RLIMIT_NOFILE, (used + number, limits[1]))
            try:
                (root / f"dir5/a{number}").stat()
            except OSError:
                failed += 1
        resource.prlimit(server, resource.RLIMIT_NOFILE, limits)
        assert failed  # else this would test nothing
        assert {path.stat().st_nlink for path in root.glob("dir*/*")} == {2}
        assert (root / "dir7/a7").samefile(root / "dir4/b7-7")


@pytest.mark.usefixtures("slow_server")
def test_who_waits_for_a_copy_does_not_make_another_after_a_freeze(tmp_path: Path) -> None:
    """That would be one of what the file was before all of its changes."""
    (tmp_path / "plain").mkdir()
    for number in range(40):
        (tmp_path / f"plain/{number}").write_bytes(b"%d" % number * 500_000)
    with layerfs.Store(tmp_path / "store") as store:
        box = store.create(store.import_archive(tmp_path / "plain", tag="small:1"), name="box")
        with box.mount(engine="native") as root, ThreadPoolExecutor() as pool:

            def change(number: int) -> None:
                cut = pool.submit(os.truncate, root / f"{number}", 100)
                (root / f"{number}").open("r+b").close()
                cut.result()

            changes = pool.submit(lambda: [change(number) for number in range(40)])
            while not changes.done():
                box.snapshot()
            changes.result()
            assert {(root / f"{number}").stat().st_size for number in range(40)} == {100}


def test_one_beside_another_of_the_same_mount_is_taken_too(
    box: layerfs.Container, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = freezing.new_place

    def interrupted(*arguments: Any) -> str:
        monkeypatch.setattr(freezing, "new_place", real)
        box.snapshot("between")
        return real(*arguments)

    with box.mount(engine="native") as root:
        (root / "new").write_bytes(b"1")
        monkeypatch.setattr(freezing, "new_place", interrupted)
        box.snapshot("outer")
        (root / "new").write_bytes(b"2")
    assert [shown(each)["new"] for each in box.snapshots()] == [b"1", b"1"]
