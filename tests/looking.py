"""Looking at what changes meanwhile, processes that end and directories that go, without taking that for an error.

`Path.exists` and its like raise ProcessLookupError for `/proc/PID/exe`, `cwd`, `root` and `fd/N` of a process that ends
while it is looked at, and `Path.rglob` (until 3.13) FileNotFoundError for a directory that goes while it is walked.
"""

from __future__ import annotations

import contextlib
import os
import random
import socket
import time
from collections.abc import Callable, Iterator
from pathlib import Path


def eventually(test: Callable[[], object], seconds: float = 120.0) -> bool:
    """Whether it comes true in that time: long, since it costs nothing where it is true at once, and others compute."""
    deadline = time.monotonic() + seconds
    while not test():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.02)
    return True


def processes() -> list[int]:
    return [int(name) for name in os.listdir("/proc") if name.isdigit()]  # noqa: PTH208


def name_of(pid: int) -> str:
    """What it calls itself; nothing for one that has ended."""
    with contextlib.suppress(OSError):
        return Path(f"/proc/{pid}/comm").read_text().strip()
    return ""


def words_of(pid: int) -> str:
    """Its command line; nothing for one that has ended."""
    with contextlib.suppress(OSError):
        return Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode("utf-8", "replace").strip()
    return ""


def open_files() -> set[tuple[str, str]]:
    """The descriptors of this process, with what is open. What others have left may go at any moment: ask for what has
    come since.
    """
    found = set[tuple[str, str]]()
    for name in os.listdir("/proc/self/fd"):  # noqa: PTH208
        with contextlib.suppress(OSError):  # closed meanwhile, as that of the list
            found.add((name, os.readlink(f"/proc/self/fd/{name}")))  # noqa: PTH115
    return found


def places_of(pid: int) -> Iterator[str]:
    """What a process has open and stands in."""
    names = [f"/proc/{pid}/cwd", f"/proc/{pid}/root"]
    with contextlib.suppress(OSError):
        names += [f"/proc/{pid}/fd/{name}" for name in os.listdir(f"/proc/{pid}/fd")]  # noqa: PTH208
    for name in names:
        with contextlib.suppress(OSError):  # closed meanwhile
            yield os.readlink(name)  # noqa: PTH115


def users_of(place: Path) -> list[int]:
    """Processes that have something below a directory open or stand in it; this one aside."""
    wanted = f"{place}/"
    return [
        pid
        for pid in processes()
        if pid != os.getpid() and any(f"{found}/".startswith(wanted) for found in places_of(pid))
    ]


def below(place: Path) -> list[Path]:
    """All files and directories there."""
    return [Path(top, name) for top, names, files in os.walk(place) for name in (*names, *files)]


def cgroups(name: str) -> list[Path]:
    """Every group whose name begins so, in all trees."""
    walk = os.walk("/sys/fs/cgroup")
    return [Path(top, each) for top, names, _ in walk for each in names if each.startswith(name)]


def free_port() -> int:
    """A port of loopback where nobody listens, and that nobody is given meanwhile: the kernel chooses others, for who
    connects, too (who connects to such a port where nobody listens may even reach itself).
    """
    least = int(Path("/proc/sys/net/ipv4/ip_local_port_range").read_text().split()[0])
    assert least > 2048, "the kernel gives all ports"
    for port in random.SystemRandom().sample(range(max(1024, least - 10_000), least), 1000):
        with contextlib.suppress(OSError), socket.socket() as probe:
            probe.bind(("127.0.0.1", port))
            return port
    raise AssertionError("no port is free")


def mountinfo() -> str:
    """What this process sees mounted; others mount at names of any bytes."""
    return Path("/proc/self/mountinfo").read_text(errors="surrogateescape")
