"""images, history, inspect, tag, rmi."""

from __future__ import annotations

import json
from typing import Any

import click

from layerfs.cli.app import Session, fail
from layerfs.cli.rows import history_rows, image_rows
from layerfs.cli.table import render, unescape
from layerfs.cli.template import Template
from layerfs.errors import LayerfsError, NotFound


def filters_of(values: tuple[str, ...]) -> dict[str, list[str]]:
    """`-f key=value …` as a dict of lists.

    Raises:
        click.BadParameter: for a filter without `=`, in docker's words.
    """
    result: dict[str, list[str]] = {}
    for value in values:
        key, equals, rest = value.partition("=")
        if not equals:
            raise click.BadParameter(
                f'invalid argument "{value}" for "-f, --filter" flag: bad format of filter (expected name=value)'
            )
        result.setdefault(key.strip().lower(), []).append(rest.strip())
    return result


@click.command("images")
@click.argument("repository", required=False)
@click.option("-a", "--all", "show_all", is_flag=True, help="Show intermediate images too.")
@click.option("-q", "--quiet", is_flag=True, help="Only image IDs.")
@click.option("-f", "--filter", "filters", multiple=True, help="dangling, label, before, since, until, reference.")
@click.option("--digests", is_flag=True, help="Show manifest digests.")
@click.option("--no-trunc", is_flag=True, help="Do not cut IDs.")
@click.option("--format", "format_", help="json, table, or a Go template.")
@click.pass_obj
def images_command(
    session: Session,
    repository: str | None,
    show_all: bool,
    quiet: bool,
    filters: tuple[str, ...],
    digests: bool,
    no_trunc: bool,
    format_: str | None,
) -> None:
    """List images."""
    wanted = filters_of(filters)
    if repository:
        wanted.setdefault("reference", []).append(repository)
    rows = image_rows(session.store.image_summaries(wanted, all=show_all), truncate=not no_trunc)
    columns = [
        ("REPOSITORY", "Repository"),
        ("TAG", "Tag"),
        ("IMAGE ID", "ID"),
        ("CREATED", "CreatedSince"),
        ("SIZE", "Size"),
    ]
    if digests:
        columns.insert(2, ("DIGEST", "Digest"))
    if quiet:
        rows = list({row["ID"]: row for row in rows}.values())
    render(rows, columns, format=format_, quiet="ID" if quiet else None, echo=click.echo)


@click.command("history")
@click.argument("image")
@click.option("--no-trunc", is_flag=True, help="Do not cut texts and IDs.")
@click.option("-q", "--quiet", is_flag=True, help="Only image IDs.")
@click.option("-H", "--human/--no-human", default=True, help="Sizes and dates for people (the default).")
@click.option("--format", "format_", help="json, table, or a Go template.")
@click.pass_obj
def history_command(
    session: Session, image: str, no_trunc: bool, quiet: bool, human: bool, format_: str | None
) -> None:
    """Show an image's history, newest first."""
    rows = history_rows(session.store.image(image).history(), truncate=not no_trunc, human=human)
    columns = [
        ("IMAGE", "ID"),
        ("CREATED", "CreatedSince"),
        ("CREATED BY", "CreatedBy"),
        ("SIZE", "Size"),
        ("COMMENT", "Comment"),
    ]
    if not human:
        columns[1] = ("CREATED AT", "CreatedAt")
    render(rows, columns, format=format_, quiet="ID" if quiet else None, echo=click.echo)


@click.command("inspect")
@click.argument("names", nargs=-1, required=True, metavar="NAME...")
@click.option("-f", "--format", "format_", help="A Go template, or json.")
@click.option("--type", "kind", type=click.Choice(["container", "image"]), help="Look only for this kind.")
@click.option("-s", "--size", is_flag=True, help="Add sizes of containers.")
@click.pass_obj
def inspect_command(session: Session, names: tuple[str, ...], format_: str | None, kind: str | None, size: bool) -> int:
    """Show all there is to know of containers and images."""
    found: list[Any] = []
    code = 0
    template = Template(unescape(format_)) if format_ and format_ != "json" else None
    for name in names:
        try:
            value = session.store.inspect(name, kind=kind, size=size)
        except NotFound as error:
            if template is not None:
                click.echo("")
            code = fail(str(error))
            continue
        if template is not None:
            click.echo(template(value))
        found.append(value)
    if template is None:
        click.echo(
            json.dumps(found, ensure_ascii=False, separators=(",", ":"))
            if format_
            else json.dumps(found, indent=4, ensure_ascii=False)
        )
    return code


@click.command("tag")
@click.argument("source")
@click.argument("target")
@click.pass_obj
def tag_command(session: Session, source: str, target: str) -> None:
    """Make a tag TARGET that refers to the image SOURCE."""
    session.store.tag(source, target)


@click.command("rmi")
@click.argument("names", nargs=-1, required=True, metavar="IMAGE...")
@click.option("-f", "--force", is_flag=True, help="Untag even if a stopped container uses the image.")
@click.option("--no-prune", is_flag=True, help="Keep untagged parents.")
@click.pass_obj
def rmi_command(session: Session, names: tuple[str, ...], force: bool, no_prune: bool) -> int:
    """Remove images."""
    code = 0
    for name in names:
        try:
            for line in session.store.remove_image(name, force=force, prune=not no_prune):
                click.echo(str(line))
        except LayerfsError as error:
            code = fail(str(error))
    return code
