"""Containers under their monitor: start to end, logs, restarts, health, exec; by the Python calls."""

from __future__ import annotations

import asyncio
import json
import os
import random
import select
import signal
import subprocess
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from layerfs.errors import CommandNotFound, ContainerNotFound, InUse, InvalidInput, RunError
from layerfs.runtime import helper
from tests.cli.conftest import LAYERFS
from tests.looking import eventually, mountinfo, name_of, users_of

pytestmark = pytest.mark.root
FOREVER = "trap 'exit 3' TERM; echo ready; while :; do sleep 0.05; done"


def text(box):
    return b"".join(entry.data for entry in box.logs())


def ready(box):
    return eventually(lambda: b"ready" in text(box))


def unmounted(box):
    return eventually(lambda: not (box.directory / "run/mount").exists())


def test_start_wait_and_the_log(shell):
    box = shell("echo out; echo err >&2; exit 7")
    assert box.state.status == "created"
    box.start()
    assert box.wait() == 7
    assert sorted((entry.stream, entry.data) for entry in box.logs()) == [("stderr", b"err\n"), ("stdout", b"out\n")]
    assert (box.state.status, box.state.code) == ("exited", 7)
    assert unmounted(box)


def test_stop_is_the_stop_signal_and_then_the_kill(shell):
    polite, deaf = shell(FOREVER), shell("trap '' TERM; echo ready; while :; do sleep 0.05; done")
    for box in (polite, deaf):
        box.start()
        assert ready(box)
    polite.stop()
    deaf.stop(0.2)
    assert (polite.state.code, deaf.state.code) == (3, 137)
    assert not (polite.directory / "run/mount").exists()
    polite.stop()  # again: nothing to do


def test_start_of_what_runs_is_nothing_and_restart_is_another_program(shell):
    box = shell(FOREVER)
    box.start()
    first = box.state.pid
    box.start()
    assert box.state.pid == first
    assert ready(box)
    box.restart()
    assert box.state.running
    assert box.state.pid != first


def test_signals_reach_the_program(shell):
    box = shell("trap 'exit 42' USR1; echo ready; while :; do sleep 0.05; done")
    box.start()
    assert ready(box)
    box.kill("USR1")
    assert box.wait() == 42
    with pytest.raises(InUse, match="is not running"):
        box.kill()


def test_what_cannot_be_started_is_told_and_leaves_nothing(opened):
    box = opened.create("box:1", command=["nosuch"])
    for _ in range(2):
        with pytest.raises(CommandNotFound):
            box.start()
    assert (box.state.status, box.state.code, "nosuch" in box.state.message) == ("created", 127, True)
    assert not (box.directory / "run/mount").exists()
    box.remove()


def test_a_removed_container_with_rm_is_gone(shell):
    box = shell("true", auto_remove=True)
    box.start()

    def gone():
        try:
            return box.record is None
        except ContainerNotFound:
            return True

    assert eventually(gone)


@pytest.mark.parametrize(("policy", "code", "restarts"), [("on-failure:2", 5, 2), ("on-failure", 0, 0), ("no", 5, 0)])
def test_restart_policies(shell, policy, code, restarts):
    box = shell(f"exit {code}", restart=policy)
    box.start()
    assert box.wait() == code
    assert box.state.life.restarts == restarts


def test_always_starts_it_again_until_it_is_stopped(shell):
    box = shell("echo again; exit 1", restart="always")
    box.start()
    assert eventually(lambda: text(box).count(b"again") >= 3)
    assert box.state.running
    box.stop()
    count = text(box).count(b"again")
    assert box.state.status == "exited"
    time.sleep(0.5)
    assert text(box).count(b"again") == count


def test_a_kill_ends_the_restarts_as_with_docker(shell):
    box = shell(FOREVER, restart="always")
    box.start()
    assert ready(box)
    box.kill()
    assert box.wait() == 137
    assert not box.state.running


def test_health_follows_the_probe(shell):
    probe = "while ! test -e /go; do sleep 0.05; done; echo looked; test -e /ok"
    box = shell(FOREVER, health_cmd=probe, health_interval=0.1, health_retries=2, health_timeout=1000)
    box.start()
    assert box.health["Status"] == "starting"
    box.exec(["touch", "/go"])
    assert eventually(lambda: box.health["Status"] == "unhealthy")
    assert box.health["Log"][-1]["Output"] == "looked\n"
    box.exec(["touch", "/ok"])
    assert eventually(lambda: box.health["Status"] == "healthy")
    assert box.health["FailingStreak"] == 0


def test_a_probe_that_hangs_is_ended(shell):
    box = shell(FOREVER, health_cmd="sleep 1000", health_interval=0.1, health_timeout=0.2, health_retries=1)
    box.start()
    assert eventually(lambda: box.health["Status"] == "unhealthy")
    assert "exceeded timeout" in box.health["Log"][0]["Output"]
    assert eventually(lambda: not any("sleep 1000" in row[-1] for row in box.top().rows))


def test_init_reaps_and_passes_signals_on(shell):
    box = shell("trap 'exit 9' TERM; (true &); sleep 1000 & sleep 1000 & wait", init=True)
    box.start()
    assert eventually(lambda: len(box.top().rows) >= 4)
    assert b"layerfs-init" in box.exec(["cat", "/proc/1/comm"]).stdout
    box.stop()
    assert box.state.code == 9


# logs


def test_a_log_loses_no_byte(shell):
    """Every byte, long lines, and an end without a newline."""
    box = shell("cat /data; printf '%40000s|' x; printf '\\n'; cat /data", volumes=["/tmp:/unused:ro"])
    data = bytes(range(256)) * 40 + "é漢😀\u2028".encode() + b"\xf0\x9f\x98 \xc3\n\x1b[31mred\x1b[0m"
    box.copy_in(tar_of("data", data), "/")
    box.start()
    box.wait()
    assert text(box) == data + b"%40000s|" % b"x" + b"\n" + data
    lines = (box.directory / "log/json.log").read_bytes().splitlines()
    assert all(set(json.loads(line)) == {"log", "stream", "time"} for line in lines)
    assert max(len(entry.data) for entry in box.logs()) == 16384


def tar_of(name, data):
    import io
    import tarfile

    raw = io.BytesIO()
    with tarfile.open(fileobj=raw, mode="w") as archive:
        member = tarfile.TarInfo(name)
        member.size = len(data)
        archive.addfile(member, io.BytesIO(data))
    raw.seek(0)
    return raw


def test_logs_are_rotated_and_followed_over_that(shell):
    box = shell("seq 1 20000", log_opts={"max-size": "64k", "max-file": "50"})
    box.start()
    seen = b"".join(entry.data for entry in box.logs(follow=True))
    assert seen.split() == [b"%d" % number for number in range(1, 20001)]
    assert len(list((box.directory / "log").iterdir())) > 5


def test_old_log_files_go(shell):
    box = shell("seq 1 20000", log_opts={"max-size": "32k", "max-file": "3"})
    box.start()
    box.wait()
    assert sorted(path.name for path in (box.directory / "log").iterdir()) == ["json.log", "json.log.1", "json.log.2"]
    assert text(box).split()[-1] == b"20000"


def test_tail_since_and_until(shell):
    box = shell("seq 1 1000; while ! test -e /go; do sleep 0.05; done; echo late")
    box.start()
    assert eventually(lambda: text(box).endswith(b"\n1000\n"))  # what is read at once has one time
    box.exec(["touch", "/go"])
    box.wait()
    entries = list(box.logs())
    assert [e.data for e in box.logs(tail=3)] == [b"999\n", b"1000\n", b"late\n"]
    assert list(box.logs(tail=0)) == []
    assert len(list(box.logs(tail=10**6))) == 1001
    from layerfs.cli.times import parse_moment

    moment = parse_moment(entries[-1].time)
    assert [e.data for e in box.logs(since_ns=moment)] == [b"late\n"]
    assert len(list(box.logs(until_ns=moment - 1))) == 1000


def test_without_a_log_there_is_nothing_to_read(shell):
    box = shell("echo x", log_driver="none")
    box.start()
    box.wait()
    with pytest.raises(InvalidInput, match="does not support reading"):
        box.logs().__next__()
    assert not (box.directory / "log").exists()


# exec


def test_exec_is_inside(shell):
    box = shell(FOREVER, env=["A=1"], workdir="/tmp/w", hostname="name")
    box.start()
    result = box.exec(["sh", "-c", "echo $A$B; pwd; hostname; cat; exit 4"], env=["B=2"], stdin=b"fed")
    assert (result.returncode, result.stdout) == (4, b"12\n/tmp/w\nname\nfed")
    assert box.exec(["sh", "-c", "id -u; echo $HOME"], user="bob", workdir="/").stdout == b"1000\n/home/bob\n"
    same = [f"/proc/{box.state.pid}/ns/{kind}" for kind in ("mnt", "pid", "net", "ipc", "uts")]
    inside = box.exec(["sh", "-c", "for k in mnt pid net ipc uts; do readlink /proc/self/ns/$k; done"]).stdout.decode()
    assert inside.split() == [str(Path(path).readlink()) for path in same]


def test_exec_hands_no_descriptor_of_the_host_over(shell, tmp_path):
    box = shell(FOREVER)
    box.start()
    with (tmp_path / "secret").open("w") as leak:
        os.set_inheritable(leak.fileno(), True)
        # ls itself has one for the directory
        assert box.exec(["ls", "/proc/self/fd"]).stdout.split() == [b"0", b"1", b"2", b"3"]
        assert box.exec(["ls", "/proc/1/fd"]).stdout.split()[:3] == [b"0", b"1", b"2"]


@pytest.mark.parametrize("number", [3, 4, 7, 8, 10, 14])
def test_exec_does_not_stand_in_a_directory_of_the_host(shell, number):
    """CVE-2024-21626, by exec."""
    box = shell(FOREVER)
    box.start()
    with pytest.raises(RunError):
        box.exec(["ls"], workdir=f"/proc/self/fd/{number}")
    with pytest.raises(RunError):
        box.exec(["ls"], workdir=f"/proc/1/fd/{number}")


def test_exec_capabilities_are_the_containers(shell):
    box = shell(FOREVER, cap_drop=["ALL"], cap_add=["CHOWN"])
    box.start()
    caps = ["sh", "-c", "while read a b; do case $a in CapBnd:) echo $b; esac; done < /proc/self/status"]
    assert int(box.exec(caps).stdout, 16) == 1
    assert int(box.exec(caps, privileged=True).stdout, 16) > 1 << 36


def test_exec_has_the_containers_filter_and_groups(shell):
    box = shell(FOREVER, group_add=["50"])
    box.start()
    script = "while read a b; do case $a in Seccomp:|Groups:) echo $b; esac; done < /proc/self/status"
    own = Path(f"/proc/{box.state.pid}/status").read_text().split("\nSeccomp:")[1].split()[0]
    assert box.exec(["sh", "-c", script]).stdout.split() == [b"0", b"50", own.encode()]
    assert own == "2"


def test_exec_ends_with_its_caller_and_with_the_container(shell):
    box = shell(FOREVER)
    box.start()
    assert box.exec_detached(["sleep", "1000"]) > 0
    with pytest.raises(TimeoutError):
        box.exec(["sleep", "2000"], timeout=0.3)
    assert [row[-1] for row in box.top().rows if "sleep 1000" in row[-1] or "sleep 2000" in row[-1]] == ["sleep 1000"]
    pids = [int(row[1]) for row in box.top().rows]
    box.stop()
    assert not any(Path(f"/proc/{pid}").exists() for pid in pids)
    with pytest.raises(InUse, match="is not running"):
        box.exec(["true"])


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGHUP])
def test_a_program_that_the_exec_command_ran_outlives_it(shell, store, number):
    box = shell(FOREVER)
    box.start()
    command = [*LAYERFS, "--store", str(store), "exec", box.name, "sh", "-c", "echo ready; sleep 1; echo done > /end"]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as client:
        assert client.stdout.readline() == b"ready\n"
        client.send_signal(number)
        assert client.wait() in (-number, 128 + number)
        assert eventually(lambda: box.exec(["cat", "/end"]).stdout == b"done\n")


def test_what_is_paused_is_told_instead_of_waited_for(shell):
    box = shell(FOREVER)
    box.start()
    box.pause()
    with pytest.raises(InUse, match=f"Container {box.id} is paused, unpause the container before exec"):
        box.exec(["true"])
    with pytest.raises(InUse, match="You cannot attach to a paused container, unpause it first"):
        box.attach()
    with pytest.raises(InUse, match="cannot start a paused container, try unpause instead"):
        box.start()
    box.unpause()
    assert box.exec(["true"]).returncode == 0


def test_many_execs_at_once_do_not_mix(shell):
    box = shell(FOREVER)
    box.start()

    def one(number):
        return box.exec(["sh", "-c", f"cat; exit {number}"], stdin=b"%d" % number)

    with ThreadPoolExecutor(8) as pool:
        for number, result in enumerate(pool.map(one, range(40))):
            assert (result.returncode, result.stdout) == (number, b"%d" % number)


# attach


def test_attach_both_ways(shell):
    box = shell("echo ready; cat; echo end", interactive=True, stdin_once=True)
    box.start()
    assert ready(box)
    with box.attach(stdin=True) as connection:
        big = b"x" * 300_000 + b"\n"
        threading.Thread(target=lambda: (connection.write(big), connection.end_input())).start()
        messages = list(connection.messages(60))
    assert b"".join(m.data for m in messages[:-1]) == big + b"end\n"
    assert messages[-1].code == 0


def test_a_slow_reader_loses_nothing(shell):
    box = shell("read x; seq 1 200000", interactive=True)
    box.start()
    with box.attach(stdin=True) as connection:
        connection.write(b"go\n")
        time.sleep(0.5)  # more than pipes and sockets hold waits meanwhile
        data = b"".join(m.data for m in list(connection.messages(60))[:-1])
    assert data.split()[-1] == b"200000"
    assert len(data.split()) == 200000


def test_who_goes_away_is_not_waited_for(shell):
    box = shell("read x; seq 1 100000", interactive=True)
    box.start()
    with box.attach(stdin=True) as connection:
        connection.write(b"go\n")
    assert box.wait(60) == 0
    assert text(box).split()[-1] == b"100000"


def test_who_goes_before_its_input_is_read_has_it_read_all_the_same(shell):
    """What does not fit into the program's pipe was overwritten by what came next, once the client had gone."""
    box = shell("while ! test -e /go; do sleep 0.05; done; cat", interactive=True, stdin_once=True)
    box.start()
    data = b"".join(b"%09d\n" % number for number in range(25_000))
    with box.attach(stdin=True) as connection:
        connection.write(data)
    box.exec(["touch", "/go"])
    assert box.wait(60) == 0
    assert text(box) == data


# asyncio, callbacks


def test_asyncio_runs_beside_each_other_and_cancels(shell):
    box = shell(FOREVER)
    box.start()

    async def main():
        results = await asyncio.gather(*(box.aexec(["sh", "-c", f"exit {n}"]) for n in range(6)), box.arun(["true"]))
        started = asyncio.Event()
        tell = asyncio.get_running_loop().call_soon_threadsafe
        task = asyncio.create_task(box.aexec(["sleep", "3000"], on_started=lambda process: tell(started.set)))
        await started.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        end = asyncio.create_task(box.await_())
        await asyncio.sleep(0.1)
        box.kill()
        return [result.returncode for result in results], await end

    assert asyncio.run(main()) == ([0, 1, 2, 3, 4, 5, 0], 137)


def test_output_comes_to_a_callback_as_it_is_written(shell):
    box, pieces = shell(FOREVER), []
    box.start()
    result = box.exec(["sh", "-c", "echo a; sleep 0.2; echo b >&2"], on_output=lambda *piece: pieces.append(piece))
    assert (pieces, result.stdout) == ([(1, b"a\n"), (2, b"b\n")], b"")


# many


def test_thirty_at_once_leave_nothing(opened, store):
    boxes = [opened.create("box:1", command=["sh", "-c", f"echo {n}; exit {n}"]) for n in range(30)]
    with ThreadPoolExecutor(10) as pool:
        list(pool.map(lambda box: box.start(), boxes))
        assert list(pool.map(lambda box: box.wait(), boxes)) == list(range(30))
        assert [text(box) for box in boxes] == [b"%d\n" % n for n in range(30)]
        list(pool.map(lambda box: box.remove(force=True), boxes))
    assert_nothing_left(store)


def test_one_after_the_other_leaves_nothing(opened, store):
    for number in range(int(os.environ.get("LAYERFS_STEPS", "10"))):
        box = opened.create("box:1", command=["sh", "-c", "exit 5"], name="same-name")
        box.start()
        assert box.wait() == 5, number
        box.remove(force=True)
    assert_nothing_left(store)


def assert_nothing_left(store, *, newborn=False):
    """`newborn`: but directories of containers whose `create` was killed before their row, which gc takes later."""

    def left():
        rows = [row for row in mountinfo().splitlines() if str(store) in row]
        return (
            rows
            + monitors(store)
            + [str(path) for path in (store / "containers").iterdir() if not newborn or (path / "monitor").exists()]
        )

    assert eventually(lambda: not left()), left()


def monitors(store):
    """Those of the store's containers that run."""
    return [str(pid) for pid in users_of(store) if name_of(pid) == "layerfs-monitor"]


def test_the_monitor_is_small(shell, store):
    box = shell("seq 1 200000; " + FOREVER)
    box.start()
    assert ready(box)
    (monitor,) = monitors(store)
    if b"__asan_init" in helper.PATH.read_bytes():
        pytest.skip("a sanitizer build")
    status = Path(f"/proc/{monitor}/status").read_text()
    assert int(status.split("VmHWM:")[1].split()[0]) < 2048


def test_a_broken_terminal_sequence_in_a_log_is_data(shell, layerfs_command):
    box = shell('printf \'\\033]0;title\\007\\033[2J{"log":"forged\\\\n"}\\n\'')
    box.start()
    box.wait()
    assert text(box) == b'\x1b]0;title\x07\x1b[2J{"log":"forged\\n"}\n'
    assert b"\x1b" not in (box.directory / "log/json.log").read_bytes()
    assert layerfs_command("logs", box.name).stdout == text(box)


def test_sigterm_to_a_monitor_stops_the_container_in_order(shell, store):
    box = shell(FOREVER, restart="always")
    box.start()
    assert ready(box)
    (monitor,) = monitors(store)
    os.kill(int(monitor), signal.SIGTERM)
    assert box.wait(60) == 3
    assert not box.state.life.stopped  # so that a start after a reboot starts it again


def test_commands_show_a_container_s_life(shell, layerfs_command):
    box = shell(FOREVER, name="web", labels={"a": "b"})
    box.start()
    assert ready(box)
    assert layerfs_command("ps", "--format", "{{.Names}} {{.State}}").stdout == b"web running\n"
    row = json.loads(layerfs_command("inspect", "web").stdout)[0]
    assert (row["State"]["Running"], row["State"]["Pid"]) == (True, box.state.pid)
    assert layerfs_command("stop", "-t", "5", "web").stdout == b"web\n"
    assert layerfs_command("ps", "-a", "-f", "exited=3", "--format", "{{.Status}}").stdout.startswith(b"Exited (3)")
    assert layerfs_command("start", "web").stdout == b"web\n"
    assert layerfs_command("kill", "web").stdout == b"web\n"
    assert layerfs_command("wait", "web").stdout == b"137\n"
    assert layerfs_command("kill", "web").returncode == 1
    events = layerfs_command("events", "--since", "1h", "--until", "0s", "-f", "container=web").stdout.decode()
    actions = [line.split()[2] for line in events.splitlines()]
    assert actions == ["create", "start", "kill", "die", "stop", "start", "kill", "die"]


def test_a_second_client_waits_beside_the_first(shell, layerfs_command, store):
    from tests.cli.conftest import LAYERFS

    box = shell(FOREVER, name="web")
    box.start()
    command = [*LAYERFS, "--store", str(store), "wait", "web"]
    waiting = [subprocess.Popen(command, stdout=subprocess.PIPE) for _ in range(3)]
    assert ready(box)
    box.stop()
    assert [process.communicate()[0] for process in waiting] == [b"3\n"] * 3


def test_another_restart_policy_counts_at_once(shell, layerfs_command):
    box = shell("sleep 0.4; exit 2", restart="always")
    box.start()
    assert layerfs_command("update", "--restart", "no", box.name).returncode == 0
    assert box.wait(60) == 2
    assert box.settings.restart == "no"


def test_after_a_reboot_those_are_started_that_want_it(shell, layerfs_command, store):
    """docker's rules: `unless-stopped` ones unless they were stopped. The reboot: monitors and programs are gone."""
    always, unless, stopped, plain = (
        shell(FOREVER, restart=policy) for policy in ("always", "unless-stopped", "unless-stopped", "no")
    )
    for box in (always, unless, stopped, plain):
        box.start()
    stopped.stop(0)
    for monitor in monitors(store):
        os.kill(int(monitor), signal.SIGKILL)
    assert eventually(lambda: not any(box.state.running for box in (always, unless, plain)))
    done = layerfs_command("start", "--restart-policy")
    assert sorted(done.stdout.decode().split()) == sorted([always.name, unless.name])
    assert [box.state.running for box in (always, unless, stopped, plain)] == [True, True, False, False]


def test_gc_removes_what_should_have_been_removed_at_its_end(shell, store, opened):
    box = shell(FOREVER, auto_remove=True)
    box.start()
    (monitor,) = monitors(store)
    os.kill(int(monitor), signal.SIGKILL)
    assert eventually(lambda: not box.state.running)
    opened.gc()
    assert opened.containers() == []
    assert_nothing_left(store)


def test_events_come_as_they_happen(shell, store):
    from tests.cli.conftest import LAYERFS

    command = [*LAYERFS, "--store", str(store), "events", "-f", "event=start", "--format", "{{.Action}} {{.Actor.ID}}"]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as watching:
        box = shell("true")
        deadline = time.monotonic() + 60
        while time.monotonic() < deadline and watching.poll() is None:
            box.start()  # until the watcher is there
            box.wait()
            if select.select([watching.stdout], [], [], 0.5)[0]:
                break
        assert watching.stdout.readline().decode().split() == ["start", box.id]
        watching.terminate()


def test_a_client_that_does_not_read_holds_up_nobody_else(shell):
    box = shell("read x; seq 1 300000", interactive=True)
    box.start()
    with box.attach(stdin=True) as stuck:
        stuck.write(b"go\n")
        assert eventually(lambda: select.select([stuck], [], [], 0)[0])
        box.stop(0)
        assert box.wait(60) in (0, 137)
        assert not (box.directory / "run/mount").exists()


def test_who_waits_is_told_though_somebody_does_not_read(shell):
    box = shell("read x; head -c 900000 /dev/zero; exit 6", interactive=True)
    box.start()
    with box.attach(stdin=True) as stuck:
        stuck.write(b"go\n")
        assert box.wait(60) == 6
        assert sum(len(message.data) for message in list(stuck.messages(60))[1:-1]) > 0
    assert unmounted(box)


def test_nonsense_for_a_monitor_is_passed_over(shell):
    box = shell(FOREVER)
    box.start()
    assert ready(box)
    seed = random.Random(1)
    for _ in range(30):
        with box.attach() as connection:
            for _ in range(20):
                packet = seed.randbytes(seed.choice((1, 2, 3, 5, 6, 9, 300)))
                if packet[:1] not in (b"S", b"T"):
                    connection._send(packet)
    assert box.exec(["true"]).returncode == 0
    box.stop()
    assert box.state.code == 3


def test_inspect_says_where_the_files_over_etc_are_while_it_runs(shell, opened):
    box = shell("sleep 1000", hostname="here")
    assert opened.inspect(box.id)["HostnamePath"] == ""
    box.start()
    found = opened.inspect(box.id)
    assert Path(found["HostnamePath"]).read_text() == "here\n"
    assert "localhost" in Path(found["HostsPath"]).read_text() and Path(found["ResolvConfPath"]).exists()
    box.stop(0)
    assert opened.inspect(box.id)["HostsPath"] == ""
