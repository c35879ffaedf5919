"""images, history, inspect, tag, rmi."""

from __future__ import annotations

from typing import Any

import click

from layerfs.cli.listing import CONTAINER_INSPECT, IMAGE_INSPECT, INSPECT, inspect
from layerfs.cli.options import (
    any_argument,
    container_argument,
    filter_option,
    format_option,
    image_argument,
    no_trunc_option,
    quiet_option,
)
from layerfs.cli.output import for_each, out
from layerfs.cli.rows import history_rows, image_rows
from layerfs.cli.session import Session
from layerfs.cli.table import render
from layerfs.cli.verbs import verb, with_flags
from layerfs.errors import InvalidInput

_platform = click.option("--platform", metavar="OS/ARCH[/VARIANT]", help="An error unless the image is of this one.")


@verb("images")
@image_argument("repository", required=False, metavar="[REPOSITORY[:TAG]]")
@click.option("-a", "--all", "show_all", is_flag=True, help="Show intermediate images too.")
@quiet_option("Only image IDs.")
@filter_option("dangling, label, before, since, until, reference")
@click.option("--digests", is_flag=True, help="Show manifest digests.")
@no_trunc_option()
@format_option()
@click.pass_obj
def images_command(
    session: Session,
    repository: str | None,
    show_all: bool,
    quiet: bool,
    filters: dict[str, list[str]],
    digests: bool,
    no_trunc: bool,
    format_: str | None,
) -> None:
    """List images."""
    if repository:
        filters.setdefault("reference", []).append(repository)
    wanted = digests or (format_ is not None and ".Digest" in format_)
    rows = image_rows(session.store.image_summaries(filters, all=show_all), truncate=not no_trunc, digests=wanted)
    columns = {"REPOSITORY": "Repository", "TAG": "Tag"} | ({"DIGEST": "Digest"} if digests else {})
    columns |= {"IMAGE ID": "ID", "CREATED": "CreatedSince", "SIZE": "Size"}
    render(rows, columns, format=format_, quiet="ID" if quiet else None)


@verb("history")
@image_argument()
@no_trunc_option()
@quiet_option("Only image IDs.")
@click.option("-H", "--human/--no-human", default=True, help="Sizes and dates for people (the default).")
@_platform
@format_option()
@click.pass_obj
def history_command(
    session: Session, image: str, no_trunc: bool, quiet: bool, human: bool, platform: str | None, format_: str | None
) -> None:
    """Show an image's history, newest first."""
    shown = session.store.image(image)
    shown.check_platform(image, platform)
    rows = history_rows(shown.history(), truncate=not no_trunc, human=human)
    created = {"CREATED": "CreatedSince"} if human else {"CREATED AT": "CreatedAt"}
    columns = {"IMAGE": "ID"} | created | {"CREATED BY": "CreatedBy", "SIZE": "Size", "COMMENT": "Comment"}
    render(rows, columns, format=format_, quiet="ID" if quiet else None)


@verb("inspect")
@any_argument("names", nargs=-1, required=True, metavar="NAME...")
@with_flags(INSPECT.flags)
@click.pass_obj
def inspect_command(session: Session, /, names: tuple[str, ...], **options: Any) -> int | None:
    """Show all there is to know of containers, images, networks and volumes."""
    return INSPECT.do(session, names, options)


@verb("inspect")
@image_argument("names", nargs=-1, required=True, metavar="IMAGE...")
@with_flags(IMAGE_INSPECT)
@_platform
@click.pass_obj
def image_inspect_command(session: Session, /, names: tuple[str, ...], platform: str | None, **options: Any) -> int:
    """Show all there is to know of images."""
    for name in names if platform else ():
        session.store.image(name).check_platform(name, platform)
    return inspect(session, names, options, "image")


@verb("inspect")
@container_argument("names", nargs=-1, required=True, metavar="CONTAINER...")
@with_flags(CONTAINER_INSPECT)
@click.pass_obj
def container_inspect_command(session: Session, /, names: tuple[str, ...], **options: Any) -> int:
    """Show all there is to know of containers."""
    return inspect(session, names, options, "container")


@verb("tag")
@image_argument("source")
@click.argument("target", metavar="TARGET[:TAG]")
@click.pass_obj
def tag_command(session: Session, source: str, target: str) -> None:
    """Make a tag TARGET that refers to the image SOURCE."""
    try:
        session.store.tag(source, target)
    except InvalidInput as error:
        if not error.message.startswith("invalid reference format"):
            raise
        raise InvalidInput(
            f'Error parsing reference: "{target}" is not a valid repository/tag: {error.message}'
        ) from None


@verb("rmi")
@image_argument("names", nargs=-1, required=True, metavar="IMAGE...")
@click.option("-f", "--force", is_flag=True, help="Untag even if a stopped container uses the image.")
@click.option("--no-prune", is_flag=True, help="Keep untagged parents.")
@_platform
@click.pass_obj
def rmi_command(session: Session, names: tuple[str, ...], force: bool, no_prune: bool, platform: str | None) -> int:
    """Remove images."""

    def remove(name: str) -> None:
        if platform:
            session.store.image(name).check_platform(name, platform)
        for line in session.store.remove_image(name, force=force, prune=not no_prune):
            out(str(line))

    return for_each(names, remove)
