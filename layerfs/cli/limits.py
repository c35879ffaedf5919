"""update, pause, unpause, stats: what containers may use and do use."""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import click

from layerfs.cli.launch_limits import LIMITS, given
from layerfs.cli.options import container_argument, format_option, no_trunc_option
from layerfs.cli.output import fail, for_each, out
from layerfs.cli.session import Session
from layerfs.cli.table import render
from layerfs.cli.verbs import verb, with_flags
from layerfs.errors import ContainerNotFound
from layerfs.image.text import human_size

if TYPE_CHECKING:
    from layerfs.engine import Container
    from layerfs.engine.stats import Stats

_STATS_COLUMNS = {
    "CONTAINER ID": "ID",
    "NAME": "Name",
    "CPU %": "CPUPerc",
    "MEM USAGE / LIMIT": "MemUsage",
    "MEM %": "MemPerc",
    "NET I/O": "NetIO",
    "BLOCK I/O": "BlockIO",
    "PIDS": "PIDs",
}
_INTERVAL = 1.0


@verb("update")
@with_flags(LIMITS)
@click.option("--restart", metavar="POLICY", help="no, on-failure[:N], always, unless-stopped.")
@container_argument("names", nargs=-1, required=True, metavar="CONTAINER...")
@click.pass_obj
def update_command(session: Session, /, names: tuple[str, ...], restart: str | None, **limits: Any) -> int:
    """Change the limits and restart policies of containers, also of running ones."""
    wanted = given(limits)
    if limits.get("pids_limit") is not None:
        wanted["pids_limit"] = limits["pids_limit"]
    if restart is None and all(value is None for value in limits.values()):
        return fail("you must provide one or more flags when using this command")

    def update(name: str) -> None:
        box = session.store.container(name)
        if restart is not None:
            box.set_restart(restart)
        if wanted:
            box.update(**wanted)
        out(name)

    return for_each(names, update)


@verb("pause")
@container_argument("names", nargs=-1, required=True, metavar="CONTAINER...")
@click.pass_obj
def pause_command(session: Session, names: tuple[str, ...]) -> int:
    """Stop all processes of containers until `unpause`."""

    def pause(name: str) -> None:
        session.store.container(name).pause()
        out(name)

    return for_each(names, pause)


@verb("unpause")
@container_argument("names", nargs=-1, required=True, metavar="CONTAINER...")
@click.pass_obj
def unpause_command(session: Session, names: tuple[str, ...]) -> int:
    """Let the processes of paused containers go on."""

    def unpause(name: str) -> None:
        session.store.container(name).unpause()
        out(name)

    return for_each(names, unpause)


@verb("stats")
@container_argument("names", nargs=-1, metavar="[CONTAINER...]")
@click.option("-a", "--all", "show_all", is_flag=True, help="Stopped ones too.")
@click.option("--no-stream", is_flag=True, help="Once, and end.")
@no_trunc_option()
@format_option()
@click.pass_obj
def stats_command(
    session: Session, names: tuple[str, ...], show_all: bool, no_stream: bool, no_trunc: bool, format_: str | None
) -> None:
    """What containers use: processors, memory, network, disks, processes."""
    before = _measure(_chosen(session, names, show_all))
    while True:
        time.sleep(_INTERVAL)
        now = _measure(_chosen(session, names, show_all))
        rows = [_row(stats, before.get(stats.id, stats), no_trunc) for stats in now.values()]
        if not no_stream and sys.stdout.isatty():
            out("\x1b[2J\x1b[H")
        render(rows, _STATS_COLUMNS, format=format_)
        sys.stdout.flush()
        if no_stream:
            return
        before = now


def _chosen(session: Session, names: Sequence[str], show_all: bool) -> list[Container]:
    if names:
        return [session.store.container(name) for name in names]
    return session.store.containers(all=show_all)


def _measure(boxes: Sequence[Container]) -> dict[str, Stats]:
    found = {}
    for box in boxes:
        try:
            found[box.id] = box.stats()
        except ContainerNotFound:  # removed meanwhile
            continue
    return found


def _row(stats: Stats, before: Stats, no_trunc: bool) -> dict[str, Any]:
    identity = stats.id if no_trunc else stats.id[:12]
    return {
        "Container": identity,
        "ID": identity,
        "Name": stats.name,
        "CPUPerc": f"{stats.cpu_percent(before):.2f}%",
        "MemUsage": f"{_binary(stats.memory)} / {_binary(stats.memory_limit)}",
        "MemPerc": f"{stats.memory_percent:.2f}%",
        "NetIO": f"{human_size(stats.net_in)} / {human_size(stats.net_out)}",
        "BlockIO": f"{human_size(stats.read_bytes)} / {human_size(stats.write_bytes)}",
        "PIDs": str(stats.pids),
    }


def _binary(size: float) -> str:
    """docker's other way of sizes: `1.5MiB`, four digits."""
    unit = 0
    while size >= 1024 and unit < 5:
        size, unit = size / 1024, unit + 1
    return f"{size:.4g}{('B', 'KiB', 'MiB', 'GiB', 'TiB', 'PiB')[unit]}"
