"""Talking to the monitor of a container; the packets are those of layerfs_native/runtime/monitor.h."""

from __future__ import annotations

import enum
import os
import select
import signal
import socket
import struct
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType

from layerfs._record import dataclass
from layerfs.errors import RunError
from layerfs.runtime import helper, wire
from layerfs.runtime.spec import Life, RunSpec

CHUNK = 1 << 16
STDIN_ENDED = b"E"


class Attach(enum.IntFlag):
    """What a client wants of the streams."""

    STDIN = 1
    STDOUT = 2
    STDERR = 4
    CLEANS = 8  # it cleans up after the container at its end, and says so by `done`


NOTHING = Attach(0)


@dataclass(frozen=True, slots=True)
class Started:
    """The program runs: at the first start, and after each restart."""

    pid: int


@dataclass(frozen=True, slots=True)
class Output:
    """What it wrote to stdout (1, a terminal's output too) or stderr (2)."""

    stream: int
    data: bytes


@dataclass(frozen=True, slots=True)
class Ended:
    """It has ended and is not started again. `lost`: the monitor ended without a word, so the code is a guess."""

    code: int
    lost: bool = False


Message = Started | Output | Ended


class Connection:
    """A client of a monitor. One thread receives; any may send. A context manager."""

    def __init__(self, sock: socket.socket) -> None:
        self._socket = sock
        self._lock = threading.Lock()

    @classmethod
    def open(cls, directory: Path) -> Connection | None:
        """Of the container with this directory; None where no monitor answers."""
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET | socket.SOCK_CLOEXEC)
        try:
            fd = os.open(directory / "monitor", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
            try:
                sock.connect(f"/proc/self/fd/{fd}/socket")
            finally:
                os.close(fd)
        except (FileNotFoundError, ConnectionRefusedError, BlockingIOError):
            sock.close()
            return None
        except BaseException:
            sock.close()
            raise
        return cls(sock)

    def fileno(self) -> int:
        return self._socket.fileno()

    def _send(self, packet: bytes) -> bool:
        try:
            with self._lock:
                self._socket.send(packet)
        except (BrokenPipeError, ConnectionResetError):
            return False
        return True

    def attach(self, what: Attach) -> None:
        self._send(b"A" + bytes([what]))

    def write(self, data: bytes) -> bool:
        """To the program's stdin; False when nobody takes it any more. Waits while the program does not read."""
        return all(self._send(b"I" + data[at : at + CHUNK]) for at in range(0, len(data), CHUNK))

    def try_write(self, data: bytes) -> int:
        """How many bytes were taken without waiting; all of them when nobody takes any more."""
        try:
            with self._lock:
                self._socket.send(b"I" + data[:CHUNK], socket.MSG_DONTWAIT)
        except BlockingIOError:
            return 0
        except (BrokenPipeError, ConnectionResetError):
            return len(data)
        return min(len(data), CHUNK)

    def end_input(self) -> None:
        self._send(STDIN_ENDED)

    def resize(self, rows: int, columns: int) -> None:
        self._send(b"W" + struct.pack("<2H", rows, columns))

    def signal(self, number: int, *, last: bool = False) -> None:
        """To PID 1. `last`: it is not started again when it ends."""
        self._send(b"S" + bytes([number, last]))

    def stop(self, number: int, seconds: float | None) -> None:
        """The signal now, SIGKILL after that time (never when None), and no restart."""
        milliseconds = -1 if seconds is None else min(int(seconds * 1000), 2**31 - 1)
        self._send(b"T" + struct.pack("<Bi", number, milliseconds))

    def restart_policy(self, kind: int, most: int) -> None:
        self._send(b"P" + struct.pack("<2I", kind, most))

    def done(self) -> None:
        self._send(b"D")

    def receive(self, timeout: float | None = None) -> Message | None:
        """The next message. None after `timeout` seconds. RunError when the program could not be started."""
        if timeout is not None and not select.select([self._socket], [], [], max(0.0, timeout))[0]:
            return None
        try:
            packet, fds, _, _ = socket.recv_fds(self._socket, CHUNK + 1, 1)
        except ConnectionResetError:
            packet, fds = b"", []
        for fd in fds:
            os.close(fd)
        kind = packet[:1]
        if kind == b"O" or kind == b"R":
            return Output(1 if kind == b"O" else 2, packet[1:])
        if kind == b"B":
            return Started(*struct.unpack_from("<I", packet, 1))
        if kind == b"X":
            return Ended(struct.unpack_from("<I", packet, 1)[0])
        if kind == b"F":
            stage, number = struct.unpack_from("<II", packet, 1)
            from layerfs.runtime import failure

            raise failure.error_of(stage, number, packet[9:])
        return Ended(128 + signal.SIGKILL, lost=True)

    def messages(self, timeout: float | None = None) -> Iterator[Message]:
        """Up to and with the `Ended` one. TimeoutError after `timeout` seconds."""
        deadline = None if timeout is None else time.monotonic() + timeout
        while True:
            message = self.receive(None if deadline is None else deadline - time.monotonic())
            if message is None:
                raise TimeoutError("the container still runs")
            yield message
            if isinstance(message, Ended):
                return

    def close(self) -> None:
        self._socket.close()

    def __enter__(self) -> Connection:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def start_monitored(
    spec: RunSpec, life: Life, directory: Path, locks: tuple[int, int], *, attach: Attach = NOTHING
) -> Connection:
    """Starts the container under a monitor, and returns when its program runs, attached from its first byte on.

    Raises:
        RunError, CommandNotFound, CommandNotExecutable: it does not; nothing is left but the locks.
    """
    encoded = wire.encode(spec, life)
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET | socket.SOCK_CLOEXEC)
    connection = Connection(ours)
    fd = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        connection.attach(attach | Attach.CLEANS)  # until it runs, what goes wrong is ours to clear away
        helper.launch_monitor(encoded, theirs, fd, locks)
        theirs.close()
        message = connection.receive()
        if not isinstance(message, Started):
            raise RunError("the container's monitor ended before the program started")
        if not attach & Attach.CLEANS:
            connection.attach(attach)
    except RunError:
        connection.done()
        connection.close()
        raise
    except BaseException:
        connection.close()
        raise
    finally:
        theirs.close()
        os.close(fd)
    return connection
