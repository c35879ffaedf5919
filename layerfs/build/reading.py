"""Finding the Dockerfile of a context, and what goes with it."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import BinaryIO

from layerfs._record import dataclass
from layerfs.build.files import Files, Skip
from layerfs.build.find import find
from layerfs.build.ignore import Found as Decision
from layerfs.build.ignore import Matcher, parse_ignore
from layerfs.errors import InvalidInput, NotFound

NAMES = (b"Dockerfile", b"Containerfile")
_MAX = 4 << 20
_KEPT = 1024


@dataclass(frozen=True, slots=True)
class Found:
    """A Dockerfile, what it is called in messages, and the rules of what it ignores."""

    name: str
    data: bytes
    ignore: bytes


def find_dockerfile(files: Files, wanted: str | os.PathLike[str] | BinaryIO | None, *, host: bool = True) -> Found:
    """`wanted`: a path of the host (with `host`), else one in the context; a stream; None for the usual names.

    Raises:
        NotFound: in docker's words.
    """
    if wanted is not None and not isinstance(wanted, str | os.PathLike):
        return Found("Dockerfile", wanted.read(_MAX + 1), _in_context(files, b".dockerignore") or b"")
    if wanted is not None and host and Path(wanted).is_file():
        path = Path(wanted)
        own = path.with_name(path.name + ".dockerignore")
        ignore = own.read_bytes() if own.is_file() else _in_context(files, b".dockerignore") or b""
        return Found(path.name, path.read_bytes(), ignore)
    names = NAMES if wanted is None else (os.fsencode(wanted),)
    for name in names:
        data = _in_context(files, name)
        if data is not None:
            own_rules = _in_context(files, name + b".dockerignore")
            rules = own_rules if own_rules is not None else _in_context(files, b".dockerignore") or b""
            return Found(os.fsdecode(name), data, rules)
    shown = "Dockerfile" if wanted is None else os.fspath(wanted)
    raise NotFound(f"failed to read dockerfile: open {shown}: no such file or directory")


def _in_context(files: Files, path: bytes) -> bytes | None:
    item = find(files, path)
    if item is None:
        return None
    if not item.is_file:
        raise InvalidInput(f"failed to read dockerfile: {os.fsdecode(path)} is no regular file")
    if item.size > _MAX:
        raise InvalidInput(f"failed to read dockerfile: {os.fsdecode(path)} is larger than {_MAX} bytes")
    content = files.content(item)
    return b"".join(content.pieces(((0, content.size),))) if content else b""


class IgnoreRules:
    """A .dockerignore as contexts ask for it; what directories got is kept for what is below them."""

    def __init__(self, matcher: Matcher) -> None:
        self._matcher = matcher
        self._above: dict[bytes, Decision] = {}

    def ignores(self, path: bytes) -> bool:
        return bool(path) and self._decision(path).excluded

    def may_keep_below(self, directory: bytes) -> bool:
        return self._matcher.may_keep_below(os.fsdecode(directory))

    def _decision(self, path: bytes) -> Decision:
        parent = path.rpartition(b"/")[0]
        above = self._above.get(parent)
        if parent and above is None:
            above = self._directory(parent)
        return self._matcher.below(os.fsdecode(path), above)

    def _directory(self, path: bytes) -> Decision:
        parts = path.split(b"/")
        above: Decision | None = None
        for count in range(1, len(parts) + 1):
            above = self._matcher.below(os.fsdecode(b"/".join(parts[:count])), above)
        if len(self._above) > _KEPT:
            self._above.clear()
        assert above is not None
        self._above[path] = above
        return above


def ignore_of(found: Found) -> IgnoreRules | None:
    """Raises InvalidDockerfile."""
    patterns = parse_ignore(found.ignore)
    return IgnoreRules(Matcher(patterns)) if patterns else None


def skip_of(patterns: Sequence[str]) -> Skip | None:
    """What `--exclude` leaves out."""
    if not patterns:
        return None
    matcher = Matcher(patterns)

    def skip(path: bytes, is_dir: bool) -> bool:
        text = os.fsdecode(path)
        return matcher.excluded(text) and not (is_dir and matcher.may_keep_below(text))

    return skip
