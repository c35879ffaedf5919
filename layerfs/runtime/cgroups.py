"""Where this machine has its control groups: a tree for each controller (version 1), or one for all (version 2)."""

from __future__ import annotations

import functools
import os
from collections.abc import Mapping
from pathlib import Path

from layerfs._lazy import TYPE_CHECKING
from layerfs._record import dataclass

if TYPE_CHECKING:
    from typing import Final

# what a container's program joins where it is to be counted, frozen and limited
CONTROLLERS_V1: Final = ("memory", "cpu", "cpuacct", "cpuset", "pids", "blkio", "freezer", "devices")
CONTROLLERS_V2: Final = ("memory", "cpu", "cpuset", "pids", "io")


@dataclass(frozen=True, slots=True)
class Hierarchies:
    """`v1`: controller and where its tree is mounted; `v2`: where the one tree is, when it is the one in use. A machine
    with both counts as version 1, as the controllers are there."""

    v1: Mapping[str, Path]
    v2: Path | None = None

    @classmethod
    def of(cls, mountinfo: str) -> Hierarchies:
        """From the text of /proc/self/mountinfo."""
        v1: dict[str, Path] = {}
        v2: Path | None = None
        for line in mountinfo.splitlines():
            left, _, right = line.partition(" - ")
            place, kind = left.split()[4], right.split()[0]
            if kind == "cgroup2":
                v2 = v2 or _path(place)
            elif kind == "cgroup":
                options = right.split()[2].split(",")
                v1 |= {name: _path(place) for name in CONTROLLERS_V1 if name in options and name not in v1}
        return cls(v1, None if v1 else v2)

    @classmethod
    def here(cls) -> Hierarchies:
        """Understood once for each state that the table of mounts has, as far as it tells of control groups."""
        lines = Path("/proc/self/mountinfo").read_bytes().split(b"\n")
        return _understood(os.fsdecode(b"\n".join(line for line in lines if b" - cgroup" in line)))

    def available(self) -> frozenset[str]:
        """The controllers that there are."""
        if self.v2 is None:
            return frozenset(self.v1)
        try:
            return frozenset((self.v2 / "cgroup.controllers").read_text().split())
        except OSError:
            return frozenset()

    @property
    def version(self) -> int:
        """1, 2, or 0 where there is nothing."""
        return 2 if self.v2 is not None else 1 if self.v1 else 0


@functools.lru_cache(maxsize=4)
def _understood(mountinfo: str) -> Hierarchies:
    return Hierarchies.of(mountinfo)


def _path(text: str) -> Path:
    """mountinfo writes blanks, tabs, newlines and backslashes as octal numbers."""
    for code, byte in (("\\040", " "), ("\\011", "\t"), ("\\012", "\n"), ("\\134", "\\")):
        text = text.replace(code, byte)
    return Path(os.fsdecode(os.fsencode(text)))
