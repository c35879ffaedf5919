"""Nothing is left behind: not after many runs, not after kill -9 of anybody."""

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from subprocess import DEVNULL

import pytest

from layerfs.runtime import RunOptions, helper, start
from layerfs.runtime.plan import plan
from layerfs.store.leases import process_start
from tests.disks import make_image
from tests.looking import eventually, open_files, processes

PROJECT = Path(__file__).resolve().parents[2]


def gone(pid):
    return eventually(lambda: process_start(pid) is None)


def children():
    return set(Path(f"/proc/self/task/{threading.get_native_id()}/children").read_text().split())


def mounts(place):
    """Mounts that have to do with this test; others may run beside it."""
    rows = Path("/proc/self/mountinfo").read_bytes().splitlines()
    return {row for row in rows if os.fsencode(place) in row}


@pytest.fixture
def state(tmp_path, monkeypatch):
    """Descriptors, mounts, children and temporary files: earlier tests' may go at any moment."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "tmp"))
    (tmp_path / "tmp").mkdir()
    return lambda: open_files() | mounts(tmp_path) | children() | set((tmp_path / "tmp").iterdir())


@pytest.fixture
def sleeper(root):
    def begin(command=("sleep", "1000"), **options):
        spec = plan(root, {}, RunOptions(command=command, **options), None)
        return start(spec, stdin=DEVNULL, stdout=DEVNULL, stderr=DEVNULL)

    return begin


def test_a_hundred_runs_leave_nothing(box, state):
    box("true")
    before = state()
    for _ in range(100):
        assert box(["true"]).returncode == 0
    assert state() - before == set()


def test_runs_that_fail_leave_nothing(box, state):
    box("true")
    before = state()
    for options in (
        {"command": ["nosuch"]},
        {"command": ["true"], "user": "nix"},
        {"command": ["true"], "workdir": "/etc/passwd"},
    ):
        for _ in range(5):
            with pytest.raises(OSError):
                box(**options)
    assert state() - before == set()


def test_runs_in_threads_do_not_mix(box):
    def one(number):
        return box(f"echo {number}; cat; exit {number % 50}", stdin=str(number).encode())

    with ThreadPoolExecutor(8) as pool:
        for number, result in enumerate(pool.map(one, range(40))):
            assert (result.returncode, result.stdout) == (number % 50, f"{number}\n{number}".encode())


def test_runs_that_make_the_same_mount_points_at_once(box, root):
    with ThreadPoolExecutor(8) as pool:
        for _ in range(10):
            for name in ("proc", "sys", "dev"):
                shutil.rmtree(root / name, ignore_errors=True)
            assert {result.returncode for result in pool.map(lambda _: box("exit 3"), range(8))} == {3}


def test_a_container_started_in_a_thread_outlives_that_thread(sleeper):
    made = []
    thread = threading.Thread(target=lambda: made.append(sleeper()))
    thread.start()
    thread.join()
    time.sleep(0.1)
    with made[0] as process:
        with pytest.raises(TimeoutError):
            process.wait(0.1)
        process.kill()
        assert process.wait(60) == 137


def test_leaving_the_context_kills(sleeper):
    with sleeper() as process:
        pid = process.pid
        assert Path(f"/proc/{pid}").exists()
    assert gone(pid)


def test_dropping_the_last_reference_kills(sleeper):
    process = sleeper()
    pid = process.pid
    del process
    assert gone(pid)


def test_a_forked_relative_that_ends_does_not_kill(sleeper):
    with sleeper() as process:
        pid = os.fork()
        if pid == 0:
            process.__del__()
            os._exit(0)
        os.waitpid(pid, 0)
        with pytest.raises(TimeoutError):
            process.wait(0.2)


CALLER = """
import sys; from pathlib import Path; from layerfs.runtime import *
def up(process): print(process.pid, process._popen.pid, flush=True)
options = RunOptions(command=['sh', '-c', 'sleep 1000 & sleep 1000'], user=sys.argv[2])
run(Path(sys.argv[1]), {}, options, stdout=None, on_started=up)
"""


@pytest.mark.parametrize("user", ["root", "bob"])
def test_kill_9_of_the_caller_leaves_no_process_and_no_mount(root, user):
    env = {**os.environ, "PYTHONPATH": str(PROJECT)}
    with subprocess.Popen(
        [sys.executable, "-c", CALLER, root, user], stdout=subprocess.PIPE, cwd=PROJECT, env=env
    ) as caller:
        init, supervisor = map(int, caller.stdout.readline().split())
        caller.kill()
        assert gone(init)
        assert gone(supervisor)
    assert mounts(root) == set()


@pytest.mark.parametrize("user", ["root", "bob"])
def test_kill_9_of_the_helper_ends_the_container(sleeper, user):
    with sleeper(user=user) as process:
        pid = process.pid
        os.kill(process._popen.pid, signal.SIGKILL)
        assert process.wait(60) == 137
    assert gone(pid)


NAP = f"77{os.getpid()}"  # seconds, of this session alone


def leftovers(callers):
    found = []
    for pid in processes():
        with contextlib.suppress(OSError):
            words = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
            ours = words[0] == b"layerfs-run" and words[3] in callers
            if ours or (words[0] == b"sleep" and words[1].startswith(NAP.encode())):
                found.append(words)
    return found


def test_kill_9_at_any_moment_of_the_start_leaves_nothing(root):
    env = {**os.environ, "PYTHONPATH": str(PROJECT)}
    callers = []
    for delay in range(12):
        body = CALLER.replace("sleep 1000", f"sleep {NAP}{delay:02d}").replace(
            "def up", "print('go', flush=True)\ndef up"
        )
        command = [sys.executable, "-c", body, root, "root"]
        with subprocess.Popen(command, stdout=subprocess.PIPE, cwd=PROJECT, env=env) as caller:
            caller.stdout.readline()
            time.sleep(delay / 2000)
            caller.kill()
            callers.append(str(caller.pid).encode())
    assert eventually(lambda: not leftovers(callers)), leftovers(callers)
    assert mounts(root) == set()


def test_the_host_can_unmount_the_root_of_a_running_container(sleeper, root):
    """The container has a copy of the mount; the host's own is not held by it."""
    subprocess.run(["mount", "--bind", root, root], check=True)
    try:
        process = sleeper()
    finally:
        subprocess.run(["umount", root], check=True)
    with process:
        assert process.returncode is None


FREE_AT_ONCE = """
import os, subprocess, sys; from pathlib import Path; from layerfs.runtime import *
image, place, programs = sys.argv[1:]
for _ in range(5):
    subprocess.run(["mount", "-o", "loop", image, place], check=True)
    device = subprocess.run(["findmnt", "-no", "SOURCE", place], capture_output=True, text=True, check=True).stdout
    name = os.path.basename(device.strip())
    subprocess.run(["cp", "-a", programs, place], check=True)
    options = RunOptions(command=["sh", "-c", "sleep 9 & cat bin/busybox | wc -c"])
    assert run(Path(place), {}, options).returncode == 0
    subprocess.run(["umount", place], check=True)
    backing = Path("/sys/block", name, "loop/backing_file")  # another's by now, or none
    ours = backing.exists() and backing.read_text().strip() == image
    assert not (ours and Path("/proc/fs/ext4", name).exists()), device
"""


def test_the_root_of_an_ended_container_is_free_at_once(root, tmp_path):
    """A file system that the container had can be unmounted and its device detached when run() has returned. In a
    mount namespace of its own: whoever copies that of the host has the file system, too, for a while."""
    image, place = make_image(tmp_path / "disk", ["mkfs.ext4", "-q"], 32 << 20), tmp_path / "disk-mount"
    place.mkdir()
    apart = ["unshare", "--mount", "--propagation", "private", sys.executable, "-c", FREE_AT_ONCE]
    subprocess.run([*apart, image, place, root / "bin"], check=True, cwd=PROJECT)


def test_the_helper_is_small(sleeper):
    with sleeper() as process:
        status = Path(f"/proc/{process._popen.pid}/status").read_text()
        if b"__asan_init" in helper.PATH.read_bytes():
            pytest.skip("a sanitizer build")
        assert int(status.split("VmRSS:")[1].split()[0]) < 2048
