"""Absorbing a frozen state: its directory becomes a layer on top of what is below it, and goes.

Kill-safe at every point: until the state's row says its layers, the directory is what counts; then it is garbage.

Big files are moved: linked to the objects while they are read for their hashes. A link shows in a file's attributes, so
while that is so (`moving` in the state's row) nobody mounts the directory; of one that is mounted they are copied.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from layerfs._record import replace
from layerfs.digest import DiffID, Digest, chain_id
from layerfs.errors import Corrupt, InUse, InvalidInput, NoSpace
from layerfs.layer.merged import merged_tree
from layerfs.snapshot.states import StateRecord, States, mounted_places
from layerfs.snapshot.uppers import discard, remove_discarded, upper_below
from layerfs.store.reserve import with_reserve

if TYPE_CHECKING:
    from layerfs.store.leases import Lease
    from layerfs.store.root import StoreRoot

__all__ = ["GaveWay", "absorb", "absorb_loose", "pin_stack"]


class GaveWay(InUse):
    """Who absorbs in the background has left a state to somebody who waits for it."""


def absorb(root: StoreRoot, id: str, *, yielding: bool = False) -> StateRecord:
    """The state, absorbed, with all that is below it. `yielding`: whoever else wants the same goes first.

    Raises:
        InvalidInput: it has a name that a layer cannot hold (`.wh.*`), or a path that is too long. NoSpace, Corrupt.
        GaveWay: when `yielding`.
    """
    with root.index.view() as txn:
        waiting, state = States(txn).loose(id), States(txn).get(id)
    for each in waiting:
        state = _absorb(root, each.id, yielding)
    return state


def absorb_loose(root: StoreRoot, *, container: str = "", yielding: bool = False) -> int:
    """Absorbs what can be, of a container or all; how many states that were.

    Raises:
        NoSpace.
    """
    with root.index.view() as txn:
        loose = [state for state in States(txn).all() if not state.absorbed]
    done = 0
    for state in loose:
        if container in ("", state.container):
            with contextlib.suppress(InvalidInput, Corrupt, InUse, FileNotFoundError):  # no layer holds it; it has gone
                done += absorb(root, state.id, yielding=yielding).absorbed
    return done


def _absorb(root: StoreRoot, id: str, yielding: bool) -> StateRecord:
    """One whose parent is absorbed (or the image)."""
    from layerfs.snapshot.freezing import settle_served
    from layerfs.snapshot.reunite import reunite

    settle_served(root, id)
    with (
        root.lock("fold", exclusive=False),
        _turn(root, id, yielding) as check,
        root.leases.acquire("absorb") as lease,
    ):
        with root.index.view() as txn:
            state = States(txn).get(id)
            if state.absorbed:
                return state
            below = States(txn).get(state.parent).layers if state.parent else ()
        reunite(upper_below(root.path, state.place))
        with _moving(root, state) as move:
            return _absorb_files(root, state, below, lease, move, check)


def _absorb_files(
    root: StoreRoot, state: StateRecord, below: tuple[str, ...], lease: Lease, move: bool, check: Callable[[], object]
) -> StateRecord:
    from layerfs.layer.commit import commit_layer

    stack = tuple(DiffID(Digest(text)) for text in (*state.below, *below))
    pin_stack(lease, stack)
    place = upper_below(root.path, state.place)
    tree, index, hidden = merged_tree(root, stack), _index(place), frozenset(map(os.fsencode, state.points))
    layer = commit_layer(root, place / "upper", tree, lease=lease, index=index, move=move, check=check, hidden=hidden)
    layers = (*below, *([layer.diff_id.hex] if layer else []))
    absorbed = replace(state, place="", layers=layers, moving=False)
    with root.index.update() as txn:
        if States(txn).find(state.id) is None:  # nobody needs it any more: its files are being removed
            return absorbed
        States(txn).put(absorbed)
        used = state.place in mounted_places(txn)  # then it goes with the mount
    if not used:
        remove_discarded(discard(root, [state.place]))
    return absorbed


@contextlib.contextmanager
def _moving(root: StoreRoot, state: StateRecord) -> Iterator[bool]:
    """Whether nobody sees the state's directory, nor will in the body."""
    if not _mark(root, state.id, True):
        yield False
        return
    try:
        yield True
    except BaseException:  # the links went with the lease's files
        with contextlib.suppress(NoSpace):
            with_reserve(root.path, lambda: _mark(root, state.id, False))
        raise


def _mark(root: StoreRoot, id: str, moving: bool) -> bool:
    with root.index.update() as txn:
        now = States(txn).find(id)
        if now is None or now.absorbed or now.place in mounted_places(txn):
            return False
        if now.moving != moving:
            States(txn).put(replace(now, moving=moving))
    return True


@contextlib.contextmanager
def _turn(root: StoreRoot, id: str, yielding: bool) -> Iterator[Callable[[], object]]:
    """One at a time absorbs a state. Who is `yielding` and calls what this gives hears of it when another waits."""
    name = f"absorb-{id[:2]}"
    if not yielding:
        with root.lock(f"{name}-next", exclusive=False), root.lock(name):
            yield lambda: None
        return
    try:
        with root.lock(name, wait=False):
            fd = os.open(root.path / "locks" / f"{name}-next", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
            try:
                yield lambda: _give_way(fd)
            finally:
                os.close(fd)
    except BlockingIOError:
        raise GaveWay("somebody else absorbs it") from None


def _give_way(fd: int) -> None:
    """Raises GaveWay when somebody has the shared lock."""
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise GaveWay("somebody waits for it") from None
    fcntl.flock(fd, fcntl.LOCK_UN)


def pin_stack(lease: Lease, stack: tuple[DiffID, ...]) -> None:
    """Keeps layers and their merged tree as long as the lease lives."""
    if stack:
        lease.pin(b"".join(diff_id.raw for diff_id in stack) + chain_id(stack).raw)


def _index(place: Path) -> Path:
    """Where the kernel engine notes hard-linked files it copied up."""
    return place / "work" / "index"
