"""What snapshots take: which bytes only one of them holds, and which it shares."""

from __future__ import annotations

import contextlib
import os
import stat
from collections import Counter
from collections.abc import Collection, Iterable
from pathlib import Path
from typing import TYPE_CHECKING

from layerfs._record import dataclass
from layerfs.digest import DiffID, Digest
from layerfs.engine.mounts import storage_options, writable_mounts
from layerfs.engine.snapshots import steady
from layerfs.engine.upkeep import entries_of, files_of, upper_size
from layerfs.errors import LayerfsError
from layerfs.image.record import scan_images
from layerfs.layer.merged import layer_tree
from layerfs.layer.shadow import visible_contents
from layerfs.snapshot import control
from layerfs.snapshot.states import SnapshotRecord, StateRecord, States
from layerfs.snapshot.uppers import upper_below
from layerfs.store.format import ContentValue
from layerfs.store.treefile import TreeFile

if TYPE_CHECKING:
    from layerfs.engine.container import Container
    from layerfs.engine.store import Store
    from layerfs.snapshot import ContainerRecord
    from layerfs.store.index import Txn

__all__ = ["SnapshotSize", "Usage", "containers_size", "frozen_sizes", "snapshot_sizes", "state_size", "usage_of"]

_Items = dict[bytes, int]  # a content or a frozen file: its bytes


@dataclass(frozen=True, slots=True)
class SnapshotSize:
    """Bytes of files above the image. `private`: those that are freed when the snapshot is removed (and gc has run);
    `shared`: those that other snapshots, containers or images have too."""

    shared: int
    private: int


@dataclass(frozen=True, slots=True)
class Usage:
    """Of a container's upper directory, as `size=` and `inodes=` count it."""

    bytes: int
    entries: int
    bytes_limit: int | None = None
    entries_limit: int | None = None


def usage_of(box: Container) -> Usage:
    """As its server counts, when the native engine has it mounted with limits; else counted now."""
    limits = storage_options(box.record)
    for mounted in writable_mounts(box.store, box.id):
        with contextlib.suppress(LayerfsError):
            told = control.request(box.store.root, mounted.id, "quota")
            if told["limited"]:
                return Usage(told["used"], told["used_inodes"], told["size"] or None, told["inodes"] or None)
    taken, entries = steady(box, lambda record: _counted(box.store.container_table.upper(record)))
    return Usage(taken, entries, limits.size, limits.inodes)


def _counted(upper: Path) -> tuple[int, int]:
    """Bytes and entries of an upper directory."""
    seen: set[tuple[int, int]] = set()
    taken = 0
    # with the directory itself, as du does, which a store that cannot be written may lack
    for found in (upper.stat(), *entries_of(upper)) if upper.exists() else ():
        if not is_whiteout(found) and (found.st_dev, found.st_ino) not in seen:
            seen.add((found.st_dev, found.st_ino))
            taken += found.st_blocks * 512
    return taken, len(seen)


def is_whiteout(status: os.stat_result) -> bool:
    return stat.S_ISCHR(status.st_mode) and status.st_rdev == 0


def snapshot_sizes(store: Store, records: Iterable[SnapshotRecord]) -> dict[str, SnapshotSize]:
    """By the snapshot's ID."""
    with store.root.index.view() as txn:
        view = _View(store, txn)
        every, found = States(txn).snapshots(), {}
        bases = [str(row.get("base", "")) for _, row in txn.scan_json("containers")]
        images = view.of_images()
        for record in records:
            own = view.of_state(record.state)
            others = [each.state for each in every if each.id != record.id]
            rest = {item for state in {*others, *bases} for item in view.of_state(state)} | images
            private = sum(size for item, size in own.items() if item not in rest)
            found[record.id] = SnapshotSize(sum(own.values()) - private, private)
    return found


def frozen_sizes(store: Store) -> dict[str, int]:
    """By the container's ID: the frozen bytes that are freed with it, as its snapshots go too."""
    with store.root.index.view() as txn:
        view = _View(store, txn)
        held = view.of_containers()
        owners, images = Counter(item for items in held.values() for item in items), view.of_images()
        return {
            id: sum(size for item, size in items.items() if owners[item] == 1 and item not in images)
            for id, items in held.items()
        }


def containers_size(store: Store, boxes: Iterable[Container], running: Collection[str]) -> tuple[int, int]:
    """Bytes of the files of containers and of their snapshots, each once however many share it: all of them, and those
    that are freed with the containers that do not run. What images have as well counts with these.
    """
    own = {box.id: _own_size(box) for box in boxes}
    with store.root.index.view() as txn:
        view = _View(store, txn)
        held, images = view.of_containers(), view.of_images()
    frozen = {item: size for items in held.values() for item, size in items.items() if item not in images}
    kept = {item for id in running for item in held.get(id, ())}
    free = sum(size for item, size in frozen.items() if item not in kept)
    stopped = sum(size for id, size in own.items() if id not in running)
    return sum(own.values()) + sum(frozen.values()), stopped + free


def _own_size(box: Container) -> int:
    def counted(record: ContainerRecord) -> int:
        upper = box.store.container_table.made_upper(record)
        return upper_size(upper) if upper else 0

    return steady(box, counted)


def state_size(store: Store, state: str) -> int:
    """Bytes of files that a state adds to its image."""
    with store.root.index.view() as txn:
        return sum(_View(store, txn).of_state(state).values())


class _View:
    """Looks at each stack and each frozen upper once."""

    def __init__(self, store: Store, txn: Txn) -> None:
        self._store, self._txn = store, txn
        self._states = {state.id: state for state in States(txn).all()}
        self._stacks: dict[tuple[str, ...], _Items] = {}
        self._uppers: dict[str, _Items] = {}

    def of_state(self, id: str) -> _Items:
        found: _Items = {}
        while id in self._states:
            state = self._states[id]
            if state.absorbed:
                return found | self._of_stack(state.layers)
            found |= self._of_upper(state)
            id = state.parent
        return found

    def of_containers(self) -> dict[str, _Items]:
        """By the container's ID: what it stands on, and its snapshots."""
        held: dict[str, _Items] = {}
        for key, row in self._txn.scan_json("containers"):
            held[key.decode()] = dict(self.of_state(str(row.get("base", ""))))
        for each in States(self._txn).snapshots():
            held.setdefault(each.container, {}).update(self.of_state(each.state))
        return held

    def of_images(self) -> set[bytes]:
        layers = {diff_id for image in scan_images(self._txn) for diff_id in image.diff_ids}
        paths = (self._store.root.tree_path("layer", diff_id.hex) for diff_id in layers)
        return {identity for path in paths for identity in TreeFile(path).identities()}

    def _of_stack(self, layers: tuple[str, ...]) -> _Items:
        if layers not in self._stacks:
            diff_ids = [DiffID(Digest(text)) for text in layers]
            identities = visible_contents([layer_tree(self._store.root, diff_id) for diff_id in diff_ids])
            rows = ((identity, self._txn.get("contents", identity)) for identity in identities)
            self._stacks[layers] = {identity: self._taken(identity, row) for identity, row in rows if row}
        return self._stacks[layers]

    def _taken(self, identity: bytes, row: bytes) -> int:
        """The bytes of a content; of one that is kept as a delta, or sparse, those on the disk."""
        value = ContentValue.decode(row)
        if value.delta or value.sparse:
            with contextlib.suppress(FileNotFoundError):  # it is just becoming a whole one
                return self._store.root.contents.file_path(identity, value).stat().st_blocks * 512
        return value.size

    def _of_upper(self, state: StateRecord) -> _Items:
        if state.id not in self._uppers:
            upper = upper_below(self._store.path, state.place) / "upper"
            found = {f"{each.st_dev}:{each.st_ino}".encode(): each.st_blocks * 512 for each in files_of(upper)}
            self._uppers[state.id] = found
        return self._uppers[state.id]
