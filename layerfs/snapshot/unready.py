"""What is left to do when a server does not come to serve its mount."""

from __future__ import annotations

import contextlib
import signal
from pathlib import Path

from layerfs import mount
from layerfs._lazy import TYPE_CHECKING
from layerfs.errors import LayerfsError

if TYPE_CHECKING:
    from layerfs.snapshot.process import Process

__all__ = ["give_up"]

_SECONDS = 5  # for a server that was asked to end, or that has said why it ends


def give_up(process: Process, target: Path, *, silent: bool) -> None:
    """The server ends, or is ended; nothing stays mounted at `target`. `silent`: it has not said that it ends."""
    if silent:
        process.send(signal.SIGTERM)
    if not process.ended(_SECONDS):
        process.send(signal.SIGKILL)
        process.ended(_SECONDS)
    with contextlib.suppress(LayerfsError):
        mount.detach(target, lazy=True)
