"""import, load, save, export."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any, BinaryIO

import click

from layerfs.cli.options import any_argument, image_argument
from layerfs.cli.output import out
from layerfs.cli.progress import bars
from layerfs.cli.session import Session
from layerfs.cli.verbs import verb
from layerfs.errors import InvalidInput, NotFound


def _source(name: str) -> str | BinaryIO:
    """A path, or standard input for `-`. Raises NotFound, in docker's words."""
    if name == "-":
        return sys.stdin.buffer
    if not os.path.lexists(name):
        raise NotFound(f"open {name}: no such file or directory")
    return name


def _output(path: str | None, verb: str) -> BinaryIO | str:
    """A path, or standard output. Raises InvalidInput when that is a terminal."""
    if path is not None and path != "-":
        if not Path(path).absolute().parent.is_dir():
            raise NotFound(f"invalid output path: directory {str(Path(path).parent)!r} does not exist")
        return path
    if sys.stdout.isatty():
        raise InvalidInput(f"cowardly refusing to {verb} to a terminal. Use the -o flag or redirect")
    return sys.stdout.buffer


_quiet = click.option("-q", "--quiet", is_flag=True, help="No progress bars.")


@verb("import")
@click.argument("source", metavar="FILE|DIR|-")
@click.argument("reference", required=False, metavar="[REPOSITORY[:TAG]]")
@click.option("-m", "--message", default="", help="Comment for the history.")
@click.option("-c", "--change", "changes", multiple=True, help="A Dockerfile instruction for the config.")
@click.option("--platform", metavar="OS/ARCH[/VARIANT]", help="Platform of the image.")
@_quiet
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
    out(image.id)


@verb("load")
@click.option(
    "-i", "--input", "source", default="-", metavar="FILE|DIR", help="Read from this instead of standard input."
)
@_quiet
@click.option("--platform", metavar="OS/ARCH[/VARIANT]", help="Platform to take from an index.")
@click.pass_obj
def load_command(session: Session, source: str, quiet: bool, platform: str | None) -> None:
    """Load images from a docker archive or an OCI layout."""
    if source == "-" and sys.stdin.isatty():
        raise InvalidInput("requested load from stdin, but stdin is empty")
    with bars(quiet) as progress:
        loaded = session.store.load(_source(source), platform=platform, progress=progress)
    for each in loaded:
        for tag in each.tags:
            out(f"Loaded image: {tag}")
        if not each.tags:
            out(f"Loaded image ID: {each.image.id}")


@verb("save")
@image_argument("names", nargs=-1, required=True, metavar="IMAGE...")
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
@click.option("--exact", is_flag=True, help="Fail where a pulled image's own manifest cannot go byte for byte.")
@click.option("--platform", metavar="OS/ARCH[/VARIANT]", help="An error unless the images are of this one.")
@_quiet
@click.pass_obj
def save_command(
    session: Session,
    names: tuple[str, ...],
    output: str | None,
    format_: str,
    compression: str | None,
    exact: bool,
    platform: str | None,
    quiet: bool,
) -> None:
    """Save images to an archive."""
    for name in names if platform else ():
        session.store.image(name).check_platform(name, platform)
    target = _output(output, "save")
    with bars(quiet) as progress:
        how: dict[str, Any] = {"format": format_, "compression": compression, "exact": exact}
        done = session.store.save(names, target, progress=progress, **how)
    for saved in done:
        if saved.instead_of is not None:
            warning = f"WARNING! {saved.name}: a new manifest, not {saved.instead_of} as it came: {saved.reason}"
            click.echo(warning, err=True)


@verb("export")
@any_argument(metavar="CONTAINER|IMAGE")
@click.option("-o", "--output", metavar="FILE", help="Write to this instead of standard output.")
@click.pass_obj
def export_command(session: Session, name: str, output: str | None) -> None:
    """Export the whole file system of a container or image as one tar."""
    session.store.export(name, _output(output, "export"))
