"""Device nodes, and that a container gets no others."""

import os
import stat
from pathlib import Path

import pytest

NODES = {"null": (1, 3), "zero": (1, 5), "full": (1, 7), "random": (1, 8), "urandom": (1, 9), "tty": (5, 0)}
LINKS = {
    "ptmx": "pts/ptmx",
    "fd": "/proc/self/fd",
    "stdin": "/proc/self/fd/0",
    "stdout": "/proc/self/fd/1",
    "stderr": "/proc/self/fd/2",
}


def test_the_nodes_are_dockers(box):
    lines = box("cd /dev; stat -c '%n %a %t %T' " + " ".join(NODES)).stdout.decode().splitlines()
    assert lines == [f"{name} 666 {major:x} {minor:x}" for name, (major, minor) in NODES.items()]


def test_the_links_are_dockers(box):
    lines = box("cd /dev; for l in " + " ".join(LINKS) + "; do readlink $l; done").stdout.decode().splitlines()
    assert lines == list(LINKS.values())


def test_nothing_else_is_in_dev(box):
    names = set(box("ls /dev").stdout.decode().split())
    assert names - {"core"} == {*NODES, *LINKS, "pts", "mqueue", "shm"}


def test_the_nodes_work(box):
    script = (
        "echo x > /dev/null && head -c 3 /dev/zero | od -An -tx1 && head -c 9 /dev/urandom | wc -c; echo > /dev/full"
    )
    result = box(script)
    assert result.stdout.split() == [b"00", b"00", b"00", b"9"]
    assert b"No space left" in result.stderr


def test_a_pseudo_terminal_can_be_opened(box):
    assert box("script -q -c 'tty' /dev/null < /dev/null || true; test -c /dev/pts/ptmx").returncode == 0


@pytest.mark.parametrize("place", ["/dev/x", "/x", "/dev/shm/x", "/tmp/x"])
def test_a_node_made_inside_cannot_be_opened(box, place):
    major, minor = (lambda d: (os.major(d), os.minor(d)))(Path("/").stat().st_dev)
    result = box(f"mknod {place} b {major} {minor} && head -c 1 {place}")
    assert b"Permission denied" in result.stderr
    assert result.stdout == b""


def test_a_node_of_the_image_cannot_be_opened(box, root):
    os.mknod(root / "disk", stat.S_IFBLK | 0o666, Path("/").stat().st_dev)
    assert b"Permission denied" in box("head -c 1 /disk").stderr


def test_privileged_sees_the_hosts_devices(box):
    nodes = [path.name for path in Path("/dev").iterdir() if path.is_block_device()]
    if not nodes:
        pytest.skip("no block device here")
    assert box(f"test -b /dev/{nodes[0]}", privileged=True).returncode == 0
