"""Progress on a terminal: one bar for each layer or step; nothing in a pipe."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable


@contextmanager
def bars(quiet: bool = False) -> Iterator[Callable[[Any], None] | None]:
    """A callback for `progress=` that draws bars on stderr, or None where stderr is no terminal.

    The records have `kind`, `id`, `current` and `total` (bytes; 0 when unknown).
    """
    if quiet or not sys.stderr.isatty():
        yield None
        return
    from rich.console import Console
    from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn, TransferSpeedColumn

    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        DownloadColumn(),
        TransferSpeedColumn(),
        TimeRemainingColumn(compact=True),
    )
    with Progress(*columns, console=Console(stderr=True), transient=True) as display:
        tasks: dict[tuple[str, str], Any] = {}

        def show(record: Any) -> None:
            key = (str(record.kind), str(record.id))
            if key not in tasks:
                tasks[key] = display.add_task(f"{key[1][:12]}: {key[0]}", total=record.total or None)
            display.update(tasks[key], completed=record.current, total=record.total or None)

        yield show
