"""Progress on a terminal: one bar for each layer or step; nothing in a pipe."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager

from layerfs._lazy import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any


_PULLING = {  # docker's words
    "wait": "Waiting",
    "download": "Downloading",
    "downloaded": "Download complete",
    "read": "Extracting",
}
_SENDING = {"write": "Writing", "push": "Pushing", "copy": "Copying"}
_ROOM = 72  # columns for a name, some bar, sizes, rate and time
_OVER = ("exists", "done")


@contextmanager
def bars(quiet: bool = False) -> Iterator[Callable[[Any], None] | None]:
    """A callback for `progress=` that draws bars on stderr, or None where stderr is no terminal.

    The records have `kind`, `id`, `current` and `total` (bytes; 0 when unknown).
    """
    with _display(quiet) as display:
        if display is None:
            yield None
            return
        tasks: dict[tuple[str, str], Any] = {}

        def show(record: Any) -> None:
            key = (str(record.kind), str(record.id))
            if key not in tasks:
                name = key[1].removeprefix("sha256:")[:12]
                tasks[key] = display.add_task(f"{name}: {_SENDING.get(key[0], key[0])}", total=record.total or None)
            display.update(tasks[key], completed=record.current, total=record.total or None)

        yield show


@contextmanager
def blob_bars(quiet: bool = False) -> Iterator[Callable[[Any], None]]:
    """As `bars`, for a pull: one bar a blob, first of its download, then of its unpacking, until that is over."""
    with _display(quiet) as display:
        tasks: dict[str, Any] = {}
        downloading: set[str] = set()

        def show(record: Any) -> None:
            if display is None:
                return
            name = str(record.id).removeprefix("sha256:")[:12]
            if record.kind in _OVER:
                if name in tasks:
                    display.update(tasks[name], visible=False)
                return
            if record.kind == "download":
                downloading.add(name)
            elif record.kind == "downloaded":
                downloading.discard(name)
                if name in tasks:  # rate and time left are those of unpacking from here on
                    display.reset(tasks[name], description=f"{name}: {_PULLING['downloaded']}")
                    return
            elif name in downloading:
                return
            text = f"{name}: {_PULLING.get(record.kind, record.kind)}"
            if name not in tasks:
                tasks[name] = display.add_task(text, total=record.total or None)
            display.update(tasks[name], description=text, completed=record.current, total=record.total or None)

        yield show


@contextmanager
def _display(quiet: bool) -> Iterator[Any]:
    """Bars on stderr; None where nobody would see them."""
    if quiet or not sys.stderr.isatty():
        yield None
        return
    from rich.console import Console
    from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn, TransferSpeedColumn

    console = Console(stderr=True)
    columns = [TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TransferSpeedColumn()]
    columns.append(TimeRemainingColumn(compact=True))
    if console.width < _ROOM:  # what does not fit would be cut to dots
        columns[1:] = [TextColumn("{task.percentage:>3.0f}%")]
    # rich would print what goes to stdout on stderr, above the bars: good only where both are the terminal
    redirect = sys.stdout.isatty()
    with Progress(*columns, console=console, transient=True, redirect_stdout=redirect) as display:
        yield display
