"""gc, fsck and prune of a whole store: what lives is told by images, containers and mounts."""

from __future__ import annotations

import contextlib
import os
import stat
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

from layerfs._record import dataclass
from layerfs.build.cachekeys import cached_layers
from layerfs.digest import DiffID, Digest, chain_id
from layerfs.engine.pruning import PruneFilter
from layerfs.errors import InUse, InvalidInput, LayerfsError, NoSpace, NotFound
from layerfs.image.record import scan_images
from layerfs.image.text import human_size
from layerfs.image.usage import image_roots
from layerfs.layer.host import Descent
from layerfs.layer.layers import get_layer
from layerfs.layer.upper import prefix_of
from layerfs.snapshot import MountTable
from layerfs.snapshot.absorb import absorb_loose
from layerfs.snapshot.folding import fold_states
from layerfs.snapshot.states import States
from layerfs.store.gc import GcResult, Roots, collect

if TYPE_CHECKING:
    from layerfs.engine.store import Store
    from layerfs.image.filters import ImageSummary
    from layerfs.layer.progress import Report
    from layerfs.store.fsck import Problem
    from layerfs.store.index import Txn

__all__ = [
    "GcResult",
    "Sizes",
    "check_store",
    "collect_garbage",
    "entries_of",
    "files_of",
    "live_roots",
    "prune",
    "upper_size",
]


@dataclass(frozen=True, slots=True)
class Sizes:
    """Bytes of regular files: of a container's own, and of the image below it."""

    writable: int
    image: int


def upper_size(upper: Path) -> int:
    """Bytes of the regular files in an upper directory, each inode once; what is not stored there does not count."""
    return sum({found.st_ino: min(found.st_size, found.st_blocks * 512) for found in files_of(upper)}.values())


def files_of(upper: Path) -> Iterator[os.stat_result]:
    """The regular files below a directory."""
    return (found for found in entries_of(upper) if stat.S_ISREG(found.st_mode))


def entries_of(upper: Path) -> Iterator[os.stat_result]:
    """All that is below a directory, of any depth; what goes meanwhile is not there."""
    with Descent(upper, own=True) as place:
        pending = [iter(place.names())]
        while pending:
            for name in pending[-1]:
                with contextlib.suppress(OSError):
                    found = place.status(name)
                    yield found
                    if stat.S_ISDIR(found.st_mode):
                        place.enter(name)
                        pending.append(iter(place.names()))
                        break
            else:
                pending.pop()
                if pending:
                    place.leave()


def live_roots(store: Store, txn: Txn) -> Roots:
    """What the images say, the build cache, and what containers stand on even when their image was removed by force.

    `mounted`: the trees that servers read now, whose packs stay where they are.
    """
    roots = image_roots(store.root, txn)
    layers, chains, blobs, mounted = set(roots.layers), set(roots.chains), set(roots.blobs), set(roots.mounted)
    layers |= cached_layers(txn)
    served = {m.image for m in MountTable(store.root).records() if m.engine != "kernel"}
    stacks = {record.id.hex: record.diff_ids for record in scan_images(txn)}
    for _, row in txn.scan_json("containers"):
        stacks.setdefault(row["image"], tuple(DiffID(Digest(text)) for text in row["config"].get("layers", ())))
    for image, stack in stacks.items():
        blobs.add(bytes.fromhex(image))
        layers |= {diff_id.raw for diff_id in stack}
        if stack:
            chains.add(chain_id(stack).raw)
            mounted |= {chain_id(stack).raw} if image in served else set()
    states = {state.id: state for state in States(txn).all()}
    layers |= {diff_id.raw for state in states.values() for diff_id in state.stack}
    shown = {m.shown for m in MountTable(store.root).records()}
    for id in {str(row.get("base", "")) for _, row in txn.scan_json("containers")} | shown:
        if id in states and states[id].absorbed and states[id].stack:
            chains.add(chain_id(states[id].stack).raw)  # those of mere snapshots are built again when they are wanted
            mounted |= {chain_id(states[id].stack).raw} if id in shown else set()
    return Roots(roots.images, *map(frozenset, (layers, chains, blobs, mounted)))


def collect_garbage(store: Store, *, dry_run: bool, progress: Report | None) -> GcResult:
    if not dry_run:
        from layerfs.engine.bench import clear_killed
        from layerfs.engine.buildrun import clear_dead
        from layerfs.engine.life import finish_abandoned
        from layerfs.store.reserve import with_reserve

        def tidy() -> None:
            finish_abandoned(store)
            clear_dead(store)
            clear_killed(store)
            MountTable(store.root).clean_dead()
            MountTable(store.root).clean_sockets()
            store.container_table.clean_orphans()

        with_reserve(store.root.path, tidy)
        with contextlib.suppress(NoSpace):  # a full disk is what a collection mends
            absorb_loose(store.root)
            fold_states(store.root)
    return collect(store.root, lambda txn: live_roots(store, txn), dry_run=dry_run, progress=progress)


def check_store(store: Store, *, repair: bool, quick: bool, progress: Report | None) -> list[Problem]:
    from layerfs.image.sources import blob_streams, layer_streams
    from layerfs.layer import write_layer
    from layerfs.store.fsck import check

    def replay(diff_id: bytes, out: Any) -> None:
        write_layer(store.root, DiffID(Digest.from_raw(diff_id)), out)

    if not repair:
        found = check(store.root, replay=replay, quick=quick, progress=progress)
        return [*found, *_block_problems(store)]
    from layerfs.engine.pulling import fetched_blobs, fetched_layers

    with store.root.leases.acquire("fsck") as lease:

        def streams(key: bytes) -> Iterator[BinaryIO]:
            """What this host has first; then what came from registries."""
            digest, layer = Digest.from_raw(key), None
            with contextlib.suppress(NotFound):
                layer = get_layer(store.root, DiffID(digest))  # has_layer says no when its tree is lost
            if layer is None:
                yield from blob_streams(store.root, digest, lease)
                yield from fetched_blobs(store, digest)
            else:
                yield from layer_streams(store.root, layer, lease)
                yield from fetched_layers(store, layer.diff_id)

        found = check(store.root, repair=streams, replay=replay, quick=quick, progress=progress)
        return [*found, *_block_problems(store)]


def _block_problems(store: Store) -> Iterator[Problem]:
    """Block-level files of containers, and of frozen states, whose base is gone. What changes or goes meanwhile is left
    out.
    """
    from layerfs.layer.blocks import damaged_files
    from layerfs.snapshot.uppers import upper_below
    from layerfs.store.fsck import Problem

    with store.root.index.view() as txn:
        states = [state for state in States(txn).all() if not state.absorbed]
    for state in states:
        frozen = upper_below(store.path, state.place) / "upper"
        with contextlib.suppress(FileNotFoundError, NotADirectoryError, InUse):
            for path, reason in damaged_files(frozen, store.root.path / "objects", prefix_of(frozen)):
                yield Problem("error", "state", state.id, f"/{os.fsdecode(path)}: {reason}")
    for box in store.containers():
        with contextlib.suppress(FileNotFoundError, NotADirectoryError, InUse):
            upper = store.container_table.made_upper(box.record)
            for path, reason in damaged_files(upper, store.root.path / "objects", prefix_of(upper)) if upper else ():
                yield Problem("error", "container", box.id, f"/{os.fsdecode(path)}: {reason}")


def prune(
    store: Store,
    *,
    containers: bool,
    images: bool,
    all_images: bool,
    filters: Mapping[str, Sequence[str]],
    networks: bool = False,
    volumes: bool = False,
    build_cache: bool = False,
) -> list[str]:
    """What `docker … prune -f` prints."""
    lines: list[str] = []
    bytes_of_volumes = 0
    if containers:
        lines += _prune_containers(store, PruneFilter(filters))
    if networks:
        lines += _prune_networks(store, PruneFilter(filters))
    if volumes:
        from layerfs.engine.volumes import Volumes

        if "until" in filters:
            raise InvalidInput('the "until" filter is not supported with "--volumes"')
        gone = Volumes(store).prune(wanted=PruneFilter(filters))
        bytes_of_volumes = sum(size for _, size in gone)
        lines += _deleted("Volumes", [name for name, _ in gone])
    if images:
        lines += _prune_images(store, all_images, filters)
    if build_cache:
        lines += _prune_cache(store, all_images)
    freed = collect_garbage(store, dry_run=False, progress=None).bytes
    return [*lines, f"Total reclaimed space: {human_size(freed + bytes_of_volumes)}"]


def _deleted(what: str, names: Sequence[str]) -> list[str]:
    return [f"Deleted {what}:", *names, ""] if names else []


def _prune_networks(store: Store, wanted: PruneFilter) -> list[str]:
    from layerfs.engine.networks import Networks

    return _deleted("Networks", Networks(store).prune(store.containers(), wanted))


def _prune_containers(store: Store, wanted: PruneFilter) -> list[str]:
    gone = []
    for box in store.containers():
        try:
            if not box.state.running and wanted.allows(dict(box.config().labels), box.record.created_ns):
                box.remove()
                gone.append(box.id)
        except InUse:
            continue
    return _deleted("Containers", gone)


def _prune_cache(store: Store, everything: bool) -> list[str]:
    from layerfs.engine.buildcache import forget_cache

    gone = [record.id for record in forget_cache(store, everything=everything)]
    return _deleted("build cache objects", gone)


def _prune_images(store: Store, everything: bool, filters: Mapping[str, Sequence[str]]) -> list[str]:
    used = {box.record.image for box in store.containers()}
    gone: list[str] = []
    for summary in store.image_summaries(filters, all=everything):
        if summary.record.id.hex in used or not (everything or summary.dangling):
            continue
        for name in _names(summary):
            try:
                gone += map(str, store.remove_image(name))
            except LayerfsError:
                break
    return _deleted("Images", list(dict.fromkeys(gone)))


def _names(summary: ImageSummary) -> list[str]:
    return [t.reference.familiar for t in summary.tags] or [str(summary.record.id)]


def information(store: Store) -> dict[str, Any]:
    """docker's `info`: what is in the store and on what machine, under docker's names."""
    import socket

    from layerfs.runtime.cgroups import Hierarchies

    host = os.uname()
    states = [box.status for box in store.containers()]
    return {
        "Containers": len(states),
        "ContainersRunning": sum(state in ("running", "restarting") for state in states),
        "ContainersPaused": states.count("paused"),
        "ContainersStopped": sum(state in ("created", "exited") for state in states),
        "Images": len(store.images(all=True)),
        "Driver": "layerfs",
        "LoggingDriver": "json-file",
        "CgroupDriver": "cgroupfs",
        "CgroupVersion": str(Hierarchies.here().version or ""),
        "KernelVersion": host.release,
        "OperatingSystem": _system_name(),
        "OSType": "linux",
        "Architecture": host.machine,
        "NCPU": len(os.sched_getaffinity(0)),
        "MemTotal": os.sysconf("SC_PAGESIZE") * os.sysconf("SC_PHYS_PAGES"),
        "Name": socket.gethostname(),
        "DockerRootDir": str(store.path),
    }


def _system_name() -> str:
    import platform

    try:
        return str(platform.freedesktop_os_release().get("PRETTY_NAME", "Linux"))
    except OSError:
        return "Linux"
