"""A running container as its caller sees it: signals in, the end of it out."""

from __future__ import annotations

import contextlib
import os
import select
import signal
import socket
import struct
import time
from types import TracebackType

from layerfs._lazy import TYPE_CHECKING
from layerfs._record import dataclass
from layerfs.errors import RunError, RunTimeout
from layerfs.runtime import helper, wire
from layerfs.runtime.spec import RunSpec

if TYPE_CHECKING:
    from typing import IO

    from layerfs.runtime.helper import Stream


@dataclass(frozen=True, slots=True)
class RunResult:
    """How a container ended. `returncode` is the program's, or 128+n when signal n ended it; the streams are empty
    where they were not captured; `truncated` says that they went past the limit and were cut there."""

    returncode: int
    stdout: bytes = b""
    stderr: bytes = b""
    oom_killed: bool = False
    truncated: bool = False


class Process:
    """One started container. Leaving it as a context manager, or dropping it, kills what still runs. A `detached` one
    goes on when this process dies; `let_go` leaves it to itself.

    `pid` is that of the container's PID 1 on the host, `pidfd` a descriptor of it; `stdin`, `stdout` and `stderr` are
    unbuffered files where PIPE was asked for. Methods may be called from several threads, but only one should wait.
    """

    def __init__(
        self,
        spec: RunSpec,
        stdin: Stream = None,
        stdout: Stream = None,
        stderr: Stream = None,
        *,
        detached: bool = False,
    ) -> None:
        self.pid = 0
        self.pidfd = -1
        self.terminal = -1  # the master of the program's terminal
        self.returncode: int | None = None
        self._owner = os.getpid()
        self._popen, self._control = helper.launch(wire.encode(spec), stdin, stdout, stderr, detached=detached)
        self._detached = detached

    @property
    def stdin(self) -> IO[bytes] | None:
        return self._popen.stdin

    @property
    def stdout(self) -> IO[bytes] | None:
        return self._popen.stdout

    @property
    def stderr(self) -> IO[bytes] | None:
        return self._popen.stderr

    def fileno(self) -> int:
        """Readable when the helper has something to say: for `select`, together with `advance`."""
        return self._control.fileno()

    def advance(self) -> None:
        """Takes one packet of the helper (blocks until there is one). Raises what it says went wrong at the start."""
        packet, descriptors, _, _ = socket.recv_fds(self._control, 4096, 2)
        if packet[:1] == bytes([wire.STARTED]) and descriptors:
            (self.pid,) = struct.unpack_from("<I", packet, 1)
            self.pidfd = descriptors[0]
            self.terminal = descriptors[1] if len(descriptors) > 1 else -1
        elif packet[:1] == bytes([wire.FAILED]):
            stage, number = struct.unpack_from("<II", packet, 1)
            from layerfs.runtime import failure

            self._finish(failure.EXIT_CODE)
            raise failure.error_of(stage, number, packet[9:])
        elif packet[:1] == bytes([wire.EXITED]):
            self._finish(struct.unpack_from("<I", packet, 1)[0])
        else:
            self._helper_vanished()

    def _helper_vanished(self) -> None:
        started = self.pidfd >= 0
        if started:  # a program that became another user could outlive the helper: not beyond this point
            with contextlib.suppress(ProcessLookupError):
                signal.pidfd_send_signal(self.pidfd, signal.SIGKILL)
        self._finish(128 + signal.SIGKILL)
        if not started:
            raise RunError("the container helper ended before the container started")

    def _finish(self, code: int) -> None:
        self._popen.wait()
        self._control.close()
        if self.pidfd >= 0:
            pidfd, self.pidfd = self.pidfd, -1
            os.close(pidfd)
        self.returncode = code

    def await_start(self, timeout: float | None = None) -> None:
        """Returns when the program runs (or has already ended); RunError, CommandNotFound or CommandNotExecutable
        when it does not, RunTimeout when that is not known after `timeout` seconds (a root that hangs)."""
        deadline = None if timeout is None else time.monotonic() + timeout
        try:
            while not self.pid and self.returncode is None:
                if not self._ready(deadline):
                    raise RunTimeout(f"the container did not start within {timeout:g} seconds")
                self.advance()
        except BaseException:
            self.close()
            raise

    def _ready(self, deadline: float | None) -> bool:
        poller = select.poll()
        poller.register(self._control, select.POLLIN)
        return bool(poller.poll(None if deadline is None else max(0.0, deadline - time.monotonic()) * 1000))

    def send_signal(self, number: int) -> None:
        """To PID 1 of the container; nothing happens when it has ended."""
        with contextlib.suppress(OSError):
            self._control.send(bytes([number]))

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)

    def wait(self, timeout: float | None = None) -> int:
        """The exit code. TimeoutError after `timeout` seconds; the container runs on then."""
        deadline = None if timeout is None else time.monotonic() + timeout
        while self.returncode is None:
            if not self._ready(deadline):
                raise TimeoutError("the container still runs")
            self.advance()
        return self.returncode

    def let_go(self) -> None:
        """A detached one goes on without us: nothing is known of it any more. Any other one is killed."""
        if self._detached and self.returncode is None:
            self._finish(0)
        self.close()

    def close(self) -> None:
        """Kills what still runs, waits for its end, closes the pipes."""
        while self.returncode is None:
            self.kill()
            with contextlib.suppress(RunError):
                self.advance()
        if self.terminal >= 0:
            terminal, self.terminal = self.terminal, -1
            os.close(terminal)
        for stream in (self.stdin, self.stdout, self.stderr):
            if stream is not None:
                with contextlib.suppress(OSError):
                    stream.close()

    def __enter__(self) -> Process:
        return self

    def __del__(self) -> None:
        started = getattr(self, "_control", None) is not None and self.returncode is None
        if started and self._owner == os.getpid():  # a forked relative's copy of this object has no say
            self.close()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def start(
    spec: RunSpec,
    *,
    stdin: Stream = None,
    stdout: Stream = None,
    stderr: Stream = None,
    timeout: float | None = None,
    detached: bool = False,
) -> Process:
    """Starts a container and returns when its program runs; see `Process.await_start` for the errors. A `detached` one
    goes on when this process dies, or lets it go."""
    process = Process(spec, stdin, stdout, stderr, detached=detached)
    process.await_start(timeout)
    return process
