"""import, load, save, export."""

from __future__ import annotations

import sys
from typing import Any, BinaryIO

import click

from layerfs.cli.app import Session
from layerfs.cli.progress import bars
from layerfs.errors import InvalidInput


def _source(name: str) -> Any:
    """A path, or standard input for `-`."""
    return sys.stdin.buffer if name == "-" else name


@click.command("import")
@click.argument("source", metavar="FILE|DIR|-")
@click.argument("reference", required=False)
@click.option("-m", "--message", default="", help="Comment for the history.")
@click.option("-c", "--change", "changes", multiple=True, help="A Dockerfile instruction for the config.")
@click.option("--platform", help="os/arch[/variant] of the image.")
@click.option("-q", "--quiet", is_flag=True, help="No progress bars.")
@click.pass_obj
def import_command(
    session: Session,
    source: str,
    reference: str | None,
    message: str,
    changes: tuple[str, ...],
    platform: str | None,
    quiet: bool,
) -> None:
    """Make an image of a root file system (tar or directory), a docker archive or an OCI layout."""
    with bars(quiet) as progress:
        image = session.store.import_archive(
            _source(source), tag=reference, message=message, changes=changes, platform=platform, progress=progress
        )
    click.echo(image.id)


@click.command("load")
@click.option(
    "-i", "--input", "source", default="-", metavar="FILE|DIR", help="Read from this instead of standard input."
)
@click.option("-q", "--quiet", is_flag=True, help="No progress bars.")
@click.option("--platform", help="os/arch[/variant] to take from an index.")
@click.pass_obj
def load_command(session: Session, source: str, quiet: bool, platform: str | None) -> None:
    """Load images from a docker archive or an OCI layout."""
    if source == "-" and sys.stdin.isatty():
        raise InvalidInput("requested load from stdin, but stdin is empty")
    with bars(quiet) as progress:
        for loaded in session.store.load(_source(source), platform=platform, progress=progress):
            for tag in loaded.tags:
                click.echo(f"Loaded image: {tag}")
            if not loaded.tags:
                click.echo(f"Loaded image ID: {loaded.image.id}")


def _output(path: str | None, verb: str) -> BinaryIO | str:
    if path is not None and path != "-":
        return path
    if sys.stdout.isatty():
        raise InvalidInput(f"cowardly refusing to {verb} to a terminal. Use the -o flag or redirect")
    return sys.stdout.buffer


@click.command("save")
@click.argument("names", nargs=-1, required=True, metavar="IMAGE...")
@click.option("-o", "--output", metavar="FILE|DIR", help="Write to this instead of standard output.")
@click.option(
    "--format",
    "format_",
    type=click.Choice(["docker", "oci", "oci-dir"]),
    default="docker",
    help="docker archive (default), OCI layout as tar or directory.",
)
@click.option(
    "--compression",
    type=click.Choice(["none", "gzip", "zstd", "original"]),
    help="Layers of an OCI layout (default: original, the bytes they came with).",
)
@click.pass_obj
def save_command(
    session: Session, names: tuple[str, ...], output: str | None, format_: str, compression: str | None
) -> None:
    """Save images to an archive."""
    session.store.save(names, _output(output, "save"), format=format_, compression=compression)


@click.command("export")
@click.argument("name", metavar="CONTAINER|IMAGE")
@click.option("-o", "--output", metavar="FILE", help="Write to this instead of standard output.")
@click.pass_obj
def export_command(session: Session, name: str, output: str | None) -> None:
    """Export the whole file system of a container or image as one tar."""
    session.store.export(name, _output(output, "export"))
