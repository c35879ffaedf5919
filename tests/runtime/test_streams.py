"""stdin, stdout and stderr: apart, exact, bounded, in time."""

import hashlib
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from subprocess import DEVNULL, PIPE

import pytest

from layerfs.errors import RunTimeout
from tests.looking import eventually

PROJECT = Path(__file__).resolve().parents[2]


def test_output_and_errors_are_apart(box):
    result = box("echo out; echo err >&2")
    assert (result.stdout, result.stderr) == (b"out\n", b"err\n")


def test_megabytes_of_any_bytes_go_through(box):
    data = os.urandom(5 << 20)
    assert box(["cat"], stdin=data).stdout == data


def test_both_streams_full_at_once(box):
    result = box("head -c 3000000 /dev/zero & head -c 2000000 /dev/zero >&2; wait")
    assert (len(result.stdout), len(result.stderr)) == (3_000_000, 2_000_000)


def test_no_stdin_is_an_empty_one(box):
    assert box("cat; echo end").stdout == b"end\n"


def test_input_that_nobody_reads_is_no_error(box):
    assert box("exec true", stdin=b"x" * (1 << 20)).returncode == 0
    assert box("head -c 5", stdin=b"y" * (1 << 20)).stdout == b"yyyyy"


def test_a_closed_stdin_is_seen_by_the_writer(box):
    assert box("exec <&-; sleep 0.1; echo on", stdin=b"z" * (1 << 20)).stdout == b"on\n"


def test_a_file_as_stdin_and_stdout(box, tmp_path):
    (tmp_path / "in").write_bytes(b"abc")
    with (tmp_path / "in").open("rb") as source, (tmp_path / "out").open("wb") as target:
        result = box(["cat"], stdin=source, stdout=target)
    assert (result.stdout, (tmp_path / "out").read_bytes()) == (b"", b"abc")


def test_stderr_into_stdout(box):
    assert box("echo a; echo b >&2", stderr=subprocess.STDOUT).stdout == b"a\nb\n"


def test_what_is_past_the_limit_is_dropped_and_said(box):
    result = box("head -c 1000000 /dev/zero; echo e >&2", output_limit=1000)
    assert (len(result.stdout), result.truncated, result.stderr) == (1000, True, b"e\n")


def test_a_timeout_kills_and_keeps_what_was_written(box):
    with pytest.raises(RunTimeout) as caught:
        box("echo first; trap '' TERM; sleep 1000", timeout=3)
    assert caught.value.result.stdout == b"first\n"
    assert caught.value.result.returncode == 137


def test_a_timeout_is_a_timeout_error(box):
    with pytest.raises(TimeoutError):
        box("sleep 100", timeout=0.2, stdout=DEVNULL, stderr=DEVNULL)


def test_children_left_behind_do_not_hold_the_streams(box):
    assert box("sleep 1000 & echo done").stdout == b"done\n"  # else it is killed, and an error


def test_signals_reach_a_handler(box, root):
    def soon(process):
        assert eventually((root / "tmp/up").exists)
        process.send_signal(signal.SIGTERM)

    script = "trap 'echo caught; exit 5' TERM; touch /tmp/up; while :; do sleep 0.05; done"
    assert box(script, on_started=soon).stdout == b"caught\n"


def test_ignored_signals_of_the_caller_are_not_inherited(box):
    previous = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        assert box(["grep", "-E", "Sig(Ign|Blk)", "/proc/1/status"]).stdout.split()[1::2] == [b"0" * 16, b"0" * 16]
    finally:
        signal.signal(signal.SIGHUP, previous)


def script(root, body):
    """A Python process of its own with a container in it, as a command line would have."""
    code = (
        "import sys, signal, os; from pathlib import Path; from layerfs.runtime import *\n"
        f"root = Path({str(root)!r})\n" + body
    )
    env = {**os.environ, "PYTHONPATH": str(PROJECT)}
    return subprocess.Popen([sys.executable, "-c", code], stdin=PIPE, stdout=PIPE, stderr=PIPE, env=env, cwd=PROJECT)


INHERIT = """
options = RunOptions(command=['sh', '-c', COMMAND])
sys.exit(run(root, {}, options, stdin=None, stdout=None, stderr=None, forward_signals=True).returncode)
"""


def test_inherited_streams(root):
    with script(root, "COMMAND = 'cat; echo err >&2; exit 4'\n" + INHERIT) as process:
        out, err = process.communicate(b"hello", timeout=60)
    assert (out, err, process.returncode) == (b"hello", b"err\n", 4)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1])
def test_signals_of_the_caller_are_forwarded(root, number):
    name = number.name.removeprefix("SIG")
    with script(
        root, f"COMMAND = 'trap \"exit 9\" {name}; echo up; while :; do sleep 0.05; done'\n" + INHERIT
    ) as process:
        assert process.stdout.readline() == b"up\n"
        process.send_signal(number)
        process.communicate(timeout=60)
    assert process.returncode == 9


def test_the_third_interrupt_ends_a_container_that_ignores_them(root):
    with script(root, "COMMAND = 'trap \"\" INT; echo up; sleep 1000'\n" + INHERIT) as process:
        assert process.stdout.readline() == b"up\n"
        sent = 0
        while process.poll() is None:  # those that come before the last one was seen are one
            process.send_signal(signal.SIGINT)
            sent += 1
            time.sleep(0.3)
        _, err = process.communicate(timeout=60)
    assert sent >= 3 and process.returncode == -signal.SIGINT and b"RunTimeout" not in err


def test_an_interrupt_of_a_captured_run_is_a_keyboard_interrupt(root):
    body = (
        "import time\ntry:\n"
        "    options = RunOptions(command=['sh', '-c', 'trap \"\" INT; sleep 1000'])\n"
        "    run(root, {}, options, on_started=lambda p: print('up', flush=True))\n"
        "except KeyboardInterrupt:\n    print('stopped')\n"
    )
    with script(root, body) as process:
        assert process.stdout.readline() == b"up\n"
        process.send_signal(signal.SIGINT)
        assert process.communicate(timeout=60)[0] == b"stopped\n"


def test_two_hundred_megabytes_pass_without_loss(box):
    digest = hashlib.sha256(bytes(100 << 20)).hexdigest().encode()
    assert box("head -c 104857600 /dev/zero | sha256sum").stdout.split()[0] == digest
    assert len(box("head -c 104857600 /dev/zero").stdout) == 100 << 20
