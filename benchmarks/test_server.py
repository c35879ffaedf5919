"""The server process: how soon it answers, and what it takes."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Any

import pytest

from benchmarks.conftest import drop_caches
from benchmarks.systems import FUSE_OVERLAY, OURS, Place, Stack

GROUP = "The server"


@pytest.fixture(scope="module")
def stack(stacks: Any, real: Any) -> Stack:
    archive = real("image")
    made: Stack = stacks("real", lambda: [archive.parent / "debian.tar", archive.parent / "upper-0.tar"])
    return made


def _memory(stack: Stack, place: Place, field: str) -> int:
    """Bytes by /proc/PID/status."""
    pid = next(record.pid for record in stack.store.mounts() if record.target == str(place.root))
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(f"{field}:")) * 1024


def test_first_answer(versus: Any, stack: Stack) -> None:
    def mount(place: Place) -> float:
        place.close()
        began = time.perf_counter()
        place.remount()
        (place.root / "etc/passwd").stat()
        return time.perf_counter() - began

    with stack.open(OURS, FUSE_OVERLAY) as places:
        versus("mount to first answer", mount, places, rounds=15)


def test_memory(versus: Any, stack: Stack, workload: Any) -> None:
    with stack.open(OURS) as places:
        place = places[OURS]
        drop_caches()
        place.root.stat()
        versus.figure("resident memory, idle", _memory(stack, place, "VmRSS") / 1048576, "MiB", bar=8)
        before = _memory(stack, place, "VmRSS"), _memory(stack, place, "RssAnon")
        workload("walk", place.root)
        count = sum(len(folders) + len(files) for _, folders, files in os.walk(place.root))
        time.sleep(0.5)  # mapped pages are let go a moment later
        after = _memory(stack, place, "VmRSS"), _memory(stack, place, "RssAnon")
        per_inode = "bytes for each inode the kernel holds"
        versus.figure(f"own memory, {per_inode}", (after[1] - before[1]) / count, "bytes", bar=150)
        versus.figure(f"with the mapped tree, {per_inode}", (after[0] - before[0]) / count, "bytes", bar=None)
