"""images, history, inspect, tag, rmi."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import click

from layerfs.cli.options import (
    any_argument,
    container_argument,
    filter_option,
    format_option,
    image_argument,
    no_trunc_option,
    quiet_option,
)
from layerfs.cli.output import fail, for_each, out
from layerfs.cli.rows import history_rows, image_rows
from layerfs.cli.session import Session
from layerfs.cli.table import render, unescape
from layerfs.cli.verbs import verb
from layerfs.errors import InvalidInput, NotFound, RegistryError


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
@format_option()
@click.pass_obj
def history_command(
    session: Session, image: str, no_trunc: bool, quiet: bool, human: bool, format_: str | None
) -> None:
    """Show an image's history, newest first."""
    rows = history_rows(session.store.image(image).history(), truncate=not no_trunc, human=human)
    created = {"CREATED": "CreatedSince"} if human else {"CREATED AT": "CreatedAt"}
    columns = {"IMAGE": "ID"} | created | {"CREATED BY": "CreatedBy", "SIZE": "Size", "COMMENT": "Comment"}
    render(rows, columns, format=format_, quiet="ID" if quiet else None)


def _inspect(
    session: Session, names: tuple[str, ...], format_: str | None, quiet: bool, kind: str | None, size: bool
) -> int:
    return _inspect_all(names, format_, quiet, lambda name: _document(session, name, kind, size))


def _inspect_all(names: tuple[str, ...], format_: str | None, quiet: bool, inspect: Callable[[str], Any]) -> int:
    """docker's: one JSON array of what was found, or a line for each name by the template. `table` and -q: ours."""
    from layerfs.cli.template import Template, to_json

    if quiet or format_ == "table":
        return _inspect_table(names, quiet, inspect)
    template = Template(unescape(format_)) if format_ and format_ != "json" else None
    found: list[Any] = []
    code = 0
    for name in names:
        try:
            found.append(inspect(name))
        except (NotFound, InvalidInput, RegistryError) as error:
            if template is not None:
                out("")
            code = fail(str(error))
        else:
            if template is not None:
                out(template(found[-1]))
    if template is None:
        out(to_json(found) if format_ else json.dumps(found, indent=4, ensure_ascii=False))
    return code


def _inspect_table(names: tuple[str, ...], quiet: bool, inspect: Callable[[str], Any]) -> int:
    """One row each, or the ID alone."""
    found: list[dict[str, str]] = []

    def look(name: str) -> None:
        document = inspect(name)
        id = str(document.get("Id") or document.get("Digest") or document.get("Name", ""))
        names = document.get("RepoTags") or [str(document.get("Name", "")).removeprefix("/")]
        created = document.get("Created") or document.get("CreatedAt") or ""
        found.append({"ID": id, "Name": ", ".join(names), "Created": str(created)})

    code = for_each(names, look)
    render(found, {"ID": "ID", "NAME": "Name", "CREATED": "Created"}, quiet="ID" if quiet else None)
    return code


def _document(session: Session, name: str, kind: str | None, size: bool) -> dict[str, Any]:
    """Of whatever has that name, in docker's order. Raises NotFound in docker's words."""
    if kind in (None, "container", "image"):
        try:
            return session.store.inspect(name, kind=kind, size=size)
        except NotFound:
            if kind is not None:
                raise
    from layerfs.cli import networks, volumes

    for each, look in {"network": networks.inspected, "volume": volumes.inspected}.items():
        if kind in (None, each):
            try:
                return look(session, name)
            except NotFound:
                if kind is not None:
                    raise
    raise NotFound(f"No such object: {name}")


_inspect_format = click.option("-f", "--format", "format_", metavar="FORMAT", help="json, table, or a Go template.")
_inspect_quiet = quiet_option()


@verb("inspect")
@any_argument("names", nargs=-1, required=True, metavar="NAME...")
@_inspect_format
@_inspect_quiet
@click.option(
    "--type", "kind", type=click.Choice(["container", "image", "network", "volume"]), help="Look only for this kind."
)
@click.option("-s", "--size", is_flag=True, help="Add sizes of containers.")
@click.option("--remote", is_flag=True, help="Ask the images' registries instead of the store.")
@click.option("--platform", metavar="OS/ARCH[/VARIANT]", help="With --remote: what to take from an index.")
@click.pass_obj
def inspect_command(
    session: Session,
    names: tuple[str, ...],
    format_: str | None,
    quiet: bool,
    kind: str | None,
    size: bool,
    remote: bool,
    platform: str | None,
) -> int:
    """Show all there is to know of containers, images, networks and volumes."""
    if remote:
        from layerfs.engine.registries import inspect_remote

        return _inspect_all(names, format_, quiet, lambda name: inspect_remote(name, platform=platform))
    return _inspect(session, names, format_, quiet, kind, size)


@verb("inspect")
@image_argument("names", nargs=-1, required=True, metavar="IMAGE...")
@_inspect_format
@_inspect_quiet
@click.pass_obj
def image_inspect_command(session: Session, names: tuple[str, ...], format_: str | None, quiet: bool) -> int:
    """Show all there is to know of images."""
    return _inspect(session, names, format_, quiet, "image", False)


@verb("inspect")
@container_argument("names", nargs=-1, required=True, metavar="CONTAINER...")
@_inspect_format
@_inspect_quiet
@click.option("-s", "--size", is_flag=True, help="Add sizes.")
@click.pass_obj
def container_inspect_command(
    session: Session, names: tuple[str, ...], format_: str | None, quiet: bool, size: bool
) -> int:
    """Show all there is to know of containers."""
    return _inspect(session, names, format_, quiet, "container", size)


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
@click.pass_obj
def rmi_command(session: Session, names: tuple[str, ...], force: bool, no_prune: bool) -> int:
    """Remove images."""

    def remove(name: str) -> None:
        for line in session.store.remove_image(name, force=force, prune=not no_prune):
            out(str(line))

    return for_each(names, remove)
