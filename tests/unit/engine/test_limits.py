"""Containers within limits: what kills them, what is told, what stays."""

from __future__ import annotations

import os
import threading
import time
from pathlib import Path

import pytest

from layerfs import errors
from layerfs.runtime.cgroup import PARENT
from layerfs.runtime.cgroups import Hierarchies
from tests.looking import eventually

pytestmark = pytest.mark.root
STEPS = int(os.environ.get("LAYERFS_STEPS", "5"))
ALLOCATE = ["tail", "-c", "200000000", "/dev/zero"]  # as much memory


@pytest.fixture(autouse=True)
def nothing_stays():
    yield
    here = Hierarchies.here()
    places = [here.v2] if here.v2 else list(here.v1.values())
    assert [place for place in places if (place / PARENT).exists() and not _used(place / PARENT)] == []


def _used(parent: Path) -> bool:
    """By another test session."""
    return any(entry.is_dir() for entry in parent.iterdir())


@pytest.fixture
def box(store, tmp_path):
    import shutil

    place = tmp_path / "limited"
    (place / "bin").mkdir(parents=True)
    (place / "etc").mkdir()
    (place / "etc/group").write_text("root:x:0:\nstaff:x:50:\n")
    shutil.copy("/bin/busybox", place / "bin")
    for name in ["sh", "cat", "tail", "sleep", "id", "ls", "head", "echo"]:
        (place / "bin" / name).symlink_to("busybox")
    return store.create(store.import_archive(place, tag="limited:1"), name="one")


def test_an_allocator_beyond_its_limit_is_killed_and_told(store, box):
    for _ in range(STEPS):  # the name can be used again at once
        result = box.run(ALLOCATE, memory="64m")
        assert (result.returncode, result.oom_killed) == (137, True)
        assert store.inspect("one")["State"]["OOMKilled"]
    assert not box.run(["sh", "-c", "exit 4"], memory="64m").oom_killed
    assert not store.inspect("one")["State"]["OOMKilled"]


def test_a_child_killed_for_memory_is_told_though_its_parent_ends_well(box):
    result = box.run(["sh", "-c", "tail -c 200000000 /dev/zero; exit 0"], memory="64m")
    assert (result.returncode, result.oom_killed) == (0, True)


def test_processes_are_counted(box):
    result = box.run(["sh", "-c", "for i in 1 2 3 4 5 6; do sleep 1000 & done; wait"], pids=4)
    assert result.returncode != 0 and b"fork" in result.stderr


def test_limits_of_the_container_hold_for_its_runs(store, box):
    other = store.create("limited:1", memory="64m")
    assert other.run(ALLOCATE).oom_killed and not box.run(["id"]).oom_killed


def test_pause_unpause_update_and_stats(box):
    runner = threading.Thread(target=box.run, args=(["sleep", "100"],), kwargs={"memory": "64m"})
    with pytest.raises(errors.InUse, match="is not running"):
        box.pause()
    runner.start()
    while not box.state.running:
        time.sleep(0.01)
    assert eventually(lambda: box.stats().memory > 0) and box.stats().memory_limit == 64 << 20
    box.update(memory="128m")
    assert box.stats().memory_limit == 128 << 20
    with pytest.raises(errors.Unsupported, match="no pids cgroup"):
        box.update(pids=5)
    assert box.settings.resources.pids_limit == 0
    box.state.kill()
    runner.join(60)


def test_ulimits_groups_score_and_shm(box):
    script = (
        "ulimit -n; ulimit -Hn; id -G; cat /proc/self/oom_score_adj; grep /dev/shm /proc/mounts || cat /proc/mounts"
    )
    result = box.run(
        ["sh", "-c", script], ulimits=["nofile=100:200"], group_add=["staff", "77"], oom_score_adj=5, shm_size="1m"
    )
    lines = result.stdout.decode().splitlines()
    assert lines[:4] == ["100", "200", "0 50 77", "5"] and any("/dev/shm" in x and "size=1024k" in x for x in lines)
    with pytest.raises(errors.RunError, match="unable to find group nosuch"):
        box.run(["id"], group_add=["nosuch"])


def test_devices_are_given_and_no_others(box):
    script = "head -c3 /x/zero | tail -c1 | ls -l /x/zero; echo a > /dev/ro; ls /dev/mem"
    result = box.run(["sh", "-c", script], devices=["/dev/zero:/x/zero", "/dev/kmsg:/dev/ro:r"])
    assert b"1,   5" in result.stdout
    assert b"/dev/ro: Operation not permitted" in result.stderr and b"/dev/mem: No such file" in result.stderr
    with pytest.raises(errors.RunError, match="not a device node"):
        box.run(["id"], devices=["/etc/passwd"])


def test_hosts_and_resolvers(box):
    result = box.run(["cat", "/etc/hosts", "/etc/resolv.conf"], extra_hosts=["db:10.0.0.9"], dns=["9.9.9.9"])
    assert b"10.0.0.9\tdb\n" in result.stdout and b"nameserver 9.9.9.9\n" in result.stdout


def test_the_default_filter_is_on_and_kept(store, box):
    script = "grep -E '^(Seccomp|NoNewPrivs)' /proc/self/status"
    assert box.run(["sh", "-c", script]).stdout == b"NoNewPrivs:\t0\nSeccomp:\t2\nSeccomp_filters:\t1\n"
    kept = list((store.path / "cache/seccomp").iterdir())
    assert len(kept) == 1
    kept[0].write_bytes(b"damaged!" * 20)
    assert b"Seccomp:\t2" in box.run(["sh", "-c", script]).stdout and kept[0].stat().st_size > 4000
    assert b"Seccomp:\t0" in box.run(["sh", "-c", script], seccomp="unconfined").stdout
    assert b"Seccomp:\t0" in box.run(["sh", "-c", script], privileged=True).stdout
    with pytest.raises(errors.InvalidInput, match="Decoding seccomp profile failed"):
        store.create("limited:1", seccomp="{")
