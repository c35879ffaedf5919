"""Writes docs/performance.md (table) and docs/performance.svg (plot) from the rows of a benchmark run: `make bench`."""

from __future__ import annotations

import json
import os
import platform
import subprocess
import sys
from datetime import date
from pathlib import Path
from typing import Any

DOCS = Path(__file__).resolve().parents[1] / "docs"
HEAD = """# Performance

Written by `make bench` on {day}: {machine}. Every row was measured in one run, ours and the peer in turns;
times are medians of {rounds} rounds. A ratio below 1 means that layerfs is faster. *bar* is what the project promises.
Machines are noisy: trust the ratios, and repeat them on yours.

| what | ours | peer | ratio | bar | |
|---|---|---|---|---|---|
"""


def _machine() -> str:
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    model = next((line.split(":")[1].strip() for line in lines if "model name" in line), platform.machine())
    done = subprocess.run(["findmnt", "-n", "-o", "FSTYPE", "-T", "."], capture_output=True, text=True, check=False)
    system = f"Linux {platform.release()}, {done.stdout.strip()}, Python {platform.python_version()}"
    return f"{os.cpu_count()} × {model}, {system}"


def _met(row: dict[str, Any]) -> str:
    if row["bar"] is None:
        return ""
    return "met" if row.get("ratio", row.get("value")) <= row["bar"] else "**not met**"


def _line(row: dict[str, Any]) -> str:
    bar = "" if row["bar"] is None else f"{row['bar']:g}"
    if "ratio" not in row:
        return f"| {row['what']} | {row['value']:.3g} {row['unit']} | {row['peer']} | | {bar} | {_met(row)} |"
    ours = f"{row['ours_ms']:.1f} ms"
    peer = f"{row['peer_ms']:.1f} ms ({row['peer']})"
    return f"| {row['what']} | {ours} | {peer} | {row['ratio']:.3f} | {bar} | {_met(row)} |"


def _plot(rows: list[dict[str, Any]], target: Path) -> None:
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    rows = [row for row in rows if "ratio" in row][::-1]
    figure, axes = pyplot.subplots(figsize=(9, 1 + 0.45 * len(rows)))
    axes.barh(
        [f"{row['what']}\n(peer: {row['peer']})" for row in rows], [row["ratio"] for row in rows], color="#4477aa"
    )
    for number, row in enumerate(rows):
        if row["bar"] is not None:
            axes.plot([row["bar"]] * 2, [number - 0.4, number + 0.4], color="#cc3311", linewidth=2)
    axes.axvline(1, color="black", linewidth=0.8)
    axes.set_xscale("log")
    axes.set_xlabel("time against the peer (log scale; red: the bar)")
    axes.tick_params(labelsize=7)
    figure.tight_layout()
    figure.savefig(target, metadata={"Date": None})


def main(source: str) -> None:
    rows = json.loads(Path(source).read_text())
    rounds = sorted({row["rounds"] for row in rows if "rounds" in row})
    text = HEAD.format(day=date.today().isoformat(), machine=_machine(), rounds=" or ".join(map(str, rounds)))
    text += "\n".join(map(_line, rows)) + "\n\n![ratios](performance.svg)\n"
    notes = DOCS / "performance-notes.md"
    if notes.exists():
        text += "\n" + notes.read_text()
    (DOCS / "performance.md").write_text(text)
    _plot(rows, DOCS / "performance.svg")


if __name__ == "__main__":
    main(sys.argv[1])
