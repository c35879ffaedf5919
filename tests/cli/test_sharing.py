"""Namespaces that a container has with another one."""

from __future__ import annotations

import pytest

from layerfs.errors import RunError

pytestmark = pytest.mark.root
FOREVER = "while :; do sleep 1; done"


def test_ipc_of_another_shares_its_shm(shell):
    donor = shell(FOREVER, ipc="shareable", shm_size="1m")
    donor.start()
    other = shell(FOREVER, ipc=f"container:{donor.name}", network="none")
    other.start()
    mount = "while read -r a b c; do case $b in /dev/shm) echo $a $b $c;; esac; done < /proc/mounts"
    same = f"readlink /proc/self/ns/ipc; {mount}"
    one, two = (box.exec(["sh", "-c", same]).stdout for box in (donor, other))
    assert one == two
    assert b"shm /dev/shm tmpfs rw,nosuid,nodev,noexec,relatime,size=1024k" in two
    donor.exec(["sh", "-c", "echo one > /dev/shm/x"])
    assert other.run(["cat", "/dev/shm/x"]).stdout == b"one\n"
    other.exec(["sh", "-c", "echo two > /dev/shm/x"])
    donor.stop(0)
    assert other.exec(["cat", "/dev/shm/x"]).stdout == b"two\n"


@pytest.mark.parametrize(
    "trick",
    ["ln -s / /dev/shm", "ln -s /proc/1/root /dev/shm", "mkdir /t; mount -t tmpfs t /t; ln -s /t /dev/shm", ":"],
)
def test_a_donor_cannot_lead_that_elsewhere(shell, trick):
    """One with the host's processes in sight and all rights over its own mounts."""
    donor = shell(f"umount /dev/shm; rmdir /dev/shm; {trick}; echo ready; {FOREVER}", privileged=True, pid="host")
    donor.start()
    next(donor.logs(follow=True))
    with pytest.raises(RunError):
        shell("ls /dev/shm", ipc=f"container:{donor.name}").start()


def test_no_shm_at_all(shell):
    donor = shell(f"test -e /dev/shm; echo $?; {FOREVER}", ipc="none")
    donor.start()
    assert next(donor.logs(follow=True)).data == b"1\n"
    with pytest.raises(RunError, match="non-shareable IPC"):
        shell("true", ipc=f"container:{donor.name}").start()
