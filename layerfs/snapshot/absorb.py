"""Absorbing a frozen state: its directory becomes a layer on top of what is below it, and goes.

Kill-safe at every point: until the state's row says its layers, the directory is what counts; then it is garbage.
"""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import TYPE_CHECKING

from layerfs._record import replace
from layerfs.digest import DiffID, Digest, chain_id
from layerfs.errors import Corrupt, InUse, InvalidInput
from layerfs.layer.merged import merged_tree
from layerfs.snapshot.states import StateRecord, States, mounted_places
from layerfs.snapshot.uppers import discard, remove_discarded, upper_below

if TYPE_CHECKING:
    from layerfs.store.leases import Lease
    from layerfs.store.root import StoreRoot

__all__ = ["absorb", "absorb_loose", "pin_stack"]


def absorb(root: StoreRoot, id: str) -> StateRecord:
    """The state, absorbed, with all that is below it.

    Raises:
        InvalidInput: it has a name that a layer cannot hold (`.wh.*`), or a path that is too long. NoSpace, Corrupt.
    """
    with root.index.view() as txn:
        waiting, state = States(txn).loose(id), States(txn).get(id)
    for each in waiting:
        state = _absorb(root, each.id)
    return state


def absorb_loose(root: StoreRoot) -> int:
    """Absorbs what can be; how many states that were."""
    with root.index.view() as txn:
        waiting = [state.id for state in States(txn).all() if not state.absorbed]
    done = 0
    for id in waiting:
        with contextlib.suppress(
            InvalidInput, Corrupt, InUse, FileNotFoundError
        ):  # no layer can hold it; it has just gone
            done += absorb(root, id).absorbed
    return done


def _absorb(root: StoreRoot, id: str) -> StateRecord:
    """One whose parent is absorbed (or the image)."""
    from layerfs.layer.commit import commit_layer
    from layerfs.snapshot.freezing import settle_served

    settle_served(root, id)
    with (
        root.lock("fold", exclusive=False),
        root.lock(f"absorb-{id[:2]}"),
        root.leases.acquire("absorb") as lease,
    ):
        with root.index.view() as txn:
            state = States(txn).get(id)
            if state.absorbed:
                return state
            below = States(txn).get(state.parent).layers if state.parent else ()
        stack = tuple(DiffID(Digest(text)) for text in (*state.below, *below))
        pin_stack(lease, stack)
        place = upper_below(root.path, state.place)
        layer = commit_layer(root, place / "upper", merged_tree(root, stack), lease=lease, index=_index(place))
        layers = (*below, *([layer.diff_id.hex] if layer else []))
        absorbed = replace(state, place="", layers=layers)
        with root.index.update() as txn:
            if States(txn).find(id) is None:  # nobody needs it any more: its files are being removed
                return absorbed
            States(txn).put(absorbed)
            used = state.place in mounted_places(txn)  # then it goes with the mount
        if not used:
            remove_discarded(discard(root, [state.place]))
    return absorbed


def pin_stack(lease: Lease, stack: tuple[DiffID, ...]) -> None:
    """Keeps layers and their merged tree as long as the lease lives."""
    if stack:
        lease.pin(b"".join(diff_id.raw for diff_id in stack) + chain_id(stack).raw)


def _index(place: Path) -> Path:
    """Where the kernel engine notes hard-linked files it copied up."""
    return place / "work" / "index"
