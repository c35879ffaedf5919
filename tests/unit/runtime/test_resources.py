"""Limits: docker's syntax, rules and words, and which files of which version they become."""

from __future__ import annotations

import os

import pytest

from layerfs.errors import InvalidInput, Unsupported
from layerfs.runtime.cgroup_bpf import program
from layerfs.runtime.cgroup_plan import DEVICES, settings_v1, settings_v2, weight_of_shares
from layerfs.runtime.cgroups import Hierarchies
from layerfs.runtime.flags import Device, Resolver, parse_host, parse_ulimit
from layerfs.runtime.resources import DeviceRule, Resources, parse_size


def limits(**values):
    return Resources().changed(values)


def files(settings):
    return {setting.file: setting.value for setting in settings}


@pytest.mark.parametrize(
    ("text", "size"), [("64m", 64 << 20), ("1.5g", 3 << 29), ("7", 7), ("2KB", 2048), ("1GiB", 1 << 30), (512, 512)]
)
def test_sizes(text, size):
    assert parse_size(text) == size


@pytest.mark.parametrize("text", ["", "m", "-5", "1x", "0x10", "1 2", "9" * 30, "nan"])
def test_what_is_no_size(text):
    with pytest.raises(InvalidInput, match="invalid size"):
        parse_size(text)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"memory": "1m"}, "Minimum memory limit allowed is 6MB"),
        ({"memory": "64m", "memory_swap": "32m"}, "should be larger than memory limit"),
        ({"memory_swap": "64m"}, "always set the Memory limit"),
        ({"memory": "64m", "memory_reservation": "65m"}, "can not be less than memory reservation"),
        ({"cpus": "0.001"}, "range of CPUs is from 0.01"),
        ({"cpus": "1e3"}, "invalid value for cpus"),
        ({"cpus": 1, "cpu_period": 5000}, "Nano CPUs and CPU Period"),
        ({"cpu_period": 1}, "CFS period|cfs period"),
        ({"cpu_shares": 1}, "invalid CPU shares"),
        ({"cpuset_cpus": "0-"}, "Invalid value 0- for cpuset cpus"),
        ({"blkio_weight": 9}, "from 10 to 1000"),
        ({"memory_swappiness": 101}, "valid memory swappiness range is 0-100"),
        ({"device_read_bps": ["sda:1m"]}, "bad format for device-read-bps"),
        ({"device_cgroup_rules": ["c 1:3"]}, "invalid device cgroup format"),
    ],
)
def test_impossible_limits_are_told_in_dockers_words(values, message):
    with pytest.raises(InvalidInput, match=message):
        limits(**values)


def test_limits_survive_the_record():
    wanted = limits(memory="64m", cpus=0.5, device_write_iops=["/dev/sda:5"], device_cgroup_rules=["c 1:* rw"])
    assert Resources.of(wanted.row()) == wanted
    assert Resources().row() == {}


def test_the_files_of_version_1():
    wanted = limits(memory="64m", memory_reservation="32m", cpus="0.5", cpu_shares=512, cpuset_cpus="0", pids=7)
    assert files(settings_v1(wanted)) == {
        "memory.limit_in_bytes": "67108864",
        "memory.memsw.limit_in_bytes": "134217728",
        "memory.soft_limit_in_bytes": "33554432",
        "cpu.shares": "512",
        "cpu.cfs_period_us": "100000",
        "cpu.cfs_quota_us": "50000",
        "cpuset.cpus": "0",
        "pids.max": "7",
    }


def test_the_files_of_version_2():
    wanted = limits(memory="64m", memory_reservation="32m", cpus="0.5", cpu_shares=1024, pids=7, blkio_weight=1000)
    assert files(settings_v2(wanted)) == {
        "memory.max": "67108864",
        "memory.swap.max": "67108864",
        "memory.low": "33554432",
        "cpu.weight": "100",
        "cpu.max": "50000 100000",
        "pids.max": "7",
        "io.weight": "default 10000",
    }


@pytest.mark.parametrize(("swap", "value"), [("-1", "max"), ("64m", "0"), ("96m", "33554432")])
def test_swap_of_version_2_is_without_the_memory(swap, value):
    assert files(settings_v2(limits(memory="64m", memory_swap=swap)))["memory.swap.max"] == value


def test_what_version_2_cannot_do_is_told():
    with pytest.raises(Unsupported, match="swappiness"):
        settings_v2(limits(memory_swappiness=3))
    with pytest.raises(Unsupported, match="OOM killer"):
        settings_v2(limits(oom_kill_disable=True))


def test_weights_keep_the_ratio_of_small_shares():
    assert [weight_of_shares(n) for n in (2, 5, 10, 1024, 262144)] == [1, 2, 4, 100, 10000]


def test_hierarchies_are_found():
    v1 = "33 31 0:30 / /sys/fs/cgroup/cpu,cpuacct rw - cgroup cgroup rw,cpu,cpuacct\n"
    v2 = "41 31 0:38 / /sys/fs/cgroup\\040x rw shared:4 - cgroup2 cgroup2 rw\n"
    both = Hierarchies.of(v1 + v2)
    assert (both.version, sorted(both.available())) == (1, ["cpu", "cpuacct"])
    assert str(both.v1["cpu"]) == "/sys/fs/cgroup/cpu,cpuacct"
    assert (Hierarchies.of(v2).version, str(Hierarchies.of(v2).v2)) == (2, "/sys/fs/cgroup x")
    assert Hierarchies.of("1 0 0:1 / / rw - tmpfs tmpfs rw").version == 0


def test_device_programs_fit_the_kernels_form():
    code = program([*DEVICES, DeviceRule("a", None, None, "rwm")])
    assert len(code) % 8 == 0 and code[-8] == 0x95


def test_ulimits():
    assert (parse_ulimit("nofile=100:200").soft, parse_ulimit("core=-1").hard) == (100, -1)
    for text in ("nofile", "nofile=1:2:3", "nofile=x", "nosuch=1", "nofile=5:4", "nofile=-1:5"):
        with pytest.raises(InvalidInput):
            parse_ulimit(text)


def test_devices():
    assert Device.parse("/dev/a") == Device("/dev/a", "/dev/a", "rwm")
    assert Device.parse("/dev/a:/dev/b:r") == Device("/dev/a", "/dev/b", "r")
    assert Device.parse("/dev/a:rw") == Device("/dev/a", "/dev/a", "rw")
    assert [(at, where, os.major(i.st_rdev)) for at, where, i in Device.parse("/dev/null:/x").nodes()] == [
        ("/dev/null", "/x", 1)
    ]
    for text in ("", "dev/a", "/dev/a:b", "/a:/b:x", "/a:/b:r:w"):
        with pytest.raises(InvalidInput, match="invalid device"):
            Device.parse(text)


def test_hosts_and_resolvers():
    assert parse_host("a:::1") == ("a", "::1") and parse_host("a=1.2.3.4") == ("a", "1.2.3.4")
    for text in ("a", "a:x", ":1.2.3.4", "a b:1.2.3.4"):
        with pytest.raises(InvalidInput):
            parse_host(text)
    host = b"# c\nnameserver 9.9.9.9\nsearch old\noptions ndots:1\n"
    assert Resolver(("1.1.1.1",), (), ()).text(host) == b"# c\nsearch old\noptions ndots:1\nnameserver 1.1.1.1\n"
    assert Resolver((), (".",), ("ndots:2",)).text(host) == b"# c\nnameserver 9.9.9.9\noptions ndots:2\n"
    with pytest.raises(InvalidInput, match="is not an ip address"):
        Resolver(("x",))
    with pytest.raises(InvalidInput, match="valid domain"):
        Resolver((), ("a\nb",))
