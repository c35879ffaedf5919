"""Mounts of images and containers: which engine, where, what is mounted now."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterable
from pathlib import Path

from layerfs._lazy import TYPE_CHECKING
from layerfs.errors import ContainerNotFound, Corrupt, InvalidInput, NotFound, Unsupported

if TYPE_CHECKING:
    from typing import Any

    from layerfs.digest import DiffID
    from layerfs.engine.store import Store
    from layerfs.image.record import ImageRecord
    from layerfs.layer.tree import Tree
    from layerfs.snapshot import ContainerRecord, MountHandle, MountRecord
    from layerfs.snapshot.mounting import Begun
    from layerfs.snapshot.options import MountOptions, Options

_PREFERENCE = ("native", "kernel", "python")


def _by_engine(store: Store, engine: str | None, mount: Callable[[str], MountHandle]) -> MountHandle:
    """Also on a full disk, for those who look: a mount has a row."""
    from layerfs.store.durable import writing
    from layerfs.store.reserve import reading

    def mounted() -> MountHandle:
        with writing("what a mount needs"):
            return _by_best(engine, mount)

    return reading(store.path, mounted)


def _by_best(engine: str | None, mount: Callable[[str], MountHandle]) -> MountHandle:
    """By the wanted engine, or by the best one that works here. Only mounting tells: a store on tmpfs, say, cannot be
    mounted by the kernel alone.

    Raises:
        Unsupported: none can; why not the best one.
    """
    from layerfs.snapshot.mounting import supported

    if engine:
        return mount(engine)
    reasons = []
    for each in filter(supported, _PREFERENCE):
        try:
            return mount(each)
        except Unsupported as error:
            reasons.append(error)
    if reasons:
        raise reasons[0]
    raise Unsupported("no mount engine works here: neither EROFS with overlayfs (as root) nor /dev/fuse")


def check_engine(engine: str) -> None:
    """Raises InvalidInput when there is no such engine; whether it works here is told by mounting."""
    from layerfs.snapshot.mounting import ENGINES

    if engine not in ENGINES:
        raise InvalidInput(f"unknown engine {engine!r} (there are {', '.join(ENGINES)})")


def mount_image(
    store: Store, record: ImageRecord, target: Path | None, engine: str | None, options: Options = ()
) -> MountHandle:
    """Read-only, at `target` or at a new place in the store."""
    from layerfs.image.images import Images
    from layerfs.layer import merged_tree
    from layerfs.snapshot import mount_tree
    from layerfs.snapshot.mounting import begun

    with begun(store.root, engine, writable=False) as early:
        tree, place = merged_tree(store.root, record.diff_ids), target or store.mount_point()
        how: dict[str, Any] = {"target": place, "image": record.id.hex, "options": options, "early": early}
        handle = _by_engine(store, engine, lambda chosen: mount_tree(store.root, tree, engine=chosen, **how))
    try:
        Images(store.root).get(record.id)  # from its row on the mount keeps rmi away; somebody may have been faster
    except NotFound:
        handle.unmount(lazy=True)
        raise
    return handle


def mount_container(
    store: Store,
    record: ContainerRecord,
    target: Path | None,
    engine: str | None,
    read_only: bool,
    options: Options = (),
    tree: Tree | None = None,
) -> MountHandle:
    """With its writable layer, at `target` or at the container's own place. The limits that it was made with hold at
    every writable mount, unless `options` say others. `tree`: what it stands on, if the caller has it.
    """
    from layerfs.engine.snapshots import Moved
    from layerfs.snapshot.mounting import begun
    from layerfs.snapshot.options import MountOptions

    wanted = MountOptions.parse(options) if read_only else storage_options(record).changed(MountOptions.parse(options))
    place = target or store.container_table.merged(record.id)
    while True:
        try:
            with begun(store.root, engine or record.engine, writable=True) as early:
                return _mount_upper(store, record, place, engine, read_only, wanted, tree, early)
        except (Moved, FileNotFoundError, Corrupt) as error:
            now = store.container_table.get(record.id)
            if not isinstance(error, Moved) and (now.base, now.place) == (record.base, record.place):
                raise
            record = now


def _mount_upper(
    store: Store,
    record: ContainerRecord,
    place: Path,
    engine: str | None,
    read_only: bool,
    options: MountOptions,
    given: Tree | None,
    early: Begun | None,
) -> MountHandle:
    """Raises Moved when the row has changed meanwhile."""
    from layerfs.engine.snapshots import check_unmoved, image_layers, lower_of, with_stack
    from layerfs.snapshot import Writable, mount_tree
    from layerfs.snapshot.mounting import supported
    from layerfs.snapshot.uppers import upper_below

    table, wanted = store.container_table, engine or record.engine
    stacked = wanted == "native" or (not wanted and supported("native"))
    state, places = lower_of(store, record, stacked=stacked)
    frozen = tuple(upper_below(store.path, place) / "upper" for place in places)
    own, home = table.home(record), table.place(record)
    writable = Writable(record.id, home / "upper", home / "work", frozen, own)

    def mount(tree: Tree, stack: tuple[DiffID, ...]) -> MountHandle:
        return _by_engine(
            store,
            wanted,
            lambda chosen: mount_tree(
                store.root,
                tree,
                engine=chosen,
                target=place,
                writable=writable,
                read_only=read_only,
                image=record.image,
                shown=state,
                places=places,
                options=options,
                check=lambda txn: check_unmoved(store, txn, record, state, stack, places),
                early=early,
            ),
        )

    if given is not None:
        return mount(given, image_layers(store, record))
    return with_stack(store, record, state, mount)


def mount_state(
    store: Store, record: ContainerRecord, state: str, target: Path, engine: str | None, options: Options = ()
) -> MountHandle:
    """A state of a container, read-only."""
    from layerfs.engine.snapshots import Moved, check_state, with_stack
    from layerfs.snapshot import mount_tree

    def mount(tree: Tree, stack: tuple[DiffID, ...]) -> MountHandle:
        return _by_engine(
            store,
            engine,
            lambda chosen: mount_tree(
                store.root,
                tree,
                engine=chosen,
                target=target,
                image=record.image,
                shown=state,
                options=options,
                check=lambda txn: check_state(txn, state, stack),
            ),
        )

    while True:
        with contextlib.suppress(Moved):
            return with_stack(store, record, state, mount)


def storage_options(record: ContainerRecord) -> MountOptions:
    """What a container was made with (`--storage-opt`)."""
    from layerfs.snapshot.options import MountOptions

    return MountOptions.parse(list(map(str, record.config.get("storage_opt", ()))))


def writable_mounts(store: Store, container_id: str) -> list[MountRecord]:
    """Where a container is mounted writable now: at one place at most."""
    from layerfs.snapshot import MountTable

    return [record for record in MountTable(store.root).of_container(container_id) if not record.read_only]


def mounted_at(store: Store, container_id: str) -> Path | None:
    """The path of that."""
    return next((Path(record.target) for record in writable_mounts(store, container_id)), None)


def find_mount(store: Store, where: str) -> list[MountRecord]:
    """The mounts at a path, or of a container.

    Raises:
        NotFound: there is none.
    """
    from layerfs.snapshot import MountTable

    path, container_id = os.path.realpath(where), _container_of(store, where)
    records = MountTable(store.root).records()
    found = [r for r in records if r.target == path] or [
        r for r in records if container_id and r.container == container_id
    ]
    if not found:
        raise NotFound(f"nothing of this store is mounted at {where}")
    return found


def await_end(store: Store, where: str) -> bool:
    """See Store.await_unmounted. The kernel tells of every change of its mounts by its table's descriptor."""
    import select

    from layerfs.mount import mount_table
    from layerfs.snapshot import MountTable
    from layerfs.snapshot.table import SERVED, source_of

    records = find_mount(store, where)
    sources = {source_of(record.id).encode() for record in records}
    poll, alive = select.poll(), True
    with contextlib.ExitStack() as stack:
        poll.register(stack.enter_context(Path("/proc/self/mountinfo").open("rb")), select.POLLPRI | select.POLLERR)
        for record in records:
            if record.engine in SERVED:
                with contextlib.suppress(ProcessLookupError):
                    server = os.pidfd_open(record.pid)
                    stack.callback(os.close, server)
                    poll.register(server, select.POLLIN)
        while alive and any(entry.source in sources for entry in mount_table()):
            alive = not any(event & select.POLLIN for _, event in poll.poll())
        alive = alive or not any(entry.source in sources for entry in mount_table())
    MountTable(store.root).clean_dead()
    return alive


def mount_statistics(store: Store, where: str | None) -> list[dict[str, Any]]:
    """See Store.mount_stats."""
    from layerfs.snapshot import control

    records = store.mounts()
    found = [record for record in records if record.engine == "native"]
    if where is not None:
        found = [record for record in records if len(where) >= 4 and record.id.startswith(where)]
        found = found or find_mount(store, where)
    return [
        {"id": record.id, "target": record.target, "pid": record.pid, "memory": _memory(record.pid)}
        | control.request(store.root, record.id, "stats")
        for record in found
    ]


def _container_of(store: Store, name: str) -> str | None:
    try:
        return store.container(name).id
    except (ContainerNotFound, InvalidInput):
        return None


def _memory(process: int) -> int:
    """The resident bytes of a process; 0 when it is gone."""
    try:
        pages = Path(f"/proc/{process}/statm").read_text().split()[1]
    except (OSError, IndexError):
        return 0
    return int(pages) * os.sysconf("SC_PAGESIZE")


def unmount_all(store: Store, records: Iterable[MountRecord], *, lazy: bool) -> None:
    from layerfs.snapshot import unmount

    for record in records:
        unmount(store.root, record.id, lazy=lazy)
