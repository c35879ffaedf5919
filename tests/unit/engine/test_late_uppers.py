"""Snapshots, forks and rollbacks of containers at rest make rows alone: the upper comes with its first use, and until
then everybody takes it for an empty one."""

from __future__ import annotations

import os
import shutil
import signal
import stat
import subprocess
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor, wait
from pathlib import Path

import pytest

import layerfs
from layerfs.errors import ContainerNotFound
from layerfs.snapshot import ContainerRecord, Containers
from layerfs.snapshot.states import States
from layerfs.snapshot.uppers import NEW, Look

pytestmark = pytest.mark.root
ENGINES = ["kernel", "native", "python"]


@pytest.fixture
def box(store: layerfs.Store, image: layerfs.Image) -> layerfs.Container:
    box = store.create(image, name="box")
    with box.mount() as root:
        (root / "a").write_bytes(b"shared")
    return box


@pytest.fixture
def child(box: layerfs.Container) -> layerfs.Container:
    """Nobody has used it yet."""
    return box.fork("child")


def places(store: layerfs.Store) -> set[Path]:
    return {place for top in ("uppers", "containers") for place in (store.path / top).iterdir()}


def states(store: layerfs.Store) -> int:
    with store.root.index.view() as txn:
        return len(States(txn).all())


def test_rows_are_all_that_is_made(store: layerfs.Store, box: layerfs.Container) -> None:
    before = set(store.path.rglob("*"))
    box.snapshot("one")
    child = box.fork()
    child.fork()
    child.rollback(child.snapshot())
    box.rollback("one")
    assert set(store.path.rglob("*")) == before


@pytest.mark.parametrize("engine", ENGINES)
def test_every_engine_mounts_what_nobody_has_used(child: layerfs.Container, engine: str) -> None:
    with child.mount(engine=engine, read_only=True) as root:
        assert (root / "a").read_bytes() == b"shared"
    with child.mount(engine=engine) as root:
        (root / "own").write_bytes(b"own")
    assert [path.name for path in child.upper.iterdir()] == ["own"]


USES: dict[str, Callable[[layerfs.Container, Path], object]] = {
    "commit": lambda box, _: box.commit("other:1"),
    "diff": lambda box, _: box.diff(),
    "export": lambda box, place: box.export(place / "out.tar"),
    "copy out": lambda box, place: box.copy_out("/a", str(place / "out")),
    "copy in": lambda box, place: box.copy_in(str(place / "plain/etc/motd"), "/motd"),
    "usage": lambda box, _: box.usage(),
    "sizes": lambda box, _: box.sizes(),
    "inspect": lambda box, _: box.inspect(size=True),
    "snapshot": lambda box, _: box.snapshot(),
    "rename": lambda box, _: box.rename("renamed"),
    "upper": lambda box, _: box.upper,
    "tree": lambda box, _: box.tree(),
    "stop": lambda box, _: box.stop(),
    "logs": lambda box, _: list(box.logs()),
}


@pytest.mark.parametrize("name", USES)
@pytest.mark.parametrize("rolled_back", [False, True])
def test_each_may_be_the_first_use(
    store: layerfs.Store, child: layerfs.Container, tmp_path: Path, name: str, rolled_back: bool
) -> None:
    if rolled_back:
        child.rollback(child.snapshot())
    USES[name](child, tmp_path)
    assert {change.path for change in child.diff()} == {"/a"} | ({"/motd"} if name == "copy in" else set())
    assert store.fsck() == []


def test_a_program_runs_in_a_fork_of_a_fork(store: layerfs.Store, shell_image: layerfs.Image) -> None:
    grandchild = store.create(shell_image).fork().fork()
    assert grandchild.run(["sh", "-c", "echo 1 > /f; cat /f"]).stdout == b"1\n"
    started = grandchild.fork()
    started.start()
    started.remove(force=True)
    assert [change.path for change in grandchild.diff()] == ["/f"]


def test_gc_and_fsck_know_that_nothing_is_missing(store: layerfs.Store, child: layerfs.Container) -> None:
    grandchild = child.fork("grandchild")
    store.gc()
    assert store.fsck(repair=True) == [] and len(places(store)) == 1
    child.remove()
    with grandchild.mount() as root:
        assert (root / "a").read_bytes() == b"shared"


def test_the_root_looks_as_it_did(store: layerfs.Store, box: layerfs.Container) -> None:
    with box.mount() as root:
        root.chmod(0o2751)
        os.chown(root, 12, 34)
        os.setxattr(root, "user.k", b"v")
        os.utime(root, ns=(5, 7))
    box.snapshot("then")
    children = [box.fork(), box.fork(snapshot="then"), box.fork().fork()]
    box.rollback("then")
    for each in (box, *children):
        with each.mount() as root:
            found = root.stat()
            assert (stat.S_IMODE(found.st_mode), found.st_uid, found.st_gid) == (0o2751, 12, 34)
            assert found.st_mtime_ns == 7 and os.getxattr(root, "user.k") == b"v"


def test_looking_at_a_container_makes_no_state(store: layerfs.Store, child: layerfs.Container) -> None:
    before = states(store)
    for engine in ENGINES:
        with child.mount(engine=engine) as root:
            assert (root / "a").exists()
        child.snapshot()
        child = child.fork()
    assert states(store) == before


def test_an_attribute_of_the_root_is_something_that_happened(store: layerfs.Store, child: layerfs.Container) -> None:
    with child.mount() as root:
        root.chmod(0o700)
    before = states(store)
    with child.fork().mount() as root:
        assert stat.S_IMODE(root.stat().st_mode) == 0o700
    assert states(store) == before + 1


def test_many_at_once_make_it_once(store: layerfs.Store, child: layerfs.Container) -> None:
    rolled_back = child.fork()
    rolled_back.rollback(rolled_back.snapshot())
    for each in (child, rolled_back):
        with ThreadPoolExecutor(8) as pool:
            assert len({upper.stat().st_ino for upper in pool.map(lambda _, of=each: of.upper, range(32))}) == 1
    assert not [place for place in places(store) if place.name.startswith(NEW)]


def test_many_snapshots_at_once_of_what_was_never_mounted(store: layerfs.Store, child: layerfs.Container) -> None:
    (child.upper / "own").touch()
    before = states(store)
    with ThreadPoolExecutor(8) as pool:
        taken = list(pool.map(lambda _: child.snapshot(), range(16)))
    assert states(store) == before + 1 and len({each.record.state for each in taken}) == 1
    with taken[0].mount() as root:
        assert (root / "own").exists()


def while_looking(monkeypatch: pytest.MonkeyPatch, act: Callable[[], object]) -> list[Look | None]:
    """What was found in uppers; `act` is called after the first look."""
    look, calls = Containers.touched, list[Look | None]()

    def slow(self: Containers, record: ContainerRecord) -> Look | None:
        calls.append(look(self, record))
        if len(calls) == 1:
            act()
        return calls[-1]

    monkeypatch.setattr(Containers, "touched", slow)
    return calls


def test_who_mounts_while_a_snapshot_looks_waits(child: layerfs.Container, monkeypatch: pytest.MonkeyPatch) -> None:
    def use() -> None:
        with child.mount() as root:
            (root / "own").touch()

    with ThreadPoolExecutor() as pool:
        begun: list[Future[None]] = []
        while_looking(monkeypatch, lambda: (begun.append(pool.submit(use)), wait(begun, 0.3)))
        grandchild = child.fork()
        begun[0].result()
    with child.mount() as root, grandchild.mount() as other:
        assert (root / "own").exists() and not (other / "own").exists()


def test_an_older_layerfs_that_mounts_while_a_snapshot_looks_loses_nothing(
    child: layerfs.Container, monkeypatch: pytest.MonkeyPatch
) -> None:
    def use() -> None:
        (child.upper / "own").touch()
        (child.directory / "lock").touch()

    calls = while_looking(monkeypatch, use)
    grandchild = child.fork()
    assert len(calls) == 2
    with grandchild.mount() as root:
        assert (root / "own").exists()


def test_a_child_forked_while_a_snapshot_is_taken_holds_nobody_up(
    child: layerfs.Container, monkeypatch: pytest.MonkeyPatch
) -> None:
    children = []

    def fork() -> None:
        if (pid := os.fork()) == 0:
            signal.pause()
        children.append(pid)

    while_looking(monkeypatch, fork)
    child.snapshot()
    try:
        with child.mount() as root:
            assert (root / "a").exists()
    finally:
        os.kill(children[0], signal.SIGKILL)
        os.waitpid(children[0], 0)


def test_the_locks_belong_to_whom_the_store_does(store: layerfs.Store, child: layerfs.Container) -> None:
    locks = store.path / "locks"
    os.chown(locks, 1000, 1000)
    (locks / "containers").unlink()
    child.snapshot()
    assert (locks / "containers").stat().st_uid == 1000


@pytest.mark.parametrize("there", ["nothing", "lock", "work", "programs"])
def test_what_a_power_cut_left_of_a_directory_is_no_obstacle(
    store: layerfs.Store, child: layerfs.Container, there: str
) -> None:
    child.directory.mkdir()
    if there == "lock":
        (child.directory / "lock").touch()
    elif there != "nothing":
        (child.directory / ("run" if there == "programs" else there)).mkdir()
    with child.mount() as root:
        (root / "own").touch()
    assert {change.path for change in child.diff()} == {"/a", "/own"}
    assert not [place for place in places(store) if place.name.startswith(NEW)]


def test_what_a_killed_maker_left_goes_with_gc(store: layerfs.Store, child: layerfs.Container) -> None:
    for top in ("uppers", "containers"):
        (store.path / top / f"{NEW}0123/upper").mkdir(parents=True)
        os.utime(store.path / top / f"{NEW}0123", (1, 1))
    store.gc()
    assert not [place for place in places(store) if place.name.startswith(NEW)]


def test_a_container_that_was_removed_gets_no_directory(store: layerfs.Store, child: layerfs.Container) -> None:
    record = child.record
    child.remove()
    for use in (lambda: child.upper, child.mount, lambda: store.container_table.home(record.id)):
        with pytest.raises(ContainerNotFound):
            use()
    assert not [place for place in places(store) if record.id in place.name]


def test_the_fork_of_a_users_container_is_the_users(store: layerfs.Store, box: layerfs.Container) -> None:
    os.chown(box.directory, 1000, 1000)
    child = box.fork().fork()
    child.rollback(child.snapshot())
    box.snapshot()
    for each in (box, child):
        assert each.upper.parent.stat().st_uid == 1000
    assert store.container_table.home(child.id).stat().st_uid == 1000


def test_rows_of_before_have_their_look_from_the_state(store: layerfs.Store, box: layerfs.Container) -> None:
    with box.mount() as root:
        root.chmod(0o700)
    child = box.fork()
    with store.root.index.update() as txn:
        row = txn.get_json("containers", child.id.encode())
        txn.put_json("containers", child.id.encode(), {key: row[key] for key in row if key not in ("look", "owner")})
    with child.mount() as root:
        assert stat.S_IMODE(root.stat().st_mode) == 0o700 and (root / "a").exists()
    child.snapshot()
    assert store.fsck() == []


def test_the_directory_of_a_container_that_was_created_is_missed(store: layerfs.Store, box: layerfs.Container) -> None:
    shutil.rmtree(store.create(box.image, name="lost").directory)
    assert [problem.message for problem in store.fsck()] == ["its directory is missing"]


def test_a_fork_is_used_on_a_full_disk(tmp_path: Path) -> None:
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=24m", "tmpfs", tmp_path], check=True)
    try:
        (tmp_path / "plain").mkdir()
        with layerfs.Store(tmp_path / "store") as store:
            child = store.create(store.import_archive(tmp_path / "plain", tag="x:1")).fork()
            with (tmp_path / "filler").open("wb", buffering=0) as file, pytest.raises(OSError, match="No space"):
                while True:
                    file.write(bytes(4096))
            assert child.upper.is_dir()
    finally:
        subprocess.run(["umount", "-l", tmp_path], check=True)
