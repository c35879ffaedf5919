"""snapshot, rollback, fork, log."""

from __future__ import annotations

import click

from layerfs._lazy import TYPE_CHECKING
from layerfs.cli import rows
from layerfs.cli.gotypes import to_json
from layerfs.cli.mounts import engine_option
from layerfs.cli.options import container_argument, format_option, no_trunc_option, quiet_option
from layerfs.cli.output import for_each, out
from layerfs.cli.session import Session
from layerfs.cli.table import render
from layerfs.cli.verbs import Group, Verb, verb
from layerfs.errors import InvalidInput

if TYPE_CHECKING:
    from layerfs.engine.snapshots import Snapshot

_COLUMNS = {
    "SNAPSHOT ID": "ID",
    "CONTAINER": "Container",
    "NAME": "Name",
    "CREATED": "CreatedSince",
    "SHARED": "SharedSize",
    "PRIVATE": "PrivateSize",
}


class _Named(Verb):
    """A verb whose CONTAINER SNAPSHOT may also be one word, CONTAINER@SNAPSHOT, as `log` shows it."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        return super().parse_args(ctx, self._apart(args))

    def _apart(self, args: list[str]) -> list[str]:
        valued = {word for param in self.params if isinstance(param, click.Option) for word in param.opts}
        valued -= {word for param in self.params if getattr(param, "is_flag", False) for word in param.opts}
        before = ""
        for at, arg in enumerate(args):
            if not arg.startswith("-") and before not in valued:
                box, found, name = arg.partition("@")
                return [*args[:at], box, name, *args[at + 1 :]] if found else args
            before = arg
        return args


def _pair(container: str, name: str | None, what: str) -> tuple[str, str | None]:
    """CONTAINER@NAME, where the name may also stand elsewhere."""
    box, found, within = container.partition("@")
    if found and name is not None:
        raise InvalidInput(f"{what} is named twice: {within} and {name}")
    return box, within if found else name


class _Snapshot(Group):
    """`snapshot CONTAINER [NAME]` is `snapshot create CONTAINER [NAME]`, unless the container is called like a verb."""

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        if not args[0].startswith("-") and self.get_command(ctx, args[0]) is None:
            args = ["create", *args]
        return super().resolve_command(ctx, args)


@click.group("snapshot", cls=_Snapshot, subcommand_metavar="CONTAINER [NAME] | COMMAND ...")
def snapshot_command() -> None:
    """Keep what a container holds now under a name; or list, remove, compare, mount, commit what was kept. CONTAINER
    SNAPSHOT may also be one word, CONTAINER@SNAPSHOT.
    """


def _find(session: Session, name: str, container: str) -> Snapshot:
    """[CONTAINER@]SNAPSHOT, of `container` when that is not said."""
    box, _, name = name.rpartition("@")
    return session.store.container(box or container).find_snapshot(name)


@snapshot_command.command("create")
@container_argument()
@click.argument("name", required=False, metavar="[NAME]")
@click.option("--absorb", is_flag=True, help="Then make layers of what is frozen, in the background.")
@click.option("--sync", is_flag=True, help="Then wait until it would survive a power cut, with all that is in it.")
@click.pass_obj
def _create(session: Session, container: str, name: str | None, absorb: bool, sync: bool) -> None:
    """Take a snapshot (the default); prints its name."""
    box, name = _pair(container, name, "the snapshot")
    out(session.store.container(box).snapshot(name, absorb=absorb, sync=sync).name)


@snapshot_command.command("absorb")
@container_argument(required=False, metavar="[CONTAINER]")
@click.option("-b", "--background", is_flag=True, help="By a process of its own, which gives way to all others.")
@click.pass_obj
def _absorb(session: Session, container: str | None, background: bool) -> None:
    """Make layers of what snapshots have frozen, of a container or all; prints how many they were."""
    if background and container:
        raise click.UsageError("--background takes all containers")
    found = session.store.absorb(container, background=background)
    if not background:
        out(str(found))


@snapshot_command.command("ls")
@container_argument(required=False, metavar="[CONTAINER]")
@quiet_option("Only names; of all containers, CONTAINER@NAME.")
@no_trunc_option()
@format_option()
@click.pass_obj
def _ls(session: Session, container: str | None, quiet: bool, no_trunc: bool, format_: str | None) -> None:
    """List snapshots, of a container or all: what each shares with others, and what is freed with it."""
    boxes = [session.store.container(container)] if container else session.store.containers()
    found = rows.snapshot_rows(boxes, truncate=not no_trunc, sizes=not quiet)
    if quiet and container is None:
        found = [row | {"Name": f"{row['Container']}@{row['Name']}"} for row in found]
    render(found, _COLUMNS, format=format_, quiet="Name" if quiet else None)


snapshot_command.add_command(_ls, "list")


@snapshot_command.command("rm", cls=_Named)
@container_argument()
@click.argument("names", nargs=-1, required=True, metavar="[CONTAINER@]SNAPSHOT...")
@click.pass_obj
def _rm(session: Session, container: str, names: tuple[str, ...]) -> int:
    """Remove snapshots, in any order; what others need stays."""

    def remove(name: str) -> None:
        _find(session, name, container).remove()
        out(name.rpartition("@")[2])

    return for_each(names, remove)


@snapshot_command.command("diff", cls=_Named)
@container_argument()
@click.argument("snapshot")
@click.argument("other", required=False, metavar="[[CONTAINER@]SNAPSHOT]")
@click.option("-s", "--size", is_flag=True, help="Show the sizes, old and new.")
@format_option("json, table, or a Go template.")
@click.pass_obj
def _diff(session: Session, container: str, snapshot: str, other: str | None, size: bool, format_: str | None) -> None:
    """What a snapshot has otherwise than the image; with a second one, what that has otherwise than the first."""
    first = session.store.container(container).find_snapshot(snapshot)
    second = _find(session, other, container) if other is not None else None
    found = [rows.change_row(change) for change in first.diff(second)]
    columns = {"CHANGE TYPE": "Kind", "PATH": "Path"} | ({"OLD SIZE": "OldSize", "NEW SIZE": "NewSize"} if size else {})
    plain = r"{{.Kind}} {{.Path}}" + (r"\t{{.OldSize}}\t{{.NewSize}}" if size else "")
    render(found, columns, format=format_ or plain)


@snapshot_command.command("mount", cls=_Named)
@container_argument()
@click.argument("snapshot")
@click.argument("target", required=False, metavar="[DIR]")
@engine_option
@click.pass_obj
def _mount(session: Session, container: str, snapshot: str, target: str | None, engine: str | None) -> None:
    """Mount a snapshot read-only, and print where."""
    out(str(session.store.container(container).find_snapshot(snapshot).mount(target, engine=engine).path))


@snapshot_command.command("commit", cls=_Named)
@container_argument()
@click.argument("snapshot")
@click.argument("reference", required=False, metavar="[REPOSITORY[:TAG]]")
@click.option("-m", "--message", default="", help="Comment for the history.")
@click.option("-a", "--author", default="", help='Author ("Name <mail>").')
@click.option("-c", "--change", "changes", multiple=True, help="A Dockerfile instruction for the config.")
@click.pass_obj
def _commit(
    session: Session,
    container: str,
    snapshot: str,
    reference: str | None,
    message: str,
    author: str,
    changes: tuple[str, ...],
) -> None:
    """Make an image of a snapshot."""
    found = session.store.container(container).find_snapshot(snapshot)
    out(found.commit(reference, message=message, author=author, changes=changes).id)


@click.command("rollback", cls=_Named)
@container_argument()
@click.argument("snapshot")
@click.pass_obj
def rollback_command(session: Session, container: str, snapshot: str) -> None:
    """Bring a container back to a snapshot; what it changed since is lost. CONTAINER@SNAPSHOT will do, too."""
    session.store.container(container).rollback(snapshot)


@verb("fork")
@container_argument()
@click.argument("name", required=False, metavar="[NAME]")
@click.option("-s", "--snapshot", metavar="NAME", help="What it was then, not what it is.")
@click.pass_obj
def fork_command(session: Session, container: str, name: str | None, snapshot: str | None) -> None:
    """Make a container that goes on from what another one holds (CONTAINER@SNAPSHOT: held then); prints its name."""
    box, snapshot = _pair(container, snapshot, "the snapshot")
    out(session.store.container(box).fork(name, snapshot=snapshot).name)


@verb("log")
@container_argument(required=False, metavar="[CONTAINER]")
@click.option("--format", "format_", type=click.Choice(["tree", "dot", "json"]), default="tree", help="How to show it.")
@click.pass_obj
def log_command(session: Session, container: str | None, format_: str) -> None:
    """Where containers come from: images, snapshots (CONTAINER@NAME), forks, and who stands where ([CONTAINER])."""
    from layerfs.engine.lineage import as_dot, as_tree, lineage
    from layerfs.image.text import human_ago

    found = lineage(session.store, container)
    if format_ == "json":
        out(to_json([event.document() for event in found]))
        return
    for line in (as_dot if format_ == "dot" else as_tree)(found, human_ago):
        out(line)
