"""What changes have to do, as lists of plain steps; pure functions that touch no disk (reference 3.2 to 3.5).

`upper.Upper` performs the steps in order. Each step leaves a tree that shows either the old or the new state,
so a crash between two of them loses nothing.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum

from layerfs.union.node import split


class Data(Enum):
    """How much of a regular file's bytes a copy-up brings along."""

    NONE = "attributes only: a metacopy"
    EMPTY = "none, and the file becomes empty (O_TRUNC)"
    ALL = "everything"


@dataclass(frozen=True, slots=True)
class Facts:
    """What is known of a name before a change.

    `lower`: something below would show if this layer's entry vanished. `whiteout`: this layer holds a whiteout.
    `merged`: a directory that shows entries from below. `metacopy`: a regular file here whose bytes are below.
    `litter`: a directory here that holds whiteouts.
    """

    path: bytes
    exists: bool = False
    is_dir: bool = False
    here: bool = False
    lower: bool = False
    whiteout: bool = False
    merged: bool = False
    metacopy: bool = False
    litter: bool = False


# --- steps -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class CopyDirectory:
    """A directory that only lower layers have gets its twin here, with all attributes and none of its entries."""

    path: bytes


@dataclass(frozen=True, slots=True)
class CopyFile:
    """A lower non-directory is copied; `names` are all its visible names, which stay one inode."""

    path: bytes
    names: tuple[bytes, ...]
    data: Data


@dataclass(frozen=True, slots=True)
class Complete:
    """A metacopy gets its bytes and becomes a plain file."""

    path: bytes
    data: Data


@dataclass(frozen=True, slots=True)
class Unlink:
    """A non-directory here goes."""

    path: bytes


@dataclass(frozen=True, slots=True)
class RemoveDirectory:
    """A directory here that shows nothing goes, with the whiteouts in it."""

    path: bytes


@dataclass(frozen=True, slots=True)
class Whiteout:
    """A whiteout where this layer has nothing."""

    path: bytes


@dataclass(frozen=True, slots=True)
class CoverFile:
    """A whiteout takes a non-directory's place in one step."""

    path: bytes


@dataclass(frozen=True, slots=True)
class CoverDirectory:
    """A whiteout and a directory that shows nothing change places, then the directory goes."""

    path: bytes


@dataclass(frozen=True, slots=True)
class Clear:
    """A directory that shows nothing becomes opaque and loses its whiteouts, so that a rename may replace it."""

    path: bytes


@dataclass(frozen=True, slots=True)
class Opaque:
    path: bytes


@dataclass(frozen=True, slots=True)
class Redirect:
    """The entry remembers its lower name, by which its directory or bytes are found after a rename.

    `same_parent`: the bare name will do.
    """

    path: bytes
    same_parent: bool


@dataclass(frozen=True, slots=True)
class Impure:
    """The directory's listing has to look at entries' origins from now on."""

    path: bytes


class Leave(Enum):
    """What stands at the old name after a move."""

    NOTHING = 0
    WHITEOUT = 1
    THE_OTHER = 2  # an exchange


@dataclass(frozen=True, slots=True)
class Move:
    """rename(2) in this layer. `over`: what the new name holds here."""

    old: bytes
    new: bytes
    leave: Leave
    over_whiteout: bool = False
    over_visible: bool = False


Step = (
    CopyDirectory
    | CopyFile
    | Complete
    | Unlink
    | RemoveDirectory
    | Whiteout
    | CoverFile
    | CoverDirectory
    | Clear
    | Opaque
    | Redirect
    | Impure
    | Move
)

# --- plans -------------------------------------------------------------------------------------------------------


def plan_parents(path: bytes, here: Sequence[bytes]) -> list[Step]:
    """Twins for the directories above `path` that this layer does not have yet; `here` are those it has."""
    parts = path.split(b"/")[:-1]
    above = [b"/".join(parts[: count + 1]) for count in range(len(parts))]
    return [CopyDirectory(directory) for directory in above if directory not in here]


def plan_copy_up(facts: Facts, names: tuple[bytes, ...], data: Data) -> list[Step]:
    """What must happen before an existing entry changes (reference 3.2); its directories are there already."""
    if not facts.here:
        return [CopyDirectory(facts.path)] if facts.is_dir else [CopyFile(facts.path, names, data)]
    if facts.metacopy and data is not Data.NONE:
        return [Complete(facts.path, data)]
    return []


def plan_remove(facts: Facts) -> list[Step]:
    """unlink or rmdir of an entry that may go: a whiteout only where something below would show (reference 3.3)."""
    if not facts.here:
        return [Whiteout(facts.path)]
    if facts.lower:
        return [CoverDirectory(facts.path) if facts.is_dir else CoverFile(facts.path)]
    return [RemoveDirectory(facts.path) if facts.is_dir else Unlink(facts.path)]


def plan_rename(old: Facts, new: Facts, *, merged_parent: bool) -> list[Step]:
    """rename(2) after all checks; `old` and both parents are in this layer by now (reference 3.4).

    A merged directory keeps its lower part by a redirect, in constant time; a pure one becomes opaque where it might
    meet another. `merged_parent`: the new name's directory shows entries from below.
    """
    steps: list[Step] = _identity(old, new, merged_parent)
    if new.here and new.is_dir and new.litter:
        steps.append(Clear(new.path))
    leave = Leave.WHITEOUT if old.lower else Leave.NOTHING
    return [*steps, Move(old.path, new.path, leave, over_whiteout=new.whiteout, over_visible=new.exists)]


def plan_exchange(old: Facts, new: Facts, *, old_parent_merged: bool, new_parent_merged: bool) -> list[Step]:
    """RENAME_EXCHANGE: both entries are in this layer by now."""
    steps = [*_identity(old, new, new_parent_merged), *_identity(new, old, old_parent_merged)]
    return [*steps, Move(old.path, new.path, Leave.THE_OTHER)]


def _identity(moving: Facts, place: Facts, merged_parent: bool) -> list[Step]:
    """What an entry needs so that it means the same at another name."""
    steps: list[Step] = []
    if moving.merged or moving.metacopy:
        same = split(moving.path)[0] == split(place.path)[0] and moving.merged
        steps.append(Redirect(moving.path, same))
    elif moving.is_dir and merged_parent:
        steps.append(Opaque(moving.path))
    steps.append(Impure(split(place.path)[0]))
    return steps


def check_rename(old: Facts, new: Facts, *, new_empty: bool, replace: bool = True) -> None:
    """The errors of rename(2) that a file system has to find itself."""
    if not old.exists:
        raise _error(errno.ENOENT, old.path)
    if new.exists and not replace:
        raise _error(errno.EEXIST, new.path)
    if new.path.startswith(old.path + b"/"):
        raise _error(errno.EINVAL, new.path)
    if old.path.startswith(new.path + b"/"):
        raise _error(errno.ENOTEMPTY, new.path)
    if not new.exists:
        return
    if new.is_dir and not old.is_dir:
        raise _error(errno.EISDIR, new.path)
    if old.is_dir and not new.is_dir:
        raise _error(errno.ENOTDIR, new.path)
    if new.is_dir and not new_empty:
        raise _error(errno.ENOTEMPTY, new.path)


def _error(number: int, path: bytes) -> OSError:
    return OSError(number, os.strerror(number), os.fsdecode(path))
