"""The plan as data: mounts in docker's order, and what replaces what."""

import signal
from pathlib import Path

import pytest

from layerfs.errors import InvalidInput, RunError
from layerfs.runtime import layout
from layerfs.runtime.files import ContainerFiles
from layerfs.runtime.options import Bind, RunOptions, Tmpfs
from layerfs.runtime.plan import parse_signal, plan
from layerfs.runtime.spec import NODEV, READ_ONLY, Namespace, StepKind

FILES = ContainerFiles(Path("/s/resolv.conf"), Path("/s/hostname"), Path("/s/hosts"))
MOUNTS = (StepKind.FILESYSTEM, StepKind.BIND)


@pytest.fixture
def make(tmp_path):
    def make(config=None, **options):
        options.setdefault("command", ["true"])
        return plan(tmp_path, config or {}, RunOptions(**options), FILES)

    return make


def targets(spec, *kinds):
    return [step.target for step in spec.steps if step.kind in (kinds or MOUNTS)]


@pytest.mark.parametrize("unified", [True, False])
def test_mounts_in_dockers_order(make, monkeypatch, unified):
    monkeypatch.setattr(layout, "unified_cgroups", lambda: unified)
    assert targets(make()) == [
        *(b"/proc", b"/dev", b"/dev/pts", b"/sys", b"/sys/fs/cgroup", b"/dev/mqueue", b"/dev/shm"),
        *(b"/etc/resolv.conf", b"/etc/hostname", b"/etc/hosts"),
    ]


def test_cgroup_v2_is_shown_in_a_namespace_of_its_own(make, monkeypatch):
    monkeypatch.setattr(layout, "unified_cgroups", lambda: True)
    spec = make()
    assert spec.namespaces & Namespace.CGROUP
    assert next(step for step in spec.steps if step.target == b"/sys/fs/cgroup").type == b"cgroup2"


def test_cgroup_v1_shows_the_joined_cgroups_only(make, monkeypatch):
    monkeypatch.setattr(layout, "unified_cgroups", lambda: False)
    spec = make(cgroup_procs=[Path("/sys/fs/cgroup/memory/layerfs/x/cgroup.procs")])
    bind = next(step for step in spec.steps if step.target == b"/sys/fs/cgroup/memory")
    assert bind.source == b"/sys/fs/cgroup/memory/layerfs/x"
    assert bind.attributes & READ_ONLY
    assert spec.cgroup_procs == (b"/sys/fs/cgroup/memory/layerfs/x/cgroup.procs",)


def test_a_mount_of_the_users_replaces_the_default_there(make, tmp_path):
    spec = make(tmpfs=[Tmpfs.parse("/dev/shm:size=1m")], binds=[Bind(tmp_path, b"/etc/hosts")])
    assert targets(spec).count(b"/dev/shm") == 1
    assert [step.source for step in spec.steps if step.target == b"/etc/hosts"] == [bytes(tmp_path)]


def test_a_dev_of_the_users_gets_no_nodes(make, tmp_path):
    spec = make(binds=[Bind(tmp_path, b"/dev")])
    assert targets(spec, StepKind.DEVICE) == []
    assert b"/dev/pts" not in targets(spec)


def test_shallow_targets_come_first(make, tmp_path):
    spec = make(binds=[Bind(tmp_path, b"/a/b/c"), Bind(tmp_path, b"/a")])
    assert targets(spec).index(b"/a") < targets(spec).index(b"/a/b/c")


def test_a_missing_bind_source_in_dockers_words(make, tmp_path):
    with pytest.raises(
        RunError, match='invalid mount config for type "bind": bind source path does not exist: /no/where'
    ):
        make(binds=[Bind(Path("/no/where"), b"/x")])


@pytest.mark.parametrize("target", [b"/proc", b"/proc/sys", b"/"])
def test_mounts_over_proc_and_the_root_are_refused(make, tmp_path, target):
    with pytest.raises(InvalidInput):
        make(binds=[Bind(tmp_path, target)])


def test_without_a_device_cgroup_everything_is_nodev(make, tmp_path):
    spec = make(binds=[Bind(tmp_path, b"/x")], tmpfs=[Tmpfs.parse("/t:dev")])
    covered = {step.target for step in spec.steps if step.attributes & NODEV}
    assert {b"/", b"/dev", b"/x", b"/t"} <= covered
    assert all(step.confined for step in spec.steps if step.kind == StepKind.DEVICE)


def test_with_a_device_cgroup_dev_is_as_dockers(make):
    spec = make(device_cgroup=True)
    assert not [step for step in spec.steps if step.kind == StepKind.ATTRIBUTES and step.attributes & NODEV]


def test_privileged_has_no_masks_and_all_devices(make):
    spec = make(privileged=True)
    assert targets(spec, StepKind.MASK, StepKind.READ_ONLY) == []
    assert len(targets(spec, StepKind.DEVICE)) >= 6
    assert not next(step for step in spec.steps if step.target == b"/sys").attributes & READ_ONLY


def test_host_network_keeps_the_hosts_namespace_and_name(make):
    spec = make(network="host")
    assert not spec.namespaces & Namespace.NETWORK
    assert spec.hostname.decode() == __import__("socket").gethostname()


def test_an_unknown_network_is_an_error(make):
    with pytest.raises(InvalidInput, match="network fog not found"):
        make(network="fog")


def test_the_hostname_is_the_start_of_the_id(make):
    assert make(container_id="0123456789abcdef" * 4).hostname == b"0123456789ab"


def test_the_configs_values_serve_where_no_option_does(make):
    spec = make({"WorkingDir": "/w//x/", "User": "7:8", "StopSignal": "SIGINT", "Env": ["A=1"]})
    assert (spec.cwd, spec.identity.uid, spec.identity.gid, spec.stop_signal) == (b"/w/x", 7, 8, signal.SIGINT)
    assert make({"WorkingDir": "/w", "User": "7"}, workdir="/o", user="9").cwd == b"/o"


def test_a_relative_workdir_is_refused(make):
    with pytest.raises(InvalidInput):
        make({"WorkingDir": "w"})


@pytest.mark.parametrize(
    ("text", "number"),
    [
        ("TERM", 15),
        ("SIGKILL", 9),
        ("9", 9),
        (2, 2),
        ("SIGRTMIN+3", signal.SIGRTMIN + 3),
        ("rtmax-1", signal.SIGRTMAX - 1),
    ],
)
def test_signals_by_name_and_number(text, number):
    assert parse_signal(text) == number


@pytest.mark.parametrize("text", ["SIGNOPE", "0", "65", "-1", "", "SIG_DFL", "SIGRTMAX+1"])
def test_other_signals_are_refused(text):
    with pytest.raises(InvalidInput):
        parse_signal(text)


@pytest.mark.parametrize("name", ["kernel.panic", "vm.swappiness", "net.ipv4.ip_forward", "../x", "net.a b"])
def test_sysctls_of_the_host_are_refused(make, name):
    with pytest.raises(InvalidInput):
        make(sysctls=[(name, "1")], network="host")


@pytest.mark.parametrize("text", ["/a", "/a:b", "a:/b", "/a:/b:xx", "/a:"])
def test_malformed_volumes_are_refused(text):
    with pytest.raises(InvalidInput):
        Bind.parse(text)


@pytest.mark.parametrize("option", ["size=1m,evil=1", "source=x", "mode=1777 x"])
def test_malformed_tmpfs_options_are_refused(make, option):
    with pytest.raises(InvalidInput):
        make(tmpfs=[Tmpfs.parse("/t:" + option)])
