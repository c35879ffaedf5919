"""Snapshot, fork, roll back: rows alone; never the time it takes to look at what there is.

The upper as it is becomes a state, where it lies, and the container's row says where a fresh one will be, which comes
with its first use (`Containers.place`). Nothing is moved, so there is nothing to be finished after a crash: what was
dropped is garbage after the transaction. Of a mounted container the fresh upper is made before, as its server needs it.

What happens at rest waits for one flush of the disk, not two (`Index.update(durable=False)`): until the next commit a
power cut may undo it. Nothing is lost by that: a mount is a commit, so what programs sync in a fresh upper stands on
rows that are durable; and files are dropped, and a server goes over to a fresh upper, when the rows are durable.
"""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from layerfs._record import replace
from layerfs.errors import InUse, InvalidInput, MountError, NotFound
from layerfs.layer.tree import Tree
from layerfs.snapshot import control
from layerfs.snapshot.containers import ContainerRecord, Containers
from layerfs.snapshot.holding import Held, hold_container
from layerfs.snapshot.live import UpperCopy
from layerfs.snapshot.mounting import check_rows
from layerfs.snapshot.states import SnapshotRecord, StateRecord, States, mounted_places
from layerfs.snapshot.table import MountRecord, MountTable, has_mounts_of, has_rows_of
from layerfs.snapshot.uppers import Look, discard, new_place, remove_discarded
from layerfs.store.durable import sync_file_system

if TYPE_CHECKING:
    from layerfs.store.index import Txn
    from layerfs.store.root import StoreRoot

__all__ = ["fork", "remove_snapshots", "rollback", "settle_served", "take_snapshot"]

_PATIENCE = 2.0
_PASSES, _FEW, _LITTLE = 4, 20, 1 << 20  # copying goes on beside the others until so many files, and bytes, are left
T = TypeVar("T")
Act = Callable[["Txn", str, ContainerRecord, dict[str, Any]], T]
Check = Callable[["Txn"], object]
Hold = Callable[[], contextlib.AbstractContextManager[object]]
TreeOf = Callable[[], Tree]  # the image's tree, asked for only where no state tells how the root looks


class _Moved(Exception):
    """The container got another upper, or was mounted, while we looked at it."""


@contextlib.contextmanager
def _at_rest(root: StoreRoot, record: ContainerRecord, *, mounted: bool) -> Iterator[Held]:
    """In the body no server writes to its upper. `mounted`: there are rows to be looked at. Raises InUse when it is
    mounted."""
    with hold_container(root, _home(root, record), record.id) as held:
        if mounted:
            check_rows(MountTable(root), record.id)
            for each in MountTable(root).of_container(record.id):
                raise InUse(f"container {record.name} is mounted: unmount it first", path=each.target)
        try:
            yield held
        finally:
            held.let_go()


def _unmoved(root: StoreRoot, txn: Txn, record: ContainerRecord, held: Held) -> ContainerRecord:
    """The container's row now. Raises _Moved: it is not as `record` any more, or an older layerfs has begun to mount
    it, so that what was seen of its upper may be over."""
    now = Containers(root).find(txn, record.id)
    if (now.base, now.upper) != (record.base, record.upper) or has_mounts_of(txn, record.id) or held.outpaced():
        raise _Moved
    return now


def _until_unmoved(root: StoreRoot, record: ContainerRecord, act: Callable[[ContainerRecord], T]) -> T:
    while True:
        try:
            return act(record)
        except _Moved:
            record = Containers(root).get(record.id)


def take_snapshot(root: StoreRoot, record: ContainerRecord, name: str | None, hold: Hold) -> SnapshotRecord:
    """Names what a container holds now. `hold` keeps its programs from writing, when it runs.

    Raises:
        AlreadyExists: it has a snapshot of that name. InvalidInput: no name. InUse: see `_freeze_live`.
    """
    return _freeze(
        root,
        record,
        hold,
        lambda txn, state, *_: States(txn).add_snapshot(record.id, name, state),
        check=lambda txn: States(txn).check_new(record.id, name),
    )


def fork(
    root: StoreRoot,
    record: ContainerRecord,
    name: str | None,
    config: dict[str, Any],
    tree: TreeOf,
    state: str | None,
    hold: Hold,
) -> tuple[ContainerRecord, tuple[str, ...]]:
    """A new container that holds what this one does now, or (`state`) what it once did; and what runs had made in that
    (StateRecord.points).

    Raises:
        AlreadyExists: the name is taken. InUse: see `_freeze_live` (when no state was given).
    """
    containers = Containers(root)

    def add(
        txn: Txn, below: str, parent: ContainerRecord, look: dict[str, Any]
    ) -> tuple[ContainerRecord, tuple[str, ...]]:
        child = ContainerRecord(
            containers.new_id(),
            "",
            parent.image,
            time.time_ns(),
            parent.engine,
            config,
            base=below,
            look=look,
            parent=parent.id,
            owner=containers.owner(parent),
        )
        return containers.add(txn, child, name), States(txn).points(below)

    if state is None:
        return _freeze(root, record, hold, add)
    look = Look.of_tree(tree()).row() if not state else {}
    with root.index.update(durable=False) as txn:
        return add(txn, state, containers.find(txn, record.id), States(txn).get(state).look if state else look)


def rollback(
    root: StoreRoot, record: ContainerRecord, which: str | SnapshotRecord, tree: TreeOf
) -> tuple[str, tuple[str, ...]]:
    """The container holds again what the snapshot (States.snapshot) does. The place of what it held
    since, to be dropped when that is durable; and what runs had made in the snapshot (StateRecord.points).

    Raises:
        NotFound: no such snapshot. InUse: it is mounted.
    """
    return _until_unmoved(root, record, lambda now: _roll_back(root, now, which, tree))


def _roll_back(
    root: StoreRoot, record: ContainerRecord, which: str | SnapshotRecord, tree: TreeOf
) -> tuple[str, tuple[str, ...]]:
    with root.index.view() as txn:
        snapshot, mounted = States(txn).snapshot(record.id, which), has_rows_of(txn, record.id)
        frozen = States(txn).get(snapshot.state) if snapshot.state else None
    for each in _writable_mounts(root, record) if mounted else ():
        raise InUse(f"container {record.name} is mounted: stop or unmount it first", path=each.target)
    look, points = (frozen.look, frozen.points) if frozen else (Look.of_tree(tree()).row(), ())
    with _at_rest(root, record, mounted=mounted) as held, root.index.update(durable=False) as txn:
        now = _unmoved(root, txn, record, held)
        if States(txn).snapshot(record.id, snapshot.name) != snapshot:
            raise _Moved
        Containers.put(txn, replace(now, base=snapshot.state, upper=_new_name(), look=look))
    return record.place, points  # states that only this needed go with the next sweep


def remove_snapshots(root: StoreRoot, records: list[SnapshotRecord]) -> list[Path]:
    """Takes names from states; what no other needs goes: directories to be removed. Raises NotFound, InUse."""
    with root.index.update() as txn:
        states = States(txn)
        found = [states.snapshot(each.container, each) for each in records]
        shown = {str(row.get("shown", "")) for _, row in txn.scan_json("mounts") if not row.get("container")}
        for each in found:
            if each.state in shown - {""} and _is_mounted(root, each.state):
                raise InUse(f"snapshot {each.name} is mounted: unmount it first")
        states.remove_snapshots(found)
        used = mounted_places(txn)
        gone = [state.place for state in states.sweep() if state.place and state.place not in used]
    return discard(root, gone)


def _add_state(
    txn: Txn,
    record: ContainerRecord,
    *,
    place: str,
    look: dict[str, Any],
    served: str = "",
    points: tuple[str, ...] = (),
) -> str:
    """A row for what a container holds; its ID."""
    below = tuple(map(str, record.config.get("layers", ())))
    id, now = os.urandom(16).hex(), time.time_ns()
    state = StateRecord(id, record.base, record.image, below, record.id, now, place, (), look, served)
    States(txn).put(replace(state, points=points) if points else state)
    return id


def _points(root: StoreRoot, record: ContainerRecord) -> tuple[str, ...]:
    """What runs have made in a container that is mounted, and take away at their end."""
    try:
        made = (_home(root, record) / "run/points").read_bytes()
    except FileNotFoundError:
        return ()
    return tuple(map(os.fsdecode, made.splitlines()))


def _freeze(root: StoreRoot, record: ContainerRecord, hold: Hold, act: Act[T], *, check: Check = lambda txn: None) -> T:
    """The container's upper as a state, and a fresh one for the container; one in which nothing has happened stays.
    `act` is called in the transaction with the state that holds what the container does now, and how its root looks.
    `check` is called before anything is done, and may raise."""
    return _until_unmoved(root, record, lambda now: _freeze_now(root, now, hold, act, check))


def _freeze_now(root: StoreRoot, record: ContainerRecord, hold: Hold, act: Act[T], check: Check) -> T:
    with root.index.view() as txn:
        check(txn)
        mounted = has_rows_of(txn, record.id)
    for each in _writable_mounts(root, record) if mounted else ():
        return _freeze_live(root, record, each, hold, act)
    containers = Containers(root)
    with _at_rest(root, record, mounted=mounted) as held:
        found = containers.touched(record)
        with root.index.update(durable=False) as txn:
            now = _unmoved(root, txn, record, held)
            if found is None:
                return act(txn, now.base, now, now.look)
            look = found.row()
            state = _add_state(txn, now, place=now.place, look=look)
            containers.put(txn, replace(now, base=state, upper=_new_name(), look=look))
            return act(txn, state, now, look)


def _new_name() -> str:
    """Of a place in `uppers/`."""
    return os.urandom(16).hex()


def _writable_mounts(root: StoreRoot, record: ContainerRecord) -> list[MountRecord]:
    table = MountTable(root)
    table.clean_dead()
    return [each for each in table.of_container(record.id) if not each.read_only]


def _freeze_live(root: StoreRoot, record: ContainerRecord, mounted: MountRecord, hold: Hold, act: Act[T]) -> T:
    """The same for one that the native engine has mounted: its server goes on with the fresh upper.

    Raises:
        InUse: another engine has it mounted, a file is written to all the time, or there is too much to do at once.
    """
    if mounted.engine != "native":
        raise InUse(f"container {record.name} is mounted, and not by the engine native", path=mounted.target)
    with contextlib.suppress(OSError):
        sync_file_system(Path(mounted.target))  # what mappings hold of files that the server writes
    state = _freeze_served(root, record, mounted, hold)
    if state is None:
        return _freeze_copy(root, record, mounted, hold, act)
    with root.index.update(durable=False) as txn:
        frozen = replace(States(txn).get(state), served="")
        States(txn).put(frozen)
        return act(txn, state, Containers(root).find(txn, record.id), frozen.look)


def _freeze_served(root: StoreRoot, record: ContainerRecord, mounted: MountRecord, hold: Hold) -> str | None:
    """The state that the upper has become; None when the server cannot do that: it has too many layers, say.

    The rows come first, and say that the fresh upper stands on the one that the server still writes to. So whenever
    one of us is killed, the container holds all that was written. What is not certain then, `served`, is whether the
    state has come to rest: who needs that asks the server again.
    """
    containers = Containers(root)
    record = containers.get(record.id)
    if record.base:
        settle_served(root, record.base)
    with contextlib.suppress(InvalidInput, NotFound, MountError):  # one of before, or it is just ending
        control.request(root, mounted.id, "names")  # which takes long where there are many, so before all is held up
    look = Look.of_upper(containers.upper(record))
    upper = new_place(root, look, containers.owner(record))
    with _or_discarded(root, upper), root.index.update() as txn:
        now, row = containers.find(txn, record.id), txn.get_json("mounts", mounted.id.encode())
        if now.place != record.place or row is None:
            raise _Moved  # unmounted meanwhile, or frozen by somebody else
        served, points = f"{mounted.id}/{upper}", _points(root, now)
        state = _add_state(txn, now, place=now.place, look=look.row(), served=served, points=points)
        containers.put(txn, replace(now, base=state, upper=upper, look=look.row()))
        places = [*row.get("places", ()), now.place]
        txn.put_json("mounts", mounted.id.encode(), row | {"places": places})
    try:
        with hold():
            answer = control.request(root, mounted.id, f"freeze {upper}")
    except InvalidInput:  # what it says when nothing was done
        with root.index.update() as txn:
            now = containers.find(txn, record.id)
            containers.put(txn, replace(now, base=record.base, upper=record.upper, look=record.look))
            States(txn).drop(state)
            row = txn.get_json("mounts", mounted.id.encode())
            if row is not None:
                txn.put_json("mounts", mounted.id.encode(), row | {"places": places[:-1]})
        remove_discarded(discard(root, [f"uppers/{upper}"]))
        return None
    except (NotFound, MountError):  # it has just ended, or it does not talk to us
        settle_served(root, state)
        return state
    if answer["failed"]:
        raise InUse(f"an open file could not be kept apart ({os.strerror(answer['failed'])})", path=mounted.target)
    return state


def settle_served(root: StoreRoot, id: str) -> None:
    """Makes sure that nobody writes to the directory of a state whose snapshot somebody did not come to the end of."""
    with root.index.view() as txn:
        state = States(txn).find(id)
    if state is None or not state.served:
        return
    mounted, _, upper = state.served.partition("/")
    deadline = time.monotonic() + _PATIENCE
    while any(each.id == mounted for each in MountTable(root).live()):
        try:
            control.request(root, mounted, f"freeze {upper}")
            break
        except (NotFound, MountError):  # a server that was killed is just dying
            if time.monotonic() > deadline:
                raise
            time.sleep(0.02)
    with root.index.update() as txn:
        if (now := States(txn).find(id)) is not None:
            States(txn).put(replace(now, served=""))


def _freeze_copy(root: StoreRoot, record: ContainerRecord, mounted: MountRecord, hold: Hold, act: Act[T]) -> T:
    """For a server that has to stay with its upper: that is copied (live.py)."""
    containers = Containers(root)
    record = containers.get(record.id)
    source = containers.upper(record)
    place = new_place(root, Look.of_upper(source), containers.owner(record))
    with _or_discarded(root, place):
        copy = UpperCopy(source, root.path / "uppers" / place / "upper")
        for _ in range(_PASSES):
            sync_file_system(Path(mounted.target))  # what mappings hold of files that the server writes
            if copy.update(final=False) < _FEW and copy.bytes < _LITTLE:
                break
        with hold(), control.paused(root, mounted.id):
            copy.update(final=True)
        look = Look.of_upper(source).row()
        with root.index.update() as txn:
            now = containers.find(txn, record.id)
            if now.place != record.place:
                raise _Moved  # unmounted meanwhile, or frozen by somebody else
            state = _add_state(txn, now, place=f"uppers/{place}", look=look, points=_points(root, now))
            return act(txn, state, now, look)


@contextlib.contextmanager
def _or_discarded(root: StoreRoot, upper: str) -> Iterator[None]:
    """A new place goes when the body raises."""
    try:
        yield
    except BaseException:
        remove_discarded(discard(root, [f"uppers/{upper}"]))
        raise


def _home(root: StoreRoot, record: ContainerRecord) -> Path:
    return root.container_path(record.id)


def _is_mounted(root: StoreRoot, state: str) -> bool:
    return any(record.shown == state and not record.container for record in MountTable(root).live())
