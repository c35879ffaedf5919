"""Folding the layers of states: where a state in between has gone, the layers it left become one, so that what was
overwritten since is stored no more, and the depth follows the states that there are. What files of the containers above
need for their missing blocks stays.

The tree stays, byte for byte, what it was; but it has another name, so nothing that is mounted, or whose upper has
notes about its lower tree beside it (the kernel's index), is touched.
"""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING

from layerfs._record import replace
from layerfs.digest import DiffID, Digest
from layerfs.errors import Corrupt
from layerfs.layer.blocks import bases_of
from layerfs.layer.fold import fold_layers
from layerfs.layer.upper import prefix_of
from layerfs.snapshot.states import StateRecord, States
from layerfs.snapshot.uppers import upper_below
from layerfs.store.treefile import TreeFile

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from pathlib import Path

    from layerfs.store.index import Txn
    from layerfs.store.leases import Lease
    from layerfs.store.root import StoreRoot

__all__ = ["fold_states"]


def fold_states(root: StoreRoot) -> int:
    """Folds what can be folded; how many states have fewer layers now."""
    with root.index.view() as txn:
        if not _foldable(root, txn):
            return 0
    with root.lock("fold"), root.leases.acquire("fold") as lease:
        with root.index.view() as txn:
            found = _foldable(root, txn)
        return sum(_fold(root, lease, id) for id in found)


def _foldable(root: StoreRoot, txn: Txn) -> list[str]:
    """States with more than one layer of their own, parents first."""
    states = {state.id: state for state in States(txn).all()}
    busy = _busy(root, txn, states)
    own = {state.id: len(state.layers) - _inherited(state, states) for state in states.values() if state.absorbed}
    found = [id for id, count in own.items() if count > 1 and id not in busy]
    return sorted(found, key=lambda id: len(states[id].layers))


def _inherited(state: StateRecord, states: dict[str, StateRecord]) -> int:
    """How many of its layers are its parent's."""
    parent = states.get(state.parent)
    if parent is None or not parent.absorbed or state.layers[: len(parent.layers)] != parent.layers:
        return 0
    return len(parent.layers)


def _busy(root: StoreRoot, txn: Txn, states: dict[str, StateRecord]) -> set[str]:
    """States that must keep their trees, and those that these stand on: mounted ones, those below uppers with notes,
    and those below frozen uppers, which are read against them."""
    pending = [str(row.get("shown", "")) for _, row in txn.scan_json("mounts")]
    pending += [state.parent for state in states.values() if not state.absorbed]
    for base, place in _standing(root, txn):
        if any(_has_entries(place / "work" / name) for name in ("index", "scratch")):
            pending.append(base)
    found: set[str] = set()
    while pending:
        id = pending.pop()
        if id in states and id not in found:
            found.add(id)
            pending.append(states[id].parent)
    return found


def _standing(root: StoreRoot, txn: Txn) -> Iterator[tuple[str, Path]]:
    """The state that each container stands on, and the place of its upper."""
    for key, row in txn.scan_json("containers"):
        place = f"uppers/{row['upper']}" if row.get("upper") else f"containers/{key.decode()}"
        yield str(row.get("base", "")), upper_below(root.path, place)


def _has_entries(directory: Path) -> bool:
    with contextlib.suppress(OSError):
        return any(directory.iterdir())
    return False


def _fold(root: StoreRoot, lease: Lease, id: str) -> int:
    """The layers that a state does not share with its parent become one; those who stand on it get it as well."""
    with root.index.view() as txn:
        states = {state.id: state for state in States(txn).all()}
    if id not in states:
        return 0
    state = states[id]
    kept = _inherited(state, states)
    below = tuple(DiffID(Digest(text)) for text in (*state.below, *state.layers[:kept]))
    above = tuple(DiffID(Digest(text)) for text in state.layers[kept:])
    try:
        layer = fold_layers(root, below, above, lease=lease)
    except Corrupt:
        return 0  # a damaged layer is fsck's to tell
    lost = _contents(root, above) - _contents(root, [layer.diff_id] if layer else [])
    if lost and lost & _bases(root, id, states):
        return 0
    layers = (*state.layers[:kept], *([layer.diff_id.hex] if layer else []))
    return _publish(root, state, layers)


def _contents(root: StoreRoot, layers: Iterable[DiffID]) -> set[bytes]:
    return {each for diff_id in layers for each in TreeFile(root.tree_path("layer", diff_id.hex)).identities()}


def _bases(root: StoreRoot, id: str, states: dict[str, StateRecord]) -> set[bytes]:
    """What block-level files of containers that stand on a state, or above it, have their missing blocks from. That may
    be hidden in its tree: by the file as it was at a snapshot in between, which has the same base.
    """
    with root.index.view() as txn:
        places = [place for base, place in _standing(root, txn) if base == id or _above(base, id, states)]
    found: set[bytes] = set()
    for place in places:
        with contextlib.suppress(FileNotFoundError):  # it has just gone, or was never made
            found |= bases_of(place / "upper", prefix_of(place / "upper"))
    return found


def _above(at: str, ancestor: str, states: dict[str, StateRecord]) -> bool:
    return at in states and _descends(states[at], ancestor, states)


def _publish(root: StoreRoot, state: StateRecord, layers: tuple[str, ...]) -> int:
    with root.index.update() as txn:
        states = States(txn)
        every = {each.id: each for each in states.all()}
        heirs = [each for each in every.values() if each.absorbed and each.layers[: len(state.layers)] == state.layers]
        mine = [each for each in heirs if each.id == state.id or _descends(each, state.id, every)]
        if every.get(state.id) != state or {each.id for each in mine} & _busy(root, txn, every):
            return 0  # somebody has mounted it, or it is gone
        for each in mine:
            states.put(replace(each, layers=(*layers, *each.layers[len(state.layers) :])))
        return len(mine)


def _descends(state: StateRecord, ancestor: str, every: dict[str, StateRecord]) -> bool:
    at = state.parent
    while at in every:
        if at == ancestor:
            return True
        at = every[at].parent
    return False
