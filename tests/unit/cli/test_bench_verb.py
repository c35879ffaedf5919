"""bench."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

import layerfs
from tests.looking import eventually
from tests.unit.cli.conftest import Shell

STEPS = ["import", "import, known", "create", "mount", "walk and stat", "read small files", "read the big file"]
SMALL = ("--files", "120", "--size", "2m", "--rounds", "2")


@pytest.mark.root
def test_bench_shows_each_step_and_leaves_nothing(shell: Shell, tmp_path: Path) -> None:
    done = shell("bench", *SMALL, "--format", "json")
    assert (done.code, done.err) == (0, "")
    rows = [json.loads(line) for line in done.lines]
    assert [row["Step"] for row in rows][: len(STEPS)] == STEPS
    assert all(row["Seconds"] > 0 for row in rows) and rows[0]["Amount"] == 120 and rows[6]["Amount"] == 2 << 20
    assert not list((tmp_path / "store/tmp").iterdir()) and shell("images", "-q").out == ""


def test_bench_of_nothing_is_an_error(shell: Shell) -> None:
    assert shell("bench", "--files", "0").code == 125
    assert "invalid size: 'much'" in shell("bench", "--size", "much").err
    assert shell("bench", "extra").code == 1


@pytest.mark.root
def test_gc_takes_away_what_a_killed_bench_left_mounted(tmp_path: Path) -> None:
    store = tmp_path / "store"
    command = [sys.executable, "-m", "layerfs", "--store", str(store), "bench", "--files", "3000", "--rounds", "50"]
    with subprocess.Popen(command, stderr=subprocess.DEVNULL) as process:
        deadline = time.monotonic() + 120
        while os.fsencode(store) + b"/tmp/" not in Path("/proc/self/mountinfo").read_bytes():
            assert process.poll() is None and time.monotonic() < deadline
            time.sleep(0.002)
        process.send_signal(signal.SIGKILL)
    with layerfs.Store(store) as opened:

        def is_clean() -> bool:
            opened.gc()
            mounted = os.fsencode(store) in Path("/proc/self/mountinfo").read_bytes()
            return not mounted and not list((store / "tmp").iterdir())

        assert eventually(is_clean)  # a server that was just mounting it ends by itself
        assert opened.fsck() == []
