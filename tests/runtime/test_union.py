"""On a union: the kernel's overlayfs as root, as the engines give it."""

import subprocess

import pytest


@pytest.fixture
def union(root, tmp_path):
    for name in ("upper", "work", "merged"):
        (tmp_path / name).mkdir()
    layers = f"lowerdir={root},upperdir={tmp_path}/upper,workdir={tmp_path}/work"
    subprocess.run(["mount", "-t", "overlay", "overlay", "-o", layers, tmp_path / "merged"], check=True)
    yield tmp_path / "merged"
    subprocess.run(["umount", tmp_path / "merged"], check=True)


def test_what_is_written_is_in_the_upper(box, union, tmp_path):
    assert box("echo new > /tmp/file; rm /etc/group", root=union).returncode == 0
    assert (tmp_path / "upper/tmp/file").read_text() == "new\n"
    assert (tmp_path / "upper/etc/group").is_char_device()


def test_the_root_is_the_union(box, union):
    assert box("head -n 1 /proc/mounts", root=union).stdout.split()[1:3] == [b"/", b"overlay"]


def test_a_read_only_run_leaves_the_hosts_mount_writable(box, union):
    assert b"Read-only" in box("touch /x", root=union, read_only=True).stderr
    (union / "x").touch()


def test_the_mount_is_free_when_the_run_has_ended(box, union):
    for _ in range(5):
        box("sleep 9 & true", root=union)
    # the fixture's umount would fail
