"""Verbs on a container that the default engine has mounted, and after its server was killed."""

from __future__ import annotations

import json
import os
import signal
import subprocess
from pathlib import Path

import pytest

import layerfs
from layerfs.store.leases import process_start
from tests.cli.conftest import LAYERFS
from tests.looking import eventually, mountinfo

pytestmark = pytest.mark.root


def mounted(store: Path) -> tuple[Path, int]:
    """Where the container `one` is mounted, with a file of its own, and the server's pid."""
    with layerfs.Store(store) as opened:
        place = opened.create("box:1", name="one").mount().path
        (place / "new").write_text("x")
        [record] = opened.mounts()
        assert (record.engine, record.target) == ("native", str(place))
        return place, record.pid


def kill(server: int) -> None:
    os.kill(server, signal.SIGKILL)
    assert eventually(lambda: process_start(server) is None)


def test_verbs_while_it_is_mounted(layerfs_command, store, tmp_path):
    place, _ = mounted(store)
    assert layerfs_command("diff", "one").stdout == b"A /new\n"
    assert layerfs_command("commit", "one", "box:2").returncode == 0
    assert layerfs_command("run", "--rm", "box:2", "cat", "/new").stdout == b"x"
    assert layerfs_command("container", "export", "-o", tmp_path / "one.tar", "one").returncode == 0
    assert layerfs_command("gc").returncode == 0
    assert layerfs_command("rmi", "-f", "box:2").returncode == 0
    assert (place / "new").read_text() == "x" and (place / "bin/sh").exists()
    assert layerfs_command("rm", "one").returncode == 1
    assert layerfs_command("rm", "-f", "one").stdout == b"one\n"
    assert layerfs_command("mount", "-q").stdout == b""
    assert layerfs_command("fsck").returncode == 0


def test_another_container_runs_meanwhile(layerfs_command, store):
    """It holds no copy of the mount for longer than its start."""
    place, _ = mounted(store)
    assert layerfs_command("run", "--rm", "box:1", "echo", "another").stdout == b"another\n"
    assert layerfs_command("umount", "one").returncode == 0
    assert not list(place.iterdir())


@pytest.mark.parametrize(
    "words",
    [
        ("mount", "one"),
        ("umount", "one"),
        ("rm", "one"),
        ("rm", "-f", "one"),
        ("gc",),
        ("diff", "one"),
        ("commit", "one", "box:2"),
        ("container", "export", "-o", "/dev/null", "one"),
    ],
    ids=" ".join,
)
def test_after_its_server_was_killed(layerfs_command, store, words):
    place, server = mounted(store)
    kill(server)
    done = layerfs_command(*words)
    assert (done.returncode, done.stderr) == (0, b"")
    with layerfs.Store(store) as opened:
        for record in opened.mounts(dead=True):
            opened.umount(record.target)
        assert str(place) not in mountinfo()
        if words[0] != "rm":
            assert [(each.kind, each.path) for each in opened.container("one").diff()] == [("A", "/new")]
            opened.container("one").remove()
        assert opened.containers() == []
        assert opened.fsck() == []


def test_a_dead_image_mount_makes_room_for_the_next_one(layerfs_command, tmp_path):
    (tmp_path / "here").mkdir()
    layerfs_command("mount", "box:1", tmp_path / "here")
    row = json.loads(layerfs_command("debug", "mounts", "--format", "json").stdout)
    kill(int(row["Pid"]))
    assert layerfs_command("mount", "box:1", tmp_path / "here").returncode == 0
    assert (tmp_path / "here/bin/sh").exists()
    assert layerfs_command("umount", tmp_path / "here").returncode == 0


def test_the_hosts_switch_of_io_uring_is_told(layerfs_command):
    answer = layerfs_command("debug", "uring")
    assert answer.stdout in (b"on\n", b"off\n") or b"Linux 6.14" in answer.stderr
    assert layerfs_command("debug", "uring", "maybe").returncode != 0


def test_stats_and_mounts_tell_of_it(layerfs_command, store):
    place, server = mounted(store)
    row = json.loads(layerfs_command("debug", "mounts", "--format", "json").stdout)
    assert (row["Mode"], row["Options"], row["Since"].endswith(" ago")) == ("rw", "", True)
    for name in ("one", place, row["ID"], row["ShortID"], None):
        done = layerfs_command("debug", "stats", *([name] if name else []), "--format", "json")
        stats = json.loads(done.stdout)
        assert (stats["id"], stats["pid"], stats["requests"]["CREATE"]["count"]) == (row["ID"], server, 1)
        assert 0 < stats["memory"] < 100_000_000
    text = layerfs_command("debug", "stats", "one").stdout.decode()
    assert [line.split()[:2] for line in text.splitlines() if line.startswith("CREATE")] == [["CREATE", "1"]]
    assert layerfs_command("umount", "one").returncode == 0
    done = layerfs_command("debug", "stats", "one")
    assert (done.returncode, done.stdout) == (1, b"")
    assert len(done.stderr.splitlines()) == 1
    assert layerfs_command("debug", "stats").stdout == b""


def test_stats_are_watched_until_ctrl_c(layerfs_command, store):
    mounted(store)
    words = [*LAYERFS, "--store", str(store), "debug", "stats", "--watch", "0.1", "--format", "json"]
    with subprocess.Popen(words, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        seen = [json.loads(process.stdout.readline())["seconds"] for _ in range(2)]
        process.send_signal(signal.SIGINT)
        assert process.wait(60) == 130
    assert seen[0] < seen[1]
    layerfs_command("umount", "one")


@pytest.fixture
def in_foreground(layerfs_command, store):
    """The command, once it has mounted, where, and the server."""
    layerfs_command("create", "--name", "one", "box:1")
    words = [*LAYERFS, "--store", str(store), "mount", "--foreground", "one"]
    with subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout is not None
        place = Path(os.fsdecode(process.stdout.readline().strip()))
        row = json.loads(layerfs_command("debug", "mounts", "--format", "json").stdout)
        yield process, place, int(row["Pid"])
        process.kill()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_in_the_foreground_a_signal_unmounts(layerfs_command, in_foreground, number):
    process, place, server = in_foreground
    (place / "new").write_text("x")
    process.send_signal(number)
    assert process.wait(60) == 0
    assert layerfs_command("debug", "mounts", "--format", "json").stdout == b""
    assert not Path(f"/proc/{server}").exists()
    assert layerfs_command("diff", "one").stdout == b"A /new\n"


def test_in_the_foreground_it_ends_with_its_mount(layerfs_command, in_foreground):
    process, place, _ = in_foreground
    assert layerfs_command("umount", place).returncode == 0
    assert process.wait(60) == 0


def test_in_the_foreground_a_killed_server_is_an_error(layerfs_command, in_foreground):
    process, place, server = in_foreground
    os.kill(server, signal.SIGKILL)
    assert process.wait(60) == 1
    assert process.stderr.read() == b"layerfs: the server of %s was killed\n" % os.fsencode(place)
    assert layerfs_command("debug", "mounts", "--format", "json").stdout == b""


def test_in_the_foreground_a_busy_mount_stays_and_says_so(layerfs_command, in_foreground):
    process, place, _ = in_foreground
    with (place / "etc/passwd").open():
        process.send_signal(signal.SIGINT)
        assert process.wait(60) == 1
    assert b"in use" in process.stderr.read()
    assert layerfs_command("umount", place).returncode == 0
