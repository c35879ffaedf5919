"""ps, rm and inspect: their options as data, and what they do."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from layerfs._lazy import TYPE_CHECKING
from layerfs.cli.flags import Plain, option
from layerfs.cli.inspecting import inspect_all
from layerfs.cli.output import fail, for_each, out
from layerfs.cli.session import Session
from layerfs.cli.table import render
from layerfs.errors import ContainerNotFound, InvalidInput, NotFound

if TYPE_CHECKING:
    from typing import Any

_PS_COLUMNS = {
    "CONTAINER ID": "ID",
    "IMAGE": "Image",
    "COMMAND": "Command",
    "CREATED": "RunningFor",
    "STATUS": "Status",
    "PORTS": "Ports",
    "NAMES": "Names",
}


def list_containers(session: Session, words: Sequence[str], options: dict[str, Any]) -> None:
    from layerfs.cli.rows import container_rows

    count = 1 if options["latest"] else options["last"]
    format_, size, filters = options["format_"], options["size"], options["filters"]
    show_all = options["show_all"] or count > 0 or "status" in filters
    boxes = session.store.containers(all=show_all, filters=filters)
    boxes = boxes[:count] if count > 0 else boxes
    columns = _PS_COLUMNS | ({"SIZE": "Size"} if size else {})
    wanted = size or (format_ is not None and (".Size" in format_ or "json ." in format_))
    found = container_rows(boxes, truncate=not options["no_trunc"], size=wanted)
    if format_ == "json" and not size:  # docker's, that measures nothing then
        found = [{**row, "Size": "0B"} for row in found]
    render(found, columns, format=format_, quiet="ID" if options["quiet"] else None)


def remove(session: Session, names: Sequence[str], options: dict[str, Any]) -> int:
    if options["link"]:
        raise InvalidInput("there are no links between containers: they find each other on a network by their names")

    def one(name: str) -> None:
        try:
            session.store.container(name).remove(force=options["force"], volumes=options["volumes"])
        except ContainerNotFound as error:
            if not options["force"]:
                raise
            fail(str(error))  # docker's exit code is 0 then
        else:
            out(name)

    return for_each(names, one)


def inspect(session: Session, names: Sequence[str], options: dict[str, Any], kind: str | None = None) -> int:
    """`kind`: nothing else."""
    if options.get("remote"):
        from layerfs.engine.registries import inspect_remote

        platform = options["platform"]
        return _inspect_all(names, options, lambda name: inspect_remote(name, platform=platform))
    wanted = kind or options.get("kind")
    return _inspect_all(names, options, lambda name: _document(session, name, wanted, options.get("size", False)))


def _inspect_all(names: Sequence[str], options: dict[str, Any], inspect: Callable[[str], Any]) -> int:
    """`inspect_all`, or what is ours: `table` and -q."""
    format_, quiet = options["format_"], options["quiet"]
    if quiet or format_ == "table":
        return _inspect_table(names, quiet, inspect)
    return inspect_all(names, format_, inspect)


def _inspect_table(names: Sequence[str], quiet: bool, inspect: Callable[[str], Any]) -> int:
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


_FILTERS = "id name label exited status ancestor before since volume network publish expose health."
_INSPECT_FORMAT = option("-f", "--format", "format_", metavar="FORMAT", help="json, table, or a Go template.")
_QUIET = option("-q", "--quiet", is_flag=True, help="Only IDs.")
_SIZE = option("-s", "--size", is_flag=True, help="Add sizes of containers.")
PS = Plain(
    [
        option("-a", "--all", "show_all", is_flag=True, help="Stopped ones too."),
        _QUIET,
        option("-l", "--latest", is_flag=True, help="Only the last one made."),
        option("-n", "--last", type=int, default=-1, metavar="N", help="Only the last N made."),
        option("-s", "--size", is_flag=True, help="Sizes of the writable layers."),
        option("-f", "--filter", "filters", multiple=True, pairs=True, metavar="NAME=VALUE", help=_FILTERS),
        option("--no-trunc", is_flag=True, help="Do not cut IDs and texts."),
        option("--format", "format_", metavar="FORMAT", help="json, table, table TEMPLATE, or a Go template."),
    ],
    list_containers,
    least=0,
    most=0,
)
RM = Plain(
    [
        option("-f", "--force", is_flag=True, help="Kill it first when it runs."),
        option("-v", "--volumes", is_flag=True, help="Also its anonymous volumes."),
        option("-l", "--link", is_flag=True, help="docker's old links: there are none here."),
    ],
    remove,
)
INSPECT = Plain(
    [
        _INSPECT_FORMAT,
        _QUIET,
        option(
            "--type",
            "kind",
            choices=lambda: ["container", "image", "network", "volume"],
            help="Look only for this kind.",
        ),
        _SIZE,
        option("--remote", is_flag=True, help="Ask the images' registries instead of the store."),
        option("--platform", metavar="OS/ARCH[/VARIANT]", help="With --remote: what to take from an index."),
    ],
    inspect,
)
IMAGE_INSPECT = [_INSPECT_FORMAT, _QUIET]
CONTAINER_INSPECT = [*IMAGE_INSPECT, _SIZE]
