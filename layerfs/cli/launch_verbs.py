"""create and run, for click: what they do is in `launch`."""

from __future__ import annotations

from typing import Any

import click

from layerfs.cli import launch
from layerfs.cli.options import image_argument
from layerfs.cli.session import Session
from layerfs.cli.verbs import verb, with_flags

_ARGUMENTS = {"allow_interspersed_args": False, "help_option_names": ["--help"]}


@verb("create", context_settings=_ARGUMENTS)
@with_flags(launch.OPTIONS)
@image_argument()
@click.argument("command", nargs=-1, type=click.UNPROCESSED, metavar="[COMMAND] [ARG...]")
@click.pass_obj
def create_command(session: Session, /, image: str, command: tuple[str, ...], **options: Any) -> int:
    """Make a container of an image: a writable layer and a record."""
    return launch.create(session, image, command, options)


@verb("run", context_settings=_ARGUMENTS)
@with_flags(launch.RUN_OPTIONS)
@image_argument()
@click.argument("command", nargs=-1, type=click.UNPROCESSED, metavar="[COMMAND] [ARG...]")
@click.pass_obj
def run_command(session: Session, /, image: str, command: tuple[str, ...], **options: Any) -> int:
    """Run a program in a new container; its exit code is ours."""
    return launch.run(session, image, command, options)
