"""What the monitor of a container says of it (`monitor/status`), and whether there is one (`monitor/lock`).

The file is written by whoever holds the lock, and replaced by a rename. It is history as soon as nobody holds the lock;
only a PID 1 that still lives counts then.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import struct
import time
from collections.abc import Iterator
from pathlib import Path

from layerfs._record import dataclass
from layerfs.errors import ContainerNotFound, InUse, RunError
from layerfs.store.durable import writing

_FLOCK = "hhqqi4x"  # struct flock with 64 bit offsets
_NUMBERS = {"pid", "start", "started_ns", "finished_ns", "code", "restarts", "stopped"}
_NAMES = {"started": "started_ns", "finished": "finished_ns"}


@dataclass(frozen=True, slots=True)
class Status:
    """`phase`: running, restarting, exited, or empty. `stopped`: by a user's wish. Times in nanoseconds."""

    boot: str = ""
    phase: str = ""
    pid: int = 0
    start: int = 0
    started_ns: int = 0
    finished_ns: int = 0
    code: int = 0
    restarts: int = 0
    stopped: int = 0
    error: str = ""

    @property
    def active(self) -> bool:
        return self.phase in ("running", "restarting")


def read_status(directory: Path) -> Status:
    """Of the container with this directory; an empty one where it was never started."""
    try:
        lines = (directory / "monitor/status").read_text(errors="replace").splitlines()
    except (FileNotFoundError, NotADirectoryError):
        return Status()
    values: dict[str, str | int] = {}
    for line in lines:
        name, _, text = line.partition(" ")
        name = _NAMES.get(name, name)
        if name in _NUMBERS:
            values[name] = int(text) if text.lstrip("-").isdigit() else 0
        elif name in ("boot", "phase"):
            values[name] = text
        elif name == "error":
            values["error"] = str(json.loads(text))
        elif name == "failed":
            values["error"] = _failure(text)
    return Status(**values)  # type: ignore[arg-type]


def _failure(text: str) -> str:
    """Stage, errno and text of a restart that failed."""
    from layerfs.runtime.failure import error_of

    stage, number, said = text.split(" ", 2)
    return str(error_of(int(stage), int(number), said.encode()))


def write_failure(directory: Path, before: Status, error: RunError) -> None:
    """By the starter, who holds the lock: as with docker, a container that never ran stays `created`."""
    lines = {
        "boot": before.boot,
        "phase": "exited" if before.started_ns else "",
        "started": before.started_ns,
        "finished": before.finished_ns,
        "code": error.exit_code,
        "error": json.dumps(str(error)),
    }
    new = directory / "monitor/.status.starter"
    new.write_text("".join(f"{name} {value}\n" for name, value in lines.items()))
    new.rename(directory / "monitor/status")


def is_monitored(directory: Path) -> bool:
    """Whether somebody starts the container, or monitors it. Disturbs nobody."""
    try:
        fd = os.open(directory / "monitor/lock", os.O_RDONLY | os.O_CLOEXEC)
    except (FileNotFoundError, NotADirectoryError):
        return False
    try:
        answer = fcntl.fcntl(fd, fcntl.F_OFD_GETLK, struct.pack(_FLOCK, fcntl.F_WRLCK, os.SEEK_SET, 0, 0, 0))
    finally:
        os.close(fd)
    return bool(struct.unpack(_FLOCK, answer)[0] != fcntl.F_UNLCK)


@contextlib.contextmanager
def starting(directory: Path, *, patience: float = 30.0) -> Iterator[int | None]:
    """The lock, as a descriptor to hand on; None when the container runs. A monitor that ends is waited for.

    Raises:
        InUse: it goes on ending for too long. ContainerNotFound: it was removed meanwhile.
    """
    place = directory / "monitor"
    try:
        with writing("the state of a container"):
            place.mkdir(0o700, exist_ok=True)
            fd = os.open(place / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except FileNotFoundError:
        raise ContainerNotFound(f"No such container: {directory.name}") from None
    try:
        yield fd if _take(fd, directory, patience) else None
    finally:
        os.close(fd)


def _take(fd: int, directory: Path, patience: float) -> bool:
    deadline = time.monotonic() + patience
    while True:
        try:
            fcntl.fcntl(fd, fcntl.F_OFD_SETLK, struct.pack(_FLOCK, fcntl.F_WRLCK, os.SEEK_SET, 0, 0, 0))
        except OSError:
            if read_status(directory).active:
                return False
        else:
            return True
        if time.monotonic() > deadline:
            raise InUse(f"container {directory.name[:12]} is being started or stopped by another command")
        time.sleep(0.01)
