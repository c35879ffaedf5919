"""gc, fsck, system, version, and the prune verbs."""

from __future__ import annotations

import os
import sys
from typing import Any

import click

from layerfs._record import asdict
from layerfs._version import __version__
from layerfs.cli import rows
from layerfs.cli.app import load_verb
from layerfs.cli.gotypes import to_json
from layerfs.cli.options import format_option, prune_filter_option
from layerfs.cli.output import out
from layerfs.cli.progress import bars
from layerfs.cli.session import Session
from layerfs.cli.table import render
from layerfs.cli.verbs import Group, verb
from layerfs.errors import InvalidInput

_DF = {"TYPE": "Type", "TOTAL": "TotalCount", "ACTIVE": "Active", "SIZE": "Size", "RECLAIMABLE": "Reclaimable"}
_DF_IMAGES = {
    "REPOSITORY": "Repository",
    "TAG": "Tag",
    "IMAGE ID": "ID",
    "CREATED": "CreatedSince",
    "SIZE": "Size",
    "SHARED SIZE": "SharedSize",
    "UNIQUE SIZE": "UniqueSize",
    "CONTAINERS": "Containers",
}
_DF_CONTAINERS = {
    "CONTAINER ID": "ID",
    "IMAGE": "Image",
    "COMMAND": "Command",
    "SIZE": "Size",
    "CREATED": "RunningFor",
    "STATUS": "Status",
    "NAMES": "Names",
    "DISK": "DiskSize",
    "ENTRIES": "Entries",
    "LIMITS": "Limits",
    "RECLAIMABLE": "Reclaimable",
}
_DF_SNAPSHOTS = {
    "CONTAINER": "Container",
    "NAME": "Name",
    "CREATED": "CreatedSince",
    "SHARED": "SharedSize",
    "PRIVATE (RECLAIMABLE)": "PrivateSize",
}
_VERSION = {
    "VERSION": "Version",
    "CORE": "Core",
    "PYTHON": "PythonVersion",
    "KERNEL": "KernelVersion",
    "ARCH": "Arch",
}


@verb("gc")
@click.option("-n", "--dry-run", is_flag=True, help="Only say what would go.")
@click.pass_obj
def gc_command(session: Session, dry_run: bool) -> None:
    """Remove what no image, container, mount or running command needs."""
    with bars() as progress:
        result = session.store.gc(dry_run=dry_run, progress=progress)
    out(rows.gc_text(result))


@verb("fsck")
@click.option("--repair", is_flag=True, help="Mend what a known source still has.")
@click.option("--quick", is_flag=True, help="Checksums (XXH64) instead of sha256.")
@click.option("--format", "format_", type=click.Choice(["text", "json"]), default="text", help="A line each, or JSON.")
@click.pass_obj
def fsck_command(session: Session, repair: bool, quick: bool, format_: str) -> int:
    """Check every byte of the store against its digest; exit code 1 when something is wrong."""
    with bars() as progress:
        problems = session.store.fsck(repair=repair, quick=quick, progress=progress)
    bad = [p for p in problems if p.severity == "error" and not p.repaired]
    if format_ == "json":
        out(to_json([asdict(p) for p in problems]))
        return 1 if bad else 0
    for problem in problems:
        out(str(problem))
    out("the store is clean" if not bad else f"{len(bad)} problem{'s'[: len(bad) != 1]}")
    return 1 if bad else 0


class _System(Group):
    """Two of its commands are those of the top."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return sorted([*super().list_commands(ctx), "events", "info"])

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        return load_verb(cmd_name) if cmd_name in ("events", "info") else super().get_command(ctx, cmd_name)


@click.group("system", cls=_System)
def system_command() -> None:
    """The store as a whole."""


@system_command.command("df")
@click.option("-v", "--verbose", is_flag=True, help="A row for each image and container.")
@format_option()
@click.pass_obj
def _df(session: Session, verbose: bool, format_: str | None) -> None:
    """Show disk use."""
    if not verbose:
        render(rows.usage_rows(session.store), _DF, format=format_)
        return
    boxes = session.store.containers()
    for heading, found, columns in (
        ("Images", rows.image_usage_rows(session.store), _DF_IMAGES),
        ("\nContainers", rows.box_usage_rows(boxes), _DF_CONTAINERS),
        ("\nSnapshots", rows.snapshot_rows(boxes, truncate=True, sizes=True), _DF_SNAPSHOTS),
        ("\nBuild cache", rows.cache_rows(session.store), rows.CACHE),
    ):
        if format_ is None:
            out(f"{heading} space usage:\n")
        render(found, columns, format=format_)


_INFO = {  # what is shown, and under which name
    "Containers": "Containers",
    " Running": "ContainersRunning",
    " Paused": "ContainersPaused",
    " Stopped": "ContainersStopped",
    "Images": "Images",
    "Server Version": "ServerVersion",
    "Storage Driver": "Driver",
    "Logging Driver": "LoggingDriver",
    "Cgroup Driver": "CgroupDriver",
    "Cgroup Version": "CgroupVersion",
    "Kernel Version": "KernelVersion",
    "Operating System": "OperatingSystem",
    "OSType": "OSType",
    "Architecture": "Architecture",
    "CPUs": "NCPU",
    "Total Memory": "MemTotal",
    "Name": "Name",
    "Store": "DockerRootDir",
}


@verb("info")
@click.option("-f", "--format", "format_", metavar="FORMAT", help="json, or a Go template.")
@click.pass_obj
def info_command(session: Session, format_: str | None) -> None:
    """Show what is in the store, and what machine this is."""
    from layerfs.cli.template import Template
    from layerfs.engine.upkeep import information
    from layerfs.image.text import human_size

    found = information(session.store) | {"ServerVersion": __version__}
    if format_ == "json":
        out(to_json(found))
    elif format_:
        out(Template(format_)(found))
    else:
        shown = found | {"MemTotal": human_size(found["MemTotal"])}
        out("\n".join(f"{title}: {shown[name]}" for title, name in _INFO.items()))


def confirm(force: bool, what: str) -> None:
    """Ask on stderr, where it is in nobody's way. Raises InvalidInput when the answer is no (or there is none)."""
    if force:
        return
    question = f"WARNING! This will remove {what}.\nAre you sure you want to continue? [y/N] "
    click.echo(question, err=True, nl=False)
    if sys.stdin.readline().strip().lower() not in ("y", "yes"):
        raise InvalidInput("prune has been cancelled")


_force = click.option("-f", "--force", is_flag=True, help="Do not ask.")
_everything = click.option("-a", "--all", "everything", is_flag=True, help="All unused images, not only dangling ones.")


@system_command.command("prune")
@_force
@_everything
@click.option("--volumes", is_flag=True, help="Unnamed volumes that no container uses, too.")
@prune_filter_option("label, until")
@click.pass_obj
def _prune(session: Session, force: bool, everything: bool, volumes: bool, filters: dict[str, list[str]]) -> None:
    """Remove stopped containers, unused networks, images and build cache, and free their space."""
    images = "images without a container" if everything else "dangling images"
    cache = "all build cache" if everything else "unused build cache"
    unnamed = ", all anonymous volumes not used by at least one container" if volumes else ""
    networks = "all networks not used by at least one container"
    confirm(force, f"all stopped containers, {networks}{unnamed}, all {images} and {cache}")
    what: dict[str, Any] = {"containers": True, "networks": True, "images": True, "build_cache": True}
    for line in session.store.prune(**what, volumes=volumes, all_images=everything, filters=filters):
        out(line)


@verb("prune")
@_force
@_everything
@prune_filter_option("label, until")
@click.pass_obj
def image_prune_command(session: Session, force: bool, everything: bool, filters: dict[str, list[str]]) -> None:
    """Remove unused images."""
    confirm(force, "all images without a container" if everything else "all dangling images")
    for line in session.store.prune(images=True, all_images=everything, filters=filters):
        out(line)


@verb("prune")
@_force
@prune_filter_option()
@click.pass_obj
def container_prune_command(session: Session, force: bool, filters: dict[str, list[str]]) -> None:
    """Remove all stopped containers."""
    confirm(force, "all stopped containers")
    for line in session.store.prune(containers=True, filters=filters):
        out(line)


@verb("version")
@click.option("-f", "--format", "format_", metavar="FORMAT", help="json, or a Go template.")
def version_command(format_: str | None) -> None:
    """Show versions, and which implementation is loaded."""
    import platform

    from layerfs import native

    row = {
        "Version": __version__,
        "Core": "native" if native.NATIVE else "python",
        "PythonVersion": platform.python_version(),
        "KernelVersion": os.uname().release,
        "Arch": os.uname().machine,
    }
    both = {"Client": row, "Server": row} if format_ else {}  # docker's scripts ask for `{{.Server.Version}}`
    render([row | both], _VERSION, format=format_)
