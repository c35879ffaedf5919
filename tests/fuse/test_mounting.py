"""Mounting and unmounting by all engines: locks, dead mounts, crashes, several mounts at once."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from layerfs import mount
from layerfs.errors import InUse, InvalidInput, LayerfsError, MountError, Unsupported
from layerfs.layer.tree import Tree
from layerfs.snapshot import Containers, MountTable, Writable, mount_tree, unmount
from layerfs.snapshot import kernel as kernel_module
from layerfs.snapshot import mounting as mounting_module
from layerfs.snapshot.mounting import begun
from layerfs.snapshot.native import Server
from layerfs.snapshot.table import SERVED
from layerfs.store.leases import process_start
from layerfs.store.root import StoreRoot
from tests.looking import eventually, open_files

pytestmark = pytest.mark.root
engines = pytest.mark.parametrize("engine", ["kernel", "native", "python"])
servers = pytest.mark.parametrize("engine", ["native", "python"])


@pytest.fixture
def box(store: StoreRoot) -> Writable:
    containers = Containers(store)
    record = containers.create("ab" * 32, "box")
    return Writable(record.id, containers.upper(record.id), containers.work(record.id))


def server_of(store: StoreRoot) -> int:
    (record,) = [each for each in MountTable(store).records() if each.engine in SERVED]
    return record.pid


@engines
def test_an_image_mount_is_read_only_and_makes_and_removes_its_directory(
    store: StoreRoot, tree: Tree, tmp_path: Path, engine: str
) -> None:
    target = tmp_path / "made"
    with mount_tree(store, tree, engine=engine, target=target) as root:
        assert (root / "d/f").read_bytes() == b"f"
        assert (root / "big").read_bytes() == b"B" * 200_000
        with pytest.raises(OSError) as caught:
            (root / "new").write_bytes(b"x")
        assert caught.value.errno == errno.EROFS
    assert not target.exists()
    assert MountTable(store).records() == []


@engines
def test_an_existing_directory_stays(store: StoreRoot, tree: Tree, tmp_path: Path, engine: str) -> None:
    target = tmp_path / "mine"
    target.mkdir()
    with mount_tree(store, tree, engine=engine, target=target):
        pass
    assert target.is_dir()


@engines
def test_several_mounts_at_once(store: StoreRoot, tree: Tree, tmp_path: Path, engine: str, box: Writable) -> None:
    handles = [mount_tree(store, tree, engine=engine, target=tmp_path / f"m{n}") for n in range(3)]
    handles.append(mount_tree(store, tree, engine=engine, target=tmp_path / "rw", writable=box))
    (tmp_path / "rw/d/f").write_bytes(b"mine")
    assert [(handle.path / "d/f").read_bytes() for handle in handles] == [b"f", b"f", b"f", b"mine"]
    assert len(MountTable(store).live()) == 4
    for handle in handles:
        handle.unmount()
        handle.unmount()


@engines
def test_a_container_has_one_writable_mount(
    store: StoreRoot, tree: Tree, tmp_path: Path, engine: str, box: Writable
) -> None:
    with mount_tree(store, tree, engine=engine, target=tmp_path / "one", writable=box):
        for other in mounting_module.ENGINES:
            with pytest.raises(InUse, match="is mounted already"):
                mount_tree(store, tree, engine=other, target=tmp_path / "two", writable=box)
        assert not (tmp_path / "two").exists()
    with mount_tree(store, tree, engine=engine, target=tmp_path / "two", writable=box):
        pass


def test_of_many_at_once_one_gets_the_container(store: StoreRoot, tree: Tree, tmp_path: Path, box: Writable) -> None:
    got: list[str] = []

    def attempt(number: int) -> None:
        try:
            mount_tree(store, tree, engine="kernel", target=tmp_path / f"m{number}", writable=box)
            got.append("mounted")
        except InUse:
            got.append("in use")

    threads = [threading.Thread(target=attempt, args=(number,)) for number in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(got) == ["in use"] * 5 + ["mounted"]


@engines
def test_changes_are_shown_read_only(store: StoreRoot, tree: Tree, tmp_path: Path, engine: str, box: Writable) -> None:
    with mount_tree(store, tree, engine=engine, target=tmp_path / "m", writable=box) as root:
        (root / "new").write_bytes(b"x")
        (root / "a").unlink()
    with mount_tree(store, tree, engine=engine, target=tmp_path / "m", writable=box, read_only=True) as root:
        assert sorted(os.listdir(root)) == ["b", "big", "d", "new"]
        with pytest.raises(OSError):
            (root / "new").unlink()


@engines
def test_a_busy_mount_says_by_whom_and_goes_lazily(
    store: StoreRoot, tree: Tree, tmp_path: Path, engine: str, box: Writable
) -> None:
    handle = mount_tree(store, tree, engine=engine, target=tmp_path / "m", writable=box)
    with (handle.path / "d/f").open("rb") as stream:
        with pytest.raises(InUse, match=rf"python\S* \({os.getpid()}\)"):
            handle.unmount()
        assert len(MountTable(store).live()) == 1
        handle.unmount(lazy=True)
        assert mount.entry_of(tmp_path / "m") is None
        assert stream.read() == b"f"


@engines
def test_targets_that_will_not_do(store: StoreRoot, tree: Tree, tmp_path: Path, engine: str) -> None:
    (tmp_path / "full").mkdir()
    (tmp_path / "full/x").touch()
    for target in ("full", "full/x", "absent/below"):
        with pytest.raises(InvalidInput):
            mount_tree(store, tree, engine=engine, target=tmp_path / target)
    with (
        mount_tree(store, tree, engine=engine, target=tmp_path / "m"),
        pytest.raises(InUse, match="mounted there already"),
    ):
        mount_tree(store, tree, engine=engine, target=tmp_path / "m")
    assert MountTable(store).records() == []


def test_unknown_engines_and_options(store: StoreRoot, tree: Tree, tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match="unknown engine"):
        mount_tree(store, tree, engine="magic", target=tmp_path / "m")
    with pytest.raises(InvalidInput, match="unknown mount option"):
        mount_tree(store, tree, engine="kernel", target=tmp_path / "m", options=["exec"])


@engines
def test_options_reach_the_mount(store: StoreRoot, tree: Tree, tmp_path: Path, engine: str) -> None:
    with mount_tree(store, tree, engine=engine, target=tmp_path / "m", options=["nosuid", "nodev", "noexec"]):
        entry = mount.entry_of(tmp_path / "m")
        assert entry is not None and {"ro", "nosuid", "nodev", "noexec"} <= set(entry.options.split(","))
    with mount_tree(store, tree, engine=engine, target=tmp_path / "m"):
        entry = mount.entry_of(tmp_path / "m")
        assert entry is not None and not {"nosuid", "nodev"} & set(entry.options.split(","))


def test_no_mount_but_the_overlay_is_seen(store: StoreRoot, tree: Tree, tmp_path: Path, box: Writable) -> None:
    before = {entry.id for entry in mount.mount_table()}
    with mount_tree(store, tree, engine="kernel", target=tmp_path / "m", writable=box):
        here = os.fsencode(tmp_path)
        new = [entry for entry in mount.mount_table() if entry.id not in before and entry.target.startswith(here)]
        assert [entry.type for entry in new] == ["overlay"]
        assert not any(str(box.upper) in name for _, name in open_files())


@pytest.mark.parametrize("step", ["overlay", "detached"])
def test_a_failure_in_the_middle_leaves_nothing(
    store: StoreRoot, tree: Tree, tmp_path: Path, box: Writable, step: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    descriptors = open_files()

    def fail(*arguments: object, **keywords: object) -> None:
        raise MountError("planned")

    monkeypatch.setattr(kernel_module.mount, step, fail)
    with pytest.raises(MountError, match="planned"):
        mount_tree(store, tree, engine="kernel", target=tmp_path / "m", writable=box)
    monkeypatch.undo()
    assert not (tmp_path / "m").exists()
    assert MountTable(store).records() == []
    assert open_files() - descriptors == set()
    assert not any(str(tmp_path).encode() in entry.target for entry in mount.mount_table())
    with mount_tree(store, tree, engine="kernel", target=tmp_path / "m", writable=box):
        pass


# --- servers -----------------------------------------------------------------------------------------------------


@servers
def test_the_server_ends_with_its_mount(
    store: StoreRoot, tree: Tree, tmp_path: Path, engine: str, box: Writable
) -> None:
    handle = mount_tree(store, tree, engine=engine, target=tmp_path / "m", writable=box)
    server = server_of(store)
    assert process_start(server) is not None
    handle.unmount()
    assert process_start(server) is None


@servers
def test_umount_by_hand_ends_the_server_too(
    store: StoreRoot, tree: Tree, tmp_path: Path, engine: str, box: Writable
) -> None:
    mount_tree(store, tree, engine=engine, target=tmp_path / "m", writable=box)
    server = server_of(store)
    mount.detach(tmp_path / "m")
    assert eventually(lambda: process_start(server) is None)
    assert MountTable(store).live() == []
    with mount_tree(store, tree, engine=engine, target=tmp_path / "m", writable=box):
        pass


@servers
def test_sigterm_unmounts(store: StoreRoot, tree: Tree, tmp_path: Path, engine: str, box: Writable) -> None:
    mount_tree(store, tree, engine=engine, target=tmp_path / "m", writable=box)
    server = server_of(store)
    os.kill(server, signal.SIGTERM)
    assert eventually(lambda: mount.entry_of(tmp_path / "m") is None)


@pytest.mark.filterwarnings("ignore:subprocess:ResourceWarning")
@pytest.mark.parametrize("threads", [True, False])
def test_a_mount_is_made_also_where_no_thread_without_python_is_to_be_had(
    store: StoreRoot, tree: Tree, tmp_path: Path, box: Writable, monkeypatch: pytest.MonkeyPatch, threads: bool
) -> None:
    def refused(*_: object) -> None:
        raise OSError(errno.EAGAIN, os.strerror(errno.EAGAIN))

    def none(*_: object) -> None:
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr("layerfs._native.spawn", refused)
    if not threads:
        monkeypatch.setattr("_thread.start_new_thread", none)
    handle = mount_tree(store, tree, engine="native", target=tmp_path / "m", writable=box)
    server = server_of(store)
    with handle as root:
        assert sorted(os.listdir(root)) == ["a", "b", "big", "d"]
    assert not threads or eventually(lambda: process_start(server) is None)


@servers
def test_report_15_a_killed_server_hangs_nobody_and_a_new_mount_recovers(
    store: StoreRoot, tree: Tree, tmp_path: Path, engine: str, box: Writable
) -> None:
    """nydus#1788, fuse-overlayfs#169."""
    target = tmp_path / "m"
    mount_tree(store, tree, engine=engine, target=target, writable=box)
    (target / "kept").write_bytes(b"kept")
    reader = os.open(target / "d/f", os.O_RDONLY)
    os.kill(server_of(store), signal.SIGKILL)
    with pytest.raises(OSError) as caught:
        os.listdir(target)
    # ECANCELED from a ring, EIO when the request was just handed over
    ends = (errno.ENOTCONN, errno.ECONNABORTED, errno.ECANCELED, errno.EIO)
    assert caught.value.errno in ends
    with pytest.raises(OSError):
        os.read(reader, 10)
    with contextlib.suppress(OSError):
        os.close(reader)
    assert eventually(lambda: MountTable(store).live() == [])
    assert [record.container for record in MountTable(store).clean_dead()] == [box.container]
    assert mount.entry_of(target) is None
    with mount_tree(store, tree, engine=engine, target=target, writable=box) as root:
        assert (root / "kept").read_bytes() == b"kept"
        assert sorted(os.listdir(root)) == ["a", "b", "big", "d", "kept"]


@servers
def test_a_new_mount_clears_the_dead_one_by_itself(
    store: StoreRoot, tree: Tree, tmp_path: Path, engine: str, box: Writable
) -> None:
    target = tmp_path / "m"
    target.mkdir()
    mount_tree(store, tree, engine=engine, target=target, writable=box)
    server = server_of(store)
    os.kill(server, signal.SIGKILL)
    assert eventually(lambda: process_start(server) is None)
    with mount_tree(store, tree, engine="kernel", target=target, writable=box):
        assert len(MountTable(store).records()) == 1


@servers
def test_an_error_in_the_server_reaches_the_caller(store: StoreRoot, tree: Tree, tmp_path: Path, engine: str) -> None:
    for pack in (store.path / "packs").iterdir():
        pack.unlink()
    with pytest.raises(LayerfsError, match="contents are missing"):
        mount_tree(store, tree, engine=engine, target=tmp_path / "m")
    assert not (tmp_path / "m").exists()
    assert MountTable(store).records() == []


def test_without_a_fuse_library_the_engine_is_unsupported(
    store: StoreRoot, tree: Tree, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FUSE_LIBRARY_PATH", "/nonexistent/libfuse.so")
    with pytest.raises((Unsupported, MountError), match="nonexistent"):
        mount_tree(store, tree, engine="python", target=tmp_path / "m")


@servers
def test_the_caller_may_die_the_mount_stays(
    store: StoreRoot, tree: Tree, tmp_path: Path, engine: str, box: Writable
) -> None:
    script = (
        "import sys; from pathlib import Path\n"
        "from layerfs.store.root import StoreRoot; from layerfs.layer.tree import Tree\n"
        "from layerfs.snapshot import Writable, mount_tree\n"
        "engine = sys.argv.pop()\n"
        "store, tree, target, container, upper, work = sys.argv[1:]\n"
        "root = StoreRoot.open(Path(store))\n"
        "box = Writable(container, Path(upper), Path(work))\n"
        "mount_tree(root, Tree.open(tree), engine=engine, target=Path(target), writable=box)\n"
    )
    arguments = [store.path, tree.path, tmp_path / "m", box.container, box.upper, box.work, engine]
    subprocess.run([sys.executable, "-c", script, *map(str, arguments)], check=True)
    (tmp_path / "m/new").write_bytes(b"x")
    (record,) = MountTable(store).live()
    with pytest.raises(InUse):
        mount_tree(store, tree, engine="kernel", target=tmp_path / "other", writable=box)
    unmount(store, record.id)
    assert (box.upper / "new").read_bytes() == b"x"


@engines
def test_a_mount_in_another_namespace_keeps_the_container(
    store: StoreRoot, tree: Tree, tmp_path: Path, engine: str, box: Writable
) -> None:
    handle = mount_tree(store, tree, engine=engine, target=tmp_path / "m", writable=box)
    command = ["unshare", "--mount", "--propagation", "private", "sh", "-c", "echo in && exec sleep 1000"]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as other:
        try:
            assert other.stdout is not None and other.stdout.readline() == b"in\n"
            mount.detach(handle.path)
            assert [record.id for record in MountTable(store).live()] == [handle.id]
            with pytest.raises(InUse):
                mount_tree(store, tree, engine="python", target=tmp_path / "n", writable=box)
        finally:
            other.kill()
    assert eventually(lambda: MountTable(store).live() == [])


@servers
@pytest.mark.parametrize("used", [False, True])
def test_an_unmount_ends_copies_in_other_namespaces_that_nobody_uses(
    store: StoreRoot, tree: Tree, tmp_path: Path, engine: str, box: Writable, used: bool
) -> None:
    handle = mount_tree(store, tree, engine=engine, target=tmp_path / "m", writable=box)
    words = (
        ["sh", "-c", f"cd {tmp_path / 'm'} && echo in && sleep 1000"] if used else ["sh", "-c", "echo in && sleep 1000"]
    )
    command = ["unshare", "--mount", "--propagation", "private", *words]
    with subprocess.Popen(command, stdout=subprocess.PIPE, start_new_session=True) as other:
        try:
            assert other.stdout is not None and other.stdout.readline() == b"in\n"
            server = server_of(store)
            if used:
                with pytest.raises(InUse, match=r"another mount namespace by (sh|sleep)"):
                    handle.unmount()
                assert process_start(server) is not None
            else:
                handle.unmount()
                assert process_start(server) is None
        finally:
            os.killpg(other.pid, signal.SIGKILL)
    assert eventually(lambda: MountTable(store).live() == [])


@servers
def test_a_server_that_ends_slowly_leaves_nothing_in_use_by_who_got_its_device_number(
    store: StoreRoot, tree: Tree, tmp_path: Path, engine: str, box: Writable, monkeypatch: pytest.MonkeyPatch
) -> None:
    def look(device: int, *, source: bytes) -> list[str]:
        os.kill(server, signal.SIGCONT)
        return ["other (1)"]

    handle = mount_tree(store, tree, engine=engine, target=tmp_path / "m", writable=box)
    server = server_of(store)
    monkeypatch.setattr(mount, "device_users", look)
    os.kill(server, signal.SIGSTOP)
    handle.unmount()
    assert process_start(server) is None


@engines
def test_a_check_that_fails_leaves_no_row_and_no_server(
    store: StoreRoot, tree: Tree, tmp_path: Path, engine: str, box: Writable
) -> None:
    def check(txn: object) -> None:
        raise InUse("somebody was faster")

    for target in (tmp_path / "one", tmp_path / "two"):
        with pytest.raises(InUse, match="somebody was faster"):
            mount_tree(store, tree, engine=engine, target=target, writable=box, check=check)
        assert not target.exists() and MountTable(store).records() == []
    with mount_tree(store, tree, engine=engine, target=tmp_path / "one", writable=box) as root:  # the lock is free
        assert (root / "d/f").exists()


@engines
def test_what_an_older_layerfs_has_locked_is_not_mounted(
    store: StoreRoot, tree: Tree, tmp_path: Path, engine: str, box: Writable, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("layerfs.snapshot.holding.PATIENCE", 0.1)
    with (box.upper.parent / "lock").open("w") as older:
        fcntl.flock(older, fcntl.LOCK_EX)
        with pytest.raises(InUse, match="mounted already"):
            mount_tree(store, tree, engine=engine, target=tmp_path / "m", writable=box)
    with mount_tree(store, tree, engine=engine, target=tmp_path / "m", writable=box) as root:
        assert (root / "d/f").exists()


@engines
def test_an_older_layerfs_that_is_faster_is_given_way(
    store: StoreRoot, tree: Tree, tmp_path: Path, engine: str, box: Writable
) -> None:
    place = box.upper.parent / "lock"
    with pytest.raises(InUse, match="older layerfs"):
        mount_tree(store, tree, engine=engine, target=tmp_path / "m", writable=box, check=lambda _: place.touch())
    assert MountTable(store).records() == []


def test_a_server_that_was_begun_early_mounts_once(store: StoreRoot, tree: Tree, tmp_path: Path, box: Writable) -> None:
    with begun(store, None, writable=True) as early:
        for name in ("one", "two"):
            target = tmp_path / name
            with mount_tree(store, tree, engine="native", target=target, writable=box, early=early) as root:
                assert (root / "d/f").exists()
    assert MountTable(store).records() == []


def test_a_server_that_was_begun_for_nothing_ends(store: StoreRoot) -> None:
    with begun(store, "native", writable=True) as early:
        assert early is not None and early.pid is not None and process_start(early.pid)
    assert process_start(early.pid) is None
    for engine in ("kernel", "python"):
        with begun(store, engine, writable=True) as early:
            assert early is None


def test_a_server_without_orders_ends_with_its_block() -> None:
    with Server() as server:
        pid = server._process.pid
        assert process_start(pid)
    assert process_start(pid) is None


# --- what a kernel mount leaves ----------------------------------------------------------------------------------


def test_an_upper_with_volatile_leftovers_opens_again(
    store: StoreRoot, tree: Tree, tmp_path: Path, box: Writable
) -> None:
    with mount_tree(store, tree, engine="kernel", target=tmp_path / "m", writable=box, options=["volatile"]) as root:
        (root / "a").write_bytes(b"written")
    (box.work / "work/incompat/volatile").mkdir(parents=True, exist_ok=True)
    for engine in ("kernel", "native", "kernel", "python", "kernel"):
        with mount_tree(store, tree, engine=engine, target=tmp_path / "m", writable=box) as root:
            assert (root / "b").read_bytes() == b"written"


@servers
def test_an_index_of_the_kernels_is_settled_for_other_engines(
    store: StoreRoot, tree: Tree, tmp_path: Path, engine: str, box: Writable
) -> None:
    with mount_tree(store, tree, engine="kernel", target=tmp_path / "m", writable=box) as root:
        (root / "a").write_bytes(b"through a")
        ino = (root / "a").stat().st_ino
    assert not (box.upper / "b").exists() and list((box.work / "index").iterdir())
    with mount_tree(store, tree, engine="kernel", target=tmp_path / "m", writable=box) as root:
        assert (root / "b").stat().st_ino == ino
    with mount_tree(store, tree, engine=engine, target=tmp_path / "m", writable=box) as root:
        assert (root / "b").read_bytes() == b"through a"
        assert {(root / name).stat().st_ino for name in "ab"} == {ino}
        assert (root / "a").stat().st_nlink == 2
        (root / "b").write_bytes(b"through b")
    assert not (box.work / "index").exists()
    with mount_tree(store, tree, engine="kernel", target=tmp_path / "m", writable=box) as root:
        assert (root / "a").read_bytes() == b"through b"
        assert (root / "a").stat().st_nlink == 2


def test_the_engines_that_exist_say_so() -> None:
    assert all(mounting_module.supported(engine) for engine in mounting_module.ENGINES)
    with pytest.raises(Unsupported):
        mounting_module.supported("magic")
