"""What a container does now: told by the processes there are, not by what was written last."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import signal
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

from layerfs._lazy import TYPE_CHECKING
from layerfs._record import dataclass, field, replace
from layerfs.engine.status import Status, is_monitored, read_status
from layerfs.errors import ContainerNotFound
from layerfs.store.durable import write_all, writing
from layerfs.store.leases import boot_id, process_start

if TYPE_CHECKING:
    from typing import Any

    Row = Callable[[], Mapping[str, Any]]

KILLED = 128 + signal.SIGKILL  # the exit code of what SIGKILL ended
_FILE = "state"
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
    life: Status = field(default_factory=Status)  # of the program that has a monitor; in files of its own
    monitored: bool = False

    @classmethod
    def of(cls, row: Mapping[str, Any]) -> State:
        known = {name: value for name, value in row.items() if name in cls.__slots__}
        if "processes" in known:
            known["processes"] = tuple((int(pid), int(start)) for pid, start in known["processes"])
        known.pop("life", None)
        known.pop("monitored", None)
        return cls(**known)

    @classmethod
    def read(cls, row: Mapping[str, Any], directory: Path) -> State:
        """With what the container's monitor says, or said last. Asked in this order, so that what ends meanwhile is
        never taken for killed."""
        status, monitored = read_status(directory), is_monitored(directory)
        if not monitored and status.active:
            status = read_status(directory)
        return replace(cls.of(_runs(directory, lambda: row)), life=status, monitored=monitored)

    def row(self) -> dict[str, Any]:
        return {name: getattr(self, name) for name in self.__slots__ if name not in ("life", "monitored")}

    def started(self, pid: int, now_ns: int) -> State:
        """One more program runs."""
        boot = boot_id()
        return State((*self.living(), (pid, process_start(pid) or 0)), boot, now_ns)

    def ended(self, pid: int, code: int, now_ns: int) -> State:
        """A program ended; the container has when it was the last."""
        left = _living([process for process in self.processes if process[0] != pid], self.boot)
        return replace(self, processes=left, finished_ns=now_ns, exit_code=code)

    def failed(self, code: int, error: str) -> State:
        """A program could not be started; as with docker, a container that never ran stays `created`."""
        return replace(self, exit_code=code, error=error)

    def living(self) -> tuple[Process, ...]:
        return _living(self.processes, self.boot)

    @property
    def init(self) -> Process | None:
        """PID 1 of the monitored program, when it lives."""
        life = self.life
        alive = life.pid and life.boot == boot_id() and process_start(life.pid) == life.start
        return (life.pid, life.start) if alive else None

    @property
    def pid(self) -> int:
        """PID 1 of the container on the host; 0 when nothing runs."""
        if self.init:
            return self.init[0]
        living = self.living()
        return living[0][0] if living else 0

    @property
    def running(self) -> bool:
        """Also between two starts, as docker has it."""
        return bool(self.init or (self.monitored and self.life.active) or self.living())

    @property
    def restarting(self) -> bool:
        return self.monitored and self.life.phase == "restarting"

    @property
    def status(self) -> str:
        """docker's: created, running, restarting, exited. One that was killed with its monitor counts as exited."""
        if self.restarting:
            return "restarting"
        if self.running:
            return "running"
        return "exited" if self.started_ns or self.life.started_ns else "created"

    @property
    def _monitored_last(self) -> bool:
        return self.life.started_ns >= self.started_ns and bool(self.life.boot or self.life.error)

    @property
    def code(self) -> int:
        """The exit code; 137 where the end was not recorded, since only SIGKILL ends a container that way."""
        if self.running and not self.restarting:
            return 0
        if self._monitored_last:
            return KILLED if self.life.phase == "running" else self.life.code
        if self.exit_code is not None:
            return self.exit_code
        return KILLED if self.status == "exited" else 0

    @property
    def started_at(self) -> int:
        """Nanoseconds; 0 when it never was."""
        return max(self.started_ns, self.life.started_ns)

    @property
    def finished_at(self) -> int:
        """Nanoseconds; 0 when it was not, or nobody saw it."""
        return self.life.finished_ns if self._monitored_last else self.finished_ns

    @property
    def message(self) -> str:
        """Why the last start failed."""
        return self.life.error if self._monitored_last else self.error

    def kill(self) -> None:
        """Ends what runs, and waits for that (ten seconds at most)."""
        processes = [*self.living(), *([self.init] if self.init else [])]
        for process in processes:
            send_signal(process, signal.SIGKILL)
        deadline = time.monotonic() + 10
        while (self.init or self.living()) and time.monotonic() < deadline:
            time.sleep(0.005)


def _living(processes: Sequence[Process], boot: str) -> tuple[Process, ...]:
    if not processes or boot != boot_id():
        return ()
    return tuple((pid, start) for pid, start in processes if process_start(pid) == start)


def _runs(directory: Path, row: Row) -> Mapping[str, Any]:
    """What programs without a monitor did last: in a file of the container's, which need not survive a power cut as a
    row does. `row` gives what an older layerfs has left, or nothing."""
    try:
        with open(f"{directory}/{_FILE}", "rb", buffering=0) as file:
            found = json.loads(file.read())
    except (FileNotFoundError, NotADirectoryError, ValueError):
        return row()
    return found if isinstance(found, dict) else row()


def change_state(directory: Path, row: Row, change: Callable[[State], State]) -> None:
    """Replaces it by what `change` makes of it; one at a time. Raises ContainerNotFound, NoSpace."""
    try:
        with writing("what the container does"), _locked(directory):
            text = json.dumps(change(State.of(_runs(directory, row))).row()).encode()
            new = f"{directory}/.{_FILE}"
            fd = os.open(new, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o644)
            try:
                with contextlib.suppress(OSError):
                    os.posix_fallocate(fd, 0, len(text))  # else ext4 begins to write it out when it replaces another
                write_all(fd, text)
            finally:
                os.close(fd)
            os.rename(new, f"{directory}/{_FILE}")
    except FileNotFoundError:  # it was removed meanwhile
        raise ContainerNotFound(f"No such container: {directory.name}") from None


@contextlib.contextmanager
def _locked(directory: Path) -> Iterator[None]:
    fd = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX)
        yield
    finally:
        fcntl.flock(fd, fcntl.LOCK_UN)  # a forked child may have a copy of it
        os.close(fd)


def send_signal(process: Process, number: int) -> bool:
    """To exactly this process; False when it has ended."""
    pid, start = process
    with contextlib.suppress(ProcessLookupError):
        fd = os.pidfd_open(pid)
        try:
            if process_start(pid) == start:  # the descriptor is of this process, not of a later one
                signal.pidfd_send_signal(fd, number)
                return True
        finally:
            os.close(fd)
    return False
