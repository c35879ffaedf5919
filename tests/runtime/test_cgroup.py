"""Control groups of this machine: version 1 with its controllers, the core of version 2 (freezing, killing, devices)
where it is mounted, and its controllers by a directory that plays them."""

from __future__ import annotations

import os
import secrets
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from layerfs.errors import RunError, Unsupported
from layerfs.runtime import cgroup as module
from layerfs.runtime.cgroup import Cgroup, existing
from layerfs.runtime.cgroups import Hierarchies
from layerfs.runtime.resources import DeviceRule, Resources

HERE = Hierarchies.here()
PARENT = f"layerfs-tests-{os.getpid()}"  # other sessions, and workers of this one, make theirs at the same time


def limits(**values):
    return Resources().changed(values)


@pytest.fixture
def v1():
    if HERE.version != 1:
        pytest.skip("no cgroup v1 here")
    group = Cgroup(secrets.token_hex(32), PARENT, HERE)
    yield group
    group.remove()


@pytest.fixture
def v2():
    place = next(
        (Path(m) for m in ("/sys/fs/cgroup", "/sys/fs/cgroup/unified") if (Path(m) / "cgroup.procs").exists()), None
    )
    if place is None:
        pytest.skip("no cgroup v2 here")
    group = Cgroup(secrets.token_hex(32), PARENT, Hierarchies({}, place))
    yield group
    group.remove()


@pytest.fixture
def played(tmp_path, monkeypatch):
    """A directory with the files that a v2 tree has; making a group in it puts them there."""
    files = "memory.max memory.swap.max cpu.max cpu.weight pids.max io.max"
    names = ["cgroup.procs", "cgroup.subtree_control", *files.split()]
    controllers = "memory cpu pids io"

    def fill(place: Path) -> Path:
        for name in names:
            (place / name).write_text("")
        return place

    monkeypatch.setattr(module, "_make", lambda base, name, prepare: fill(_made(base, name, prepare, fill)))
    fill(tmp_path)
    (tmp_path / "cgroup.controllers").write_text(controllers)
    return Cgroup("x", PARENT, Hierarchies({}, tmp_path))


def _made(base, name, prepare, fill):
    base.mkdir()
    fill(base)
    prepare()
    (base / name).mkdir()
    return base / name


def start_in(procs, command):
    joins = "".join(f"echo 0 > {path};" for path in procs)
    how = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.STDOUT}
    return subprocess.Popen(["sh", "-c", joins + command], text=True, **how)


def test_limits_stand_in_the_files(v1):
    v1.create(limits(memory="64m", cpus=0.5, cpuset_cpus="0", pids=20, cpu_shares=512))
    files = [
        ("memory", "limit_in_bytes"),
        ("cpu", "cfs_quota_us"),
        ("cpu", "shares"),
        ("cpuset", "cpus"),
        ("pids", "max"),
    ]
    shown = [(v1.directories[name] / f"{name}.{file}").read_text().strip() for name, file in files]
    assert shown == ["67108864", "50000", "512", "0", "20"]


def test_only_the_controllers_that_limit_are_made(v1):
    assert [path.parts[4] for path in v1.create(limits(pids=5))] == ["pids"]
    assert Cgroup("y", PARENT, HERE).create() == []


def test_a_refused_limit_is_an_error_and_leaves_nothing(v1):
    with pytest.raises(RunError, match=r"setting cpuset\.cpus to 9999 was refused"):
        v1.create(replace(limits(memory="64m"), cpuset_cpus="9999"))  # by a record of another machine
    assert v1.directories == {}


def test_a_missing_controller_is_an_error(v1):
    group = Cgroup(v1.name, PARENT, Hierarchies({"memory": HERE.v1["memory"]}))
    with pytest.raises(Unsupported, match="no cgroup controller pids for that limit"):
        group.create(limits(pids=5))
    assert not (HERE.v1["memory"] / PARENT).exists()


def test_memory_goes_up_and_down(v1):
    v1.create(limits(memory="64m"))
    for size in ("256m", "32m"):
        v1.update(limits(memory=size), {"memory"})
        assert v1.usage().memory_limit == int(size[:-1]) << 20


@pytest.mark.parametrize("version", ["v1", "v2"])
def test_freezing_and_killing(version, request):
    group = request.getfixturevalue(version)
    process = start_in(group.create(everything=True), "while :; do echo x; sleep 0.01; done")
    process.stdout.readline()
    group.freeze(True)
    assert group.frozen and [g.name for g in existing(group.name, PARENT, group.hierarchies)] == [group.name]
    group.freeze(False)
    assert process.stdout.readline() == "x\n" and not group.frozen
    group.freeze(True)
    group.remove()
    process.communicate(timeout=60)
    assert process.returncode == -9 and not group.directories


@pytest.mark.parametrize("version", ["v1", "v2"])
def test_only_dockers_devices_and_those_asked_for_can_be_used(version, request, tmp_path):
    group = request.getfixturevalue(version)
    procs = group.create(everything=True, devices=[DeviceRule("c", 1, 11, "r")])
    node = tmp_path / "node"
    tries = [
        "echo a > /dev/null && echo null",
        f"mknod {node} b 7 0 && echo made",
        f"(head -c1 {node}) 2>/dev/null || echo no loop",
        f"mknod {node}k c 1 11; head -c0 {node}k && echo kmsg; (echo > {node}k) 2>/dev/null || echo no write",
    ]
    process = start_in(procs, ";".join(tries))
    assert process.communicate(timeout=60)[0].split("\n") == ["null", "made", "no loop", "kmsg", "no write", ""]


def test_groups_that_a_program_made_below_go_too(v1):
    v1.create(limits(pids=9))
    (v1.directories["pids"] / "below").mkdir()
    v1.remove()
    assert v1.directories == {}


def test_usage_counts(v1):
    process = start_in(v1.create(everything=True), "head -c 50000000 /dev/zero > /dev/null; echo done; read x")
    assert process.stdout.readline() == "done\n"
    usage = v1.usage()
    assert usage.cpu_ns > 0 and usage.memory > 0 and usage.pids == 1
    process.kill()
    process.communicate()


def test_the_parent_goes_with_the_last_one(v1):
    other = Cgroup("other", PARENT, HERE)
    v1.create(limits(pids=9))
    other.create(limits(pids=9))
    other.remove()
    assert v1.directories
    v1.remove()
    assert not (HERE.v1["pids"] / PARENT).exists()


def test_making_and_removing_at_once(v1):
    """The parent may be taken away by the last one while another is being made."""
    code = (
        "import secrets; from layerfs.runtime.cgroup import Cgroup\n"
        "from layerfs.runtime.resources import Resources\n"
        f"for i in range(60):\n g = Cgroup(secrets.token_hex(8), {PARENT!r})\n"
        " g.create(Resources().changed({'pids': 5, 'cpuset_cpus': '0'})); g.remove()"
    )
    both = [subprocess.Popen([sys.executable, "-c", code]) for _ in range(2)]
    assert [process.wait(60) for process in both] == [0, 0]


def test_version_2_hands_controllers_down_and_sets_limits(played):
    played.create(limits(memory="64m", cpus=0.5))
    base = played.hierarchies.v2
    assert (base / PARENT / "x/memory.max").read_text() == "67108864"
    assert (base / PARENT / "x/cpu.max").read_text() == "50000 100000"
    assert (base / "cgroup.subtree_control").read_text() and (base / PARENT / "cgroup.subtree_control").read_text()


def test_version_2_tells_what_it_used(played):
    played.create(limits(memory="64m"))
    place = played.directories[""]
    for name, text in {
        "memory.current": "5000",
        "memory.stat": "anon 1\ninactive_file 1000\n",
        "memory.events": "low 0\noom 2\noom_kill 1\n",
        "cpu.stat": "usage_usec 7\n",
        "pids.current": "3",
        "io.stat": "8:0 rbytes=10 wbytes=20 rios=1\n8:16 rbytes=1 wbytes=2\n",
    }.items():
        (place / name).write_text(text)
    usage = played.usage()
    assert (usage.cpu_ns, usage.memory, usage.memory_limit, usage.pids) == (7000, 4000, 64 << 20, 3)
    assert (usage.read_bytes, usage.write_bytes, played.oom_kills()) == (11, 22, 1)


def test_version_2_without_the_controller(v2):
    if "memory" in v2.hierarchies.available():
        pytest.skip("this machine has it")
    with pytest.raises(Unsupported, match="no cgroup controller memory for that limit"):
        v2.create(limits(memory="64m"))
    assert not v2.directories


def test_what_a_killed_process_left_is_taken_over(v1):
    v1.create(limits(pids=9))
    Cgroup(v1.name, PARENT, HERE).create(limits(pids=8))
    assert (v1.directories["pids"] / "pids.max").read_text() == "8\n"


def test_a_group_in_use_is_not_taken_over(v1, monkeypatch):
    monkeypatch.setattr(module, "_REMOVE_SECONDS", 0.1)
    process = start_in(v1.create(limits(pids=9)), "echo in; read x")
    process.stdout.readline()
    with pytest.raises(RunError, match="in use"):
        module._make(HERE.v1["pids"] / PARENT, v1.name)
    process.kill()
    process.communicate()


def test_what_is_dying_in_a_group_is_waited_for(v1):
    process = start_in(v1.create(limits(pids=9)), "echo in; sleep 0.3")
    process.stdout.readline()
    assert module._make(HERE.v1["pids"] / PARENT, v1.name).is_dir()
    process.communicate()
