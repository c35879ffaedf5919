"""Verbs on a container that the default engine has mounted, and after its server was killed."""

from __future__ import annotations

import json
import os
import signal
from pathlib import Path

import pytest

pytestmark = pytest.mark.root


def mounted(layerfs_command) -> tuple[Path, int]:
    """Where the container `one` is mounted, with a file of its own, and the server's pid."""
    layerfs_command("create", "--name", "one", "box:1")
    place = Path(os.fsdecode(layerfs_command("mount", "one").stdout.strip()))
    (place / "new").write_text("x")
    row = json.loads(layerfs_command("debug", "mounts", "--format", "json").stdout)
    assert (row["Engine"], row["State"], row["Target"]) == ("native", "live", str(place))
    return place, int(row["Pid"])


def test_verbs_while_it_is_mounted(layerfs_command, tmp_path):
    place, _ = mounted(layerfs_command)
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


def test_of_a_running_container(layerfs_command, store):
    """Its own mount is the one that others see."""
    layerfs_command("create", "--name", "one", "box:1")
    place = Path(os.fsdecode(layerfs_command("mount", "one").stdout.strip()))
    assert layerfs_command("run", "--rm", "box:1", "echo", "another").stdout == b"another\n"
    (place / "seen").write_text("x")
    assert layerfs_command("umount", "one").returncode == 0
    assert not place.exists() or not list(place.iterdir())


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
def test_after_its_server_was_killed(layerfs_command, words):
    place, server = mounted(layerfs_command)
    os.kill(server, signal.SIGKILL)
    done = layerfs_command(*words)
    assert (done.returncode, done.stderr) == (0, b"")
    assert layerfs_command("umount", "-a").returncode == 0
    assert str(place) not in Path("/proc/self/mountinfo").read_text()
    if words[0] != "rm":
        assert layerfs_command("diff", "one").stdout == b"A /new\n"
        assert layerfs_command("rm", "one").returncode == 0
    assert layerfs_command("fsck").returncode == 0


def test_a_dead_image_mount_makes_room_for_the_next_one(layerfs_command, tmp_path):
    (tmp_path / "here").mkdir()
    layerfs_command("mount", "box:1", tmp_path / "here")
    row = json.loads(layerfs_command("debug", "mounts", "--format", "json").stdout)
    os.kill(int(row["Pid"]), signal.SIGKILL)
    assert layerfs_command("mount", "box:1", tmp_path / "here").returncode == 0
    assert (tmp_path / "here/bin/sh").exists()
    assert layerfs_command("umount", tmp_path / "here").returncode == 0


def test_the_hosts_switch_of_io_uring_is_told(layerfs_command):
    answer = layerfs_command("debug", "uring")
    assert answer.stdout in (b"on\n", b"off\n") or b"Linux 6.14" in answer.stderr
    assert layerfs_command("debug", "uring", "maybe").returncode != 0
