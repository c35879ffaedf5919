"""The table of mounts, masks and read-only paths, as docker lays them."""

import os
import subprocess
from pathlib import Path

import pytest

from layerfs.runtime.layout import MASKED_PATHS, READ_ONLY_PATHS
from layerfs.runtime.options import Bind, Tmpfs

DOCKER = [  # target, type, options that must be there
    ("/proc", "proc", {"rw", "nosuid", "nodev", "noexec"}),
    ("/dev", "tmpfs", {"rw", "nosuid", "size=65536k", "mode=755"}),
    ("/dev/pts", "devpts", {"rw", "nosuid", "noexec", "gid=5", "mode=620", "ptmxmode=666"}),
    ("/sys", "sysfs", {"ro", "nosuid", "nodev", "noexec"}),
    ("/sys/fs/cgroup", None, {"ro", "nosuid", "nodev", "noexec"}),
    ("/dev/mqueue", "mqueue", {"rw", "nosuid", "nodev", "noexec"}),
    ("/dev/shm", "tmpfs", {"rw", "nosuid", "nodev", "noexec", "size=65536k"}),
    ("/etc/resolv.conf", None, {"rw"}),
    ("/etc/hostname", None, {"rw"}),
    ("/etc/hosts", None, {"rw"}),
]


def table(box, **options):
    rows = [line.split() for line in box("cat /proc/mounts", **options).stdout.decode().splitlines()]
    return [(target, kind, set(flags.split(","))) for _, target, kind, flags, *_ in rows]


def test_mounts_are_dockers_in_order_and_options(box):
    rows = table(box)
    assert rows[0][0] == "/"
    for (target, kind, flags), (wanted, wanted_kind, wanted_flags) in zip(rows[1:], DOCKER, strict=False):
        assert target == wanted
        assert kind == (wanted_kind or kind)
        assert flags >= wanted_flags


def test_only_masks_read_only_paths_and_nodes_follow(box):
    rest = {target for target, *_ in table(box)[len(DOCKER) + 1 :]}
    nodes = {"/dev/null", "/dev/zero", "/dev/full", "/dev/random", "/dev/urandom", "/dev/tty"}
    assert rest <= {os.fsdecode(path) for path in (*MASKED_PATHS, *READ_ONLY_PATHS)} | nodes


def test_with_a_device_cgroup_no_node_is_a_mount(box):
    assert "/dev/null" not in {target for target, *_ in table(box, device_cgroup=True)}


def test_nothing_of_the_hosts_mounts_is_left(box, tmp_path):
    assert os.fsencode(tmp_path) not in box("cat /proc/mounts").stdout


def test_masked_directories_are_empty_and_read_only(box):
    result = box("ls -A /sys/firmware; touch /sys/firmware/x")
    assert result.stdout == b""
    assert b"Read-only" in result.stderr


@pytest.mark.parametrize("path", ["/proc/keys", "/proc/timer_list", "/proc/interrupts"])
def test_masked_files_read_as_empty(box, path):
    if not Path(path).exists():
        pytest.skip(f"no {path} on this kernel")
    result = box(f"test -c {path} && cat {path}")
    assert (result.returncode, result.stdout) == (0, b"")


@pytest.mark.parametrize("path", ["/proc/sys/kernel/hostname", "/proc/sysrq-trigger"])
def test_read_only_paths_cannot_be_written(box, path):
    if not Path(path).exists():
        pytest.skip(f"no {path} on this kernel")
    assert b"Read-only" in box(f"echo x > {path}").stderr


def test_sys_is_read_only(box):
    assert b"Read-only" in box("mkdir /sys/x; echo 1 > /sys/kernel/profiling").stderr


def test_a_read_only_root_still_has_a_writable_shm(box, root):
    result = box("echo a > /x; echo b > /dev/shm/x && cat /dev/shm/x", read_only=True)
    assert b"Read-only file system" in result.stderr
    assert result.stdout == b"b\n"
    (root / "still-writable-outside").touch()


def test_what_the_container_writes_is_in_the_root(box, root):
    box("echo hello > /tmp/x")
    assert (root / "tmp/x").read_text() == "hello\n"


def test_files_get_the_usual_umask(box, root):
    box("touch /tmp/f; mkdir /tmp/d")
    assert [(root / "tmp" / name).stat().st_mode & 0o777 for name in "fd"] == [0o644, 0o755]


def test_binds_of_directories_and_files(box, tmp_path):
    (tmp_path / "v/sub").mkdir(parents=True)
    (tmp_path / "f").write_text("file")
    binds = [Bind.parse(f"{tmp_path}/v:/data/deep"), Bind.parse(f"{tmp_path}/f:/data.txt:ro")]
    result = box("echo x > /data/deep/sub/y; cat /data.txt; echo no > /data.txt", binds=binds)
    assert (tmp_path / "v/sub/y").read_text() == "x\n"
    assert result.stdout == b"file"
    assert b"Read-only" in result.stderr


def test_a_read_only_bind_covers_what_is_mounted_below(box, tmp_path):
    (tmp_path / "v/sub").mkdir(parents=True)
    subprocess.run(["mount", "-t", "tmpfs", "tmpfs", tmp_path / "v/sub"], check=True)
    try:
        result = box("touch /v/x; touch /v/sub/x", binds=[Bind(tmp_path / "v", b"/v", read_only=True)])
    finally:
        subprocess.run(["umount", tmp_path / "v/sub"], check=True)
    assert result.stderr.count(b"Read-only") == 2


def test_tmpfs_options(box):
    rows = table(box, tmpfs=[Tmpfs.parse("/t:size=1m,mode=700"), Tmpfs.parse("/x:exec,ro")])
    found = {target: flags for target, _, flags in rows}
    assert found["/t"] >= {"rw", "nosuid", "nodev", "noexec", "size=1024k", "mode=700"}
    assert "ro" in found["/x"]
    assert "noexec" not in found["/x"]


def test_shm_size(box):
    assert b" 128 " in box("df -k /dev/shm", shm_size=128 << 10).stdout.replace(b"  ", b" ")


def test_a_root_without_any_directory_gets_its_mount_points(tmp_path, busybox_bin, box):
    bare = tmp_path / "bare"
    bare.mkdir()
    os.link(busybox_bin / "busybox", bare / "busybox")
    assert box(["/busybox", "cat", "/etc/hostname"], root=bare, hostname="h").stdout == b"h\n"
    assert sorted(path.name for path in bare.iterdir()) == ["busybox", "dev", "etc", "proc", "sys"]


def test_etc_files_through_links_of_the_image(box, root):
    (root / "run").mkdir()
    (root / "etc/resolv.conf").symlink_to("../run/systemd/resolv.conf")  # dangling, as in many images
    (root / "etc/hosts").symlink_to("/run/hosts")
    result = box("cat /run/systemd/resolv.conf | head -n 1; head -n 1 /run/hosts")
    assert result.stdout == b"# Made by layerfs from the host's /etc/resolv.conf.\n127.0.0.1\tlocalhost\n"


def test_etc_files_of_a_state_directory_live_on(box, tmp_path):
    state = tmp_path / "state"
    state.mkdir()
    box("echo 10.0.0.9 db >> /etc/hosts", state=state)
    assert (state / "hosts").read_text().endswith("10.0.0.9 db\n")


def test_extra_hosts(box):
    assert b"10.1.1.1\tdb\n" in box("cat /etc/hosts", extra_hosts=[("db", "10.1.1.1")]).stdout


def test_host_network_has_the_hosts_files(box):
    assert box("cat /etc/resolv.conf", network="host").stdout == Path("/etc/resolv.conf").read_bytes()
