"""Files that something was read from, and whether they are still as they were."""

from __future__ import annotations

import os
import time
from pathlib import Path

_TICK = 2_000_000_000  # ns: what changed so shortly before may change once more without another time (FAT has 2 s)
State = tuple[int, int, int, int, int]


class Watched:
    """`look` at each path, of a file or of a directory that is listed, before it is read."""

    def __init__(self) -> None:
        self._seen: dict[str, State | None] = {}
        self._settled = True

    def look(self, path: Path) -> None:
        state = _state(str(path))
        self._seen.setdefault(str(path), state)
        if state is not None and max(state[:2]) > time.time_ns() - _TICK:
            self._settled = False

    def is_unchanged(self) -> bool:
        """Whether to read them again would give the same, for certain."""
        return self._settled and all(_state(path) == state for path, state in self._seen.items())


def _state(path: str) -> State | None:
    """None of what is not there."""
    try:
        found = os.stat(path)  # noqa: PTH116 (asked for each push)
    except OSError:
        return None
    return found.st_mtime_ns, found.st_ctime_ns, found.st_size, found.st_ino, found.st_dev
