"""Containers as records, and the directories of their writable layers."""

from __future__ import annotations

import contextlib
import functools
import os
import time
from collections.abc import Callable
from pathlib import Path

from layerfs._lazy import TYPE_CHECKING, pattern
from layerfs._record import dataclass, field, replace
from layerfs.errors import AlreadyExists, Ambiguous, ContainerNotFound, InUse, StoreError
from layerfs.layer.tree import Tree
from layerfs.snapshot.names import check_name, generate_name
from layerfs.snapshot.states import States, mounted_places, move_place, places
from layerfs.snapshot.table import MountTable
from layerfs.snapshot.uppers import (
    REMOVED,
    Look,
    discard,
    is_empty,
    make_place,
    remove_discarded,
    remove_upper,
    upper_below,
)
from layerfs.store.durable import writing
from layerfs.store.index import Txn, decode_json
from layerfs.store.leases import NEWBORN_SECONDS
from layerfs.store.reserve import reading
from layerfs.store.root import StoreRoot
from layerfs.store.trash import remove_tree

if TYPE_CHECKING:
    from typing import Any

__all__ = ["ContainerRecord", "Containers"]

_TABLE, _NAMES = "containers", "names"
_HEX = pattern(r"[0-9a-f]{1,64}\Z")


@dataclass(frozen=True, slots=True)
class ContainerRecord:
    """A container's row. `image`: hex of the image's config digest; `config` and `state` belong to who runs it.

    `base`: the state its upper stands on (states.py), "" for the image. `upper`: the name in `uppers/` of where that
    is, "" for its own directory. `look`: how that looks as long as nothing has happened in it (a row of uppers.Look).
    `parent`: what it was forked from; `owner`: of its directory, when that is to be made (user, group).
    """

    id: str
    name: str
    image: str
    created_ns: int
    engine: str = ""
    config: dict[str, Any] = field(default_factory=dict, hash=False)
    state: dict[str, Any] = field(default_factory=dict, hash=False)
    base: str = ""
    upper: str = ""
    look: dict[str, Any] = field(default_factory=dict, hash=False)
    parent: str = ""
    owner: tuple[int, ...] = ()

    @property
    def place(self) -> str:
        """Where upper/ and work/ are, from the store's top."""
        return f"uppers/{self.upper}" if self.upper else f"containers/{self.id}"

    @property
    def made_late(self) -> bool:
        """Whether its place comes with its first use, so that a missing one is an empty one: snapshot, rollback and
        fork make rows alone, and what of it a power cut takes had nothing in it that anybody had synced."""
        return bool(self.upper or self.parent)

    def row(self) -> dict[str, Any]:
        return {
            "name": self.name,
            "image": self.image,
            "created": self.created_ns,
            "engine": self.engine,
            "config": self.config,
            "state": self.state,
            "base": self.base,
            "upper": self.upper,
            "look": self.look,
            "parent": self.parent,
            "owner": self.owner,
        }

    @classmethod
    def from_row(cls, id: str, row: dict[str, Any]) -> ContainerRecord:
        return cls(
            id=id,
            name=str(row["name"]),
            image=str(row["image"]),
            created_ns=int(row["created"]),
            engine=str(row.get("engine", "")),
            config=dict(row.get("config", {})),
            state=dict(row.get("state", {})),
            base=str(row.get("base", "")),
            upper=str(row.get("upper", "")),
            look=dict(row.get("look", {})),
            parent=str(row.get("parent", "")),
            owner=tuple(row.get("owner", ())),
        )


class Containers:
    """The containers of one store. Names are docker's: unique, checked in the transaction that takes them."""

    def __init__(self, root: StoreRoot) -> None:
        self._root = root

    def create(
        self,
        image: str,
        name: str | None = None,
        config: dict[str, Any] | None = None,
        *,
        engine: str = "",
        tree: Tree | None = None,
        durable: bool = True,
        check: Callable[[Txn], object] = lambda txn: None,
    ) -> ContainerRecord:
        """A new container: first its directories, then the rows that make it visible.

        `tree`: what it stands on; a mount shows the root with the attributes that its writable layer has, so that one
        begins with those of the tree. `durable` is false for one that nobody wants after a power cut. `check` is called
        in the transaction of the rows, and may raise.

        Raises:
            AlreadyExists: the name is taken (docker's words). InvalidInput: not a name. NoSpace, StoreReadOnly.
        """
        wanted = check_name(name) if name is not None else None
        id = self.new_id()
        try:
            with writing("a container"):
                make_place(self._root, f"containers/{id}", Look.of_tree(tree), (os.geteuid(), os.getegid()))
                self.merged(id).mkdir(0o700)
            look = Look.of_upper(self.path(id) / "upper").row()  # as far as this process could make it so
            if durable:
                self._root.durable([self._root.container_path(id)], below="containers")
            with self._root.index.update(durable=durable) as txn:
                check(txn)
                record = ContainerRecord(id, "", image, time.time_ns(), engine, dict(config or {}), look=look)
                return self.add(txn, record, wanted)
        except BaseException:
            remove_tree(self._root.container_path(id))
            raise

    def add(self, txn: Txn, record: ContainerRecord, name: str | None) -> ContainerRecord:
        """Makes the rows of a container, under this name or one that is free. Raises AlreadyExists."""
        chosen = name or generate_name(lambda each: txn.get(_NAMES, each.encode()) is not None)
        self._take_name(txn, chosen, record.id)
        return self.put(txn, replace(record, name=chosen))

    @staticmethod
    def put(txn: Txn, record: ContainerRecord) -> ContainerRecord:
        txn.put_json(_TABLE, record.id.encode(), record.row())
        return record

    @staticmethod
    def new_id() -> str:
        """64 hex digits; docker's short form must not look like a number."""
        while True:
            id = os.urandom(32).hex()
            if not id[:12].isdigit():
                return id

    @staticmethod
    def _take_name(txn: Txn, name: str, id: str) -> None:
        owner = txn.get(_NAMES, name.encode())
        if owner is not None:
            raise AlreadyExists(
                f'Conflict. The container name "/{name}" is already in use by container "{owner.decode()}". '
                "You have to remove (or rename) that container to be able to reuse that name."
            )
        txn.put(_NAMES, name.encode(), id.encode())

    def get(self, name_or_id: str) -> ContainerRecord:
        """By full ID, name, or unique ID prefix, in this order (as docker).

        Raises:
            ContainerNotFound, Ambiguous.
        """
        with self._root.index.view() as txn:
            return self.find(txn, name_or_id)

    def find(self, txn: Txn, text: str) -> ContainerRecord:
        """`get` within a transaction."""
        wanted = text.removeprefix("/")
        row = txn.get(_TABLE, wanted.encode("utf-8", "surrogateescape")) if len(wanted) == 64 else None
        if row is not None:
            return _decoded(wanted, row)
        owner = txn.get(_NAMES, wanted.encode("utf-8", "surrogateescape")[:400]) if wanted else None
        if owner is not None:
            return ContainerRecord.from_row(owner.decode(), txn.get_json(_TABLE, owner))
        found = list(txn.scan_json(_TABLE, wanted.encode())) if _HEX.match(wanted) else []
        if len(found) > 1:
            ids = tuple(key.decode() for key, _ in found)
            raise Ambiguous(f"multiple containers match {text!r}: {', '.join(i[:12] for i in ids)}", candidates=ids)
        if not found:
            raise ContainerNotFound(f"No such container: {text}")
        return ContainerRecord.from_row(found[0][0].decode(), found[0][1])

    def list(self) -> list[ContainerRecord]:
        """Newest first."""
        with self._root.index.view() as txn:
            found = [ContainerRecord.from_row(key.decode(), row) for key, row in txn.scan_json(_TABLE)]
        return sorted(found, key=lambda record: (-record.created_ns, record.id))

    def rename(self, name_or_id: str, new_name: str) -> ContainerRecord:
        """Raises AlreadyExists when the name is taken, also by the container itself."""
        wanted = check_name(new_name)
        with self._root.index.update() as txn:
            record = self.find(txn, name_or_id)
            self._take_name(txn, wanted, record.id)
            txn.delete(_NAMES, record.name.encode())
            renamed = replace(record, name=wanted)
            txn.put_json(_TABLE, record.id.encode(), renamed.row())
        return renamed

    def update(self, id: str, change: Callable[[ContainerRecord], ContainerRecord]) -> ContainerRecord:
        """Replaces the row by what `change` makes of it, in one transaction. Id and name stay."""
        with self._root.index.update() as txn:
            record = self.find(txn, id)
            changed = replace(change(record), id=record.id, name=record.name)
            txn.put_json(_TABLE, record.id.encode(), changed.row())
        return changed

    def remove(self, name_or_id: str, *, force: bool = False) -> ContainerRecord:
        """Removes the rows, those of its snapshots too, then the directories. Whether it runs is the caller's question.

        Raises:
            InUse: it is mounted, unless `force`, which unmounts it lazily.
        """
        from layerfs.snapshot.mounting import unmount

        record = self.get(name_or_id)
        table = MountTable(self._root)
        if table.has_rows_of(record.id):
            table.clean_dead(record.id)
            for mounted in table.of_container(record.id):
                if not force:
                    raise InUse(f"container {record.name} is mounted: unmount it first", path=mounted.target)
                unmount(self._root, mounted.id, lazy=True)
        while True:
            with self._root.index.update() as txn:
                record = self.find(txn, record.id)
                needed, gone = self._remove_rows(txn, record)
            if needed is None:
                break
            from layerfs.snapshot.absorb import absorb

            absorb(self._root, needed)
        remove_discarded(discard(self._root, gone))
        self.remove_files(record.id)
        return record

    def _remove_rows(self, txn: Txn, record: ContainerRecord) -> tuple[str | None, set[str]]:
        """Either all rows go: then the places that nothing refers to any more; or a state that others need has its
        files in the container's own directory: then that state, to be absorbed first.
        """
        states, own = States(txn), f"containers/{record.id}"
        home = next((state for state in states.all() if state.place == own), None)
        if home is not None and home.id in states.needed(without=record.id):
            return home.id, set()
        states.remove_snapshots(states.snapshots(record.id))
        txn.delete(_TABLE, record.id.encode())
        if txn.get(_NAMES, record.name.encode()) == record.id.encode():
            txn.delete(_NAMES, record.name.encode())
        if own in mounted_places(txn):
            move_place(self._root, txn, own)
        gone = {state.place for state in states.sweep() if state.place} | {record.place}
        return None, gone - {own} - mounted_places(txn)

    def remove_files(self, id: str) -> None:
        """The directory goes out of the way in one rename: a crash leaves only something for `clean_orphans`."""
        path = self._root.container_path(id)
        aside = path.with_name(f"{REMOVED}{id}")
        try:
            path.rename(aside)
        except FileNotFoundError:
            return
        _remove_tree(aside)

    def clean_orphans(self) -> int:
        """Removes directories without a row, which a crash during create or remove left; how many."""
        top = self._root.path
        with self._root.index.view() as txn:
            known = {key.decode() for key, _ in txn.scan(_TABLE)}
            used = places(txn)
        self._root.index.sync()  # a power cut must not bring back rows that refer to what is about to go
        homes = [path for path in (top / "containers").iterdir() if path.name not in known]
        uppers = [path for path in (top / "uppers").iterdir() if f"uppers/{path.name}" not in used]
        own = [f"containers/{id}" for id in known if f"containers/{id}" not in used]
        uppers += discard(self._root, [place for place in own if (top / place / "upper").exists()])
        removed = 0
        for path in (*homes, *uppers):
            if path.name.startswith(REMOVED) or _age(path) >= NEWBORN_SECONDS:
                _remove_tree(path)
                removed += 1
        return removed

    # places

    def path(self, id: str) -> Path:
        return self._root.container_path(id)

    def upper(self, container: str | ContainerRecord) -> Path:
        return self.place(container) / "upper"

    def work(self, container: str | ContainerRecord) -> Path:
        return self.place(container) / "work"

    def place(self, container: str | ContainerRecord) -> Path:
        """The directory that has both, made when it is not there (but in a store that cannot be written)."""
        record = self.get(container) if isinstance(container, str) else container
        home = upper_below(self._root.path, record.place)
        if record.made_late and not self._root.read_only and not os.path.exists(f"{home}/upper"):  # noqa: PTH110
            self._make(record)
        return home

    def home(self, container: str | ContainerRecord) -> Path:
        """The container's own directory, made when it is not there: a fork begins without.

        Raises:
            ContainerNotFound: it was removed.
        """
        path = self.path(container if isinstance(container, str) else container.id)
        if not os.path.exists(path):  # noqa: PTH110
            record = self.get(container) if isinstance(container, str) else container
            if record.upper:
                self._make_own(record, path)
            else:
                self._make(record)
        return path

    def _make_own(self, record: ContainerRecord, path: Path) -> None:
        owner = self.owner(record)
        with writing("a container"), contextlib.suppress(FileExistsError):
            path.mkdir(0o700)
            if owner[0] != os.geteuid():
                os.chown(path, *owner)

    def _make(self, record: ContainerRecord) -> None:
        """Also on a full disk, for those who look. Should the container have another place by now, or be gone, this one
        is garbage for gc."""
        look = record.look
        if not look:  # a row of before
            with self._root.index.view() as txn:
                state = States(txn).find(record.base)
            look = state.look if state else {}
        owner = self.owner(record)
        reading(self._root.path, lambda: make_place(self._root, record.place, Look.from_row(look), owner))

    def touched(self, record: ContainerRecord) -> Look | None:
        """How its upper looks when something has happened in it, else None. May be given too often: then a state is
        kept for nothing."""
        upper = f"{upper_below(self._root.path, record.place)}/upper"
        try:
            look = Look.of_upper(upper)
            return None if look.row() == record.look and is_empty(upper) else look
        except FileNotFoundError:
            if record.made_late:
                return None
            raise

    def made_upper(self, record: ContainerRecord) -> Path | None:
        """Its upper, for who only looks at what is in it; None for one that comes with its first use."""
        upper = upper_below(self._root.path, record.place) / "upper"
        return upper if upper.exists() or not record.made_late else None

    def owner(self, record: ContainerRecord) -> tuple[int, int]:
        """Whose its directories are."""
        try:
            status = self.path(record.id).stat()
            return status.st_uid, status.st_gid
        except FileNotFoundError:
            user, group = record.owner or (os.geteuid(), os.getegid())
            return user, group

    def merged(self, id: str) -> Path:
        return self.path(id) / "merged"


@functools.lru_cache(maxsize=64)
def _decoded(id: str, row: bytes) -> ContainerRecord:
    """A command asks for the same row some twenty times; as long as that is the same, it is one record."""
    return ContainerRecord.from_row(id, decode_json(row, _TABLE))


def _age(path: Path) -> float:
    with contextlib.suppress(FileNotFoundError):
        return time.time() - path.lstat().st_mtime
    return 0.0


def _remove_tree(path: Path) -> None:
    """Raises StoreError when something stays. A collection may be removing the same: both get into each other's way."""
    for patience in (0, 0.02, 0.1, 0.5):
        time.sleep(patience)
        remove_upper(path)
        if not os.path.lexists(path):
            return
    raise StoreError("could not be removed", path=str(path))
