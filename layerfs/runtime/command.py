"""What runs: ENTRYPOINT and CMD, and the environment in docker's order.

The table of Dockerfile forms comes out right by itself, since a shell form is stored as `/bin/sh -c TEXT`: words after
it are the shell's `$0` and so are without effect.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping

from layerfs._lazy import TYPE_CHECKING
from layerfs.errors import InvalidInput, RunError

if TYPE_CHECKING:
    from typing import Any

PATH = b"PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
Word = str | bytes


def words(value: Any, what: str) -> tuple[bytes, ...]:
    """A list of strings of an image's config (or of an option) as bytes; None is the empty list."""
    if value is None:
        return ()
    if isinstance(value, str | bytes) or not all(isinstance(item, str | bytes) for item in value):
        raise InvalidInput(f"{what} must be a list of strings")
    return tuple(os.fsencode(item) for item in value)


def compose_argv(
    config: Mapping[str, Any], command: Iterable[Word] | None, entrypoint: Iterable[Word] | None
) -> tuple[bytes, ...]:
    """The argument vector. `command` replaces CMD; `entrypoint` replaces ENTRYPOINT and drops the image's CMD;
    an `entrypoint` of one empty word resets it. RunError when nothing is left."""
    given = None if command is None else words(command, "the command")
    if entrypoint is None:
        start = words(config.get("Entrypoint"), "Entrypoint")
        rest = given if given else words(config.get("Cmd"), "Cmd")
    else:
        start, rest = words(entrypoint, "the entrypoint"), given or ()
        start = () if start == (b"",) else start
    argv = start + rest
    if not argv:
        raise RunError("no command specified")
    return argv


def _put(env: dict[bytes, bytes | None], entries: Iterable[bytes], *, replace: bool) -> None:
    for entry in entries:
        name, equals, value = entry.partition(b"=")
        if not name:
            raise InvalidInput(f"invalid environment variable: {entry.decode(errors='replace')}")
        if replace or name not in env:
            env[name] = value if equals else None


def compose_env(
    config: Mapping[str, Any], given: Iterable[Word], *, hostname: bytes, home: bytes, tty: bool = False
) -> tuple[bytes, ...]:
    """PATH, HOSTNAME (and TERM on a terminal), then `given`, then the image's own, each name once and a later value in
    the earlier place; HOME last unless somebody set it. A name without `=` in `given` takes the variable away."""
    chosen: dict[bytes, bytes | None] = {}
    _put(chosen, words(given, "the environment"), replace=True)
    _put(chosen, words(config.get("Env"), "Env"), replace=False)
    env: dict[bytes, bytes | None] = {}
    _put(env, (PATH, b"HOSTNAME=" + hostname, *((b"TERM=xterm",) if tty else ())), replace=True)
    env.update(chosen)
    if env.get(b"HOME") is None:
        env.pop(b"HOME", None)
        env[b"HOME"] = home
    return tuple(name + b"=" + value for name, value in env.items() if value is not None)
