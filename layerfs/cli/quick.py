"""Verbs of everyday, without click: see `flags`."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Sequence

from layerfs.cli.flags import Plain, Unclear, option, parse

_STORE = option("--store", metavar="DIR")
_HOMES = {  # the module that has a verb's table, as NAME
    "create": "launch",
    "run": "launch",
    "start": "joining",
    "exec": "joining",
    "ps": "listing",
    "rm": "listing",
    "inspect": "listing",
    "pull": "transfers",
    "push": "transfers",
}
_OF_IMAGES = ("inspect", "pull", "push")
_OF_CONTAINERS = {"ls": "ps", "list": "ps"} | {name: name for name in _HOMES if name not in _OF_IMAGES}


def attempt(arguments: Sequence[str]) -> int | None:
    """The exit code; None for what is left to click."""
    if os.environ.get("_LAYERFS_COMPLETE"):
        return None
    try:
        top, rest = parse(arguments, [_STORE])
        if rest[:1] == ["container"] and rest[1:]:
            rest = [_OF_CONTAINERS.get(rest[1], ""), *rest[2:]]
        verb = _verb(rest[0]) if rest else None
        if verb is None:
            return None
        options, words = parse(rest[1:], verb.flags, mixed=verb.mixed)
    except Unclear:
        return None
    if len(words) < verb.least or (verb.most is not None and len(words) > verb.most):
        return None
    from layerfs.cli.session import Session, guarded

    session = Session(top["store"] if top["store"] is not None else os.environ.get("LAYERFS_STORE") or None)
    with contextlib.closing(session):
        return guarded(lambda: verb.do(session, words, options) or 0)


def _verb(name: str) -> Plain | None:
    if name not in _HOMES:
        return None
    from importlib import import_module

    found: Plain = getattr(import_module(f"layerfs.cli.{_HOMES[name]}"), name.upper())
    return found
