"""kill -9 of the monitor, of a command, of the FUSE server: every command tells the truth, and the next start works."""

from __future__ import annotations

import fcntl
import os
import random
import signal
import subprocess
import time
from dataclasses import replace
from pathlib import Path

import pytest

from layerfs.engine.status import starting
from layerfs.errors import InUse, LayerfsError
from layerfs.snapshot import MountTable
from tests.cli.conftest import LAYERFS
from tests.cli.test_life import FOREVER, assert_nothing_left, monitors, ready, text
from tests.looking import eventually, name_of, users_of

pytestmark = pytest.mark.root


def gone(pid):
    return eventually(lambda: not Path(f"/proc/{pid}").exists())


@pytest.mark.parametrize("user", ["root", "bob"])
def test_kill_9_of_the_monitor_ends_the_container(shell, store, user):
    box = shell(FOREVER, user=user, restart="always")
    box.start()
    assert ready(box)
    pid = box.state.pid
    (monitor,) = monitors(store)
    os.kill(int(monitor), signal.SIGKILL)
    assert gone(pid)
    assert (box.state.status, box.state.code, box.state.pid) == ("exited", 137, 0)
    assert box.wait(60) == 137
    box.stop()
    box.start()
    assert box.state.running
    box.remove(force=True)
    assert_nothing_left(store)


def test_a_program_that_outlives_its_monitor_is_told_and_ended(shell, store):
    """One that got around its parent's death signal: found by its pid, killed by kill and by the next start."""
    for end in ("kill", "start"):
        box = shell(FOREVER)
        box.start()
        assert ready(box)
        pid = box.state.pid
        (monitor,) = monitors(store)
        os.kill(pid, signal.SIGSTOP)  # SIGKILL of the parent's death is pending, which ends it: so stand in for it
        status = box.directory / "monitor/status"
        with subprocess.Popen(["sleep", "1000"]) as orphan:
            stat = Path(f"/proc/{orphan.pid}/stat").read_text()
            start = stat[stat.rindex(")") + 2 :].split()[19]
            os.kill(int(monitor), signal.SIGKILL)
            assert gone(pid)
            lines = [line for line in status.read_text().splitlines() if not line.startswith(("pid ", "start "))]
            status.write_text("\n".join([*lines, f"pid {orphan.pid}", f"start {start}", ""]))
            assert (box.state.status, box.state.pid) == ("running", orphan.pid)
            getattr(box, end)()
            assert orphan.wait(60) == -signal.SIGKILL
        assert box.state.running == (end == "start")
        box.remove(force=True)
    assert_nothing_left(store)


def test_kill_9_of_the_server_is_told_and_mended(shell, store):
    box = shell(FOREVER)
    box.start(engine="native")
    assert ready(box)
    (mounted,) = MountTable(box.store.root).of_container(box.id)
    os.kill(mounted.pid, signal.SIGKILL)
    assert gone(mounted.pid)
    assert eventually(lambda: box.state.running == Path(f"/proc/{box.state.pid or 'none'}").exists())
    box.stop(0.5)
    box.start()
    assert box.exec(["echo", "fine"]).stdout == b"fine\n"
    box.remove(force=True)
    assert_nothing_left(store)


def test_a_restart_finds_its_mount_again_after_the_server_was_killed(shell, store):
    box = shell("echo ready; sleep 1; exit 1", restart="always")
    box.start(engine="native")
    assert ready(box)
    (mounted,) = MountTable(box.store.root).of_container(box.id)
    os.kill(mounted.pid, signal.SIGKILL)
    assert eventually(lambda: text(box).count(b"ready") > 2)
    box.remove(force=True)
    assert_nothing_left(store)


def test_a_mount_whose_maker_was_killed_before_its_row_told_of_the_server(shell, store):
    box = shell(FOREVER)
    box.mount(engine="native")
    table = MountTable(box.store.root)
    (mounted,) = table.of_container(box.id)
    with subprocess.Popen(["true"]) as dead:
        dead.wait()
    table.add(replace(mounted, pid=dead.pid, pid_start=1))
    box.start()
    assert box.exec(["echo", "fine"]).stdout == b"fine\n"
    box.remove(force=True)
    assert_nothing_left(store)


SCRIPT = "echo ready; exit 7"


def starters(store):
    """Who may start a container of the store, or run it: all that use it, but the servers of its mounts."""
    return [pid for pid in users_of(store) if name_of(pid) != "layerfs-fuse"]


def test_kill_9_of_commands_at_any_moment(store, opened):
    """A killed `run -d`: the container runs, or has run, or was never started; and it can be started and removed."""
    steps = int(os.environ.get("LAYERFS_STEPS", "6"))
    seed = random.Random(steps)
    for step in range(steps):
        command = [*LAYERFS, "--store", str(store), "run", "-d", "--name", f"box{step}", "box:1", "sh", "-c", SCRIPT]
        with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
            time.sleep(seed.uniform(0.1, 0.7))
            process.kill()
        assert eventually(lambda: not starters(store))  # a monitor goes on with what its command had begun
        for box in opened.containers():
            assert (box.state.status, box.state.code) in (("created", 0), ("exited", 7)), step
            box.start()
            assert box.wait(60) == 7
            box.remove(force=True)
    assert_nothing_left(store, newborn=True)


def test_kill_9_of_the_monitor_at_any_moment(shell, store):
    steps = int(os.environ.get("LAYERFS_STEPS", "6"))
    seed = random.Random(steps)
    box = shell("for i in 1 2 3 4 5 6; do echo $i; sleep 0.02; done; exit 7", restart="on-failure:2")
    for step in range(steps):
        box.start()
        time.sleep(seed.uniform(0, 0.5))
        for monitor in monitors(store):
            with_pid = int(monitor)
            try:
                os.kill(with_pid, signal.SIGKILL)
            except ProcessLookupError:
                continue
        assert eventually(lambda: not box.state.running)
        assert (box.state.status, box.state.code in (7, 137)) == ("exited", True), step
        assert box.wait(60) == box.state.code
    box.remove()
    assert_nothing_left(store)


def test_what_is_being_started_is_not_removed_under_its_program(opened, store, monkeypatch):
    monkeypatch.setattr("layerfs.engine.container._CLEARING_SECONDS", 0.2)
    box = opened.create("box:1")
    (box.directory / "run").mkdir()
    with starting(box.directory), (box.directory / "run/lock").open("w") as place:
        fcntl.flock(place, fcntl.LOCK_SH)  # as who starts it does, until its program runs
        with pytest.raises(InUse, match="being started or stopped"):
            box.remove(force=True)
        assert [other.id for other in opened.containers()] == [box.id]
    box.remove(force=True)
    assert_nothing_left(store)


def test_a_started_container_can_be_removed_by_force_at_any_moment(opened, store):
    seed = random.Random(7)
    for _ in range(5):
        box = opened.create("box:1", command=["sh", "-c", FOREVER], restart="always")
        command = [*LAYERFS, "--store", str(store), "start", box.name]
        with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
            time.sleep(seed.uniform(0.2, 0.6))
            for _ in range(20):
                try:
                    box.remove(force=True)
                    break
                except LayerfsError:
                    time.sleep(0.1)
            process.wait()
    for box in opened.containers():
        box.remove(force=True)
    assert_nothing_left(store)
