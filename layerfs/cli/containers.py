"""create, run, ps, rm, rename, diff, commit."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

from layerfs.cli import rows
from layerfs.cli.app import Session, fail
from layerfs.cli.images import filters_of
from layerfs.cli.mounts import ENGINES
from layerfs.cli.table import render
from layerfs.errors import InvalidInput, LayerfsError


def _env_file(path: str) -> list[str]:
    """`K=V` lines of a file; `#` starts a comment line; a bare name takes its value from our environment (docker's
    rules).

    Raises:
        InvalidInput: for a name with white space, or a file that cannot be read.
    """
    result = []
    try:
        lines = Path(path).read_text().splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise InvalidInput(f"cannot read the env file: {error}") from None
    for line in lines:
        text = line.lstrip()
        if text and not text.startswith("#"):
            if any(c.isspace() for c in text.partition("=")[0]):
                raise InvalidInput(
                    f"poorly formatted environment: variable '{text.partition('=')[0]}' contains whitespaces", path=path
                )
            result.append(text)
    return result


def _environment(env: tuple[str, ...], env_files: tuple[str, ...]) -> list[str]:
    """`-e A` without a value takes ours, and is left out where we have none."""
    pairs = [line for path in env_files for line in _env_file(path)] + list(env)
    return [p if "=" in p else f"{p}={os.environ[p]}" for p in pairs if "=" in p or p in os.environ]


_OPTIONS: list[Callable[[Any], Any]] = [
    click.option("--name", help="Name of the container."),
    click.option("-e", "--env", multiple=True, help="Set an environment variable."),
    click.option("--env-file", multiple=True, help="Read environment variables from a file."),
    click.option("-w", "--workdir", help="Working directory in the container."),
    click.option("-u", "--user", help="name|uid[:group|gid]"),
    click.option("-h", "--hostname", help="Host name in the container."),
    click.option(
        "--network", type=click.Choice(["none", "host"]), default="none", help="none (default): loopback only; host."
    ),
    click.option("--entrypoint", help="Replace the image's ENTRYPOINT."),
    click.option("-l", "--label", multiple=True, help="Set a label."),
    click.option("-v", "--volume", multiple=True, metavar="SRC:DST[:ro]", help="Bind mount a host path."),
    click.option("--tmpfs", multiple=True, metavar="DST[:OPTIONS]", help="Mount a tmpfs."),
    click.option("--read-only", is_flag=True, help="Mount the root file system read-only."),
    click.option("--privileged", is_flag=True, help="All capabilities, no masks."),
    click.option("--cap-add", multiple=True, help="Add a capability."),
    click.option("--cap-drop", multiple=True, help="Drop a capability."),
    click.option("--security-opt", multiple=True, help="no-new-privileges"),
    click.option("--stop-signal", help="Signal that stops the container."),
    click.option("--engine", type=click.Choice(ENGINES), help="Mount engine; default: the best one here."),
]


def _container_options(function: Any) -> Any:
    for option in reversed(_OPTIONS):
        function = option(function)
    return function


def _settings(options: dict[str, Any], command: tuple[str, ...]) -> dict[str, Any]:
    """What `Store.create` takes, from the command line's options."""
    no_new_privileges = False
    for value in options.pop("security_opt"):
        if value not in ("no-new-privileges", "no-new-privileges:true", "no-new-privileges=true"):
            raise InvalidInput(f"--security-opt {value} is not supported")
        no_new_privileges = True
    options["env"] = _environment(options.pop("env"), options.pop("env_file"))
    options["labels"] = dict(label.partition("=")[::2] for label in options.pop("label"))
    options["volumes"] = options.pop("volume")
    return options | {"command": list(command) or None, "no_new_privileges": no_new_privileges}


_ARGUMENTS = {"allow_interspersed_args": False, "help_option_names": ["--help"]}


@click.command("create", context_settings=_ARGUMENTS)
@_container_options
@click.argument("image")
@click.argument("command", nargs=-1, type=click.UNPROCESSED)
@click.pass_obj
def create_command(session: Session, /, image: str, command: tuple[str, ...], **options: Any) -> int | None:
    """Make a container of an image: a writable layer and a record."""
    try:
        click.echo(session.store.create(image, **_settings(options, command)).id)
    except LayerfsError as error:
        return fail(str(error), 125)
    return None


@click.command("run", context_settings=_ARGUMENTS)
@_container_options
@click.option("--rm", "remove", is_flag=True, help="Remove the container when its program ends.")
@click.option("-i", "--interactive", is_flag=True, help="Keep standard input open.")
@click.argument("image")
@click.argument("command", nargs=-1, type=click.UNPROCESSED)
@click.pass_obj
def run_command(
    session: Session, /, image: str, command: tuple[str, ...], remove: bool, interactive: bool, **options: Any
) -> int:
    """Run a program in a new container; its exit code is ours."""
    try:
        box = session.store.create(image, **_settings(options, command))
    except LayerfsError as error:
        return fail(str(error), 125)
    sys.stdout.flush()
    try:
        done = box.run(stdin=0 if interactive else None, stdout=None, stderr=None, forward_signals=True)
        return done.returncode
    except LayerfsError as error:
        return fail(str(error), error.exit_code if error.exit_code != 1 else 125)
    finally:
        if remove:
            box.remove(force=True)


@click.command("ps")
@click.option("-a", "--all", "show_all", is_flag=True, help="Stopped ones too.")
@click.option("-q", "--quiet", is_flag=True, help="Only IDs.")
@click.option("-l", "--latest", is_flag=True, help="Only the last one made.")
@click.option("-n", "--last", type=int, default=-1, help="Only the last N made.")
@click.option("-s", "--size", is_flag=True, help="Sizes of the writable layers.")
@click.option(
    "-f", "--filter", "filters", multiple=True, help="id, name, label, exited, status, ancestor, before, since."
)
@click.option("--no-trunc", is_flag=True, help="Do not cut texts.")
@click.option("--format", "format_", help="json, table, or a Go template.")
@click.pass_obj
def ps_command(
    session: Session,
    show_all: bool,
    quiet: bool,
    latest: bool,
    last: int,
    size: bool,
    filters: tuple[str, ...],
    no_trunc: bool,
    format_: str | None,
) -> None:
    """List containers."""
    wanted = filters_of(filters)
    count = 1 if latest else last
    everything = show_all or count > 0 or "status" in wanted or "exited" in wanted
    boxes = session.store.containers(all=everything, filters=wanted)
    boxes = boxes[:count] if count > 0 else boxes
    columns = [
        ("CONTAINER ID", "ID"),
        ("IMAGE", "Image"),
        ("COMMAND", "Command"),
        ("CREATED", "RunningFor"),
        ("STATUS", "Status"),
    ]
    columns += [("PORTS", "Ports"), ("NAMES", "Names")] + ([("SIZE", "Size")] if size else [])
    found = rows.container_rows(boxes, truncate=not no_trunc, size=size)
    render(found, columns, format=format_, quiet="ID" if quiet else None, echo=click.echo)


@click.command("rm")
@click.argument("names", nargs=-1, required=True, metavar="CONTAINER...")
@click.option("-f", "--force", is_flag=True, help="Kill it first when it runs.")
@click.option("-v", "--volumes", is_flag=True, help="Also its anonymous volumes.")
@click.pass_obj
def rm_command(session: Session, names: tuple[str, ...], force: bool, volumes: bool) -> int:
    """Remove containers."""
    code = 0
    for name in names:
        try:
            session.store.container(name).remove(force=force)
            click.echo(name)
        except LayerfsError as error:
            missing = "No such container" in str(error)
            failed = fail(str(error))
            code = code if force and missing else failed
    return code


@click.command("rename")
@click.argument("container")
@click.argument("name")
@click.pass_obj
def rename_command(session: Session, container: str, name: str) -> None:
    """Give a container another name."""
    session.store.container(container).rename(name)


@click.command("diff")
@click.argument("name", metavar="CONTAINER|IMAGE|LAYER")
@click.argument("other", required=False, metavar="[IMAGE|LAYER]")
@click.option("--format", "format_", help="json, or a Go template.")
@click.option("-s", "--size", is_flag=True, help="Show the sizes.")
@click.pass_obj
def diff_command(session: Session, name: str, other: str | None, format_: str | None, size: bool) -> None:
    """What a container changed (A added, C changed, D deleted), or what differs between two images or layers."""
    changes = session.store.diff(name, other) if other else session.store.container(name).diff()
    found = [rows.change_row(change) for change in changes]
    if format_ == "json":
        click.echo(json.dumps(found, ensure_ascii=False))
        return
    if format_:
        render(found, [], format=format_, quiet=None, echo=click.echo)
        return
    for row in found:
        sizes = f"\t{row['OldSize']}\t{row['NewSize']}" if size else ""
        click.echo(f"{row['Kind']} {row['Path']}{sizes}")


@click.command("commit")
@click.argument("container")
@click.argument("reference", required=False, metavar="[REPOSITORY[:TAG]]")
@click.option("-m", "--message", default="", help="Comment for the history.")
@click.option("-a", "--author", default="", help='Author ("Name <mail>").')
@click.option("-c", "--change", "changes", multiple=True, help="A Dockerfile instruction for the config.")
@click.option("-p", "--pause/--no-pause", default=True, help="Pause the container meanwhile (the default).")
@click.pass_obj
def commit_command(
    session: Session,
    container: str,
    reference: str | None,
    message: str,
    author: str,
    changes: tuple[str, ...],
    pause: bool,
) -> None:
    """Make an image of a container's changes."""
    image = session.store.container(container).commit(reference, message=message, author=author, changes=changes)
    click.echo(image.id)
