"""mount and umount."""

from __future__ import annotations

import sys

import click

from layerfs.cli.options import any_argument, container_argument, format_option, quiet_option
from layerfs.cli.output import fail, for_each, out
from layerfs.cli.rows import mount_rows
from layerfs.cli.session import Session
from layerfs.cli.table import render
from layerfs.cli.verbs import verb

ENGINES = ["native", "kernel", "python"]
engine_option = click.option("--engine", type=click.Choice(ENGINES), help="Mount engine; default: the best one here.")


@verb("mount")
@any_argument(required=False, metavar="[IMAGE|CONTAINER]")
@click.argument("target", required=False, metavar="[DIR]")
@engine_option
@click.option("-r", "--read-only", "--ro", is_flag=True, help="Mount a container read-only.")
@click.option(
    "-o",
    "--option",
    "options",
    multiple=True,
    metavar="NAME[=VALUE],...",
    help="size, inodes, uidmap, gidmap, cache, coherence, access, noatime, volatile, nosuid, nodev, noexec.",
)
@click.option("--foreground", is_flag=True, help="Stay until it is unmounted; Ctrl-C unmounts it.")
@quiet_option("With no name: only the mount points.")
@format_option("With no name: json, table, or a Go template.")
@click.pass_obj
def mount_command(
    session: Session,
    name: str | None,
    target: str | None,
    engine: str | None,
    read_only: bool,
    options: tuple[str, ...],
    foreground: bool,
    quiet: bool,
    format_: str | None,
) -> int:
    """Mount an image (read-only) or a container (writable) and print where; list mounts without a name."""
    if name is not None:
        place = session.store.mount(name, target, engine=engine, read_only=read_only, options=options)
        out(str(place))
        return _stay(session, str(place)) if foreground else 0
    columns = {"TARGET": "Target", "ENGINE": "Engine", "SOURCE": "Source", "MODE": "Mode"}
    render(mount_rows(session.store), columns, format=format_, quiet="Target" if quiet else None)
    return 0


def _stay(session: Session, place: str) -> int:
    """Until somebody unmounts it (0), its server dies (1), or a signal says so (0): a second one leaves it mounted."""
    sys.stdout.flush()
    try:
        return 0 if session.store.await_unmounted(place) else fail(f"the server of {place} was killed")
    except (KeyboardInterrupt, SystemExit):
        session.store.umount(place)
        return 0


@verb("umount")
@container_argument("names", nargs=-1, metavar="DIR|CONTAINER...")
@click.option("-l", "--lazy", is_flag=True, help="Detach now, finish when nobody uses it.")
@click.option("-a", "--all", "everything", is_flag=True, help="Every mount of this store.")
@click.pass_obj
def umount_command(session: Session, names: tuple[str, ...], lazy: bool, everything: bool) -> int:
    """Unmount by mount point or container."""
    if not names and not everything:
        raise click.UsageError("name a mount point or a container, or say --all", click.get_current_context())
    wanted = names or [record.target for record in session.store.mounts(dead=True)]
    return for_each(wanted, lambda name: session.store.umount(name, lazy=lazy))
