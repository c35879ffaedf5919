"""volume create, ls, inspect, rm, prune."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from layerfs.cli.inspecting import inspect_all
from layerfs.cli.options import filter_option, format_option, prune_filter_option, quiet_option
from layerfs.cli.output import for_each, out
from layerfs.cli.session import Session
from layerfs.cli.table import render
from layerfs.cli.verbs import verb
from layerfs.errors import InvalidInput, NotFound
from layerfs.image.text import human_size

if TYPE_CHECKING:
    from layerfs.engine.volumes import Volume

_COLUMNS = {"DRIVER": "Driver", "VOLUME NAME": "Name"}


@verb("create")
@click.argument("name", required=False)
@click.option("-o", "--opt", "options", multiple=True, metavar="NAME=VALUE", help="There are none: use --mount or -v.")
@click.option("-d", "--driver", default="local", help="local, the only one.")
@click.option("--label", "labels", multiple=True, metavar="NAME[=VALUE]", help="Set a label.")
@click.pass_obj
def volume_create_command(
    session: Session, name: str | None, driver: str, labels: tuple[str, ...], options: tuple[str, ...]
) -> None:
    """Make a volume."""
    if options:
        raise InvalidInput(f"invalid option: {options[0]!r}: a volume is a directory of the store, and has no options")
    if driver != "local":
        raise InvalidInput(f"error looking up volume plugin {driver}: plugin not found")
    out(session.store.volumes.create(name, dict(label.partition("=")[::2] for label in labels)).name)


@verb("ls")
@quiet_option("Only names.")
@filter_option("dangling, driver, label, name")
@format_option()
@click.pass_obj
def volume_ls_command(session: Session, quiet: bool, filters: dict[str, list[str]], format_: str | None) -> None:
    """List volumes."""
    found = [_row(volume) for volume in session.store.volumes.all() if _matches(session, volume, filters)]
    render(found, _COLUMNS, format=format_, quiet="Name" if quiet else None)


def _matches(session: Session, volume: Volume, filters: dict[str, list[str]]) -> bool:
    labels = [text for name, value in volume.labels.items() for text in (name, f"{name}={value}")]
    for name, values in filters.items():
        if name == "dangling":
            unused = not session.store.volumes.users(volume.name)
            fits = any((value.lower() in ("1", "true")) == unused for value in values)
        elif name in ("driver", "label", "name"):
            known = {"driver": ["local"], "label": labels}.get(name)
            fits = any(value in known if known is not None else value in volume.name for value in values)
        else:
            raise InvalidInput(f"invalid filter '{name}'")
        if not fits:
            return False
    return True


def _row(volume: Volume) -> dict[str, Any]:
    labels = ",".join(f"{name}={value}" for name, value in volume.labels.items())
    return {
        "Driver": "local",
        "Name": volume.name,
        "Mountpoint": str(volume.path),
        "Scope": "local",
        "Labels": labels,
        "Size": "N/A",
    }


@verb("inspect")
@click.argument("names", nargs=-1, required=True, metavar="VOLUME...")
@click.option("-f", "--format", "format_", metavar="FORMAT", help="json or a Go template.")
@click.pass_obj
def volume_inspect_command(session: Session, names: tuple[str, ...], format_: str | None) -> int:
    """All about volumes, as JSON."""
    return inspect_all(names, format_, lambda name: inspected(session, name))


def inspected(session: Session, name: str) -> dict[str, Any]:
    """Raises NotFound."""
    return _document(session.store.volumes.get(name))


def _document(volume: Volume) -> dict[str, Any]:
    return {
        "CreatedAt": volume.created,
        "Driver": "local",
        "Labels": dict(volume.labels) or None,
        "Mountpoint": str(volume.path),
        "Name": volume.name,
        "Options": None,
        "Scope": "local",
    }


@verb("rm")
@click.argument("names", nargs=-1, required=True, metavar="VOLUME...")
@click.option("-f", "--force", is_flag=True, help="No error for one that is not there.")
@click.pass_obj
def volume_rm_command(session: Session, names: tuple[str, ...], force: bool) -> int:
    """Remove volumes."""

    def remove(name: str) -> None:
        try:
            session.store.volumes.remove(name)
        except NotFound:
            if not force:
                raise
        out(name)

    return for_each(names, remove)


@verb("prune")
@click.option("-f", "--force", is_flag=True, help="Do not ask.")
@click.option("-a", "--all", "everything", is_flag=True, help="Named ones, too.")
@prune_filter_option("label, label!, all")
@click.pass_obj
def volume_prune_command(session: Session, force: bool, everything: bool, filters: dict[str, list[str]]) -> None:
    """Remove volumes that no container uses."""
    from layerfs.cli.upkeep import confirm
    from layerfs.engine.pruning import PruneFilter

    everything |= any(value.lower() in ("1", "true") for value in filters.pop("all", ()))
    confirm(force, f"{'all' if everything else 'anonymous'} local volumes not used by at least one container")
    gone = session.store.volumes.prune(everything=everything, wanted=PruneFilter(filters, ("label", "label!")))
    if gone:
        out("Deleted Volumes:\n" + "\n".join(name for name, _ in gone) + "\n")
    out(f"Total reclaimed space: {human_size(sum(size for _, size in gone))}")
