"""Who has mounted what: rows of `mounts`, checked against the kernel's tables and the processes that serve them.

Every mount shows `layerfs:<id>` as its source (FUSE: as its fsname), so a row and a mount are matched exactly,
also in other mount namespaces.
"""

from __future__ import annotations

import contextlib
import functools
import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from layerfs import mount
from layerfs._lazy import TYPE_CHECKING
from layerfs._record import dataclass, replace
from layerfs.errors import LayerfsError
from layerfs.snapshot.control import forget, sockets
from layerfs.snapshot.pending import pending_of
from layerfs.store.index import decode_json
from layerfs.store.leases import boot_id, process_start
from layerfs.store.root import StoreRoot

if TYPE_CHECKING:
    from typing import Any

    from layerfs.store.index import Txn

__all__ = ["MountRecord", "MountTable", "has_mounts_of", "has_rows_of", "source_of"]

_TABLE = "mounts"
SERVED = {"python", "native"}  # engines whose mount is dead when its server is


@dataclass(frozen=True, slots=True)
class MountRecord:
    """A row. `pid` is the server's (kernel engine: of who mounted); `made`: the target directory is ours to remove.
    `shown`: the state that the tree is of, "" for that of the image. `places`: frozen uppers that it stands on.
    """

    id: str
    target: str
    engine: str
    pid: int
    pid_start: int
    boot: str
    image: str = ""
    container: str = ""
    shown: str = ""
    read_only: bool = False
    made: bool = False
    since_ns: int = 0
    options: tuple[str, ...] = ()
    places: tuple[str, ...] = ()

    @classmethod
    def new(cls, **fields: Any) -> MountRecord:
        return cls(id=os.urandom(16).hex(), pid=0, pid_start=0, boot=boot_id(), since_ns=time.time_ns(), **fields)

    @classmethod
    def from_row(cls, key: bytes, row: dict[str, Any]) -> MountRecord:
        known = {name: row[name] for name in cls.__slots__ if name in row and name != "id"}
        known |= {name: tuple(known.get(name, ())) for name in ("options", "places")}
        return cls(id=key.decode("ascii", "replace"), **{**_DEFAULTS, **known})

    def row(self) -> dict[str, Any]:
        return {name: getattr(self, name) for name in self.__slots__ if name != "id"}

    def with_process(self, pid: int) -> MountRecord:
        return replace(self, pid=pid, pid_start=process_start(pid) or 0)


_DEFAULTS: dict[str, Any] = {"target": "", "engine": "", "pid": 0, "pid_start": 0, "boot": ""}


def has_rows_of(txn: Txn, container: str) -> bool:
    """`MountTable.has_rows_of` within a transaction."""
    wanted = container.encode()
    return any(wanted in row for _, row in txn.scan(_TABLE))


def has_mounts_of(txn: Txn, container: str) -> bool:
    """Whether a row, of a dead mount perhaps, is of that container; not only of one that stands on its files."""
    wanted = container.encode()
    rows = (row for _, row in txn.scan(_TABLE) if wanted in row)
    return any(decode_json(row, _TABLE).get("container") == container for row in rows)


def source_of(id: str) -> str:
    """What mountinfo shows as the source of the mount with this id."""
    return f"layerfs:{id}"


class MountTable:
    """The mounts of one store."""

    def __init__(self, root: StoreRoot) -> None:
        self._root = root

    def add(self, record: MountRecord, check: Callable[[Txn], object] = lambda txn: None) -> None:
        """`check` is called in the same transaction, and may raise."""
        with self._root.index.update(durable=False) as txn:  # no mount outlives a power cut
            check(txn)
            txn.put_json(_TABLE, record.id.encode(), record.row())

    def remove(self, id: str) -> None:
        with self._root.index.update(durable=False) as txn:
            txn.delete(_TABLE, id.encode())

    def records(self) -> list[MountRecord]:
        with self._root.index.view() as txn:
            return [MountRecord.from_row(key, row) for key, row in txn.scan_json(_TABLE)]

    def find(self, id: str) -> MountRecord | None:
        with self._root.index.view() as txn:
            row = txn.get_json(_TABLE, id.encode())
        return None if row is None else MountRecord.from_row(id.encode(), row)

    def has_rows_of(self, container: str) -> bool:
        """Whether there may be anything to look at more closely."""
        with self._root.index.view() as txn:
            return has_rows_of(txn, container)

    def _ids(self, container: str) -> set[str]:
        """Of all rows that may be of that container."""
        with self._root.index.view() as txn:
            return {key.decode("ascii", "replace") for key, row in txn.scan(_TABLE) if container.encode() in row}

    def _rows(self, container: str) -> list[MountRecord]:
        """Of one container or all; only those that may be of it are decoded."""
        with self._root.index.view() as txn:
            rows = [(key, row) for key, row in txn.scan(_TABLE) if container.encode() in row]
        records = [MountRecord.from_row(key, decode_json(row, _TABLE)) for key, row in rows]
        return [record for record in records if not container or record.container == container]

    def live(self) -> list[MountRecord]:
        """The rows whose mount is there and answers, or is being made."""
        return self._judged()[0]

    def of_container(self, id: str) -> list[MountRecord]:
        return self._judged(id)[0]

    def clean_dead(self, container: str = "") -> list[MountRecord]:
        """Detaches mounts whose server is gone and removes rows of what is not mounted any more, of one container or
        all; what was removed."""
        _, dead, state = self._judged(container)
        for record in dead:
            self._bury(record, state)
        return dead

    def clean_sockets(self) -> None:
        """Takes away the control sockets of mounts that were killed before they had a row."""
        found = set(sockets(self._root))
        finished = found - pending_of(self._root, found)
        for id in finished - {record.id for record in self.records()}:
            forget(self._root, id)

    def _judged(self, container: str = "") -> tuple[list[MountRecord], list[MountRecord], _System]:
        """Living and dead rows, of one container or all. In this order, so that a mount in the making is never a dead
        one: who is finished, what the rows of those say, what the kernel shows.
        """
        ids, state = self._ids(container), _System()
        if not ids:
            return [], [], state
        finished = ids - pending_of(self._root, ids)
        records = self._rows(container)
        dead = [record for record in records if record.id in finished and not state.alive(record)]
        return [record for record in records if record not in dead], dead, state

    def _bury(self, record: MountRecord, state: _System) -> None:
        for target in state.targets(record.id):
            with contextlib.suppress(LayerfsError):
                mount.detach(target, lazy=True)
        if record.made:
            with contextlib.suppress(OSError):
                Path(record.target).rmdir()
        forget(self._root, record.id)
        self.remove(record.id)


class _System:
    """One look at the kernel's tables."""

    def __init__(self) -> None:
        self._boot = boot_id()
        self._others: set[str] | None = None

    @functools.cached_property
    def _own(self) -> dict[str, list[Path]]:
        return _sources("self")

    def targets(self, id: str) -> list[Path]:
        return self._own.get(source_of(id), [])

    def alive(self, record: MountRecord) -> bool:
        if record.boot != self._boot:
            return False
        starting = record.pid and process_start(record.pid) == record.pid_start
        if record.engine in SERVED and not starting:
            return False
        return bool(self.targets(record.id)) or self._elsewhere(source_of(record.id))

    def _elsewhere(self, source: str) -> bool:
        """Mounted in another mount namespace: a container's, or one whose maker has gone."""
        if self._others is None:
            self._others = set()
            for process in _one_in_each_namespace():
                with contextlib.suppress(OSError):
                    self._others.update(_sources(process))
        return source in self._others


def _sources(process: str) -> dict[str, list[Path]]:
    found: dict[str, list[Path]] = {}
    for entry in mount.mount_table(process, b" layerfs:"):
        source = entry.source.decode("utf-8", "surrogateescape")
        if source.startswith("layerfs:"):
            found.setdefault(source, []).append(Path(entry.target.decode("utf-8", "surrogateescape")))
    return found


def _one_in_each_namespace() -> Iterator[str]:
    seen = set()
    for process in Path("/proc").iterdir():
        if process.name.isdigit():
            with contextlib.suppress(OSError):
                namespace = (process / "ns" / "mnt").readlink()
                if namespace not in seen:
                    seen.add(namespace)
                    yield process.name
