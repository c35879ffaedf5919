"""`mount -o`, `create --storage-opt`: from the command line to the mount."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

pytestmark = pytest.mark.root


def size_of(place: str) -> int:
    said = os.statvfs(place)
    return said.f_blocks * said.f_frsize


def test_mount_takes_options(layerfs_command, tmp_path):
    box = layerfs_command("create", "box:1").stdout.decode().strip()
    options = ["-o", "size=10m,uidmap=0:1000:1,1:100000:65535", "-o", "noatime"]
    place = layerfs_command("mount", *options, box, str(tmp_path / "m")).stdout.decode().strip()
    try:
        assert size_of(place) == 10 << 20
        assert (Path(place) / "bin").stat().st_uid == 1000
    finally:
        layerfs_command("umount", place)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["mount", "-o", "sise=1"], b"unknown mount option 'sise' (there are nosuid, nodev, noexec, noatime, "),
        (["mount", "-o", "size=much"], b"invalid size 'much'"),
        (["mount", "--engine", "kernel", "-o", "size=1m"], b"the engine kernel has no mount option size"),
        (["mount", "-r", "-o", "size=1m"], b"need a writable mount"),
    ],
)
def test_a_bad_option_is_one_line(layerfs_command, arguments, message):
    box = layerfs_command("create", "box:1").stdout.decode().strip()
    done = layerfs_command(*arguments, box)
    assert done.returncode == 1
    assert message in done.stderr
    assert len(done.stderr.splitlines()) == 1


def test_the_size_of_a_container_holds_at_every_mount_and_run(layerfs_command):
    box = layerfs_command("create", "--name", "small", "--storage-opt", "size=3M", "box:1").stdout.decode().strip()
    shown = json.loads(layerfs_command("inspect", box).stdout)[0]["HostConfig"]["StorageOpt"]
    assert shown == {"size": "3M"}
    for options, size in (([], 3 << 20), (["-o", "size=5m"], 5 << 20)):
        place = layerfs_command("mount", *options, box).stdout.decode().strip()
        assert size_of(place) == size
        layerfs_command("umount", place)
    read_only = layerfs_command("mount", "-r", box)
    assert read_only.returncode == 0
    layerfs_command("umount", read_only.stdout.decode().strip())
    run = ["run", "--rm", "--security-opt", "seccomp=unconfined", "--storage-opt", "size=1m", "box:1"]
    done = layerfs_command(*run, "sh", "-c", "cat /bin/busybox >/x")
    assert done.returncode != 0
    assert b"No space left on device" in done.stderr


def test_create_tells_what_cannot_be(layerfs_command):
    for arguments, message in (
        (["--storage-opt", "size=x"], b"invalid size 'x'"),
        (["--storage-opt", "sice=1"], b"unknown mount option"),
        (["--engine", "kernel", "--storage-opt", "size=1g"], b"no mount option size"),
    ):
        done = layerfs_command("create", *arguments, "box:1")
        assert (done.returncode, len(done.stderr.splitlines())) == (125, 1)
        assert message in done.stderr
