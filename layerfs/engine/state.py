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


@dataclass(frozen=True, slots=True)
class State:
    """`pid` is that of PID 1 of the container on the host; a process counts only with its start time and in this boot.
    Times in ns.
    """

    pid: int = 0
    pid_start: int = 0
    boot: str = ""
    started_ns: int = 0
    finished_ns: int = 0
    exit_code: int | None = None

    @classmethod
    def of(cls, row: Mapping[str, Any]) -> State:
        return cls(**{k: v for k, v in row.items() if k in cls.__slots__})

    @classmethod
    def started(cls, pid: int, now_ns: int) -> State:
        return cls(pid, process_start(pid) or 0, boot_id(), now_ns)

    def ended(self, code: int, now_ns: int) -> State:
        return replace(self, pid=0, pid_start=0, finished_ns=now_ns, exit_code=code)

    def row(self) -> dict[str, Any]:
        return asdict(self)

    @property
    def running(self) -> bool:
        return bool(self.pid) and self.boot == boot_id() and process_start(self.pid) == self.pid_start

    @property
    def status(self) -> str:
        """docker's: created, running, exited. One whose caller was killed counts as exited."""
        if self.running:
            return "running"
        return "exited" if self.started_ns or self.finished_ns else "created"

    @property
    def code(self) -> int:
        """The exit code; 137 where the end was not recorded, since only SIGKILL ends a container that way."""
        if self.exit_code is not None:
            return self.exit_code
        return 128 + signal.SIGKILL if self.status == "exited" else 0

    def kill(self) -> None:
        """Ends it, and waits for that."""
        with contextlib.suppress(ProcessLookupError):
            fd = os.pidfd_open(self.pid)
            try:
                if self.running:
                    signal.pidfd_send_signal(fd, signal.SIGKILL)
            finally:
                os.close(fd)
        deadline = time.monotonic() + 10
        while self.running and time.monotonic() < deadline:
            time.sleep(0.005)
