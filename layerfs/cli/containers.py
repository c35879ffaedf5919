"""ps, rm, rename, diff, commit."""

from __future__ import annotations

from typing import Any

import click

from layerfs.cli import rows
from layerfs.cli.listing import PS, RM
from layerfs.cli.options import any_argument, container_argument, format_option
from layerfs.cli.output import out
from layerfs.cli.session import Session
from layerfs.cli.table import render
from layerfs.cli.verbs import verb, with_flags


@verb("ps")
@with_flags(PS.flags)
@click.pass_obj
def ps_command(session: Session, /, **options: Any) -> int | None:
    """List containers."""
    return PS.do(session, (), options)


@verb("rm")
@container_argument("names", nargs=-1, required=True, metavar="CONTAINER...")
@with_flags(RM.flags)
@click.pass_obj
def rm_command(session: Session, /, names: tuple[str, ...], **options: Any) -> int | None:
    """Remove containers."""
    return RM.do(session, names, options)


@verb("rename")
@container_argument()
@click.argument("name")
@click.pass_obj
def rename_command(session: Session, container: str, name: str) -> None:
    """Give a container another name."""
    session.store.container(container).rename(name)


@verb("diff")
@any_argument(metavar="CONTAINER|IMAGE|LAYER")
@any_argument("other", required=False, metavar="[IMAGE|LAYER]")
@format_option("json, table, or a Go template.")
@click.option("-s", "--size", is_flag=True, help="Show the sizes, old and new.")
@click.pass_obj
def diff_command(session: Session, name: str, other: str | None, format_: str | None, size: bool) -> None:
    """What a container changed (A added, C changed, D deleted), or what differs between two images or layers."""
    changes = session.store.diff(name, other) if other else session.store.container(name).diff()
    found = [rows.change_row(change) for change in changes]
    columns = {"CHANGE TYPE": "Kind", "PATH": "Path"} | ({"OLD SIZE": "OldSize", "NEW SIZE": "NewSize"} if size else {})
    plain = r"{{.Kind}} {{.Path}}" + (r"\t{{.OldSize}}\t{{.NewSize}}" if size else "")
    render(found, columns, format=format_ or plain)


@verb("bundle")
@container_argument()
@click.argument("directory", metavar="DIR")
@click.option("--mount/--no-mount", default=True, help="Mount its files at DIR/rootfs (the default).")
@click.pass_obj
def bundle_command(session: Session, container: str, directory: str, mount: bool) -> None:
    """Write a container as an OCI runtime bundle, for crun, runc and the like."""
    session.store.container(container).bundle(directory, mount=mount)


@verb("commit")
@container_argument()
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
    box = session.store.container(container)
    out(box.commit(reference, message=message, author=author, changes=changes, pause=pause).id)
