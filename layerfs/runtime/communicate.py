"""Feeding a container's stdin and collecting its output until it ends, without a thread and within a time."""

from __future__ import annotations

import contextlib
import functools
import os
import select
import signal
import time
from collections.abc import Callable

from layerfs._lazy import TYPE_CHECKING
from layerfs.errors import RunTimeout
from layerfs.runtime.process import Process, RunResult

if TYPE_CHECKING:
    from typing import IO

_CHUNK = 1 << 16
OnOutput = Callable[[int, bytes], object]  # stream (1 or 2), bytes
INTERRUPT_GRACE = 2.0  # seconds a container has to end after a Ctrl-C


class _Sink:
    """One captured stream, kept up to a limit; what is beyond it is read and dropped."""

    def __init__(self, file: IO[bytes], limit: int | None, tell: Callable[[bytes], object] | None) -> None:
        self.file, self.limit, self.tell = file, limit, tell
        self.parts: list[bytes] = []
        self.size = 0
        self.truncated = False

    def add(self, data: bytes) -> None:
        if self.tell is not None:
            self.tell(data)
            return
        room = len(data) if self.limit is None else max(0, self.limit - self.size)
        self.truncated |= len(data) > room
        self.size += min(len(data), room)
        if room:
            self.parts.append(data[:room])


class _Exchange:
    """The poll loop over the helper, the captured streams and the input that is left to write."""

    def __init__(self, process: Process, data: bytes | None, limit: int | None, tell: OnOutput | None) -> None:
        self.process = process
        self.left = memoryview(data or b"")
        self.poller = select.poll()
        self.sinks = {
            file.fileno(): _Sink(file, limit, functools.partial(tell, number) if tell else None)
            for number, file in ((1, process.stdout), (2, process.stderr))
            if file is not None
        }
        self.open = set(self.sinks)
        for fd in self.open:
            self.poller.register(fd, select.POLLIN)
        if process.returncode is None:
            self.poller.register(process.fileno(), select.POLLIN)
        if process.stdin is not None:
            os.set_blocking(process.stdin.fileno(), False)
            self.poller.register(process.stdin.fileno(), select.POLLOUT)

    @property
    def done(self) -> bool:
        return self.process.returncode is not None and not self.open

    def step(self, timeout: float | None) -> None:
        events = self.poller.poll(None if timeout is None else max(0.0, timeout) * 1000)
        control = self.process.fileno() if self.process.returncode is None else -1
        for fd, _ in events:
            if fd in self.open:
                self._read(fd)
            elif fd == control:
                self._advance(fd)
            else:
                self._write()

    def _read(self, fd: int) -> None:
        data = os.read(fd, _CHUNK)
        if data:
            self.sinks[fd].add(data)
        else:
            self.poller.unregister(fd)
            self.open.discard(fd)

    def _advance(self, fd: int) -> None:
        self.process.advance()
        if self.process.returncode is not None:
            self.poller.unregister(fd)
            self._end_input()

    def _write(self) -> None:
        stdin = self.process.stdin
        if stdin is None or stdin.closed:
            return
        try:
            self.left = self.left[os.write(stdin.fileno(), self.left[:_CHUNK]) :]
        except BlockingIOError:
            return
        except BrokenPipeError:  # the program does not want it: as in a shell's pipe
            self.left = self.left[len(self.left) :]
        if not self.left:
            self._end_input()

    def _end_input(self) -> None:
        stdin = self.process.stdin
        if stdin is not None and not stdin.closed:
            self.poller.unregister(stdin.fileno())
            with contextlib.suppress(OSError):
                stdin.close()

    def result(self) -> RunResult:
        def text(file: IO[bytes] | None) -> bytes:
            return b"".join(self.sinks[file.fileno()].parts) if file is not None else b""

        truncated = any(sink.truncated for sink in self.sinks.values())
        code = self.process.returncode
        return RunResult(code or 0, text(self.process.stdout), text(self.process.stderr), truncated=truncated)


class _Patience:
    """When to kill: at the deadline, some time after a Ctrl-C, or at the second one."""

    def __init__(self, process: Process, timeout: float | None) -> None:
        self.process = process
        self.deadline = None if timeout is None else time.monotonic() + timeout
        self.interrupts = 0
        self.expired = False

    def left(self) -> float | None:
        return None if self.deadline is None else self.deadline - time.monotonic()

    def check(self) -> None:
        left = self.left()
        if left is not None and left <= 0:
            self.expired = self.interrupts == 0
            self.deadline = None
            self.process.kill()

    def interrupted(self) -> None:
        self.interrupts += 1
        if self.interrupts == 1:
            self.process.send_signal(signal.SIGINT)
            self.deadline = time.monotonic() + INTERRUPT_GRACE
        else:
            self.process.kill()


def communicate(
    process: Process,
    data: bytes | None = None,
    *,
    timeout: float | None = None,
    limit: int | None = None,
    on_output: OnOutput | None = None,
) -> RunResult:
    """Until the container has ended and its captured streams are read. At most `limit` bytes of each are kept; with
    `on_output` none are: it is called with each piece, as it comes.

    After `timeout` seconds it is killed and RunTimeout raised, with what was written so far in `.result`. A Ctrl-C goes
    to the container as SIGINT, which has two seconds to end then; KeyboardInterrupt follows in any case.
    """
    exchange = _Exchange(process, data, limit, on_output)
    patience = _Patience(process, timeout)
    while not exchange.done:
        try:
            exchange.step(patience.left())
            patience.check()
        except KeyboardInterrupt:
            patience.interrupted()
    result = exchange.result()
    if patience.interrupts:
        raise KeyboardInterrupt
    if patience.expired:
        error = RunTimeout(f"the container was killed after {timeout:g} seconds")
        error.result = result
        raise error
    return result
