"""mount and umount."""

from __future__ import annotations

import click

from layerfs.cli.app import Session, fail
from layerfs.cli.rows import mount_rows
from layerfs.cli.table import render
from layerfs.errors import InvalidInput, LayerfsError

ENGINES = ["kernel", "python"]


@click.command("mount")
@click.argument("name", required=False, metavar="[IMAGE|CONTAINER]")
@click.argument("target", required=False, metavar="[DIR]")
@click.option("--engine", type=click.Choice(ENGINES), help="Default: the best one here.")
@click.option("-r", "--read-only", "--ro", is_flag=True, help="Mount a container read-only.")
@click.option("-q", "--quiet", is_flag=True, help="With no name: only the mount points.")
@click.option("--format", "format_", help="With no name: json, table, or a Go template.")
@click.pass_obj
def mount_command(
    session: Session,
    name: str | None,
    target: str | None,
    engine: str | None,
    read_only: bool,
    quiet: bool,
    format_: str | None,
) -> None:
    """Mount an image (read-only) or a container (writable) and print where; list mounts without a name."""
    if name is not None:
        click.echo(str(session.store.mount(name, target, engine=engine, read_only=read_only)))
        return
    columns = [("TARGET", "Target"), ("ENGINE", "Engine"), ("SOURCE", "Source"), ("MODE", "Mode")]
    render(mount_rows(session.store), columns, format=format_, quiet="Target" if quiet else None, echo=click.echo)


@click.command("umount")
@click.argument("names", nargs=-1, metavar="DIR|CONTAINER...")
@click.option("-l", "--lazy", is_flag=True, help="Detach now, finish when nobody uses it.")
@click.option("-a", "--all", "everything", is_flag=True, help="Every mount of this store.")
@click.pass_obj
def umount_command(session: Session, names: tuple[str, ...], lazy: bool, everything: bool) -> int:
    """Unmount by mount point or container."""
    if not names and not everything:
        raise InvalidInput("umount needs a mount point, a container, or --all")
    code = 0
    for name in names or [record.target for record in session.store.mounts(dead=True)]:
        try:
            session.store.umount(name, lazy=lazy)
        except LayerfsError as error:
            code = fail(str(error))
    return code
