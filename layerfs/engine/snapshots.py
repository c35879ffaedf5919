"""Snapshots of containers: the public face, and which layers a container stands on."""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from layerfs._lazy import TYPE_CHECKING
from layerfs._record import replace
from layerfs.digest import DiffID, Digest
from layerfs.engine.points import made_points
from layerfs.errors import InUse, InvalidInput, LayerfsError, NoSpace, NotFound
from layerfs.layer.merged import layer_tree, merged_place, merged_tree
from layerfs.snapshot.states import SnapshotRecord, States
from layerfs.snapshot.uppers import discard, remove_discarded, unfinished, upper_below

if TYPE_CHECKING:
    from typing import Any, TypeVar

    from layerfs.engine.container import Container
    from layerfs.engine.image import Image
    from layerfs.engine.records import Changes
    from layerfs.engine.space import SnapshotSize
    from layerfs.engine.store import Store
    from layerfs.layer.tree import Tree
    from layerfs.snapshot import ContainerRecord, MountHandle
    from layerfs.snapshot.options import Options
    from layerfs.store.index import Txn
    from layerfs.store.root import StoreRoot

    T = TypeVar("T")

_BESIDE_SECONDS = 0.01
STACKED = (
    16  # frozen uppers that are mounted as they are: each costs every look-up in what it changed a microsecond or two
)


class Snapshot:
    """A container's state at one moment, by name; immutable, and good until it or the container is removed."""

    def __init__(self, store: Store, record: SnapshotRecord) -> None:
        self.store, self.record = store, record

    def __repr__(self) -> str:
        return f"<layerfs.Snapshot {self.short_id} {self.name}>"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Snapshot) and (self.record.id, self.store.path) == (other.record.id, other.store.path)

    def __hash__(self) -> int:
        return hash(self.record.id)

    @property
    def id(self) -> str:
        """64 hex digits."""
        return self.record.id

    @property
    def short_id(self) -> str:
        return self.record.id[:12]

    @property
    def name(self) -> str:
        return self.record.name

    @property
    def container(self) -> Container:
        """Whose it is."""
        return self.store.container(self.record.container)

    @property
    def created_ns(self) -> int:
        return self.record.created_ns

    def tree(self) -> Tree:
        """All that it holds, for reading without a mount. Absorbs it first."""
        return merged_tree(self.store.root, self._stack())

    def _stack(self) -> tuple[DiffID, ...]:
        return stack_of_state(self.store, self.container.record, self._state())

    def _state(self) -> str:
        """Raises NotFound: it was removed, whatever has its name now."""
        return find_snapshot(self.container, self).record.state

    def mount(
        self, target: str | os.PathLike[str] | None = None, *, engine: str | None = None, options: Options = ()
    ) -> MountHandle:
        """Mount it read-only, at `target` (an empty directory, made when missing) or at a new place in the store; as
        Image.mount.
        """
        from layerfs.engine.mounts import mount_state

        place = Path(target) if target is not None else self.store.mount_point()
        return mount_state(self.store, self.container.record, self._state(), place, engine, options)

    def diff(self, other: str | Snapshot | None = None) -> Changes:
        """What `other`, one of the same container by name or any of the store, has otherwise (added, changed, deleted,
        with sizes); without it what this one has otherwise than the image.
        """
        from layerfs.engine.records import Change, Changes
        from layerfs.image.compare import diff_stacks

        second = find_snapshot(self.container, other) if isinstance(other, str) else other
        if second is not None and second.store.path != self.store.path:
            raise InvalidInput("the snapshots are in two stores")
        old = self._stack() if second is not None else self.store.image_of(self.container.record).diff_ids
        new = second._stack() if second is not None else self._stack()
        return Changes(Change.of(each) for each in diff_stacks(self.store.root, old, new))

    def commit(
        self, tag: str | None = None, *, message: str = "", author: str = "", changes: Sequence[str] = ()
    ) -> Image:
        """An image of it: one layer above the container's image. Arguments and errors as Container.commit."""
        from layerfs.engine.committing import commit

        box, state = self.container, self._state()
        return commit(box, tag, state=state, message=message, author=author, changes=changes)

    def sizes(self) -> SnapshotSize:
        """Bytes of files above the image: `.shared` with others, `.private`: freed when it is removed."""
        from layerfs.engine.space import snapshot_sizes

        self._state()
        return snapshot_sizes(self.store, [self.record])[self.record.id]

    def fork(self, name: str | None = None) -> Container:
        """A new container that holds what this does. Raises AlreadyExists."""
        return self.container.fork(name, snapshot=self)

    def remove(self) -> None:
        """What only it needs is freed: files at once, layers with the next `gc`. Raises NotFound, InUse."""
        from layerfs.snapshot.freezing import remove_snapshots

        remove_later(self.store.root, remove_snapshots(self.store.root, [self.record]))


class Moved(InUse):
    """Between reading what is to be mounted and mounting it, somebody took a snapshot or rolled back."""


def snapshots_of(box: Container) -> list[Snapshot]:
    with box.store.root.index.view() as txn:
        return [Snapshot(box.store, record) for record in States(txn).snapshots(box.id)]


def find_snapshot(box: Container, which: str | Snapshot) -> Snapshot:
    """Raises NotFound: the container has no such snapshot."""
    with box.store.root.index.view() as txn:
        return Snapshot(box.store, States(txn).snapshot(box.id, which.record if isinstance(which, Snapshot) else which))


def image_layers(store: Store, record: ContainerRecord) -> tuple[DiffID, ...]:
    """As its row has them, since it was made: those of an image never change."""
    if "layers" in record.config:
        return tuple(DiffID(Digest(text)) for text in record.config["layers"])
    return store.image_of(record).diff_ids


def stack_of_state(store: Store, record: ContainerRecord, state: str) -> tuple[DiffID, ...]:
    """The layers of a state of a container, base first; absorbs it when that is not done. "" is the image's."""
    if not state:
        return image_layers(store, record)
    from layerfs.snapshot.absorb import absorb

    return absorb(store.root, state).stack


def stack_of(store: Store, record: ContainerRecord) -> tuple[DiffID, ...]:
    """The layers below a container's upper."""
    return stack_of_state(store, record, record.base)


def lower_paths(store: Store, record: ContainerRecord) -> list[Path]:
    """What a container's upper stands on, as it is now, topmost first: frozen uppers and a merged tree (to be)."""
    with store.root.index.view() as txn:
        loose = States(txn).loose(record.base)
        below = loose[0].parent if loose else record.base
        absorbed = States(txn).get(below).stack if below else None
    stack = image_layers(store, record) if absorbed is None else absorbed
    places = [upper_below(store.path, state.place) / "upper" for state in reversed(loose)]
    return [*places, merged_place(store.root, stack)]


def with_stack(store: Store, record: ContainerRecord, state: str, use: Callable[[Tree, tuple[DiffID, ...]], T]) -> T:
    """Calls `use` with the tree of a state while that and its layers are kept from gc."""
    root = store.root
    if not state:
        stack = image_layers(store, record)
        return use(merged_tree(root, stack), stack)
    from layerfs.snapshot.absorb import absorb, pin_stack

    with root.leases.reading("state") as lease:
        while True:
            stack = absorb(root, state).stack
            pin_stack(lease, stack)
            try:
                with root.index.view() as txn:
                    check_state(txn, state, stack)  # so it was pinned while it still counted
            except Moved:
                continue
            return use(merged_tree(root, stack), stack)


def lower_of(store: Store, record: ContainerRecord, *, stacked: bool) -> tuple[str, tuple[str, ...]]:
    """What a container's upper stands on: an absorbed state, and the places of frozen uppers above that, newest first.

    `stacked`: as they are, as long as there are few of them (engine native); else all are absorbed first, but for
    those that cannot be, because of a name that no layer can hold.
    """
    if not record.base:
        return "", ()
    if stacked and (loose := _loose(store, record)) is not None:
        return loose
    from layerfs.snapshot.absorb import absorb

    try:
        absorb(store.root, record.base)
    except NoSpace:
        if stacked and (loose := _loose(store, record)) is not None:  # a killed process had begun it
            return loose
        raise
    except InvalidInput:
        with store.root.index.view() as txn:
            waiting = States(txn).loose(record.base)
        return waiting[0].parent, tuple(state.place for state in reversed(waiting))
    return record.base, ()


def _loose(store: Store, record: ContainerRecord) -> tuple[str, tuple[str, ...]] | None:
    """None when they are too many, one is being absorbed, or another engine has left something to be finished in it."""
    from layerfs.snapshot.freezing import settle_served

    with store.root.index.view() as txn:
        loose = States(txn).loose(record.base)
    if not loose:
        return record.base, ()
    if len(loose) > STACKED or any(state.moving or unfinished(store.root, state.place) for state in loose):
        return None
    for state in loose:
        if state.served:
            settle_served(store.root, state.id)
    return loose[0].parent, tuple(state.place for state in reversed(loose))


def check_unmoved(
    store: Store, txn: Txn, record: ContainerRecord, state: str, stack: tuple[DiffID, ...], frozen: tuple[str, ...] = ()
) -> None:
    """Raises Moved when the container has another upper, or stands on other layers or directories, than was read."""
    now = store.container_table.find(txn, record.id)
    if (now.base, now.place) != (record.base, record.place):
        raise Moved("the container was changed while it was being mounted")
    loose = States(txn).loose(record.base) if frozen else []
    if tuple(each.place for each in reversed(loose)) != frozen or any(each.moving for each in loose):
        raise Moved("a snapshot was absorbed while it was being mounted")
    check_state(txn, state, stack)


def check_state(txn: Txn, state: str, stack: tuple[DiffID, ...]) -> None:
    """Raises Moved when the state has other layers now, NotFound when it is gone."""
    if not state:
        return
    found = States(txn).find(state)
    if found is None:
        raise NotFound("the snapshot was removed while it was being mounted")
    if found.stack != stack:
        raise Moved("the snapshot's layers were folded while it was being mounted")


def steady(box: Container, use: Callable[[ContainerRecord], T]) -> T:
    """What `use` finds in a container's own directory; again when somebody took a snapshot or rolled back meanwhile, as
    that directory is frozen or removed then. Raises ContainerNotFound.
    """
    while True:
        record = box.record
        try:
            found = use(record)
        except OSError:
            if _stands_as(box, record):
                raise
            continue
        if _stands_as(box, record):
            return found


def _stands_as(box: Container, record: ContainerRecord) -> bool:
    now = box.record
    return (now.base, now.place) == (record.base, record.place)


def diff_from_image(box: Container, record: ContainerRecord) -> Changes:
    """See Container.diff, for one that stands on a state."""
    from layerfs.engine.records import Change, Changes
    from layerfs.layer.since import changes_since

    table = box.store.container_table
    image = image_layers(box.store, record)
    root = box.store.root

    def compare(tree: Tree, stack: tuple[DiffID, ...]) -> Changes:
        deltas = [layer_tree(root, diff_id) for diff_id in stack[len(image) :]]
        below = merged_tree(root, image)
        index, hidden = table.work(record) / "index", made_points(box.directory)
        found = changes_since(below, deltas, tree, table.upper(record), index=index, hidden=hidden)
        return Changes(Change(change.kind, os.fsdecode(change.path)) for change in found)

    return with_stack(box.store, record, record.base, compare)


@contextlib.contextmanager
def held(box: Container) -> Iterator[None]:
    """Its programs are paused for the body, where they can be: those that `start` began, and nobody has paused."""
    from layerfs.engine.surroundings import freeze

    try:
        freeze(box, True)
    except LayerfsError:  # nothing runs, or it is paused already, or it has no groups: it writes on
        yield
        return
    try:
        yield
    finally:
        freeze(box, False)


def forked_config(store: Store, config: dict[str, Any]) -> dict[str, Any]:
    """The settings of a fork: the same, with unnamed volumes and `auto` ids of its own."""
    if not config.get("unnamed_volumes") and not config.get("auto_ids"):
        return dict(config)
    from layerfs.engine.settings import Settings
    from layerfs.engine.userns import chosen
    from layerfs.engine.volumes import renewed

    settings = Settings.of(config)
    if settings.unnamed_volumes:
        settings = renewed(settings)
    if settings.auto_ids:
        settings = chosen(store, replace(settings, auto_ids=()))
    return config | settings.row()


def remove_later(root: StoreRoot, paths: list[Path]) -> None:
    """Removes directories that nothing refers to, beside what comes next."""
    if paths:
        _later(root, lambda: remove_discarded(paths))


def drop_later(root: StoreRoot, place: str) -> None:
    """The same for a place that no row refers to any more, once a power cut does not bring that back; nothing happens
    when it was never made."""
    if not os.path.exists(f"{root.path}/{place}/upper"):  # noqa: PTH110
        return

    def drop() -> None:
        root.index.sync()
        remove_discarded(discard(root, [place]))

    _later(root, drop)


def _later(root: StoreRoot, action: Callable[[], object]) -> None:
    def act() -> None:
        time.sleep(_BESIDE_SECONDS)  # the caller goes on first: one thread of Python runs at a time
        with contextlib.suppress(OSError, LayerfsError):  # gc tells, and tries again
            action()

    root.beside(act)
