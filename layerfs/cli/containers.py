"""ps, rm, rename, diff, commit."""

from __future__ import annotations

import click

from layerfs.cli import rows
from layerfs.cli.options import (
    any_argument,
    container_argument,
    filter_option,
    format_option,
    no_trunc_option,
    quiet_option,
)
from layerfs.cli.output import fail, for_each, out
from layerfs.cli.session import Session
from layerfs.cli.table import render
from layerfs.cli.verbs import verb
from layerfs.errors import ContainerNotFound, InvalidInput

_PS_COLUMNS = {
    "CONTAINER ID": "ID",
    "IMAGE": "Image",
    "COMMAND": "Command",
    "CREATED": "RunningFor",
    "STATUS": "Status",
    "PORTS": "Ports",
    "NAMES": "Names",
}


@verb("ps")
@click.option("-a", "--all", "show_all", is_flag=True, help="Stopped ones too.")
@quiet_option()
@click.option("-l", "--latest", is_flag=True, help="Only the last one made.")
@click.option("-n", "--last", type=int, default=-1, metavar="N", help="Only the last N made.")
@click.option("-s", "--size", is_flag=True, help="Sizes of the writable layers.")
@filter_option("id name label exited status ancestor before since volume network publish expose health")
@no_trunc_option()
@format_option()
@click.pass_obj
def ps_command(
    session: Session,
    show_all: bool,
    quiet: bool,
    latest: bool,
    last: int,
    size: bool,
    filters: dict[str, list[str]],
    no_trunc: bool,
    format_: str | None,
) -> None:
    """List containers."""
    count = 1 if latest else last
    boxes = session.store.containers(all=show_all or count > 0 or "status" in filters, filters=filters)
    boxes = boxes[:count] if count > 0 else boxes
    columns = _PS_COLUMNS | ({"SIZE": "Size"} if size else {})
    wanted = size or (format_ is not None and ".Size" in format_)
    found = rows.container_rows(boxes, truncate=not no_trunc, size=wanted)
    render(found, columns, format=format_, quiet="ID" if quiet else None)


@verb("rm")
@container_argument("names", nargs=-1, required=True, metavar="CONTAINER...")
@click.option("-f", "--force", is_flag=True, help="Kill it first when it runs.")
@click.option("-v", "--volumes", is_flag=True, help="Also its anonymous volumes.")
@click.option("-l", "--link", is_flag=True, help="docker's old links: there are none here.")
@click.pass_obj
def rm_command(session: Session, names: tuple[str, ...], force: bool, volumes: bool, link: bool) -> int:
    """Remove containers."""
    if link:
        raise InvalidInput("there are no links between containers: they find each other on a network by their names")

    def remove(name: str) -> None:
        try:
            session.store.container(name).remove(force=force, volumes=volumes)
        except ContainerNotFound as error:
            if not force:
                raise
            fail(str(error))  # docker's exit code is 0 then
        else:
            out(name)

    return for_each(names, remove)


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
    out(box.commit(reference, message=message, author=author, changes=changes).id)
