"""debug uring: the host's switch of FUSE over io_uring."""

from __future__ import annotations

import click

from layerfs.cli.output import out
from layerfs.engine.uring import switch_uring, uring_is_on


@click.command("uring")
@click.argument("state", type=click.Choice(["on", "off"]), required=False)
def uring_command(state: str | None) -> None:
    """Say whether this host allows FUSE over io_uring, or switch it (root).

    It makes the native engine's round trips shorter. The switch is one of the whole host, for every FUSE mount that
    anybody makes from then on, until the host restarts: it lets FUSE servers, those of ordinary users too, use a young
    part of the kernel. layerfs never sets it by itself.
    """
    if state is not None:
        switch_uring(state == "on")
    out("on" if uring_is_on() else "off")
