"""debug: trees, mounts, and what the servers of mounts have counted."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterable, Mapping
from typing import Any

import click

from layerfs.cli import rows
from layerfs.cli.gotypes import to_json
from layerfs.cli.options import container_argument, format_option, image_argument
from layerfs.cli.output import out
from layerfs.cli.session import Session
from layerfs.cli.table import render, table
from layerfs.cli.uring import uring_command
from layerfs.cli.verbs import Group
from layerfs.image.text import human_duration, human_size

_MOUNTS = {
    "ID": "ShortID",
    "TARGET": "Target",
    "ENGINE": "Engine",
    "SOURCE": "Source",
    "MODE": "Mode",
    "OPTIONS": "Options",
    "PID": "Pid",
    "SINCE": "Since",
    "STATE": "State",
}


@click.group("debug", cls=Group)
def debug_command() -> None:
    """Look inside the store."""


debug_command.add_command(uring_command)


@debug_command.command("tree")
@image_argument("name", metavar="IMAGE|DIFF_ID")
@click.pass_obj
def _tree(session: Session, name: str) -> None:
    """Print a tree, one line an entry (docs/format.md)."""
    for line in session.store.tree_text(name):
        out(line)


@debug_command.command("mounts")
@format_option()
@click.pass_obj
def _mounts(session: Session, format_: str | None) -> None:
    """List the mounts of this store, dead ones too, with their engine and server."""
    render(rows.mount_rows(session.store, dead=True), _MOUNTS, format=format_)


@debug_command.command("stats")
@container_argument("name", required=False, metavar="[MOUNT|CONTAINER|DIR]")
@click.option("--format", "format_", type=click.Choice(["table", "json"]), default="table", help="Or JSON, one a line.")
@click.option(
    "--watch",
    "seconds",
    is_flag=False,
    flag_value=1.0,
    type=click.FloatRange(min=0.1),
    metavar="[SECONDS]",
    help="Again and again (every second).",
)
@click.pass_obj
def _stats(session: Session, name: str | None, format_: str, seconds: float | None) -> None:
    """Show what the servers of native mounts have counted: requests, latencies, copy-ups, memory.

    With --watch again and again, until Ctrl-C.
    """
    while True:
        found = session.store.mount_stats(name)
        if seconds is not None and sys.stdout.isatty():
            click.clear()
        for stats in found:
            out(to_json(stats) if format_ == "json" else stats_text(stats))
        if seconds is None:
            return
        sys.stdout.flush()
        time.sleep(seconds)


def stats_text(stats: Mapping[str, Any]) -> str:
    """One mount's counters for people."""
    head = f"{stats['target']}  ({stats['id'][:12]}, pid {stats['pid']}, {human_duration(stats['seconds'])})"
    headings = ["REQUEST", "COUNT", "ERRORS", "P50", "P99", "TOTAL"]
    found = sorted(stats["requests"].items(), key=lambda item: -item[1]["nanoseconds"])
    cells = [
        [name, str(row["count"]), str(row["errors"]), *map(_time, (row["p50"], row["p99"], row["nanoseconds"]))]
        for name, row in found
    ]
    return "\n".join([head, "", table(headings, cells), "", *_counters(stats)]) + "\n"


def _counters(stats: Mapping[str, Any]) -> Iterable[str]:
    counters = {name.replace("_", " "): _amount(name, value) for name, value in stats["counters"].items()}
    kept = {
        "memory": human_size(stats["memory"]),
        "descriptors": str(stats["descriptors"]),
        "nodes": str(stats["nodes"]),
        "names": str(stats["names"]),
        "open files": str(stats["open_files"]),
        "transport": stats["transport"],
        "features": " ".join(name for name, on in stats["features"].items() if on) or "none",
    }
    width = max(map(len, counters | kept)) + 2
    for name, value in (counters | kept).items():
        yield f"{name:{width}}{value}"


def _amount(name: str, value: int) -> str:
    return human_size(value) if "bytes" in name else str(value)


def _time(nanoseconds: int) -> str:
    """`12us`, `3.4ms`, `1.2s`; latencies are the ends of the buckets they were counted in."""
    for unit, size in (("s", 1_000_000_000), ("ms", 1_000_000), ("us", 1000)):
        if nanoseconds >= size:
            return f"{nanoseconds / size:.3g}{unit}"
    return f"{nanoseconds}ns"
