"""`layerfs run`: docker's exit codes, streams, options and signals."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from pathlib import Path

import pytest

from tests.cli.conftest import LAYERFS
from tests.looking import eventually

pytestmark = pytest.mark.root


def test_everything_behind_the_image_is_the_programs(layerfs_command):
    done = layerfs_command("run", "--rm", "box:1", "echo", "--rm", "-x", "--", "a b")
    assert (done.returncode, done.stdout, done.stderr) == (0, b"--rm -x -- a b\n", b"")


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["sh", "-c", "exit 7"], 7, b""),
        (["sh", "-c", "kill -9 $$ & wait; sleep 1"], 0, b""),
        (["nosuch"], 127, b'exec: "nosuch": executable file not found in $PATH'),
        (["/etc/passwd"], 126, b"permission denied"),
        (["/nosuch"], 127, b"no such file or directory"),
    ],
)
def test_exit_codes(layerfs_command, arguments, code, message):
    done = layerfs_command("run", "--rm", "box:1", *arguments)
    assert done.returncode == code
    assert message in done.stderr
    assert len(done.stderr.splitlines()) == (1 if message else 0)
    assert layerfs_command("ps", "-aq").stdout == b""


def test_wrong_options_of_the_run_are_125(layerfs_command):
    done = layerfs_command("run", "--rm", "-u", "nobodyx", "box:1", "id")
    assert (done.returncode, b"unable to find user nobodyx" in done.stderr) == (125, True)
    assert layerfs_command("ps", "-aq").stdout == b""


def test_the_images_command_and_its_replacement(layerfs_command):
    assert layerfs_command("run", "--rm", "box:1").stdout == b"the default\n"
    done = layerfs_command("run", "--rm", "--entrypoint", "", "box:1")
    assert (done.returncode, done.stderr) == (125, b"layerfs: no command specified\n")
    assert layerfs_command("run", "--rm", "--entrypoint", "/bin/echo", "box:1", "x").stdout == b"x\n"


def test_options_reach_the_program(layerfs_command, tmp_path):
    (tmp_path / "there").mkdir()
    (tmp_path / "there/file").write_text("host\n")
    script = 'id -u; pwd; hostname; echo $A; cat /t/file; touch /t/x || echo "read-only"; touch /y || echo "read-only"'
    done = layerfs_command(
        *("run", "--rm", "-u", "bob", "-w", "/work", "-h", "name", "-e", "A=1"),
        *("-v", f"{tmp_path}/there:/t:ro", "--tmpfs", "/tmp", "--read-only", "box:1", "sh", "-c", script),
    )
    assert done.stdout.decode().split("\n")[:7] == ["1000", "/work", "name", "1", "host", "read-only", "read-only"]


def test_stdin_is_empty_unless_asked_for(layerfs_command):
    assert layerfs_command("run", "--rm", "box:1", "cat", input=b"fed").stdout == b""
    assert layerfs_command("run", "--rm", "-i", "box:1", "cat", input=b"\xff\0fed").stdout == b"\xff\0fed"


def test_arguments_and_output_are_bytes(layerfs_command):
    done = layerfs_command("run", "--rm", "-e", b"X=\xff", "box:1", "sh", "-c", b"echo \xfe$X", env={"LC_ALL": "C"})
    assert done.stdout == b"\xfe\xff\n"


def _started(store, *arguments: str) -> subprocess.Popen[bytes]:
    """`layerfs run` whose program has said that it is ready."""
    process = subprocess.Popen(
        [*LAYERFS, "--store", str(store), "run", *arguments], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE
    )
    assert process.stdout is not None
    assert process.stdout.readline() == b"ready\n"
    return process


@pytest.mark.parametrize(
    ("number", "name"), [(signal.SIGINT, "INT"), (signal.SIGTERM, "TERM"), (signal.SIGUSR1, "USR1")]
)
def test_signals_go_to_the_program(store, number, name):
    script = f"trap 'exit 42' {name}; echo ready; while :; do sleep 0.05; done"
    with _started(store, "--rm", "box:1", "sh", "-c", script) as process:
        process.send_signal(number)
        assert process.wait(60) == 42


def test_the_third_interrupt_ends_what_does_not_listen(store, layerfs_command):
    with _started(
        store, "--rm", "box:1", "sh", "-c", "trap '' INT; echo ready; while :; do sleep 0.05; done"
    ) as process:
        sent = 0
        while process.poll() is None:  # those that come before the last one was seen are one
            process.send_signal(signal.SIGINT)
            sent += 1
            time.sleep(0.3)
        assert sent >= 3 and process.returncode in (130, -signal.SIGINT)  # by one that came while it ended
    assert eventually(lambda: layerfs_command("ps", "-aq").stdout == b"")


def test_a_container_outlives_the_killed_command_and_is_removed_at_its_end(store, layerfs_command):
    script = "echo ready; while ! test -e /stop; do sleep 0.05; done; exit 7"
    with _started(store, "--rm", "--name", "left", "box:1", "sh", "-c", script) as process:
        process.kill()
        process.wait()
    assert layerfs_command("ps", "--format", "{{.Names}}").stdout == b"left\n"
    with subprocess.Popen([*LAYERFS, "--store", str(store), "wait", "left"], stdout=subprocess.PIPE) as waiting:
        assert layerfs_command("exec", "left", "touch", "/stop").returncode == 0
        assert waiting.communicate()[0] == b"7\n"
    assert eventually(lambda: layerfs_command("ps", "-aq").stdout == b"")  # the monitor removes it
    assert layerfs_command("mount", "-q").stdout == b""


def test_mount_change_umount_diff_commit(store, layerfs_command):
    layerfs_command("create", "--name", "one", "box:1")
    place = os.fsdecode(layerfs_command("mount", "one").stdout.strip())
    with Path(f"{place}/new-\udcff").open("w") as file:
        file.write("x")
    assert layerfs_command("mount", "-q").stdout.decode().strip() == place
    busy = layerfs_command("rm", "one")
    assert (busy.returncode, b"is mounted" in busy.stderr) == (1, True)
    assert layerfs_command("umount", "one").stdout == b""
    assert layerfs_command("diff", "one").stdout == b"A /new-\\xff\n"
    made = layerfs_command("commit", "one", "box:2").stdout.decode().strip()
    assert layerfs_command("run", "--rm", made, "ls", "/").stdout.startswith(b"bin\n")


def test_only_the_streams_that_were_asked_for(layerfs_command):
    script = ["sh", "-c", "echo out; echo err >&2"]
    done = layerfs_command("run", "--rm", "-a", "stdout", "box:1", *script)
    assert (done.stdout, done.stderr) == (b"out\n", b"")
    done = layerfs_command("run", "--rm", "--attach=STDERR", "box:1", *script)
    assert (done.stdout, done.stderr) == (b"", b"err\n")
    assert layerfs_command("run", "-d", "-a", "stdout", "box:1", *script).returncode == 125
    assert b"valid streams are STDIN, STDOUT and STDERR" in layerfs_command("run", "-a", "x", "box:1").stderr


def test_input_alone_is_given_and_the_program_left(layerfs_command):
    done = layerfs_command("run", "-i", "-a", "stdin", "box:1", "cat", input=b"fed\n" * 100_000)
    name = done.stdout.decode().strip()
    assert (len(name), done.returncode) == (64, 0)
    assert layerfs_command("wait", name).stdout == b"0\n"
    said = layerfs_command("logs", name).stdout
    assert (len(said), said.replace(b"fed\n", b"")) == (400_000, b"")


def test_a_domain_name(layerfs_command):
    script = "hostname -f; while read line; do echo $line; done < /proc/sys/kernel/domainname"
    words = ["--network=bridge", "-h", "h", "--domainname", "d.x"]
    done = layerfs_command("run", "--rm", *words, "box:1", "sh", "-c", script)
    assert done.stdout == b"h.d.x\nd.x\n"
    assert b"conflicting options" in layerfs_command("run", "--uts=host", "--domainname", "x", "box:1").stderr


def test_places_for_mounts_are_no_change_while_it_runs(layerfs_command):
    script = "echo x > /new; while :; do sleep 0.1; done"
    layerfs_command("run", "-d", "--name", "one", "box:1", "sh", "-c", script)
    for _ in range(100):
        if shown := layerfs_command("diff", "one").stdout:
            break
    made = layerfs_command("commit", "one").stdout.decode().strip()
    both = shown, layerfs_command("diff", "box:1", made).stdout
    layerfs_command("rm", "-f", "one")
    assert both == (b"A /new\n", b"A /new\n")


def test_an_update_of_nothing_is_an_error(layerfs_command):
    layerfs_command("create", "--name", "one", "box:1")
    done = layerfs_command("update", "one")
    assert (done.returncode, done.stderr) == (
        1,
        b"layerfs: you must provide one or more flags when using this command\n",
    )


def test_a_caller_that_ignores_the_ends_of_children_is_told_of_them(layerfs_command):
    ignoring = {"preexec_fn": lambda: signal.signal(signal.SIGCHLD, signal.SIG_IGN)}
    done = layerfs_command("run", "--rm", "--network", "none", "box:1", "sh", "-c", "echo x; exit 3", **ignoring)
    assert (done.returncode, done.stdout) == (3, b"x\n")


def test_replace_removes_who_has_the_name(layerfs_command):
    for text in (b"one\n", b"two\n"):
        made = layerfs_command("run", "-d", "--replace", "--name", "same", "box:1", "sleep", "100")
        assert made.returncode == 0, made.stderr
        assert layerfs_command("exec", "same", "echo", text.decode().strip()).stdout == text
    assert layerfs_command("ps", "-aq", "--no-trunc").stdout == made.stdout
    refused = layerfs_command("create", "--replace", "box:1")
    assert (refused.returncode, b"without --name" in refused.stderr) == (125, True)
    layerfs_command("rm", "-f", "same")


def test_a_platform_that_an_image_is_not_of_is_told(layerfs_command, tmp_path):
    other = "linux/riscv64"
    commands = (["image", "inspect"], ["rmi"], ["save", "-o", tmp_path / "saved"], ["push"], ["history"])
    for words in commands:
        done = layerfs_command(*words, "--platform", other, "box:1")
        assert done.returncode == 1 and b"does not provide the specified platform (linux/riscv64)" in done.stderr
    assert layerfs_command("images", "-q").stdout and not (tmp_path / "saved").exists()
