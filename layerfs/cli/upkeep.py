"""gc, fsck, system, debug, version, and the prune verbs."""

from __future__ import annotations

import json
import os
import platform
from dataclasses import asdict

import click

from layerfs._version import __version__
from layerfs.cli import rows
from layerfs.cli.app import Session
from layerfs.cli.images import filters_of
from layerfs.cli.progress import bars
from layerfs.cli.table import render


@click.command("gc")
@click.option("-n", "--dry-run", is_flag=True, help="Only say what would go.")
@click.pass_obj
def gc_command(session: Session, dry_run: bool) -> None:
    """Remove what no image, container, mount or running command needs."""
    with bars() as progress:
        result = session.store.gc(dry_run=dry_run, progress=progress)
    click.echo(rows.gc_text(result))


@click.command("fsck")
@click.option("--repair", is_flag=True, help="Mend what a known source still has.")
@click.option("--quick", is_flag=True, help="Checksums (XXH64) instead of sha256.")
@click.option("--format", "format_", type=click.Choice(["text", "json"]), default="text")
@click.pass_obj
def fsck_command(session: Session, repair: bool, quick: bool, format_: str) -> int:
    """Check every byte of the store against its digest; exit code 1 when something is wrong."""
    with bars() as progress:
        problems = session.store.fsck(repair=repair, quick=quick, progress=progress)
    bad = [p for p in problems if p.severity == "error" and not p.repaired]
    if format_ == "json":
        click.echo(json.dumps([asdict(p) for p in problems]))
        return 1 if bad else 0
    for problem in problems:
        click.echo(str(problem))
    click.echo("the store is clean" if not bad else f"{len(bad)} problems")
    return 1 if bad else 0


@click.group("system")
def system_command() -> None:
    """The store as a whole."""


@system_command.command("df")
@click.option("-v", "--verbose", is_flag=True, help="A row for each image and container.")
@click.option("--format", "format_", help="json, table, or a Go template.")
@click.pass_obj
def _df(session: Session, verbose: bool, format_: str | None) -> None:
    """Show disk use."""
    columns = [
        ("TYPE", "Type"),
        ("TOTAL", "TotalCount"),
        ("ACTIVE", "Active"),
        ("SIZE", "Size"),
        ("RECLAIMABLE", "Reclaimable"),
    ]
    if not verbose:
        render(rows.usage_rows(session.store), columns, format=format_, quiet=None, echo=click.echo)
        return
    image_columns = [
        ("REPOSITORY", "Repository"),
        ("TAG", "Tag"),
        ("IMAGE ID", "ID"),
        ("SIZE", "Size"),
        ("SHARED SIZE", "SharedSize"),
    ]
    image_columns += [("UNIQUE SIZE", "UniqueSize"), ("CONTAINERS", "Containers")]
    click.echo("Images space usage:\n")
    render(rows.image_usage_rows(session.store), image_columns, format=format_, quiet=None, echo=click.echo)
    click.echo("\nContainers space usage:\n")
    container_columns = [
        ("CONTAINER ID", "ID"),
        ("IMAGE", "Image"),
        ("SIZE", "Size"),
        ("STATUS", "Status"),
        ("NAMES", "Names"),
    ]
    render(
        rows.container_rows(session.store.containers(), truncate=True, size=True),
        container_columns,
        format=format_,
        quiet=None,
        echo=click.echo,
    )


def _confirm(force: bool, what: str) -> None:
    if not force:
        click.confirm(f"WARNING! This will remove {what}.\nAre you sure you want to continue?", abort=True)


@system_command.command("prune")
@click.option("-f", "--force", is_flag=True, help="Do not ask.")
@click.option("-a", "--all", "everything", is_flag=True, help="All unused images, not only dangling ones.")
@click.pass_obj
def _prune(session: Session, force: bool, everything: bool) -> None:
    """Remove stopped containers and unused images, and free their space."""
    _confirm(
        force,
        "all stopped containers and all unused images"
        if everything
        else "all stopped containers and all dangling images",
    )
    for line in session.store.prune(containers=True, images=True, all_images=everything):
        click.echo(line)


@click.command("prune")
@click.option("-f", "--force", is_flag=True, help="Do not ask.")
@click.option("-a", "--all", "everything", is_flag=True, help="All unused images, not only dangling ones.")
@click.option("--filter", "filters", multiple=True, help="label, until.")
@click.pass_obj
def image_prune_command(session: Session, force: bool, everything: bool, filters: tuple[str, ...]) -> None:
    """Remove unused images."""
    _confirm(force, "all images without a container" if everything else "all dangling images")
    for line in session.store.prune(images=True, all_images=everything, filters=filters_of(filters)):
        click.echo(line)


@click.command("prune")
@click.option("-f", "--force", is_flag=True, help="Do not ask.")
@click.pass_obj
def container_prune_command(session: Session, force: bool) -> None:
    """Remove all stopped containers."""
    _confirm(force, "all stopped containers")
    for line in session.store.prune(containers=True):
        click.echo(line)


@click.group("debug")
def debug_command() -> None:
    """Look inside the store."""


@debug_command.command("tree")
@click.argument("name", metavar="IMAGE|DIFF_ID")
@click.pass_obj
def _tree(session: Session, name: str) -> None:
    """Print a tree, one line an entry (docs/format.md)."""
    for line in session.store.tree_text(name):
        click.echo(line)


@debug_command.command("mounts")
@click.option("--format", "format_", help="json, table, or a Go template.")
@click.pass_obj
def _mounts(session: Session, format_: str | None) -> None:
    """List the mounts of this store with their engine and server."""
    columns = [
        ("TARGET", "Target"),
        ("ENGINE", "Engine"),
        ("SOURCE", "Source"),
        ("MODE", "Mode"),
        ("PID", "Pid"),
        ("STATE", "State"),
    ]
    render(rows.mount_rows(session.store, dead=True), columns, format=format_, quiet=None, echo=click.echo)


@click.command("version")
@click.option("-f", "--format", "format_", help="json, or a Go template.")
def version_command(format_: str | None) -> None:
    """Show versions, and which implementation is loaded."""
    from layerfs import native

    row = {
        "Version": __version__,
        "Core": "native" if native.NATIVE else "python",
        "PythonVersion": platform.python_version(),
        "KernelVersion": os.uname().release,
        "Arch": os.uname().machine,
    }
    columns = [
        ("VERSION", "Version"),
        ("CORE", "Core"),
        ("PYTHON", "PythonVersion"),
        ("KERNEL", "KernelVersion"),
        ("ARCH", "Arch"),
    ]
    render([row], columns, format=format_, quiet=None, echo=click.echo)
