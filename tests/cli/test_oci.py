"""OCI bundles, and containers whose program crun or runc starts: the same container as ours, and the same life."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest

from layerfs.engine import oci
from layerfs.errors import (
    AlreadyExists,
    CommandNotExecutable,
    CommandNotFound,
    InvalidInput,
    RunError,
    RunTimeout,
    Unsupported,
)
from tests.looking import cgroups, eventually, mountinfo

pytestmark = pytest.mark.root
_HYBRID = Path("/sys/fs/cgroup/unified/cgroup.controllers")
FOREVER = "trap 'exit 3' TERM; echo ready; while :; do sleep 0.05; done"


@pytest.fixture(params=["crun", "runc"])
def runtime(request):
    if shutil.which(request.param) is None:
        pytest.skip(f"needs {request.param}")
    if request.param == "crun" and _HYBRID.exists() and _HYBRID.read_text().strip():
        return str(request.getfixturevalue("crun_without_version_2"))
    return request.param


@pytest.fixture(scope="session")
def crun_without_version_2(tmp_path_factory):
    """It refuses a machine that has controllers of both versions, as this one has: it is shown version 1 alone."""
    program = tmp_path_factory.mktemp("crun") / "crun-v1"
    program.write_text(f'#!/bin/sh\nexec unshare -m sh -c \'umount {_HYBRID.parent} && exec crun "$@"\' crun "$@"\n')
    program.chmod(0o755)
    return program


def text(box):
    return b"".join(entry.data for entry in box.logs())


def ended(box):
    box.start()
    return box.wait(60), text(box).decode()


def started(box):
    box.start()
    assert eventually(lambda: b"ready" in text(box))
    return box


# the same container

_SEEN = """
echo ==status; grep -E '^(Cap|NoNewPrivs|Seccomp:|Groups|Uid|Gid|SigIgn|SigBlk)' /proc/self/status
echo ==env; env
echo ==limits; cat /proc/self/limits
echo ==cwd; pwd
echo ==mounts; cat /proc/self/mountinfo
echo ==masked; for p in /proc/kcore /proc/keys /proc/timer_list /proc/interrupts; do
  if test -e $p; then head -c 9 $p | wc -c; fi; done; ls /proc/acpi /proc/scsi /sys/firmware 2>/dev/null | grep -v :
echo ==readonly; for p in /proc/sys/kernel/panic /proc/sysrq-trigger /sys/kernel/profiling; do
  if test -e $p; then (echo 0 >$p) 2>&1 | grep -c . ; fi; done
echo ==dev; ls -l /dev | while read mode links owner group rest; do echo $mode $owner $group $rest; done
echo ==fds; ls /proc/self/fd
"""


def _sections(said):
    found, name = {}, ""
    for line in said.splitlines():
        if line.startswith("=="):
            name = line[2:]
            found[name] = []
        elif name:
            found[name].append(line)
    return found


def _mounts(lines):
    """{place: (type, options that protect)} without what stands for the root."""
    found = {}
    for line in lines:
        before, after = (part.split() for part in line.split(" - "))
        found[before[4]] = (
            after[0],
            {word for word in before[5].split(",") if word in ("ro", "nosuid", "nodev", "noexec")},
        )
    found.pop("/")
    return found


@pytest.fixture(scope="session")
def seen_by_ours() -> dict[str, dict[str, list[str]]]:
    return {}


CASES = {
    "plain": {},
    "user": {"user": "bob", "env": ["A=1"], "workdir": "/tmp"},
    "bound": {"cap_drop": ["ALL"], "cap_add": ["NET_RAW"], "no_new_privileges": True, "ulimits": ["nofile=100:200"]},
    "readonly": {"read_only": True, "tmpfs": ["/scratch:size=1m"], "sysctls": ["net.ipv4.ip_forward=1"]},
    "privileged": {"privileged": True},
    "mapped": {"uidmap": ["0:100000:65536"]},
    "unconfined": {"seccomp": "unconfined", "memory": "64m", "pids_limit": 20, "hostname": "h"},
}


@pytest.mark.parametrize("case", CASES)
def test_a_container_is_the_same(shell, runtime, case):
    settings = {"hostname": "same", **CASES[case]}
    ours, theirs = (_sections(ended(shell(_SEEN, **settings, **how))[1]) for how in ({}, {"runtime": runtime}))
    for part in ("status", "cwd", "masked", "readonly", "fds"):
        assert theirs[part] == ours[part], part
    assert sorted(theirs["env"]) == sorted(ours["env"])
    assert theirs["limits"] == ours["limits"]
    mine, others = _mounts(ours["mounts"]), _mounts(theirs["mounts"])
    own = {place for place in mine if not place.startswith(("/dev/", "/sys/fs/cgroup", "/proc/"))} | {
        "/dev/shm",
        "/dev/pts",
    }
    assert {place: mine[place] for place in own} == {place: others.get(place) for place in own}
    assert {place for place in others if place.startswith("/proc/")} == {
        place for place in mine if place.startswith("/proc/")
    }


def test_ids_of_its_own_hold_for_files_volumes_networks_and_what_joins(shell, runtime):
    script = "touch /made /v/made; trap 'exit 3' TERM; echo ready; while :; do sleep 0.05; done"
    how = {"uidmap": ["0:100000:65536"], "volumes": ["data:/v"], "network": "bridge", "init": True}
    box = started(shell(script, runtime=runtime, **how))
    seen = "read inside outside count < /proc/self/uid_map; echo $inside $outside $count; ls -ln /made /v/made"
    said = box.exec(["sh", "-c", seen]).stdout.decode().splitlines()
    assert said[0].split() == ["0", "100000", "65536"]
    assert [line.split()[2:4] for line in said[1:3]] == [["0", "0"]] * 2
    assert (box.upper / "made").stat().st_uid == (box.store.path / "volumes/data/_data/made").stat().st_uid == 0
    status = Path(f"/proc/{box.state.pid}/status").read_text()
    assert "Uid:\t100000\t" in status
    box.stop()
    assert box.state.code == 3
    box.start()
    assert not list(Path("/run").glob(f"layerfs-{box.id}*"))


@pytest.mark.parametrize("whose", [{"user": "33:34"}, {"uidmap": ["0:100000:65536"]}])
def test_the_null_device_of_the_machine_stays_as_it_is(shell, runtime, whose):
    """Runtimes give the streams that they are called with to the container's user."""
    before = Path(os.devnull).stat()
    box = shell("cat; echo lost; echo heard >&2", runtime=runtime, **whose)
    with Path(os.devnull).open("r+b") as null:
        assert box.run(stdout=null).stderr == b"heard\n"
    assert ended(box)[0] == 0
    status = Path(os.devnull).stat()
    assert (status.st_uid, status.st_gid) == (before.st_uid, before.st_gid)


def test_an_engine_that_shows_no_other_ids_is_told(shell, runtime):
    box = shell("true", runtime=runtime, uidmap=["0:100000:65536"])
    with pytest.raises(RunError, match="it takes the engine native"):
        box.run(engine="kernel")


# the same life


def test_the_exit_code_and_the_log(shell, runtime):
    assert ended(shell("echo out; echo err >&2; exit 7", runtime=runtime)) == (7, "out\nerr\n")
    box = shell("kill -9 $$", runtime=runtime)
    assert ended(box)[0] in (137, 0)  # PID 1 is not killed by itself


def test_stop_and_start_again(shell, runtime):
    box = started(shell(FOREVER, runtime=runtime))
    assert box.state.status == "running"
    box.stop()
    assert (box.state.status, box.state.code) == ("exited", 3)
    started(box)
    box.kill()
    assert box.wait(60) == 137
    box.remove()


def test_nothing_is_left(shell, runtime, opened):
    box = started(shell(FOREVER, runtime=runtime, memory="64m"))
    pid = box.state.pid
    box.remove(force=True)
    assert not Path(f"/proc/{pid}").exists()
    assert str(opened.path) not in mountinfo()
    assert cgroups(box.id) == []


def test_exec_enters_it(shell, runtime):
    box = started(shell(FOREVER, runtime=runtime, hostname="inside", cap_drop=["ALL"]))
    done = box.exec(["sh", "-c", "hostname; grep CapEff /proc/self/status; exit 4"])
    assert (done.returncode, done.stdout.split()) == (4, [b"inside", b"CapEff:", b"0000000000000000"])


def test_a_terminal(shell, runtime):
    box = shell("tty; stty size; cat", runtime=runtime, tty=True, interactive=True)
    box.start()
    with box.attach(stdin=True) as connection:
        connection.resize(33, 44)
        connection.write(b"typed\n\x04")
        for _ in connection.messages(60):
            pass
    assert b"/dev/pts/0" in text(box)
    assert b"typed" in text(box)


def test_restarts(shell, runtime):
    box = shell("echo again; exit 1", runtime=runtime, restart="on-failure:2")
    assert ended(box) == (1, "again\n" * 3)


def test_input_and_a_network(shell, runtime, layerfs_command):
    done = layerfs_command("run", "--rm", "-i", "--runtime", runtime, "box:1", "cat", input=b"through")
    assert (done.returncode, done.stdout) == (0, b"through")
    assert "eth0" in ended(shell("cat /proc/net/dev", runtime=runtime, network="bridge"))[1]


@pytest.mark.parametrize(
    ("command", "error"),
    [(["nothing-here"], CommandNotFound), (["/etc"], CommandNotExecutable), (["/x/y"], CommandNotFound)],
)
def test_what_cannot_be_run_is_told_as_ours(opened, runtime, command, error):
    for how in ({}, {"runtime": runtime}):
        box = opened.create("box:1", command=command, **how)
        with pytest.raises(error):
            box.start()
        assert box.state.status == "created"
        box.remove()


def test_a_runtime_that_fails_is_told(shell, tmp_path):
    program = tmp_path / "bad"
    program.write_text("#!/bin/sh\nexit 9\n")
    program.chmod(0o755)
    with pytest.raises(RunError, match="bad ended with code 9"):
        shell("true", runtime=str(program)).start()
    with pytest.raises(InvalidInput, match="unknown or invalid runtime name: nowhere"):
        shell("true", runtime="nowhere")
    with pytest.raises(RunError, match="bad ended with code 9"):
        shell("true", runtime=str(program)).run()


def test_a_run_in_the_foreground(shell, runtime):
    box = shell("cat; echo err >&2; exit 5", runtime=runtime)
    done = box.run(stdin=b"fed")
    assert (done.returncode, done.stdout, done.stderr) == (5, b"fed", b"err\n")
    with pytest.raises(RunTimeout):
        box.run(["sleep", "1000"], timeout=0.5)
    with pytest.raises(CommandNotFound):
        box.run(["nosuch"])
    done = box.run(["dd", "if=/dev/zero", "of=/dev/null", "bs=100M", "count=1"], memory="16m")
    assert (done.returncode, done.oom_killed) == (137, True)
    assert list((box.directory / "run").glob("oci/*")) == []
    assert cgroups(box.id) == []


def test_a_run_whose_caller_is_killed_ends(shell, runtime, store):
    box = shell(FOREVER)
    script = (
        f"import layerfs; layerfs.Store({str(store)!r}).container({box.id!r}).run(runtime={runtime!r}, stdout=None)"
    )
    with subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE) as caller:
        assert caller.stdout.readline() == b"ready\n"
        caller.kill()
        assert caller.stdout.read() == b""  # nobody has it open any more
    box.remove(force=True)
    assert cgroups(box.id) == []


@pytest.mark.skipif(shutil.which("catatonit") is None, reason="needs catatonit")
def test_init(shell, runtime):
    box = started(shell(FOREVER, runtime=runtime, init=True))
    assert box.exec(["cat", "/proc/1/cmdline"]).stdout.startswith(b"/dev/init\0--\0sh\0")
    box.stop()
    assert box.state.code == 3


def test_without_an_init_on_this_machine_that_is_told(shell, tmp_path, monkeypatch):
    program = tmp_path / "runtime"
    program.touch(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(oci, "_INIT_PLACES", ())
    with pytest.raises(Unsupported, match="--init needs catatonit, docker-init, tini-static or tini"):
        shell("true", runtime=str(program), init=True)


# bundles


def _validate(document):
    assert document["ociVersion"] == "1.1.0"
    assert set(document) <= {"ociVersion", "process", "root", "mounts", "linux", "hostname", "annotations"}
    assert all(Path(mount["destination"]).is_absolute() for mount in document["mounts"])
    assert document["process"]["args"]


def test_a_bundle_runs(shell, runtime, tmp_path, opened):
    box = shell("echo hello; id -u; exit 5", user="bob", volumes=["data:/data"])
    box.bundle(tmp_path / "bundle")
    _validate(json.loads((tmp_path / "bundle/config.json").read_text()))
    name = f"layerfs-test-{os.getpid()}-{time.monotonic_ns()}"
    command = [runtime, "--root", tmp_path / "state", "run", "--bundle", tmp_path / "bundle", name]
    done = subprocess.run(command, capture_output=True, timeout=120, check=False, stdin=subprocess.DEVNULL)
    assert (done.stdout, done.returncode) == (b"hello\n1000\n", 5), done
    opened.umount(str(tmp_path / "bundle/rootfs"))


def test_a_bundle_with_a_user_namespace(shell, runtime, tmp_path, opened):
    box = shell("cat /proc/self/uid_map; ls -ldn /etc/passwd; touch /made", uidmap=["0:100000:65536"])
    box.bundle(tmp_path / "bundle")
    for place in (tmp_path, *tmp_path.parents[:3]):
        os.chmod(place, os.stat(place).st_mode | 0o711)  # noqa: PTH101, PTH116
    name = f"layerfs-test-{os.getpid()}-{time.monotonic_ns()}"
    command = [runtime, "--root", tmp_path / "state", "run", "--bundle", tmp_path / "bundle", name]
    done = subprocess.run(
        command, capture_output=True, timeout=120, check=False, input=b""
    )  # crun takes /dev/null's owner
    assert done.stdout.split()[:3] == [b"0", b"100000", b"65536"], done
    assert done.stdout.split()[5:7] == [b"0", b"0"]
    opened.umount(str(tmp_path / "bundle/rootfs"))
    assert (box.upper / "made").stat().st_uid == 0


def test_a_bundle_without_a_mount(shell, tmp_path, layerfs_command):
    shell("true", hostname="h", annotations=["a=b"]).rename("bb")
    done = layerfs_command("bundle", "--no-mount", "bb", str(tmp_path / "x"))
    assert (done.returncode, done.stdout) == (0, b"")
    document = json.loads((tmp_path / "x/config.json").read_text())
    _validate(document)
    assert document["annotations"] == {"a": "b"}
    assert (document["hostname"], list((tmp_path / "x/rootfs").iterdir())) == ("h", [])
    assert document["linux"]["seccomp"]["defaultAction"] == "SCMP_ACT_ERRNO"


def test_a_bundle_that_cannot_be_is_told(shell, tmp_path):
    (tmp_path / "f").touch()
    with pytest.raises(AlreadyExists, match="not empty"):
        shell("true").bundle(tmp_path)
