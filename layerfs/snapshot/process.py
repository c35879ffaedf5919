"""A server's process, which outlives who started it, and is begun beside him: he goes on with what it will need.
Somebody waits for its end always, so it leaves no zombie; its exit code is lost.
"""

from __future__ import annotations

import _thread
import contextlib
import os
import select
import signal
import subprocess
from collections.abc import Mapping
from pathlib import Path

from layerfs._lazy import TYPE_CHECKING

__all__ = ["Forked", "Spawned", "start"]


def start(program: Path, orders: int, errors: int, passed: tuple[int, ...], environment: Mapping[str, str]) -> Process:
    """In a session of its own; `orders` is what it reads from, `errors` what it writes to, and it has no descriptors
    but these and `passed`, under numbers that it tells. All may be closed at once.

    Raises:
        FileNotFoundError: the program is missing. OSError: it could not be started. At once, or when asked for its pid.
    """
    try:
        return Spawned(program, orders, errors, passed, environment)
    except (ImportError, OSError):  # without the module, with an old C library, or no thread to be had
        return Forked(
            subprocess.Popen(
                [program],
                stdin=orders,
                stdout=errors,
                stderr=errors,
                pass_fds=passed,
                cwd="/",
                env=environment,
                start_new_session=True,
            ),
            passed,
        )


class Spawned:
    """A thread without Python begins it and waits for it: the caller waits neither for the kernel to load the program
    nor for the interpreter's lock."""

    def __init__(
        self, program: Path, orders: int, errors: int, passed: tuple[int, ...], environment: Mapping[str, str]
    ) -> None:
        from layerfs._native import spawn

        settings = tuple([os.fsencode(f"{name}={value}") for name, value in environment.items()])
        self._child = spawn(os.fsencode(program), settings, (orders, errors, errors, *passed))
        self.passed = tuple(range(3, 3 + len(passed)))

    def _known(self) -> tuple[int, int]:
        from layerfs._native import spawned

        return spawned(self._child)

    @property
    def pid(self) -> int:
        return self._known()[0]

    def send(self, number: int) -> None:
        """A signal; nothing happens when it has ended."""
        with contextlib.suppress(OSError):
            signal.pidfd_send_signal(self._known()[1], number)

    def ended(self, seconds: float) -> bool:
        """Waits for its end, no longer than that."""
        try:
            process = self._known()[1]
        except OSError:
            return True
        return process < 0 or bool(select.select([process], [], [], seconds)[0])


class Forked:
    """The same for a child of Python's own. A thread waits for it."""

    def __init__(self, process: subprocess.Popen[bytes], passed: tuple[int, ...] = ()) -> None:
        self._process, self.passed = process, passed
        with contextlib.suppress(RuntimeError):  # no thread to be had: subprocess reaps it when it starts another child
            _thread.start_new_thread(process.wait, ())

    @property
    def pid(self) -> int:
        return self._process.pid

    def send(self, number: int) -> None:
        self._process.send_signal(number)

    def ended(self, seconds: float) -> bool:
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(seconds)
        return self._process.returncode is not None


if TYPE_CHECKING:
    Process = Spawned | Forked
