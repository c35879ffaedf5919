"""completion: the shell's script, made by click."""

from __future__ import annotations

import click
from click.shell_completion import get_completion_class

from layerfs.cli.app import cli
from layerfs.cli.output import out
from layerfs.cli.verbs import verb


@verb("completion")
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
def completion_command(shell: str) -> None:
    """Print the completion script of a shell: eval "$(layerfs completion bash)"."""
    found = get_completion_class(shell)
    assert found is not None  # the three shells above are click's own
    out(found(cli, {}, "layerfs", "_LAYERFS_COMPLETE").source())
