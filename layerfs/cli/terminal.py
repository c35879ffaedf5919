"""Our terminal and a program's: raw mode, window size, detach keys, and the loop that carries bytes both ways."""

from __future__ import annotations

import contextlib
import os
import select
import signal
import sys
from collections.abc import Callable, Iterator
from types import FrameType

from layerfs._lazy import TYPE_CHECKING
from layerfs.engine.attaching import CHUNK, Connection, Ended, Output
from layerfs.errors import InvalidInput

if TYPE_CHECKING:
    from typing import Any, Protocol

    class Far(Protocol):
        """The other side of a loop: a monitor's connection, or a terminal of our own."""

        def fileno(self) -> int: ...
        def write(self, data: bytes) -> int: ...
        def end(self) -> None: ...
        def read(self) -> bool: ...
        def resize(self, rows: int, columns: int) -> None: ...
        def signal(self, number: int) -> None: ...


DETACH_KEYS = "ctrl-p,ctrl-q"
_INTERRUPTS_MAX = 3
_FORWARDED = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT, signal.SIGUSR1, signal.SIGUSR2)


def parse_keys(text: str) -> bytes:
    """`ctrl-p,ctrl-q`: letters, or ctrl- and one of `a`-`z @ [ \\ ] ^ _`; empty for none. Raises InvalidInput."""
    keys = bytearray()
    for part in text.split(",") if text else ():
        name = part.strip()
        if len(name) == 1 and name.isascii():
            keys += name.encode()
        elif name.lower().startswith("ctrl-") and len(name) == 6 and 0 <= ord(name[5].upper()) - 64 < 32:
            keys.append(ord(name[5].upper()) - 64)
        else:
            raise InvalidInput(f"invalid detach keys ({text}) provided")
    return bytes(keys)


class Keys:
    """Looks for the detach keys in what is typed, also when they come one by one."""

    def __init__(self, keys: bytes) -> None:
        self._keys, self._held = keys, 0

    def feed(self, data: bytes) -> tuple[bytes, bool]:
        """What is to be passed on, and whether the keys were typed (what follows them is dropped)."""
        if not self._keys:
            return data, False
        passed = bytearray()
        for byte in data:
            if byte == self._keys[self._held]:
                self._held += 1
                if self._held == len(self._keys):
                    self._held = 0
                    return bytes(passed), True
                continue
            passed += self._keys[: self._held]
            self._held = int(byte == self._keys[0])
            if not self._held:
                passed.append(byte)
        return bytes(passed), False


def size_of(fd: int) -> tuple[int, int]:
    """Rows and columns; zeros where it is no terminal."""
    try:
        columns, rows = os.get_terminal_size(fd)
    except OSError:
        return 0, 0
    return rows, columns


def set_size(fd: int, rows: int, columns: int) -> None:
    import fcntl
    import struct
    import termios

    with contextlib.suppress(OSError):
        fcntl.ioctl(fd, termios.TIOCSWINSZ, struct.pack("4H", rows, columns, 0, 0))


def check_input_terminal(interactive: bool, wanted: bool) -> None:
    """Raises InvalidInput, in docker's words, when `-it` is asked for and our stdin is no terminal."""
    if interactive and wanted and not os.isatty(0):
        raise InvalidInput("the input device is not a TTY")


@contextlib.contextmanager
def raw(fd: int) -> Iterator[None]:
    """Keys go to the program as they are typed; the terminal is put back at the end. Nothing for what is none."""
    if not os.isatty(fd):
        yield
        return
    import termios
    import tty

    before = termios.tcgetattr(fd)
    tty.setraw(fd, termios.TCSANOW)
    try:
        yield
    finally:
        termios.tcsetattr(fd, termios.TCSADRAIN, before)


class Monitored:
    """A container behind its monitor."""

    def __init__(self, connection: Connection, control: Callable[[], Connection | None]) -> None:
        self._connection, self._control = connection, control
        self.ended: Ended | None = None

    def fileno(self) -> int:
        return self._connection.fileno()

    def write(self, data: bytes) -> int:
        """How much was taken; 0 for later."""
        return self._connection.try_write(data)

    def end(self) -> None:
        self._connection.end_input()

    def read(self) -> bool:
        message = self._connection.receive()
        if isinstance(message, Output):
            write_all(message.stream, message.data)
        elif isinstance(message, Ended):
            self.ended = message
        return self.ended is None

    def resize(self, rows: int, columns: int) -> None:
        self._ask(lambda connection: connection.resize(rows, columns))

    def signal(self, number: int) -> None:
        self._ask(lambda connection: connection.signal(number))

    def _ask(self, do: Callable[[Connection], None]) -> None:
        """On a connection of its own, which input that waits does not hold up."""
        connection = self._control()
        if connection is not None:
            with connection:
                do(connection)


class Master:
    """A terminal whose master is ours (`exec -t`)."""

    def __init__(self, fd: int, send_signal: Callable[[int], None]) -> None:
        self._fd, self._send_signal = fd, send_signal
        os.set_blocking(fd, False)

    def fileno(self) -> int:
        return self._fd

    def write(self, data: bytes) -> int:
        try:
            return os.write(self._fd, data)
        except BlockingIOError:
            return 0
        except OSError:  # the program has closed it
            return len(data)

    def end(self) -> None:
        self.write(b"\x04")

    def read(self) -> bool:
        try:
            data = os.read(self._fd, CHUNK)
        except BlockingIOError:
            return True
        except OSError:  # EIO: nobody has the terminal open any more
            return False
        if data:
            write_all(1, data)
        return bool(data)

    def resize(self, rows: int, columns: int) -> None:
        set_size(self._fd, rows, columns)

    def signal(self, number: int) -> None:
        self._send_signal(number)


def write_all(stream: int, data: bytes) -> None:
    view = memoryview(data)
    while view:
        try:
            view = view[os.write(stream, view) :]
        except BlockingIOError:  # somebody made our stdout so
            select.select([], [stream], [])


class _Signals:
    """Signals of ours, noted where a `select` sees them."""

    def __init__(self, numbers: tuple[int, ...]) -> None:
        self._read, self._write = os.pipe()
        os.set_blocking(self._read, False)
        os.set_blocking(self._write, False)
        self._before = {number: signal.signal(number, self._note) for number in numbers}

    def _note(self, number: int, frame: FrameType | None) -> None:
        with contextlib.suppress(BlockingIOError):
            os.write(self._write, bytes([number]))

    def fileno(self) -> int:
        return self._read

    def taken(self) -> bytes:
        try:
            return os.read(self._read, 1024)
        except BlockingIOError:
            return b""

    def close(self) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)
        os.close(self._read)
        os.close(self._write)


class Detached(Exception):
    """The detach keys were typed."""


class GaveUp(Exception):
    """The third Ctrl-C."""


def carry(
    far: Far, *, stdin: bool, terminal: bool, keys: str = DETACH_KEYS, proxy: bool = True, hangup: bool = True
) -> None:
    """Bytes both ways until the far side has ended. `proxy`: signals go there, `hangup` says whether SIGHUP too.

    Raises:
        Detached, GaveUp.
    """
    passed = [number for number in _FORWARDED if hangup or number != signal.SIGHUP] if proxy else []
    signals = _Signals((*(signal.SIGWINCH,) * terminal, *passed))
    sys.stdout.flush()
    try:
        with raw(0) if terminal and stdin else contextlib.nullcontext():
            if terminal:
                far.resize(*size_of(1 if os.isatty(1) else 0))
            _loop(far, signals, stdin, Keys(parse_keys(keys) if terminal else b""))
    finally:
        signals.close()


def _loop(far: Far, signals: _Signals, stdin: bool, keys: Keys) -> None:
    waiting, interrupts = b"", 0
    while True:
        sources: list[Any] = [far, signals, *([0] if stdin and not waiting else [])]
        readable, writable, _ = select.select(sources, [far] if waiting else [], [])
        if signals in readable:
            for number in signals.taken():
                interrupts += number == signal.SIGINT
                if interrupts >= _INTERRUPTS_MAX:
                    raise GaveUp
                if number == signal.SIGWINCH:
                    far.resize(*size_of(1 if os.isatty(1) else 0))
                else:
                    far.signal(number)
        if far in readable and not far.read():
            return
        if writable:
            waiting = waiting[far.write(waiting) :]
        if 0 in readable:
            waiting, stdin = _typed(far, keys)


def _typed(far: Far, keys: Keys) -> tuple[bytes, bool]:
    """What is to be passed on, and whether more may come."""
    try:
        data = os.read(0, CHUNK // 2)
    except OSError:  # the terminal was taken away
        data = b""
    if not data:
        far.end()
        return b"", False
    passed, detach = keys.feed(data)
    if detach:
        raise Detached
    return passed, True
