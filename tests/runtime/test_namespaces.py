"""What is new inside, and what the outside cannot see."""

import socket
import subprocess
from pathlib import Path

import pytest


def inside(box, **options):
    return dict(
        line.split("=")
        for line in box("cd /proc/self/ns; for n in *; do echo $n=$(readlink $n); done", **options)
        .stdout.decode()
        .split()
    )


def outside(name):
    return str(Path(f"/proc/self/ns/{name}").readlink())


@pytest.mark.parametrize("name", ["mnt", "pid", "uts", "ipc", "net"])
def test_namespaces_are_new(box, name):
    assert inside(box)[name] != outside(name)


@pytest.mark.parametrize("name", ["user", "time"])
def test_others_are_the_hosts(box, name):
    assert inside(box)[name] == outside(name)


def test_host_network_is_the_hosts(box):
    found = inside(box, network="host")
    assert found["net"] == outside("net")
    assert found["uts"] != outside("uts")


def test_the_program_is_pid_1_and_alone(box):
    assert box("echo $$; ls -d /proc/[0-9]*; :").stdout.split()[:2] == [b"1", b"/proc/1"]


def test_without_a_network_there_is_a_loopback_that_works(box):
    assert box("ls /sys/class/net; cat /sys/class/net/lo/operstate").stdout.split() == [b"lo", b"unknown"]
    script = "nc -l -p 7 -e /bin/echo hello & until sleep 0.2 | nc 127.0.0.1 7 2>/dev/null; do :; done"
    assert box(script).stdout == b"hello\n"


def test_the_hostname_is_the_containers(box):
    before = socket.gethostname()
    assert box("hostname; cat /etc/hostname; echo $HOSTNAME", hostname="box").stdout == b"box\nbox\nbox\n"
    assert socket.gethostname() == before


def test_a_hostname_that_is_too_long_is_a_clear_error(box):
    with pytest.raises(OSError, match="setting the host name"):
        box("true", hostname="x" * 65)


def test_ports_below_1024_need_no_capability(box):
    assert box("cat /proc/sys/net/ipv4/ip_unprivileged_port_start").stdout == b"0\n"


def test_a_sysctl_of_its_own(box):
    before = Path("/proc/sys/kernel/shm_rmid_forced").read_text()
    assert box("cat /proc/sys/kernel/shm_rmid_forced", sysctls=[("kernel.shm_rmid_forced", "1")]).stdout == b"1\n"
    assert Path("/proc/sys/kernel/shm_rmid_forced").read_text() == before


SESSION_KEYRING = """
#include <stdio.h>
#include <sys/syscall.h>
#include <unistd.h>
int main(void) { printf("%ld\\n", syscall(SYS_keyctl, 0, -3, 0)); return 0; }
"""


def test_the_session_keyring_is_not_the_callers(box, root, tmp_path):
    (tmp_path / "probe.c").write_text(SESSION_KEYRING)
    probe = root / "probe"
    if subprocess.run(["cc", "-static", "-o", probe, tmp_path / "probe.c"], capture_output=True).returncode:
        pytest.skip("needs a C compiler and a static libc")
    outside = subprocess.run([probe], capture_output=True, check=True).stdout
    assert box(["/probe"]).stdout not in (outside, b"-1\n")
