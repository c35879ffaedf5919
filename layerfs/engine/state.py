"""What a container does now: told by the processes there are, not by what was written last."""

from __future__ import annotations

import contextlib
import os
import signal
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any

from layerfs.store.leases import boot_id, process_start

KILLED = 128 + signal.SIGKILL  # the exit code of what SIGKILL ended
Process = tuple[int, int]  # a pid on the host, and when it started (clock ticks since boot): no other process has both


@dataclass(frozen=True, slots=True)
class State:
    """`processes` are the PID 1 of each run that goes on in the container, oldest first. Times in nanoseconds.

    `error` says why the last start failed, in one line.
    """

    processes: tuple[Process, ...] = ()
    boot: str = ""
    started_ns: int = 0
    finished_ns: int = 0
    exit_code: int | None = None
    error: str = ""

    @classmethod
    def of(cls, row: Mapping[str, Any]) -> State:
        known = {name: value for name, value in row.items() if name in cls.__slots__}
        if "processes" in known:
            known["processes"] = tuple((int(pid), int(start)) for pid, start in known["processes"])
        return cls(**known)

    def row(self) -> dict[str, Any]:
        return asdict(self)

    def started(self, pid: int, now_ns: int) -> State:
        """One more program runs."""
        boot = boot_id()
        return State((*self.living(), (pid, process_start(pid) or 0)), boot, now_ns)

    def ended(self, pid: int, code: int, now_ns: int) -> State:
        """A program ended; the container has when it was the last."""
        left = tuple(process for process in self.living() if process[0] != pid)
        return replace(self, processes=left, finished_ns=now_ns, exit_code=code)

    def failed(self, code: int, error: str) -> State:
        """A program could not be started; as with docker, a container that never ran stays `created`."""
        return replace(self, exit_code=code, error=error)

    def living(self) -> tuple[Process, ...]:
        if not self.processes or self.boot != boot_id():
            return ()
        return tuple((pid, start) for pid, start in self.processes if process_start(pid) == start)

    @property
    def pid(self) -> int:
        """PID 1 of the container on the host; 0 when nothing runs."""
        living = self.living()
        return living[0][0] if living else 0

    @property
    def running(self) -> bool:
        return bool(self.living())

    @property
    def status(self) -> str:
        """docker's: created, running, exited. One whose caller was killed counts as exited."""
        if self.running:
            return "running"
        return "exited" if self.started_ns else "created"

    @property
    def code(self) -> int:
        """The exit code; 137 where the end was not recorded, since only SIGKILL ends a container that way."""
        if self.running:
            return 0
        if self.exit_code is not None:
            return self.exit_code
        return KILLED if self.status == "exited" else 0

    def kill(self) -> None:
        """Ends what runs, and waits for that (ten seconds at most)."""
        for pid, start in self.living():
            with contextlib.suppress(ProcessLookupError):
                fd = os.pidfd_open(pid)
                try:
                    if process_start(pid) == start:  # the descriptor is of this process, not of a later one
                        signal.pidfd_send_signal(fd, signal.SIGKILL)
                finally:
                    os.close(fd)
        deadline = time.monotonic() + 10
        while self.running and time.monotonic() < deadline:
            time.sleep(0.005)
