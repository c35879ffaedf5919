"""SIGKILL at random moments of whole commands: the next one works, fsck is clean, nothing half-made is seen.

LAYERFS_KILLS multiplies the rounds (default 1: about 200 in all; case 16 and 17 of the reports).
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from pathlib import Path

import pytest

import layerfs
from tests.crash.harness import Outcome, crash_rounds
from tests.crash.world import (
    base_tar,
    command,
    compare,
    disk_files,
    docker_archive,
    judge,
    mounted_sources,
    own_tar,
    processes,
    whole,
)
from tests.crash.world import expected_listing as listing_of
from tests.looking import eventually

pytestmark = pytest.mark.root

TIMES = int(os.environ.get("LAYERFS_KILLS", "1"))
SEED = int(os.environ.get("LAYERFS_SEED", "0"))


class World:
    """A store with an image and a container that no crash may touch."""

    def __init__(self, top: Path) -> None:
        self.top, self.store = top, top / "store"
        self.base = docker_archive(top / "base.tar", {"base:1": [base_tar()]})
        command(self.store, "load", "-q", "-i", self.base)
        command(self.store, "create", "--name", "kept", "base:1")
        with layerfs.Store(self.store) as store:
            with store.container("kept").mount() as root:
                (root / "mine").write_bytes(b"mine" * 1000)
                (root / "d0/f0").unlink()
            self.changes = store.container("kept").diff()
            store.image("base:1").tree()
            store.gc()
        self.expected = listing_of([base_tar()])
        self.files = disk_files(self.store)

    def archive(self, number: int) -> Path:
        """Three images with shared layers, others for each number."""
        first, second = own_tar(number), own_tar(number + 1)
        images = {
            "a:1": [base_tar(), first],
            "a:2": [base_tar(), first, second],
            "b:1": [own_tar(number, whiteouts=False)],
        }
        return docker_archive(self.top / "archive.tar", images)

    def tar(self, number: int) -> Path:
        place = self.top / "layer.tar"
        place.write_bytes(own_tar(number, whiteouts=False))
        return place

    def verify(self, number: int) -> None:
        """After a kill: whole, and what there was is as it was; now and then every image that can be seen is judged."""
        whole(self.store)
        with layerfs.Store(self.store) as store:
            assert store.container("kept").diff() == self.changes
            if number % 8 == 0:
                compare(judge(store, store.image("base:1")), self.expected)
                for image in store.images(all=True)[:3]:
                    judge(store, image)

    def end(self) -> None:
        """After gc of everything else the store is as big as before, and the first image as it was."""
        with layerfs.Store(self.store) as store:
            for record in store.mounts(dead=True):
                store.umount(record.target, lazy=True)
            for box in store.containers():
                if box.name != "kept":
                    box.remove(force=True)
            for image in store.images(all=True):
                if "base:1" not in image.tags:
                    store.remove_image(image.id, force=True)
            self.age_orphans()
            store.gc()
            assert list(mounted_sources(self.store)) == []
            compare(judge(store, store.image("base:1")), self.expected)
        assert disk_files(self.store) == self.files
        whole(self.store)

    def age_orphans(self) -> None:
        """Directories without a row are kept while they are young, for a `create` in progress."""
        long_ago = time.time() - 10_000
        for place in (self.store / "containers").iterdir():
            os.utime(place, (long_ago, long_ago))


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(tmp_path)


def rounds(
    world: World, work: Callable[[int], object], count: int, prepare: Callable[[int], object] = lambda number: None
) -> Outcome:
    outcome = crash_rounds(work, world.verify, rounds=count * TIMES, seed=SEED, prepare=prepare)
    world.end()
    return outcome


def test_import_killed(world: World) -> None:
    world.tar(0)
    outcome = rounds(
        world,
        lambda number: command(world.store, "import", world.top / "layer.tar", f"i:{number % 3}"),
        25,
        prepare=world.tar,
    )
    assert outcome.killed > 5


def test_import_of_a_directory_killed(world: World) -> None:
    top = world.top / "dir"
    top.mkdir()
    for number in range(150):
        (top / f"f{number}").write_bytes(os.urandom(2000))

    def prepare(number: int) -> None:
        (top / f"f{number % 150}").write_bytes(os.urandom(200_000))

    assert rounds(world, lambda _: command(world.store, "import", top, "dir:1"), 12, prepare).killed > 2


def test_load_killed(world: World) -> None:
    def work(number: int) -> None:
        command(world.store, "load", "-q", "-i", world.top / "archive.tar")

    assert rounds(world, work, 30, prepare=world.archive).killed > 5
    work(0)


def test_commit_killed(world: World) -> None:
    command(world.store, "create", "--name", "work", "base:1")

    def prepare(number: int) -> None:
        with layerfs.Store(world.store) as store, store.container("work").mount() as root:
            for count in range(30):
                (root / f"d1/new{count}").write_bytes(os.urandom(3000))
            (root / "d2").joinpath("large").write_bytes(os.urandom(250_000))

    def work(number: int) -> None:
        command(world.store, "commit", "-m", f"round {number}", "work", f"c:{number % 4}")

    assert rounds(world, work, 25, prepare).killed > 5


def test_deltas_killed(world: World) -> None:
    """While they are made by a commit, become whole for the kernel, and go."""
    big = world.top / "big"
    big.mkdir()
    (big / "large").write_bytes(os.urandom(3 << 20))
    command(world.store, "import", big, "big:1")
    command(world.store, "create", "--name", "work", "big:1")

    def prepare(number: int) -> None:
        command(world.store, "umount", "-l", "--all")
        command(world.store, "rm", "-f", "look", expect=None)
        with layerfs.Store(world.store) as store, store.container("work").mount(engine="native") as root:
            large = root / "large"
            with large.open("r+b") as out:
                out.seek(number * 70_000 % (3 << 20))
                out.write(os.urandom(5000))

    def work(number: int) -> None:
        command(world.store, "commit", "work", "c:1")
        if number % 2:
            command(world.store, "create", "--name", "look", "c:1")
            command(world.store, "mount", "--engine", "kernel", "look")
            command(world.store, "umount", "look")
        command(world.store, "gc")

    assert rounds(world, work, 16, prepare).killed > 4


def test_gc_and_rmi_killed(world: World) -> None:
    def prepare(number: int) -> None:
        command(world.store, "load", "-q", "-i", world.archive(number))

    def work(number: int) -> None:
        command(world.store, "rmi", "-f", "a:1", "a:2", "b:1", expect=None)
        command(world.store, "gc")

    assert rounds(world, work, 25, prepare).killed > 5


def test_create_rename_and_rm_killed(world: World) -> None:
    def prepare(number: int) -> None:
        for name in ("one", "two", "three"):
            command(world.store, "rm", "-f", name, expect=None)

    def work(number: int) -> None:
        command(world.store, "create", "--name", "one", "base:1")
        command(world.store, "rename", "one", "two")
        command(world.store, "create", "--name", "three", "base:1")
        command(world.store, "rm", "two", "three")

    assert rounds(world, work, 25, prepare).killed > 5


@pytest.mark.parametrize("engine", ["kernel", "native", "python"])
def test_mount_and_umount_killed(world: World, engine: str) -> None:
    """A kill of the whole command; a server that it had started lives on, or is cleaned up by the next command."""
    command(world.store, "create", "--name", "work", "base:1")

    def prepare(number: int) -> None:
        command(world.store, "umount", "-l", "--all")

    def work(number: int) -> None:
        command(world.store, "mount", "--engine", engine, "work")
        with layerfs.Store(world.store) as store:
            (store.container("work").upper.parent / "merged" / "d1" / f"w{number}").write_text("x" * 100)
        command(world.store, "umount", "work")
        command(world.store, "mount", "--engine", engine, "base:1", world.top / "image")
        command(world.store, "umount", world.top / "image")

    rounds(world, work, 15, prepare)


def test_save_and_export_killed(world: World) -> None:
    """What is there under the wanted name is whole."""
    command(world.store, "load", "-q", "-i", world.archive(0))
    saved, exported = world.top / "saved.tar", world.top / "exported.tar"
    wanted: dict[Path, int] = {}

    def work(number: int) -> None:
        for place in (saved, exported):
            place.unlink(missing_ok=True)
        command(world.store, "save", "-o", saved, "a:1", "a:2", "b:1")
        command(world.store, "export", "-o", exported, "a:2")

    def verify(number: int) -> None:
        for place in (saved, exported):
            if place.exists():
                assert wanted.setdefault(place, place.stat().st_size) == place.stat().st_size
        if saved.exists():
            command(world.top / "other", "load", "-q", "-i", saved)
        world.verify(number)

    crash_rounds(work, verify, rounds=12 * TIMES, seed=SEED)
    world.end()


def test_run_killed(world: World, tmp_path: Path) -> None:
    """The container outlives its caller and ends by itself; the next command says exited, and rm works."""
    busybox = Path("/bin/busybox")
    if not busybox.exists():
        pytest.skip("no static busybox here")
    top = tmp_path / "busybox"
    (top / "bin").mkdir(parents=True)
    (top / "bin/busybox").write_bytes(busybox.read_bytes())
    (top / "bin/busybox").chmod(0o755)
    command(world.store, "import", top, "busy:1")

    def prepare(number: int) -> None:
        command(world.store, "rm", "-f", "runs", expect=None)

    def work(number: int) -> None:
        script = "for i in 1 2 3 4 5; do /bin/busybox dd if=/dev/zero of=/f$i bs=1000 count=50; done"
        command(world.store, "run", "--name", "runs", "busy:1", "/bin/busybox", "sh", "-c", script)
        command(world.store, "rm", "runs")

    def verify(number: int) -> None:
        with layerfs.Store(world.store) as store:
            for box in store.containers():
                assert eventually(lambda box=box: not box.state.running), processes()  # type: ignore[misc]
        world.verify(number)

    crash_rounds(work, verify, rounds=12 * TIMES, seed=SEED, prepare=prepare)
    world.end()
