"""Bars: what they say of a blob that is downloaded, then unpacked."""

from __future__ import annotations

import contextlib
import io
from collections.abc import Iterator

import pytest
from rich.console import Console
from rich.progress import Progress as Display

from layerfs.cli import progress
from layerfs.layer.progress import Progress


@pytest.fixture
def display(monkeypatch: pytest.MonkeyPatch) -> Iterator[Display]:

    with Display(
        console=Console(file=io.StringIO(), force_terminal=True), get_time=iter(range(1000)).__next__
    ) as shown:
        monkeypatch.setattr(progress, "_display", lambda quiet: contextlib.nullcontext(shown))
        yield shown


def test_the_time_left_of_unpacking_is_not_that_of_the_download(display: Display) -> None:
    with progress.blob_bars() as show:
        for kind, current in (("download", 0), ("download", 100), ("downloaded", 100), ("read", 10), ("read", 20)):
            show(Progress(kind, "sha256:ab", current, 100))
        (task,) = display.tasks
        assert (task.description, task.completed, task.finished) == ("ab: Extracting", 20, False)
        assert task.time_remaining
        show(Progress("done", "sha256:ab", 100, 100))
        assert not task.visible
