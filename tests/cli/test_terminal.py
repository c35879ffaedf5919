"""`-it`: a real terminal on our side, and one of the container's own devpts on the other."""

from __future__ import annotations

import contextlib
import fcntl
import os
import select
import signal
import struct
import subprocess
import termios
import time

import pytest

from tests.cli.conftest import LAYERFS
from tests.looking import eventually

pytestmark = pytest.mark.root
SHELL = ["sh", "-c", 'echo "# "; while read -r line; do eval "$line"; done']  # without busybox's line editor


class Session:
    """A command on a new terminal of 30 rows and 90 columns, and what it has shown so far."""

    def __init__(self, *arguments, prefix=(), environment=None):
        self.master, slave = os.openpty()
        self.resize(30, 90)
        self.before = termios.tcgetattr(slave)
        self.slave = slave
        streams = {"stdin": slave, "stdout": slave, "stderr": slave}
        self.process = subprocess.Popen(
            [*prefix, *LAYERFS, *arguments], **streams, env=environment, start_new_session=True
        )
        self.shown = b""

    def resize(self, rows, columns):
        fcntl.ioctl(self.master, termios.TIOCSWINSZ, struct.pack("4H", rows, columns, 0, 0))

    def type(self, data):
        os.write(self.master, data)

    def expect(self, wanted, seconds=60):
        """Reads until it is shown; what came before it."""
        deadline = time.monotonic() + seconds
        while wanted not in self.shown:
            left = deadline - time.monotonic()
            assert left > 0, (wanted, self.shown)
            if select.select([self.master], [], [], left)[0]:
                with contextlib.suppress(OSError):
                    self.shown += os.read(self.master, 4096)
        before, _, self.shown = self.shown.partition(wanted)
        return before

    def end(self):
        code = self.process.wait(60)
        assert termios.tcgetattr(self.slave) == self.before  # the terminal is as it was
        return code

    def close(self):
        self.process.kill()
        self.process.wait()
        os.close(self.master)
        os.close(self.slave)


@pytest.fixture
def session(store):
    made = []

    def begin(*arguments):
        made.append(Session("--store", str(store), *arguments))
        return made[-1]

    yield begin
    for each in made:
        each.close()


def test_run_it_is_a_terminal_of_the_containers_own(session):
    it = session("run", "--rm", "-it", "box:1", *SHELL)
    it.expect(b"# ")
    it.type(b"tty; stty size; readlink /proc/self/fd/0\r")
    it.expect(b"/dev/pts/0\r\n30 90\r\n/dev/pts/0\r\n")
    it.type(b"echo $TERM; echo here > /dev/console; exit 5\r")
    it.expect(b"xterm\r\nhere\r\n")
    assert it.end() == 5


def test_the_size_follows_ours(session):
    it = session(
        "run", "--rm", "-it", "box:1", "sh", "-c", "trap 'stty size' WINCH; echo up; while :; do sleep 0.1; done"
    )
    it.expect(b"up")
    it.resize(17, 71)
    os.kill(it.process.pid, signal.SIGWINCH)
    it.expect(b"17 71")
    it.type(b"\x03")
    assert it.end() == 130


def test_ctrl_c_is_the_programs(session):
    it = session(
        "run",
        "--rm",
        "-it",
        "box:1",
        "sh",
        "-c",
        "trap 'echo caught; exit 6' INT; echo up; while :; do sleep 0.1; done",
    )
    it.expect(b"up")
    it.type(b"\x03")
    it.expect(b"caught")
    assert it.end() == 6


def test_detach_and_attach_again(session, opened):
    it = session("run", "-it", "--name", "box", "box:1", *SHELL)
    it.expect(b"# ")
    it.type(b"X=kept; echo set\r")
    it.expect(b"set\r\n")
    it.type(b"\x10\x11")
    assert it.end() == 0
    box = opened.container("box")
    assert box.state.running
    assert '"Action":"detach"' in (opened.path / "events").read_text()
    again = session("attach", "box")
    again.type(b"echo $X; exit 3\r")
    again.expect(b"kept\r\n")
    assert again.end() == 3


def test_other_detach_keys(session, opened):
    it = session("run", "-it", "--detach-keys", "ctrl-x,a", "--name", "box", "box:1", "cat")
    it.type(b"\x10\x11hello\r")
    it.expect(b"hello")
    it.type(b"\x18a")
    assert it.end() == 0
    assert opened.container("box").state.running


def test_exec_it(session, opened):
    box = opened.create("box:1", name="box", command=["sleep", "1000"])
    box.start()
    it = session("exec", "-it", "-e", "A=1", "box", *SHELL)
    it.expect(b"# ")
    it.type(b"tty; stty size; echo A$A; exit 9\r")
    it.expect(b"/dev/pts/0\r\n30 90\r\nA1\r\n")
    assert it.end() == 9


def test_start_ai(session, opened):
    box = opened.create("box:1", name="box", command=SHELL, tty=True, interactive=True)
    it = session("start", "-ai", "box")
    it.expect(b"# ")
    it.type(b"exit 4\r")
    assert it.end() == 4
    assert box.state.code == 4


def test_it_wants_a_terminal(layerfs_command):
    done = layerfs_command("run", "-it", "box:1", "sh", input=b"exit\n")
    assert (done.returncode, done.stderr) == (125, b"layerfs: the input device is not a TTY\n")


def test_a_terminal_without_input(layerfs_command):
    assert layerfs_command("run", "--rm", "-t", "box:1", "tty").stdout == b"/dev/pts/0\r\n"


def test_the_terminal_belongs_to_the_user(layerfs_command):
    script = "[ -O /dev/pts/0 ] && echo mine; echo there > /dev/tty"
    done = layerfs_command("run", "--rm", "-t", "-u", "bob", "box:1", "sh", "-c", script)
    assert done.stdout == b"mine\r\nthere\r\n"


def test_the_hosts_terminals_are_not_there(layerfs_command):
    assert layerfs_command("run", "--rm", "-t", "box:1", "ls", "/dev/pts").stdout.split() == [b"0", b"ptmx"]


def test_nothing_can_be_typed_into_our_terminal(session):
    """TIOCSTI by a container without a terminal: its /dev/tty is none."""
    it = session("run", "--rm", "box:1", "sh", "-c", "echo x > /dev/tty || echo none")
    it.expect(b"none")
    assert it.end() == 0


def test_an_exec_that_was_left_goes_on(session, opened):
    box = opened.create("box:1", command=["sh", "-c", "while :; do sleep 1; done"])
    box.start()
    wait = "echo ready; while ! test -e /go; do sleep 0.1; done"
    text = f"trap 'echo hup >> /heard' HUP; {wait}; seq 100000; echo done > /end"
    ways = (lambda at: at.type(b"\x10\x11")), (lambda at: at.process.kill()), (lambda at: at.process.send_signal(1))
    for number, leave in enumerate(ways):
        terminal = session("exec", "-it", box.name, "sh", "-c", text)
        terminal.expect(b"ready")
        leave(terminal)
        assert terminal.process.wait(60) == (0, -9, 129)[number]
        box.exec(["touch", "/go"])
        assert eventually(lambda: box.exec(["cat", "/end"]).stdout == b"done\n")
        assert box.exec(["cat", "/heard"]).returncode == 1
        box.exec(["rm", "/go", "/end"])
    box.exec_detached(["sh", "-c", text], tty=True)
    box.exec(["touch", "/go"])
    assert eventually(lambda: box.exec(["cat", "/end"]).stdout == b"done\n")
    assert box.exec(["cat", "/heard"]).returncode == 1
