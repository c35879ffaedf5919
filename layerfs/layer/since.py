"""What a container with snapshots changed against its image: the layers of its state, and its upper above them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from layerfs.layer.changes import Change, Kind, UpperWalk
from layerfs.layer.fold import is_changed, touched
from layerfs.layer.tree import Tree


class _Step(NamedTuple):
    there: bool
    changed: bool
    is_dir: bool
    hides: bool  # a directory that shows nothing of the state's at this path


def changes_since(
    image: Tree,
    deltas: Sequence[Tree],
    state: Tree,
    upper: Path,
    *,
    index: Path | None = None,
    hidden: frozenset[bytes] = frozenset(),
) -> Iterator[Change]:
    """As `changes`, against `image`; `deltas` are the layers between it and `state`, on which the upper stands.

    What was changed and changed back is still listed, and a directory that was replaced is one that changed.

    Raises:
        Corrupt, InUse: see `changes`.
    """
    before = {path for path, pair in touched(image, deltas, state) if is_changed(image, state, *pair)}
    steps = _steps(upper, state, index, hidden)
    found: dict[bytes, Kind] = {}
    for path in before | {path for path, step in steps.items() if step.changed}:
        was, now = image.resolve(path) is not None, _is_there(path, steps, state)
        if now:
            found[path] = "C" if was else "A"
        elif was:
            found[path] = "D"
    yield from _listed(found)


def _steps(upper: Path, state: Tree, index: Path | None, hidden: frozenset[bytes]) -> dict[bytes, _Step]:
    found = {}
    with UpperWalk(upper, state, index=index, hidden=hidden) as walk:
        for step in walk:
            same = step.base is not None and step.here is not None and step.base.nid == step.here.nid
            changed = step.kind != "=" or step.replaced
            found[step.path] = _Step(step.kind != "D", changed, step.is_dir, step.replaced or not same)
    return found


def _is_there(path: bytes, steps: dict[bytes, _Step], state: Tree) -> bool:
    """The upper says so for the path itself, or for the nearest directory above it."""
    if path in steps:
        return steps[path].there
    at = path
    while at:
        at = at.rpartition(b"/")[0]
        if at in steps:
            step = steps[at]
            return step.there and step.is_dir and not step.hides and state.resolve(path) is not None
    return state.resolve(path) is not None


def _listed(found: dict[bytes, Kind]) -> Iterator[Change]:
    """Depth first; the directories above a change are changed too, and of a deleted one only the top is listed."""
    for path in list(found):
        at = path.rpartition(b"/")[0]
        while at and at not in found:
            found[at] = "C"
            at = at.rpartition(b"/")[0]
    found.pop(b"", None)
    gone: bytes | None = None
    for path in sorted(found, key=lambda path: path.split(b"/")):
        if gone is not None and path.startswith(gone):
            continue
        gone = path + b"/" if found[path] == "D" else None
        yield Change(found[path], b"/" + path)


__all__ = ["changes_since"]
