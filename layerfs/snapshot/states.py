"""What writable layers were at some moment: frozen *states*, kept by reference, and the *snapshots* that name them.

A state is everything above an image. It begins as a directory, the container's upper as it was left (`place`), on top
of another state or of the image (`parent` is ""). Absorbed, it is a stack of layers, whole, and needs neither directory
nor parent. A container's row says on which state its upper stands (`base`). All that happens, happens in one
transaction of the index: directories are made before it, and what it leaves without a row is garbage.
"""

from __future__ import annotations

import contextlib
import functools
import os
import time
from collections.abc import Iterable, Mapping

from layerfs._lazy import TYPE_CHECKING
from layerfs._record import dataclass, field, replace
from layerfs.digest import DiffID, Digest
from layerfs.errors import AlreadyExists, Corrupt, InvalidInput, NotFound
from layerfs.snapshot.names import NAME_MAX, is_name
from layerfs.snapshot.uppers import discard, remove_discarded, upper_below
from layerfs.store.index import Txn, decode_json

if TYPE_CHECKING:
    from typing import Any

    from layerfs.store.root import StoreRoot

__all__ = ["SnapshotRecord", "StateRecord", "States", "discard_unused", "mounted_places", "move_place", "places"]

_STATES, _SNAPSHOTS = "states", "snapshots"


@dataclass(frozen=True, slots=True)
class StateRecord:
    """A row. `image`, `below`: the image and its layers (hex, base first). `container`: whose upper it was.

    `place`: the directory that has upper/ and work/, from the store's top; "" once absorbed. `layers`: the layers above
    the image's, when absorbed. `look`: the attributes of its root (uppers.Look). `served`: "MOUNT/UPPER" as long as it
    is not known whether the server of that mount has left the directory for that upper (freezing.settle_served).
    `moving`: its files are becoming objects, so nothing may be mounted on the directory (absorb.py). `points`: what a
    run that went on had made in it (engine/points.py).
    """

    id: str
    parent: str
    image: str
    below: tuple[str, ...]
    container: str
    created_ns: int
    place: str = ""
    layers: tuple[str, ...] = ()
    look: dict[str, Any] = field(default_factory=dict, hash=False)
    served: str = ""
    moving: bool = False
    points: tuple[str, ...] = ()

    @property
    def absorbed(self) -> bool:
        return not self.place

    @property
    def stack(self) -> tuple[DiffID, ...]:
        """All its layers, base first, once it is absorbed."""
        return tuple(DiffID(Digest(text)) for text in (*self.below, *self.layers))

    def row(self) -> dict[str, Any]:
        return {name: getattr(self, name) for name in self.__slots__ if name != "id"}

    @classmethod
    def from_row(cls, id: str, row: Mapping[str, Any]) -> StateRecord:
        try:
            return cls(
                id,
                str(row["parent"]),
                str(row["image"]),
                tuple(row["below"]),
                str(row["container"]),
                int(row["created_ns"]),
                str(row["place"]),
                tuple(row["layers"]),
                dict(row["look"]),
                str(row.get("served", "")),
                bool(row.get("moving", False)),
                tuple(row.get("points", ())),
            )
        except (KeyError, TypeError, ValueError) as error:
            raise Corrupt(f"the row of state {id} is not understood") from error


@functools.lru_cache(maxsize=64)
def _decoded(id: str, row: bytes) -> StateRecord:
    """A fork and its mount ask for the same row some five times; as long as that is the same, it is one record."""
    return StateRecord.from_row(id, decode_json(row, _STATES))


@dataclass(frozen=True, slots=True)
class SnapshotRecord:
    """A row: a container's name for a state. `state` is "" for the image itself."""

    id: str
    container: str
    name: str
    state: str
    created_ns: int

    @property
    def key(self) -> bytes:
        return f"{self.container}/{self.name}".encode()

    def row(self) -> dict[str, Any]:
        return {"id": self.id, "state": self.state, "created_ns": self.created_ns}

    @classmethod
    def from_row(cls, key: bytes, row: Mapping[str, Any]) -> SnapshotRecord:
        container, _, name = key.decode().partition("/")
        return cls(str(row["id"]), container, name, str(row["state"]), int(row["created_ns"]))


class States:
    """The two tables, within somebody's transaction."""

    def __init__(self, txn: Txn) -> None:
        self._txn = txn

    # states

    def find(self, id: str) -> StateRecord | None:
        row = self._txn.get(_STATES, id.encode()) if id else None
        return None if row is None else _decoded(id, row)

    def get(self, id: str) -> StateRecord:
        """Raises Corrupt: a row refers to it, so it must be there."""
        found = self.find(id)
        if found is None:
            raise Corrupt(f"the state {id} of a container is missing from the index")
        return found

    def points(self, id: str) -> tuple[str, ...]:
        """What a run that went on had made in it."""
        state = self.find(id)
        return state.points if state else ()

    def stack_of(self, id: str, image: tuple[DiffID, ...]) -> tuple[DiffID, ...]:
        """The layers of an absorbed state, of the image when `id` is ""."""
        return self.get(id).stack if id else image

    def put(self, state: StateRecord) -> None:
        self._txn.put_json(_STATES, state.id.encode(), state.row())

    def drop(self, id: str) -> None:
        self._txn.delete(_STATES, id.encode())

    def all(self) -> list[StateRecord]:
        return [StateRecord.from_row(key.decode(), row) for key, row in self._txn.scan_json(_STATES)]

    def loose(self, id: str) -> list[StateRecord]:
        """The state and those below it that are not absorbed, oldest first; [] for an absorbed one."""
        found: list[StateRecord] = []
        while id and not (state := self.get(id)).absorbed:
            found.append(state)
            id = state.parent
        return found[::-1]

    # snapshots

    def snapshots(self, container: str = "") -> list[SnapshotRecord]:
        """Of a container, or all; oldest first."""
        prefix = f"{container}/".encode() if container else b""
        found = [SnapshotRecord.from_row(key, row) for key, row in self._txn.scan_json(_SNAPSHOTS, prefix)]
        return sorted(found, key=lambda each: (each.created_ns, each.name))

    def snapshot(self, container: str, which: str | SnapshotRecord) -> SnapshotRecord:
        """By its name, or a unique start of its ID of at least 4 digits; by its record that one alone, not another that
        has its name now. Raises NotFound.
        """
        if not isinstance(which, str):
            return self._same(container, which)
        name = which
        row = self._txn.get_json(_SNAPSHOTS, f"{container}/{name}".encode("utf-8", "surrogateescape")[:400])
        if row is not None:
            return SnapshotRecord.from_row(f"{container}/{name}".encode(), row)
        found = [each for each in self.snapshots(container) if len(name) >= 4 and each.id.startswith(name)]
        if len(found) != 1:
            raise NotFound(f"No such snapshot: {name}")
        return found[0]

    def _same(self, container: str, record: SnapshotRecord) -> SnapshotRecord:
        row = self._txn.get_json(_SNAPSHOTS, record.key) if record.container == container else None
        if row is None or row["id"] != record.id:
            raise NotFound(f"No such snapshot: {record.name}")
        return SnapshotRecord.from_row(record.key, row)

    def add_snapshot(self, container: str, name: str | None, state: str) -> SnapshotRecord:
        """Raises AlreadyExists, InvalidInput."""
        self.check_new(container, name)
        chosen = self._free_name(container) if name is None else name
        record = SnapshotRecord(os.urandom(32).hex(), container, chosen, state, time.time_ns())
        self._txn.put_json(_SNAPSHOTS, record.key, record.row())
        return record

    def check_new(self, container: str, name: str | None) -> None:
        """Raises AlreadyExists, InvalidInput when a snapshot cannot be called so."""
        if name is None:
            return
        if len(name) > NAME_MAX:
            raise InvalidInput(f"a snapshot's name has at most {NAME_MAX} characters, this one {len(name)}")
        if not is_name(name):
            raise InvalidInput(f"Invalid snapshot name ({name}), only [a-zA-Z0-9][a-zA-Z0-9_.-] are allowed")
        if self._txn.get(_SNAPSHOTS, f"{container}/{name}".encode()) is not None:
            raise AlreadyExists(f'the container has a snapshot "{name}" already')

    def _free_name(self, container: str) -> str:
        """A number behind a taken one, found in a few steps however many there are."""

        def taken(number: int) -> bool:
            return self._txn.get(_SNAPSHOTS, f"{container}/snapshot-{number}".encode()) is not None

        low, high = 0, 1
        while taken(high):
            low, high = high, high * 2
        while high - low > 1:
            middle = (low + high) // 2
            low, high = (middle, high) if taken(middle) else (low, middle)
        return f"snapshot-{high}"

    def remove_snapshots(self, records: Iterable[SnapshotRecord]) -> None:
        for record in records:
            self._txn.delete(_SNAPSHOTS, record.key)

    # what is needed

    def needed(self, *, without: str = "") -> set[str]:
        """The states that containers (but for one) stand on, their snapshots name, or mounts show, and what those need:
        one that is not absorbed needs its parent.
        """
        boxes = self._txn.scan_json("containers")
        pending = [str(row.get("base", "")) for key, row in boxes if key != without.encode()]
        pending += [each.state for each in self.snapshots() if each.container != without]
        pending += [str(row.get("shown", "")) for _, row in self._txn.scan_json("mounts")]
        found: set[str] = set()
        while pending:
            state = self.find(pending.pop())
            if state is not None and state.id not in found:
                found.add(state.id)
                pending += [] if state.absorbed else [state.parent]
        return found

    def sweep(self) -> list[StateRecord]:
        """Drops the states that nothing needs; they are returned. One that stays gets the next such one as parent."""
        states, needed = {state.id: state for state in self.all()}, self.needed()
        for id in needed:
            parent = states[id].parent
            while parent and parent not in needed:
                parent = states[parent].parent if parent in states else ""
            if parent != states[id].parent:
                self.put(replace(states[id], parent=parent))
        gone = [state for id, state in states.items() if id not in needed]
        for state in gone:
            self._txn.delete(_STATES, state.id.encode())
        return gone


def discard_unused(root: StoreRoot, candidates: Iterable[str]) -> None:
    """Takes away those directories that no row refers to any more."""
    with root.index.view() as txn:
        used = places(txn)
    remove_discarded(discard(root, [place for place in candidates if place not in used]))


def move_place(root: StoreRoot, txn: Txn, place: str) -> None:
    """A frozen upper that mounts of others stand on leaves a container's own directory, which is about to go."""
    new = f"uppers/{os.urandom(16).hex()}"
    upper_below(root.path, new).mkdir(0o700)
    for name in ("upper", "work"):
        with contextlib.suppress(FileNotFoundError):
            (upper_below(root.path, place) / name).rename(upper_below(root.path, new) / name)
    for key, row in list(txn.scan_json("mounts")):
        if place in row.get("places", ()):
            txn.put_json("mounts", key, row | {"places": [new if each == place else each for each in row["places"]]})


def mounted_places(txn: Txn) -> set[str]:
    """Those that mounts have as layers below their uppers: absorbed or not, they are read until the mount ends."""
    return {str(place) for _, row in txn.scan_json("mounts") for place in row.get("places", ())}


def places(txn: Txn) -> set[str]:
    """The directories of uppers that rows refer to, or that a mount stands on, from the store's top."""
    found = {state.place for state in States(txn).all() if state.place} | mounted_places(txn)
    for key, row in txn.scan_json("containers"):
        found.add(f"uppers/{row['upper']}" if row.get("upper") else f"containers/{key.decode()}")
    return found
