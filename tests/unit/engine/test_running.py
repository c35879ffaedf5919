"""Running programs in containers: results, state, mounts that come and go, threads and processes."""

from __future__ import annotations

import multiprocessing
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

import layerfs
from layerfs import errors

pytestmark = pytest.mark.root


def until(condition):
    deadline = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_a_run_returns_code_and_streams(store, shell_image):
    result = store.create(shell_image).run(["sh", "-c", "cat; echo err >&2; exit 3"], stdin=b"fed")
    assert (result.returncode, result.stdout, result.stderr) == (3, b"fed", b"err\n")


def test_nothing_stays_after_a_run_that_changed_nothing(store, shell_image):
    box = store.create(shell_image)
    box.run(["ls", "/etc/hosts", "/proc/1"])
    assert (box.diff(), store.mounts()) == ([], [])
    assert (box.state.status, box.state.code) == ("exited", 0)
    assert [path.name for path in (box.upper.parent / "run").iterdir()] == ["lock"]


def test_what_a_program_changes_is_kept_and_committed(store, shell_image):
    box = store.create(shell_image)
    box.run(["sh", "-c", "mkdir -p /a/b; echo x > /a/b/c; rm /bin/id; touch /etc/new"])
    changed = [(c.kind, c.path) for c in box.diff()]
    assert changed == [
        ("A", "/a"),
        ("A", "/a/b"),
        ("A", "/a/b/c"),
        ("C", "/bin"),
        ("D", "/bin/id"),
        ("A", "/etc"),
        ("A", "/etc/new"),
    ]
    made = box.commit("shell:2")
    assert store.create(made).run(["cat", "/a/b/c"]).stdout == b"x\n"


def test_settings_of_one_run_do_not_stay(store, shell_image):
    box = store.create(shell_image, env=["A=1"])
    assert b"A=2" in box.run(["env"], env={"A": "2"}).stdout.splitlines()
    assert b"A=1" in box.run(["env"]).stdout.splitlines()
    with pytest.raises(errors.InvalidInput, match="Minimum memory limit"):
        box.run(["env"], memory="1m")


def test_a_program_that_is_not_there(store, shell_image):
    box = store.create(shell_image)
    with pytest.raises(errors.CommandNotFound) as caught:
        box.run(["nosuch"])
    assert (caught.value.exit_code, box.state.status, box.state.code) == (127, "created", 127)
    assert "nosuch" in box.state.error
    assert store.mounts() == []


def test_a_time_limit_kills_and_says_what_there_was(store, shell_image):
    box = store.create(shell_image)
    with pytest.raises(errors.RunTimeout) as caught:
        box.run(["sh", "-c", "echo early; sleep 1000"], timeout=3)
    assert caught.value.result.stdout == b"early\n"
    assert (box.state.status, box.state.code, store.mounts()) == ("exited", 137, [])


def test_a_users_mount_is_used_and_stays(store, shell_image):
    box = store.create(shell_image)
    with box.mount() as root:
        box.run(["touch", "/made"])
        assert (root / "made").exists()
        assert not (root / "proc").exists()
        assert len(store.mounts()) == 1
    assert store.mounts() == []


def test_several_runs_at_once_share_one_mount(store, shell_image):
    box = store.create(shell_image)
    results: list[bytes] = []
    threads = [
        threading.Thread(target=lambda i=i: results.append(box.run(["sh", "-c", f"sleep 0.2; echo {i}"]).stdout))
        for i in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(results) == [b"0\n", b"1\n", b"2\n", b"3\n"]
    assert (store.mounts(), box.diff(), box.state.running) == ([], [], False)


def _run_in_child(path: Path, id: str) -> None:
    with layerfs.Store(path) as store:
        assert store.container(id).run(["echo", "x"]).stdout == b"x\n"


def test_several_processes_run_in_one_container(store, shell_image):
    box = store.create(shell_image)
    children = [
        multiprocessing.get_context("fork").Process(target=_run_in_child, args=(store.path, box.id)) for _ in "abc"
    ]
    for child in children:
        child.start()
    box.run(["sleep", "0.3"])
    for child in children:
        child.join()
    assert ([child.exitcode for child in children], store.mounts()) == ([0, 0, 0], [])


def test_a_running_container_is_not_removed_unless_forced(store, shell_image):
    box = store.create(shell_image, name="busy")
    thread = threading.Thread(target=lambda: box.run(["sleep", "1000"]))
    thread.start()
    until(lambda: box.state.running)
    with pytest.raises(errors.InUse, match="container is running: stop the container before removing"):
        box.remove()
    box.remove(force=True)
    thread.join()
    assert (store.containers(), store.mounts()) == ([], [])


@pytest.mark.parametrize("then", ["run", "remove", "diff", "mount"])
def test_a_killed_caller_leaves_nothing_that_stays(store, shell_image, then):
    box = store.create(shell_image)
    code = "import layerfs, sys; layerfs.Store(sys.argv[1]).container(sys.argv[2]).run(['sleep', '1000'])"
    child = subprocess.Popen([sys.executable, "-c", code, store.path, box.id])
    until(lambda: box.state.running)
    child.send_signal(signal.SIGKILL)
    child.wait()
    until(lambda: not box.state.running)
    assert box.state.code == 137
    if then == "run":
        assert box.run(["echo"]).returncode == 0
    elif then == "mount":
        with box.mount() as root:
            assert not (root / "proc").exists()
    elif then == "diff":
        assert box.diff() == []
    else:
        box.remove()
    assert store.mounts() == []


def test_image_mounts_are_read_only_paths(shell_image):
    with shell_image.mount() as root:
        assert isinstance(root, Path)
        with pytest.raises(OSError, match="Read-only"):
            (root / "new").touch()
    assert not root.exists()
