"""Verbs that start containers, without click: see `flags`."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Sequence

from layerfs.cli.flags import Unclear, option, parse

_STORE = option("--store", metavar="DIR")


def attempt(arguments: Sequence[str]) -> int | None:
    """The exit code; None for what is left to click."""
    if os.environ.get("_LAYERFS_COMPLETE"):
        return None
    try:
        top, rest = parse(arguments, [_STORE])
        verb = rest[1:2] if rest[:1] == ["container"] else rest[:1]
        if verb not in (["run"], ["create"]):
            return None
        from layerfs.cli import launch

        words = rest[2:] if rest[0] == "container" else rest[1:]
        options, words = parse(words, launch.RUN_OPTIONS if verb == ["run"] else launch.OPTIONS)
    except Unclear:
        return None
    if not words:
        return None
    from layerfs.cli.session import Session, guarded

    do = launch.run if verb == ["run"] else launch.create
    session = Session(top["store"] if top["store"] is not None else os.environ.get("LAYERFS_STORE") or None)
    with contextlib.closing(session):
        return guarded(lambda: do(session, words[0], words[1:], options))
