"""Whole commands on a full disk: one clear line, nothing lost, fsck clean, and they work again when there is room."""

from __future__ import annotations

import contextlib
import errno
import io
import os
import subprocess
import tarfile
from collections.abc import Iterator
from pathlib import Path

import pytest

import layerfs
from layerfs.errors import NoSpace
from tests.crash.world import base_tar, command, compare, docker_archive, judge, own_tar, said, whole
from tests.crash.world import expected_listing as listing_of
from tests.disks import filled, small_disk

pytestmark = pytest.mark.root
LEAVES = (700_000, 150_000, 20_000, 0)


@pytest.fixture(params=["tmpfs", "ext4"])
def disk(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Path]:
    with small_disk(request.param, tmp_path, size=32 << 20) as place:
        yield place


@pytest.fixture
def store(disk: Path, tmp_path: Path) -> Path:
    """A store on the small disk, with one image and one container."""
    command(disk / "store", "load", "-q", "-i", docker_archive(tmp_path / "base.tar", {"base:1": [base_tar()]}))
    command(disk / "store", "create", "--name", "box", "base:1")
    return disk / "store"


def fails_for_space(store: Path, *arguments: object, code: int = 1) -> None:
    found, out, err = said(store, *arguments)
    assert (found, out) == (code, ""), err
    assert err.startswith("layerfs: ")
    assert err.count("\n") == 1
    assert "space" in err.lower()


def assert_unharmed(store: Path) -> None:
    whole(store)
    with layerfs.Store(store) as opened:
        assert [image.tags for image in opened.images(all=True)] == [("base:1",)]
        compare(judge(opened, opened.image("base:1")), listing_of([base_tar()]))


@pytest.mark.parametrize("verb", ["import", "load"])
def test_reading_an_archive(store: Path, tmp_path: Path, verb: str) -> None:
    layers = [own_tar(n, whiteouts=False) + os.urandom(0) for n in range(3)]
    archive = docker_archive(tmp_path / "more.tar", {f"more:{n}": [layers[n]] for n in range(3)})
    (tmp_path / "one.tar").write_bytes(layers[0])
    words = ["import", tmp_path / "one.tar", "one:1"] if verb == "import" else ["load", "-q", "-i", archive]
    for leave in LEAVES[verb == "import" :]:
        with filled(store.parent, leave):
            fails_for_space(store, *words)
            assert said(store, "images", "-q")[0] == 0
        whole(store)
    with layerfs.Store(store) as opened:
        for image in opened.images():
            if "base:1" not in image.tags:
                opened.remove_image(image.id, force=True)
        opened.gc()
    assert_unharmed(store)
    command(store, *words)
    whole(store)


def test_a_commit(store: Path) -> None:
    with layerfs.Store(store) as opened, opened.container("box").mount() as root:
        (root / "d1/new").write_bytes(os.urandom(900_000))
        (root / "d2/small").write_bytes(b"small")
        (root / "d0/f0").unlink()
    before = said(store, "diff", "box")
    for leave in LEAVES:
        with filled(store.parent, leave):
            fails_for_space(store, "commit", "box", "new:1")
            assert said(store, "diff", "box") == before
        assert_unharmed(store)
    command(store, "commit", "box", "new:1")
    with layerfs.Store(store) as opened:
        found = judge(opened, opened.image("new:1"))
        assert found[b"/d1/new"]["size"] == 900_000
        assert b"/d0/f0" not in found


@pytest.mark.parametrize("engine", ["kernel", "native", "python"])
def test_writing_in_a_mount(store: Path, engine: str) -> None:
    if engine == "kernel" and file_system(store) == "tmpfs":
        pytest.skip("EROFS cannot be mounted from files on tmpfs")
    with layerfs.Store(store) as opened:
        box = opened.container("box")
        with box.mount(engine=engine) as root:
            (root / "before").write_bytes(b"before" * 1000)
            with filled(store.parent, 300_000):
                written = write_until_full(root / "d1/large")
                assert 0 < written <= 400_000
                with pytest.raises(OSError) as copied, (root / "big").open("r+b") as file:  # 400 KB to copy up
                    file.write(b"x")
                assert copied.value.errno == errno.ENOSPC
                assert (root / "big").stat().st_size == 400_000
                (root / "d2/f2").unlink(missing_ok=True)
                assert (root / "before").read_bytes() == b"before" * 1000
            (root / "after").write_bytes(b"after" * 1000)
        with box.mount() as root:
            assert (root / "before").read_bytes() == b"before" * 1000
            assert (root / "after").read_bytes() == b"after" * 1000
            assert (root / "d1/large").read_bytes()[:written] == b"l" * written
            assert (root / "big").read_bytes() == original("big")
    assert_unharmed(store)


def file_system(place: Path) -> str:
    return subprocess.run(["stat", "-f", "-c", "%T", place], check=True, capture_output=True, text=True).stdout.strip()


def write_until_full(place: Path) -> int:
    """How many bytes went in and were synced before ENOSPC."""
    written = 0
    fd = os.open(place, os.O_CREAT | os.O_WRONLY)
    try:
        while True:
            count = os.write(fd, b"l" * 16384)
            os.fsync(fd)
            written += count
    except OSError as error:
        assert error.errno == errno.ENOSPC
        return written
    finally:
        os.close(fd)


def original(name: str) -> bytes:
    with tarfile.open(fileobj=io.BytesIO(base_tar())) as archive:
        member = archive.extractfile(name)
        assert member is not None
        return member.read()


def test_what_must_work_on_a_full_disk(store: Path) -> None:
    """Looking, unmounting, removing and collecting need no room of their own."""
    command(store, "import", "-q", store.parent.parent / "base.tar", "same:1")
    command(store, "mount", "box")
    command(store, "create", "--name", "other", "base:1")
    with filled(store.parent):
        for words in (["images"], ["ps", "-a"], ["history", "base:1"], ["inspect", "box"], ["diff", "box"], ["mount"]):
            assert said(store, *words)[0] == 0, words
        for words in (["umount", "box"], ["rm", "other"], ["rmi", "same:1"], ["gc"], ["fsck"], ["mount", "box"]):
            code, _, err = said(store, *words)
            assert code == 0, (words, err)
        assert said(store, "umount", "box")[0] == 0
    assert_unharmed(store)


def test_who_only_reads_needs_no_room(store: Path, tmp_path: Path) -> None:
    """Leases, rows of mounts and the like come from what is held back. Twice: it is held again afterwards."""
    with layerfs.Store(store) as opened, opened.container("box").mount() as root:
        (root / "new").write_bytes(b"new")
    command(store, "create", "--name", "other", "base:1")
    command(store, "snapshot", "create", "other")
    (tmp_path / "m").mkdir()
    reads: list[list[object]] = [
        ["inspect", "other"],
        ["log", "other"],
        ["system", "df"],
        ["waste", "base:1"],
        ["fsck"],
    ]
    reads += [["save", "-o", tmp_path / "s", "base:1"], ["export", "-o", tmp_path / "e", "base:1"]]
    reads += [["export", "-o", tmp_path / "b", "box"], ["cp", "box:/new", tmp_path / "new"], ["diff", "box"]]
    reads += [["mount", where, tmp_path / "m"] for where in ("base:1", "box", "other")]
    with filled(store.parent):
        for words in reads * 2:
            code, _, err = said(store, *words)
            assert (code, err) == (0, ""), words
            if words[0] == "mount":
                command(store, "umount", tmp_path / "m")
        command(store, "container", "prune", "-f")
        command(store, "gc")
    assert_unharmed(store)


def test_readers_leave_what_removing_needs(store: Path) -> None:
    """Somebody writes on, and takes what was given back for a reader."""
    command(store, "tag", "base:1", "t:1")
    with layerfs.Store(store) as opened, filled(store.parent), opened.root.leases.reading("test") as lease:
        lease.pin(bytes(32))
        with contextlib.suppress(OSError), (store.parent / "more").open("wb", buffering=0) as more:
            while True:
                more.write(bytes(4096))
        with pytest.raises(NoSpace):
            lease.pin(bytes(32 * 50_000))
        assert opened.root.leases.pins() == {bytes(32)}
        for words in (["rmi", "t:1"], ["rm", "box"], ["gc"]):
            command(store, *words)
    (store.parent / "more").unlink(missing_ok=True)
    assert_unharmed(store)


def test_gc_makes_room(store: Path, tmp_path: Path) -> None:
    for number in range(4):
        place = tmp_path / "one.tar"
        place.write_bytes(own_tar(number, whiteouts=False))
        command(store, "import", "-q", place, f"n:{number}")
    with filled(store.parent):
        for number in range(4):
            command(store, "rmi", f"n:{number}")
        command(store, "gc")
        room = os.statvfs(store.parent)
        assert room.f_bavail * room.f_frsize > 1_500_000
    assert_unharmed(store)


@pytest.mark.parametrize("verb", ["save", "export"])
def test_an_archive_written_to_a_full_disk(tmp_path: Path, verb: str, disk: Path) -> None:
    """Nothing half-written stays under the wanted name."""
    store, target = tmp_path / "store", disk / "out.tar"
    command(store, "load", "-q", "-i", docker_archive(tmp_path / "base.tar", {"base:1": [base_tar()]}))
    target.write_bytes(b"old")
    with filled(disk, 200_000):
        fails_for_space(store, verb, "-o", target, "base:1")
        assert target.read_bytes() == b"old"
        assert sorted(path.name for path in disk.iterdir() if path.name != "lost+found") == ["filler", "out.tar"]
    command(store, verb, "-o", target, "base:1")
    assert target.stat().st_size > 500_000


def test_create_and_run(store: Path) -> None:
    with filled(store.parent):
        for words in (["create", "--name", "more", "base:1"], ["run", "--rm", "base:1", "/d3/cap"]):
            code, out, err = said(store, *words)
            assert (out, err.count("\n")) == ("", 1)
            assert code in (125, 126), err
    assert_unharmed(store)
