"""Writes docs/performance.md (tables) and docs/performance*.svg (plots) from the rows of a benchmark run: `make bench`.

Verdicts are computed from the figures here; the text around them is docs/performance-notes.md. A run of a selection
(PYTEST="-k …" or --quick) goes to build/ and leaves docs/ alone.
"""

from __future__ import annotations

import json
import math
import os
import platform
import statistics
import subprocess
import sys
from collections.abc import Iterable
from datetime import date
from pathlib import Path
from typing import Any

PROJECT = Path(__file__).resolve().parents[1]
OURS, OVERLAY, FUSE_OVERLAY = "layerfs", "overlayfs", "fuse-overlayfs"
JOBS, FUSE_BAR, JOBS_BAR = "Whole jobs", 1 / 3, 1.0
HEAD = """# Performance

Written by `make bench` on {day}: {machine}.
All systems of a row were measured in one run, in turns; times are medians of the rounds. In brackets: our time to the
peer's; below 1, layerfs is faster (another form of layerfs: its time to that of the first). *Bars* are what the project
promises, and whether this run met them. Machines are noisy: trust the ratios, and repeat them on yours.
"""

Row = dict[str, Any]


def _machine() -> str:
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    model = next((line.split(":")[1].strip() for line in lines if "model name" in line), platform.machine())
    done = subprocess.run(["findmnt", "-n", "-o", "FSTYPE", "-T", "."], capture_output=True, text=True, check=False)
    system = f"Linux {platform.release()}, {done.stdout.strip()}, Python {platform.python_version()}"
    return f"{os.cpu_count()} × {model}, {system}"


def _milliseconds(value: float) -> str:
    return f"{value:.0f} ms" if value >= 100 else f"{value:.3g} ms"


def _ratio(value: float) -> str:
    return f"{value:.2f}" if value >= 0.1 else f"{value:.2g}"


def _main_side(times: dict[str, float]) -> str:
    """Whose row it is: layerfs, in whatever form."""
    return next(name for name in times if name.startswith(OURS))


def _figure(row: Row) -> str:
    return f"{row['value']:.3g} {row['unit']}" + (f" ({row['peer']})" if row["peer"] else "")


def _cell(row: Row, side: str) -> str:
    times = row["times_ms"]
    if side not in times:
        return ""
    ours = times[_main_side(times)]
    if side == _main_side(times):
        return _milliseconds(ours)
    ratio = times[side] / ours if side.startswith(OURS) else ours / times[side]
    return f"{_milliseconds(times[side])} ({_ratio(ratio)})"


def times_text(row: Row) -> str:
    """A row's figures in one line."""
    if "value" in row:
        return _figure(row)
    return ", ".join(f"{side} {_cell(row, side)}" for side in row["times_ms"])


def verdicts(row: Row) -> list[tuple[str, float, bool]]:
    """(what is promised, the figure, whether it was met)."""
    if "value" in row:
        value = row["value"]
        return [] if row["bar"] is None else [(f"≤ {row['bar']:.3g} {row['unit']}", value, value <= row["bar"])]
    found = []
    for side, base, bar in row["bars"]:
        ratio = row["times_ms"][side] / row["times_ms"][base]
        name = base if side == _main_side(row["times_ms"]) else f"{base} ({side})"
        found.append((f"≤ {bar:.3g} × {name}", ratio, ratio <= bar))
    return found


def bars_text(row: Row) -> str:
    return "; ".join(
        f"{text}: " + ("met" if met else f"**not met** ({_ratio(value)})") for text, value, met in verdicts(row)
    )


def geometric_means(rows: Iterable[Row]) -> list[Row]:
    """The promises about everything at once, as rows."""
    rows = [row for row in rows if {OURS} <= set(row.get("times_ms", ()))]

    def mean(what: str, base: str, bar: float | None, group: str = "") -> Iterable[Row]:
        ratios = [
            row["times_ms"][OURS] / row["times_ms"][base]
            for row in rows
            if base in row["times_ms"] and row["group"].startswith(group)
        ]
        if ratios:
            value = statistics.geometric_mean(ratios)
            what = f"{what}: layerfs against {base}, {len(ratios)} rows"
            yield {"group": "", "what": what, "value": value, "unit": "×", "bar": bar, "peer": ""}

    return [
        *mean("whole jobs", OVERLAY, JOBS_BAR, JOBS),
        *mean("everything above", OVERLAY, None),
        *mean("everything above", FUSE_OVERLAY, FUSE_BAR),
    ]


def _table(rows: list[Row]) -> str:
    timed = [row for row in rows if "times_ms" in row]
    sides = list(dict.fromkeys(side for row in timed for side in row["times_ms"]))
    head = ["what", *(sides or ["figure"]), "bars"]
    lines = [f"| {' | '.join(head)} |", "|" + "---|" * len(head)]
    for row in rows:
        cells = [_cell(row, side) for side in sides] if "times_ms" in row else [_figure(row), *[""] * (len(sides) - 1)]
        lines.append(f"| {' | '.join([row['what'], *cells, bars_text(row)])} |")
    return "\n".join(lines)


def _summary(rows: list[Row], failed: list[dict[str, str]]) -> str:
    judged = [(row, text, value, met) for row in rows for text, value, met in verdicts(row)]
    missed = [f"* {row['what']}: {text}, is {_ratio(value)}" for row, text, value, met in judged if not met]
    text = f"{len(judged) - len(missed)} of {len(judged)} bars were met."
    if missed:
        text += " Not met (why: see the notes below):\n\n" + "\n".join(missed)
    if failed:
        text += "\n\nNot measured, because the benchmark failed:\n\n"
        text += "\n".join(f"* {one['what']}: {one['error']}" for one in failed)
    return text


def render(results: dict[str, Any], notes: str, plots: list[str]) -> str:
    rows = results["rows"]
    parts = [HEAD.format(day=date.today().isoformat(), machine=_machine())]
    means = geometric_means(rows)
    parts.append(_summary([*rows, *means], results["failed"]))
    groups = dict.fromkeys(row["group"] for row in rows)
    parts += [f"## {group}\n\n" + _table([row for row in rows if row["group"] == group]) for group in groups]
    if means:
        parts.append("## Geometric means\n\n" + _table(means))
    parts += [f"![time against {name}]({name})" for name in plots]
    return "\n\n".join([*parts, notes.strip()]).strip() + "\n"


def _plot(rows: list[Row], base: str, target: Path) -> None:
    """Ratios to one peer; red: the bar."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    matplotlib.rcParams["svg.hashsalt"] = "layerfs"  # the same figures give the same file
    figure, axes = pyplot.subplots(figsize=(9, 1 + 0.28 * len(rows)))
    ratios = [row["times_ms"][_main_side(row["times_ms"])] / row["times_ms"][base] for row in rows]
    colors = ["#4477aa" if ratio <= 1 else "#cc6677" for ratio in ratios]
    axes.barh([row["what"] for row in rows], [ratio - 1 for ratio in ratios], left=1, color=colors)
    for number, row in enumerate(rows):
        for _, other, bar in row["bars"]:
            if other == base:
                axes.plot([bar] * 2, [number - 0.4, number + 0.4], color="#cc3311", linewidth=2)
    axes.axvline(1, color="black", linewidth=0.8)
    axes.set_xscale("log")
    low, high = min([*ratios, 0.5]), max([*ratios, 2])
    axes.set_xlim(10 ** math.floor(math.log10(low)), 10 ** math.ceil(math.log10(high)))
    axes.set_xlabel(f"layerfs's time against {base} (log scale; red lines: bars)")
    axes.tick_params(labelsize=7)
    figure.tight_layout()
    figure.savefig(target, metadata={"Date": None})
    pyplot.close(figure)


def write_plots(rows: list[Row], folder: Path) -> list[str]:
    made = []
    for base, name in ((OVERLAY, "performance.svg"), (FUSE_OVERLAY, "performance-fuse-overlayfs.svg")):
        some = [row for row in rows if base in row.get("times_ms", ())][::-1]
        if some:
            made.append(name)
            _plot(some, base, folder / name)
    return made


def main(source: str) -> None:
    results = json.loads(Path(source).read_text())
    folder = PROJECT / ("docs" if results["complete"] else "build")
    notes = PROJECT / "docs/performance-notes.md"
    plots = write_plots(results["rows"], folder)
    text = render(results, notes.read_text() if notes.exists() else "", plots)
    (folder / "performance.md").write_text(text)
    print(f"written: {folder / 'performance.md'}")


if __name__ == "__main__":
    main(sys.argv[1])
