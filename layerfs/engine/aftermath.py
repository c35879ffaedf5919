"""What a monitor becomes when its container has ended and no client cleans up: `aftermath PACKAGE STORE ID REASON`."""

from __future__ import annotations

import contextlib
import sys


def main() -> None:
    """`ended`: unmount, and remove where that was asked for. `again`: start it anew, on a new mount."""
    from layerfs.engine import Store
    from layerfs.engine.life import again, finish
    from layerfs.errors import ContainerNotFound

    _, _, path, id, reason = sys.argv
    with contextlib.suppress(ContainerNotFound), Store(path, create=False) as store:
        box = store.container(id)
        if reason == "again":
            again(box)
        else:
            finish(box)
