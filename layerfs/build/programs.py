"""What was meant by a program that a RUN did not find: a near name in the image's `$PATH`."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence

from layerfs.build.files import Files
from layerfs.build.find import find
from layerfs.build.problems import nearest
from layerfs.errors import InvalidInput

NOT_FOUND = 127  # the exit code
_KEPT = 4096  # bytes of what a program says last
_SHELL = re.compile(rb"(?:^|[\s:])([\w.+-]+): (?:command )?not found\s*\Z")  # sh, ash, dash, bash


class Tail:
    """The last bytes of a stream."""

    def __init__(self) -> None:
        self.data = b""

    def take(self, data: bytes) -> None:
        self.data = (self.data + data)[-_KEPT:]


def missing(argv: Sequence[str], said: bytes) -> str:
    """The program that was not found: what a shell has said of one, else the command itself."""
    found = _SHELL.search(said)
    if found is not None:
        return found[1].decode()
    return argv[0] if argv and not said.strip() else ""


def meant(files: Files, env: Sequence[str], name: str) -> str:
    """The nearest name of a program in `$PATH`, or ""."""
    if not name or "/" in name:
        return ""
    path = next((pair[5:] for pair in reversed(env) if pair.startswith("PATH=")), "")
    names: set[str] = set()
    for place in filter(None, path.split(":")):
        try:
            directory = find(files, os.fsencode(place))
        except InvalidInput:  # links in a circle
            continue
        if directory is not None and directory.is_dir:
            names |= {each.name.decode(errors="replace") for each in files.children(directory) if not each.is_dir}
    return nearest(name, names)
