"""Names of a file that was being written while its upper was frozen, and whose server was killed at that (parted.c).

It leaves two entries in scratch: `parted-N.file`, the file, and `parted-N`, the paths that it had, a NUL after each.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path

__all__ = ["file_of", "noted_names"]

_PARTED = "parted-"


def noted_names(scratch: Path) -> Iterator[tuple[Path, list[bytes]]]:
    """The notes, each with the paths; one without its file says nothing."""
    with contextlib.suppress(FileNotFoundError, NotADirectoryError):
        for note in sorted(scratch.glob(f"{_PARTED}*")):
            if file_of(note).is_file():
                yield note, note.read_bytes().split(b"\0")[:-1]


def file_of(note: Path) -> Path:
    return note.with_name(note.name + ".file")
