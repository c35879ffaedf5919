"""waste, optimize."""

from __future__ import annotations

import os

import click

from layerfs.cli.options import format_option, image_argument
from layerfs.cli.output import out
from layerfs.cli.rows import printable
from layerfs.cli.session import Session
from layerfs.cli.table import render
from layerfs.cli.verbs import verb
from layerfs.image.text import human_size

_COLUMNS = {"REASON": "Reason", "LAYER": "Layer", "SIZE": "Size", "PATH": "Path"}


@verb("waste")
@image_argument()
@click.option("-n", "--lines", type=click.IntRange(0), default=20, help="How many of the largest (20; 0: all).")
@format_option()
@click.pass_obj
def waste_command(session: Session, image: str, lines: int, format_: str | None) -> None:
    """What an image stores for nothing: files that later layers overwrite, remove, or copy for a chmod."""
    found = session.store.image(image).waste()
    rows = [
        {
            "Reason": file.reason,
            "Layer": str(file.layer + 1),
            "Size": human_size(file.size),
            "Bytes": file.size,
            "Path": printable(os.fsdecode(file.path)),
        }
        for file in found.files
    ]
    rows += [
        {
            "Reason": "duplicate",
            "Layer": "-",
            "Size": human_size(each.extra),
            "Bytes": each.extra,
            "Path": " ".join(printable(os.fsdecode(path)) for path in each.paths),
        }
        for each in found.duplicates
    ]
    rows.sort(key=lambda row: -int(str(row["Bytes"])))
    if format_ is None:
        share = f"{found.efficiency:.1%} of {human_size(found.total)} is seen"
        extra = human_size(sum(each.extra for each in found.duplicates))
        out(f"{share}; {human_size(found.wasted)} is hidden by later layers; duplicates: {extra} (stored once)")
    if rows or format_ is not None:
        render(rows[: lines or None], _COLUMNS, format=format_)


@verb("optimize")
@image_argument()
@click.argument("reference", required=False, metavar="[REPOSITORY[:TAG]]")
@click.pass_obj
def optimize_command(session: Session, image: str, reference: str | None) -> None:
    """Make an equal image without what later layers hide; prints its ID (the same one when nothing is to gain)."""
    out(session.store.image(image).optimize(reference).id)
