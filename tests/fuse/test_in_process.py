"""The native engine's server in a thread of the process that mounts."""

from __future__ import annotations

import errno
import os
import resource
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from layerfs.errors import LayerfsError
from layerfs.layer.tree import Tree
from layerfs.snapshot import Containers, MountHandle, MountTable, Writable, mount_tree
from layerfs.store.root import StoreRoot
from tests.looking import open_files

pytestmark = pytest.mark.root
Mount = Callable[..., MountHandle]


@pytest.fixture
def box(store: StoreRoot) -> Writable:
    containers = Containers(store)
    record = containers.create("ab" * 32, "box")
    return Writable(record.id, containers.upper(record.id), containers.work(record.id))


@pytest.fixture
def here(store: StoreRoot, tree: Tree, tmp_path: Path) -> Mount:
    def make(name: str = "m", **how: Any) -> MountHandle:
        return mount_tree(store, tree, engine="native", target=tmp_path / name, in_process=True, **how)

    return make


def state_of_the_process() -> dict[str, Any]:
    status = Path("/proc/self/status").read_text().splitlines()
    kept = {
        line.split(":")[0]: line
        for line in status
        if line.startswith(("Umask", "Uid", "Gid", "Cap", "SigB", "SigI", "SigC", "Seccomp"))
    }
    return kept | {
        "directory": os.getcwd(),
        "root": os.readlink("/proc/self/root"),
        "namespace": os.readlink("/proc/self/ns/mnt"),
        "limit": resource.getrlimit(resource.RLIMIT_NOFILE),
        "handlers": [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGPIPE)],
    }


def possessions() -> set[Any]:
    """Threads and descriptors. What earlier tests have left may go at any moment."""
    return {(thread.name, thread.ident) for thread in threading.enumerate()} | open_files()


def test_it_works_and_ends_with_its_mount(here: Mount, box: Writable, store: StoreRoot) -> None:
    with here(writable=box) as root:
        assert [record.pid for record in MountTable(store).live()] == [os.getpid()]
        assert (root / "d/f").read_bytes() == b"f"
        with (root / "big").open("r+b") as file:
            file.write(b"changed")
        (root / "a").unlink()
        (root / "new").mkdir(0o750)
        assert (root / "big").read_bytes().startswith(b"changedBBB")
    assert (box.upper / "new").is_dir() and (box.upper / "a").is_char_device()
    assert not [thread for thread in threading.enumerate() if thread.name == "layerfs-server"]
    assert MountTable(store).records() == []


def test_the_process_stays_as_it_was(here: Mount, box: Writable) -> None:
    before, had = state_of_the_process(), possessions()
    handle = here(writable=box)
    os.chown(box.upper, 1, 1)
    (handle.path / "new").write_bytes(b"x")
    subprocess.run(["sh", "-c", "echo x > other"], cwd=handle.path, user=1, group=1, umask=0o77, check=True)
    assert state_of_the_process() == before
    found = (handle.path / "other").stat()
    assert (found.st_uid, found.st_mode & 0o777) == (1, 0o600)
    handle.unmount()
    assert state_of_the_process() == before
    assert possessions() - had == set()


def test_several_at_once(here: Mount) -> None:
    handles = [here(f"m{number}") for number in range(4)]
    assert [(handle.path / "d/f").read_bytes() for handle in handles] == [b"f"] * 4
    assert [handle.stats()["requests"]["LOOKUP"]["count"] >= 2 for handle in handles] == [True] * 4
    for handle in handles:
        handle.unmount()


def test_an_error_reaches_the_caller(here: Mount, store: StoreRoot) -> None:
    before, had = state_of_the_process(), possessions()
    for pack in (store.path / "packs").iterdir():
        pack.unlink()
    with pytest.raises(LayerfsError, match="contents are missing"):
        here()
    assert MountTable(store).records() == []
    assert state_of_the_process() == before
    assert possessions() - had == set()


def test_a_process_that_ends_takes_its_mount_along(
    store: StoreRoot, tree: Tree, tmp_path: Path, here: Mount, box: Writable
) -> None:
    script = (
        "import sys, os; from pathlib import Path\n"
        "from layerfs.store.root import StoreRoot; from layerfs.layer.tree import Tree\n"
        "from layerfs.snapshot import mount_tree\n"
        "store, tree, target = sys.argv[1:]\n"
        "root = StoreRoot.open(Path(store))\n"
        "mount_tree(root, Tree.open(tree), engine='native', target=Path(target), in_process=True)\n"
        "file = open(target + '/d/f')\n"
    )
    subprocess.run([sys.executable, "-c", script, store.path, tree.path, tmp_path / "m"], check=True, timeout=120)
    with pytest.raises(OSError) as caught:
        os.listdir(tmp_path / "m")
    assert caught.value.errno == errno.ENOTCONN
    with here() as root:
        assert (root / "d/f").read_bytes() == b"f"
