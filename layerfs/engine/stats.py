"""`stats`: what a container uses, as docker counts it."""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

from layerfs._record import dataclass
from layerfs.engine.surroundings import cgroups

if TYPE_CHECKING:
    from layerfs.engine.container import Container
    from layerfs.runtime.cgroup import Usage


@dataclass(frozen=True, slots=True)
class Stats:
    """At one moment (`time_ns`, monotonic). Bytes and nanoseconds since the container's start; zeros when it does not
    run. `memory` is without what the kernel could drop at once."""

    id: str
    name: str
    running: bool
    time_ns: int
    cpu_ns: int = 0
    memory: int = 0
    memory_limit: int = 0
    net_in: int = 0
    net_out: int = 0
    read_bytes: int = 0
    write_bytes: int = 0
    pids: int = 0

    @property
    def memory_percent(self) -> float:
        return 100.0 * self.memory / self.memory_limit if self.memory_limit else 0.0

    def cpu_percent(self, before: Stats) -> float:
        """Since `before`; 100 is one processor."""
        passed = self.time_ns - before.time_ns
        return max(100.0 * (self.cpu_ns - before.cpu_ns) / passed, 0.0) if passed > 0 else 0.0


def stats_of(box: Container) -> Stats:
    state = box.state
    if not state.running:
        return Stats(box.id, box.name, False, time.monotonic_ns())
    usages = [cgroup.usage() for cgroup in cgroups(box)]
    received, sent = _network(state.pid)
    limits = [usage.memory_limit for usage in usages if usage.memory_limit]
    return Stats(
        box.id,
        box.name,
        True,
        time.monotonic_ns(),
        cpu_ns=_sum(usages, "cpu_ns"),
        memory=_sum(usages, "memory"),
        memory_limit=min([*limits, _machine_memory()]),
        net_in=received,
        net_out=sent,
        read_bytes=_sum(usages, "read_bytes"),
        write_bytes=_sum(usages, "write_bytes"),
        pids=_sum(usages, "pids"),
    )


def _sum(usages: Iterable[Usage], name: str) -> int:
    return sum(getattr(usage, name) or 0 for usage in usages)


def _machine_memory() -> int:
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def _network(pid: int) -> tuple[int, int]:
    """Bytes received and sent by all its interfaces but the loopback."""
    received = sent = 0
    with contextlib.suppress(OSError):
        for line in Path(f"/proc/{pid}/net/dev").read_text().splitlines()[2:]:
            name, _, numbers = line.partition(":")
            if name.strip() != "lo":
                words = numbers.split()
                received, sent = received + int(words[0]), sent + int(words[8])
    return received, sent
