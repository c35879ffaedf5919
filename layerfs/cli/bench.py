"""bench."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from layerfs.cli.options import format_option
from layerfs.cli.progress import bars
from layerfs.cli.session import Session
from layerfs.cli.table import render
from layerfs.cli.verbs import verb
from layerfs.image.text import human_size

if TYPE_CHECKING:
    from layerfs.engine.bench import BenchRow

_COLUMNS = {"STEP": "Step", "TIME": "Time", "RATE": "Rate"}


@verb("bench")
@click.option(
    "--engine", type=click.Choice(["native", "kernel", "python"]), help="What mounts (default: the best one)."
)
@click.option("--files", type=click.IntRange(1), default=2000, help="Small files in the image (2000).")
@click.option("--size", metavar="SIZE", default="64m", help="Of its big file (64m).")
@click.option("--rounds", type=click.IntRange(1), default=3, help="Shown are medians of so many (3).")
@click.option("-q", "--quiet", is_flag=True, help="No bars.")
@format_option()
@click.pass_obj
def bench_command(
    session: Session, engine: str | None, files: int, size: str, rounds: int, quiet: bool, format_: str | None
) -> None:
    """Measure what images, mounts, files, commits and snapshots take on this machine and the store's disk.

    In a store of its own below the store's tmp/, which goes at the end.
    """
    with bars(quiet) as progress:
        rows = session.store.bench(engine=engine, files=files, size=size, rounds=rounds, progress=progress)
    render(map(_row, rows), _COLUMNS, format=format_)


def _row(row: BenchRow) -> dict[str, object]:
    rates = {"files": f"{row.rate:,.0f} files/s", "bytes": f"{human_size(row.rate)}/s"}
    return {
        "Step": row.step,
        "Time": _time(row.seconds),
        "Rate": rates.get(row.unit, ""),
        "Seconds": row.seconds,
        "Amount": row.amount,
        "Unit": row.unit,
    }


def _time(seconds: float) -> str:
    """`12.3s`, `4.56ms`, `78.9us`."""
    for unit, size in (("s", 1.0), ("ms", 1e-3)):
        if seconds >= size:
            return f"{seconds / size:.3g}{unit}"
    return f"{seconds * 1e6:.3g}us"
