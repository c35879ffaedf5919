"""The control socket of native mounts."""

from __future__ import annotations

import os
import socket
from pathlib import Path

import pytest

from layerfs import mount
from layerfs.errors import InvalidInput, NotFound
from layerfs.layer.tree import Tree
from layerfs.snapshot import Containers, MountHandle, MountTable, Writable, mount_tree
from layerfs.snapshot.control import request
from layerfs.store.leases import process_start
from layerfs.store.root import StoreRoot
from tests.looking import eventually

pytestmark = pytest.mark.root


@pytest.fixture
def box(store: StoreRoot) -> Writable:
    containers = Containers(store)
    record = containers.create("ab" * 32, "box")
    return Writable(record.id, containers.upper(record.id), containers.work(record.id))


@pytest.fixture
def handle(store: StoreRoot, tree: Tree, tmp_path: Path, box: Writable) -> MountHandle:
    return mount_tree(store, tree, engine="native", target=tmp_path / "m", writable=box, options="size=10m")


def connected(store: StoreRoot, handle: MountHandle) -> socket.socket:
    made = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    folder = os.open(store.path / "control", os.O_PATH)
    try:
        made.connect(f"/proc/self/fd/{folder}/{handle.id}")
    finally:
        os.close(folder)
    return made


def test_what_it_answers(store: StoreRoot, handle: MountHandle) -> None:
    [record] = MountTable(store).live()
    assert request(store, handle.id, "ping")["pid"] == record.pid
    (handle.path / "new").write_bytes(b"x" * 5000)
    before = handle.stats()
    assert before["requests"]["CREATE"]["count"] == 1
    (handle.path / "more").touch()
    assert handle.stats()["requests"]["CREATE"]["count"] == 2
    quota = request(store, handle.id, "quota")
    assert (quota["limited"], quota["size"]) == (True, 10 << 20)
    assert quota["used"] >= 5000
    with pytest.raises(InvalidInput, match="unknown request"):
        request(store, handle.id, "nonsense")
    handle.unmount()


def test_stop_unmounts_and_ends_it(store: StoreRoot, handle: MountHandle) -> None:
    [record] = MountTable(store).live()
    assert request(store, handle.id, "stop") == {"stopped": True}
    assert mount.entry_of(handle.path) is None
    assert eventually(lambda: process_start(record.pid) != record.pid_start)
    handle.unmount()


def test_its_socket_goes_with_the_mount(store: StoreRoot, handle: MountHandle) -> None:
    assert [path.name for path in (store.path / "control").iterdir()] == [handle.id]
    handle.unmount()
    assert list((store.path / "control").iterdir()) == []
    with pytest.raises(NotFound, match="no server listens"):
        handle.stats()


def test_clients_that_do_not_read_or_never_ask_hold_nothing_up(store: StoreRoot, handle: MountHandle) -> None:
    clients = []
    for _ in range(40):  # of whom it keeps some, for a while
        clients.append(client := connected(store, handle))
        client.settimeout(0.01)
        try:
            for _ in range(500):
                client.send(b"stats")
        except OSError:
            pass
    assert (handle.path / "d/f").read_bytes() == b"f"
    assert request(store, handle.id, "ping")["pid"]
    for client in clients:
        client.close()
    handle.unmount()


@pytest.mark.parametrize("text", [b"x" * 100_000, b"stats\0", b"\n", b'{"request": "stats"}', b"\xff"])
def test_odd_requests_are_refused(store: StoreRoot, handle: MountHandle, text: bytes) -> None:
    with connected(store, handle) as client:
        client.send(text)
        assert b"unknown request" in client.recv(1000)
    assert request(store, handle.id, "ping")["pid"]
    handle.unmount()


def test_strangers_are_not_heard(store: StoreRoot, handle: MountHandle, tmp_path: Path) -> None:
    """Not even when they get at the socket."""
    with connected(store, handle) as probe:
        assert probe.send(b"ping") == 4 and probe.recv(1000)
    folder = os.open(store.path / "control", os.O_PATH)
    for path in (store.path / "control", store.path / "control" / handle.id):
        path.chmod(0o777)
    child = os.fork()
    if child == 0:
        os.setgroups([])
        os.setresgid(65534, 65534, 65534)
        os.setresuid(65534, 65534, 65534)
        heard = 2
        try:
            with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as client:
                client.settimeout(60)
                os.fchdir(folder)
                client.connect(handle.id)
                heard = 0
                client.send(b"ping")
                heard = len(client.recv(1000)) > 0
        except (BrokenPipeError, ConnectionResetError):
            pass
        finally:
            os._exit(heard)
    os.close(folder)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    handle.unmount()


@pytest.mark.parametrize("engine", ["kernel", "python"])
def test_other_engines_have_none(store: StoreRoot, tree: Tree, tmp_path: Path, engine: str) -> None:
    other = mount_tree(store, tree, engine=engine, target=tmp_path / "m")
    with pytest.raises(NotFound, match="no server listens"):
        other.stats()
    other.unmount()
