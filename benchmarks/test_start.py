"""Start-up of the command and of the library."""

from __future__ import annotations

import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

GROUP = "Start-up"
LAYERFS = Path(sys.executable).parent / "layerfs"


def _median_ms(*command: str | Path) -> float:
    times = []
    for _ in range(15):
        began = time.perf_counter()
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
        times.append((time.perf_counter() - began) * 1000)
    return statistics.median(times)


def test_version(pair: Any) -> None:
    pair.figure("layerfs --version, whole command, median", _median_ms(LAYERFS, "--version"), "ms", bar=80)


def test_import(pair: Any) -> None:
    bare = _median_ms(sys.executable, "-c", "pass")
    ours = _median_ms(sys.executable, "-c", "import layerfs")
    pair.figure("import layerfs, beyond a bare interpreter, median", ours - bare, "ms", bar=40)


def test_help(pair: Any) -> None:
    pair.figure("layerfs images --help, whole command, median", _median_ms(LAYERFS, "images", "--help"), "ms", bar=None)
