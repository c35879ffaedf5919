"""What root in a container could try with what he has: capabilities, /proc, /sys, control groups, devices, mounts.

Attacks run as root inside, and must neither see nor change the host. Numbers are those of public reports."""

from __future__ import annotations

import contextlib
import ctypes
import os
import subprocess
import threading
from pathlib import Path

import pytest

from layerfs.errors import InvalidInput, RunError
from layerfs.runtime.flags import check_sysctl, parse_sysctl
from layerfs.runtime.options import Bind
from tests.looking import mountinfo

TREES = sorted(place for place in Path("/sys/fs/cgroup").glob("*") if (place / "cgroup.procs").exists())


def test_cve_2022_24769_nothing_is_inheritable_or_ambient(box):
    for options in ({}, {"user": "bob"}, {"privileged": True}, {"cap_add": ["ALL"]}):
        lines = box("grep -E 'CapInh|CapAmb' /proc/self/status", **options).stdout.split()
        assert lines[1::2] == [b"0000000000000000"] * 2, options


def test_another_user_has_no_capabilities_and_gets_none_by_set_id_files(box, root):
    (root / "busybox-su").write_bytes((root / "bin/busybox").read_bytes())
    (root / "busybox-su").chmod(0o4755)
    assert box("grep CapEff /proc/self/status", user="bob").stdout.split()[1] == b"0000000000000000"
    assert box(["/busybox-su", "id", "-u"], user="bob", no_new_privileges=True).stdout == b"1000\n"


@pytest.mark.parametrize(
    "path",
    [
        *(
            "/proc/sys/kernel/core_pattern",
            "/proc/sys/kernel/modprobe",
            "/proc/sys/kernel/hotplug",
            "/proc/sysrq-trigger",
        ),
        *("/proc/sys/vm/panic_on_oom", "/proc/sys/fs/binfmt_misc/register", "/proc/irq/default_smp_affinity"),
        *("/sys/kernel/uevent_helper", "/sys/kernel/mm/transparent_hugepage/enabled", "/sys/fs/cgroup/release_agent"),
        *("/sys/power/state", "/proc/1/../sys/kernel/panic", "/proc/self/root/proc/sys/kernel/panic"),
    ],
)
@pytest.mark.parametrize("caps", [[], ["ALL"]], ids=["default", "all"])
def test_the_kernels_switches_are_out_of_reach(box, path, caps):
    result = box(f"echo evil >{path}", cap_add=caps)
    assert result.returncode != 0
    assert any(word in result.stderr for word in (b"Read-only", b"ermission denied", b"nonexistent", b"not permitted"))


@pytest.mark.parametrize(
    "path", ["/proc/kcore", "/proc/keys", "/proc/timer_list", "/proc/interrupts", "/proc/sched_debug"]
)
def test_masked_files_are_empty(box, path):
    assert box(f"if test -e {path}; then head -c 1 {path}; fi").stdout == b""


def test_masks_and_read_only_paths_cannot_be_taken_away(box):
    script = "umount /proc/kcore; umount -l /proc/sys; mount -o remount,rw /proc/sys; mount -o remount,rw,bind /sys; :"
    result = box(f"{script}; head -c 1 /proc/kcore; echo 1 >/proc/sys/kernel/panic")
    assert result.stdout == b""
    assert result.returncode != 0


@pytest.mark.skipif(not TREES, reason="cgroup v2 has no release agents")
def test_cve_2022_0492_no_release_agent(box):
    """Neither by what is mounted nor by a mount of one's own, also one in a new user namespace."""
    script = """
    for f in $(find /sys/fs/cgroup -name release_agent); do echo /evil >$f && echo WROTE; done
    mkdir /tmp/c; mount -t cgroup -o memory x /tmp/c && echo MOUNTED
    unshare -UrmC sh -c 'mount -t cgroup -o rdma x /tmp/c && echo /evil >/tmp/c/release_agent && echo WROTE'; :"""
    procs = [tree / "cgroup.procs" for tree in TREES if not (tree / "cgroup.controllers").exists()]
    before = {tree: (tree / "release_agent").read_text() for tree in TREES if (tree / "release_agent").exists()}
    made = []
    try:
        for place in procs:
            own = place.parent / f"layerfs-test-{os.getpid()}"
            own.mkdir()
            made.append(own)
            if place.parent.name == "cpuset":
                for file in ("cpuset.cpus", "cpuset.mems"):
                    (own / file).write_text((place.parent / file).read_text())
        result = box(script, cgroup_procs=[own / "cgroup.procs" for own in made])
        assert result.stdout == b""
    finally:
        for own in made:
            own.rmdir()
    assert before == {tree: (tree / "release_agent").read_text() for tree in before}


@pytest.mark.parametrize("kind", ["b 8 0", "c 1 1", "c 10 229", "c 1 11", "b 7 0"])
def test_devices_that_it_makes_do_not_work(box, kind):
    result = box(f"mknod /tmp/d {kind} && chmod 666 /tmp/d && head -c 1 /tmp/d")
    assert result.stdout == b""
    assert result.returncode != 0


@pytest.mark.parametrize("where", ["tmp", "dev", "image"])
def test_a_device_of_the_image_does_not_work(box, root, where):
    os.mknod(root / "mem", 0o20666, os.makedev(1, 1))
    path = {"image": "/mem", "tmp": "/tmp/mem", "dev": "/dev/mem"}[where]
    assert box(f"test {path} = /mem || mknod {path} c 1 1; head -c 1 {path}").stdout == b""


def test_only_its_own_processes_are_there(box):
    """ptrace, /proc/PID/root, /proc/PID/mem of the helper need a PID: there is none."""
    ours = os.getpid()
    result = box(
        f"ls -d /proc/[0-9]* | grep -c .; ls /proc/{ours} 2>&1; cat /proc/1/environ | tr '\\0' '\\n'; echo $PPID"
    )
    assert int(result.stdout.split()[0]) < 5
    assert result.stdout.split()[-1] == b"0"
    assert not any(f"{name}=".encode() in result.stdout for name in ("PYTEST_CURRENT_TEST", "VIRTUAL_ENV", "OLDPWD"))


def test_the_init_process_tells_nothing_of_the_host(box):
    said = box("ls -l /proc/1/fd /proc/1/exe /proc/1/cwd /proc/1/root; cat /proc/1/maps", init=True)
    assert b"memfd" not in said.stdout
    assert b"->" not in said.stdout


def test_no_keys_of_the_caller(box):
    """A session keyring of its own, so a key that the caller has cannot be found by its number either."""
    libc = ctypes.CDLL(None, use_errno=True)
    ring = libc.syscall(250, 0, ctypes.c_int(-3), 1)  # KEYCTL_GET_KEYRING_ID of the session, made when missing
    theirs = box("cat /proc/self/status | grep -c . >/dev/null; cat /proc/keys").stdout
    assert f"{ring & 0xFFFFFFFF:08x}".encode() not in theirs


@pytest.fixture
def shared_root(root, tmp_path):
    """The root in a mount of the host that is shared, as systemd makes all of them."""
    place = tmp_path / "shared"
    place.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "layerfs-test", place], check=True)
    try:
        subprocess.run(["mount", "--make-shared", place], check=True)
        subprocess.run(["cp", "-a", root, place / "root"], check=True)
        yield place / "root"
    finally:
        subprocess.run(["umount", "-R", "-l", place], check=True)


@pytest.mark.parametrize("options", [{}, {"privileged": True}], ids=["default", "privileged"])
def test_what_it_mounts_stays_inside_also_below_a_shared_mount(box, shared_root, options):
    def ours():
        return sorted(line for line in mountinfo().splitlines() if str(shared_root.parent) in line)

    before = ours()
    during = []
    script = (
        "mount -t tmpfs evil /tmp; mount --make-rshared /; mount -t tmpfs evil /home; umount -l /proc; sleep 0.3; :"
    )
    box(script, root=shared_root, on_started=lambda _: during.append(mountinfo()), **options)
    assert ours() == before
    assert "evil" not in during[0]
    assert (shared_root / "bin/busybox").exists()


def test_cve_2021_30465_and_2024_45310_a_volume_that_changes_while_it_is_mounted(box, tmp_path):
    """Two containers share a volume: one swaps a directory and a link out while the other one mounts below it."""
    volume, host = tmp_path / "volume", tmp_path / "host"
    for place in (volume / "dir/sub", host / "sub"):
        place.mkdir(parents=True)
    (host / "sub/secret").touch()
    (volume / "link").symlink_to(host)
    libc, stop = ctypes.CDLL(None), threading.Event()
    one, other = os.fsencode(volume / "dir"), os.fsencode(volume / "link")

    def swap():
        while not stop.is_set():
            libc.renameat2(-100, one, -100, other, 2)
            stop.wait(0.0005)

    swapper = threading.Thread(target=swap)
    swapper.start()
    (tmp_path / "data").mkdir()
    try:
        for number in range(25):
            binds = [
                Bind(volume, b"/v"),
                Bind(tmp_path / "data", b"/v/dir/sub"),
                Bind(tmp_path / "data", b"/v/dir/n%d" % number),
            ]
            with contextlib.suppress(RunError):
                assert b"secret" not in box("ls /v/dir/sub /v/link/ 2>/dev/null; :", binds=binds).stdout
    finally:
        stop.set()
        swapper.join()
    assert sorted(path.name for path in host.rglob("*")) == ["secret", "sub"]
    assert str(host) not in mountinfo()


def test_cve_2023_27561_and_2019_16884_nothing_is_mounted_over_proc(box, tmp_path):
    for target in (b"/proc", b"/proc/self/attr", b"/proc/sys"):
        with pytest.raises(InvalidInput, match="inside /proc"):
            box("true", binds=[Bind(tmp_path, target)])


@pytest.mark.parametrize("link", ["/etc/evil", "../../../../etc/evil", "/proc/self/fd/0", "/dev/pts/0"])
def test_cve_2025_52565_a_console_that_is_a_link(box, tmp_path, link):
    """Somebody's own /dev with a link where the terminal is bound."""
    dev = tmp_path / "dev"
    (dev / "pts").mkdir(parents=True)
    (dev / "console").symlink_to(link)
    with pytest.raises(RunError):
        box("true", terminal=(0, 0), binds=[Bind(dev, b"/dev")])
    assert not Path("/etc/evil").exists()
    assert (dev / "console").is_symlink()


@pytest.mark.parametrize(
    "text",
    [
        "kernel.shm_rmid_forced=1+kernel.core_pattern=|/evil",
        "kernel.core_pattern=|/evil",
        "net/../kernel/core_pattern=x",
        "net.ipv4..=1",
        "kernel.shm_rmid_forced/../core_pattern=x",
        "net.ipv4.x\n=1",
    ],
)
def test_cve_2022_0811_sysctls_of_the_host(box, text):
    before = Path("/proc/sys/kernel/core_pattern").read_text()
    with pytest.raises((InvalidInput, RunError)):
        name, value = parse_sysctl(text)
        check_sysctl(name, host_network=False)
        box("true", sysctls=[(name, value)])
    assert Path("/proc/sys/kernel/core_pattern").read_text() == before
