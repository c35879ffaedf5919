"""Garbage collection: mark from roots and leases, sweep in short locked steps, compact packs. Safe beside everything.

The protocol: whoever uses something that is in the store pins it in his lease (under the gc lock, shared) and looks
afterwards. gc deletes rows and moves files away in steps, each in an index transaction with the gc lock held
exclusively, after it has read the pins and what was published since the mark.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from layerfs.errors import Corrupt
from layerfs.store.compact import compact
from layerfs.store.format import ContentValue
from layerfs.store.mark import ContentMark, Mark, Roots, RootsOf
from layerfs.store.orphans import find_orphans
from layerfs.store.reserve import with_reserve
from layerfs.store.sweep import Counts, Sweeper, count_rows, disk_usage, pack_usage, row_files
from layerfs.store.trash import Trash

if TYPE_CHECKING:
    from layerfs.store.index import Txn
    from layerfs.store.leases import Lease
    from layerfs.store.root import StoreRoot

CLOCK_SLACK = 20_000_000  # ns; the times of files lag behind the clock by up to a tick


@dataclass(frozen=True, slots=True)
class GcProgress:
    """One step of a collection: mark, rows, contents, packs, orphans, compact."""

    kind: str
    current: int
    total: int | None = None
    id: str = "gc"


@dataclass(frozen=True, slots=True)
class GcResult:
    """What was removed, or with dry_run would be. `bytes`: disk space given back.

    `damage`: a tree that could not be read; then contents and packs were left alone until fsck has mended it.
    """

    images: int = 0
    layers: int = 0
    trees: int = 0
    blobs: int = 0
    contents: int = 0
    packs: int = 0
    packs_compacted: int = 0
    orphans: int = 0
    leases: int = 0
    bytes: int = 0
    dry_run: bool = False
    damage: str | None = None


def collect(
    root: StoreRoot,
    roots: RootsOf,
    *,
    progress: Callable[[Any], object] | None = None,
    dry_run: bool = False,
    compaction: bool = True,
) -> GcResult:
    """Removes what nothing refers to. Runs beside imports, look-ups, mounts; one at a time (a second one waits).

    Args:
        roots: gives the live images, layers, chains, blobs of a transaction; called more than once, so make it quick.
        dry_run: only say what would go (compaction not counted in).

    Raises:
        NoSpace: not even the space held back for this was enough for the lease and the index's pages.
        StoreReadOnly.
    """
    tell = progress or (lambda _: None)
    with root.lock("collect"):
        return with_reserve(
            root.path,
            lambda: _collect(root, roots, tell, dry_run, compaction),
            lambda: _collect(root, roots, tell, dry_run, compaction=False),
        )


def _collect(
    root: StoreRoot, roots: RootsOf, tell: Callable[[Any], object], dry_run: bool, compaction: bool
) -> GcResult:
    leases = root.leases.clean_dead()
    with root.leases.acquire("gc") as lease:
        horizon = _horizon(root, lease)
        root.index.check_readers()
        if dry_run:
            return _result(*_dry_run(root, roots, lease, horizon, tell), leases, True)
        sweeper = Sweeper(root, Trash(lease.tmp / "trash"), horizon)
        damage = _sweep(sweeper, roots, lease, tell, compaction)
        return _result(sweeper.counts, damage, leases, False)


def _horizon(root: StoreRoot, lease: Lease) -> int:
    """What is younger may belong to a living lease (ns since the epoch)."""
    others = [record.created for record in root.leases.living() if record.id != lease.id]
    return min([lease.record.created, *others]) - (CLOCK_SLACK if others else 0)


def _result(counts: Counts, damage: str | None, leases: int, dry_run: bool) -> GcResult:
    return GcResult(**vars(counts), leases=leases, dry_run=dry_run, damage=damage)


def _sweep(
    sweeper: Sweeper, roots: RootsOf, lease: Lease, tell: Callable[[Any], object], compaction: bool
) -> str | None:
    root = sweeper.root
    tell(GcProgress("rows", 0))
    sweeper.rows(roots)
    live, damage = ContentMark(root), None
    try:
        with root.index.view() as txn:
            tell(GcProgress("mark", 0, txn.count("layers")))
            dead = live.refresh(txn).dead_contents(txn)
        tell(GcProgress("contents", 0, len(dead)))
        sweeper.contents(live, dead)
        with root.index.view() as txn:
            empty = [pack_id for pack_id, used in pack_usage(txn).items() if not used and pack_id not in live.packs]
        tell(GcProgress("packs", 0, len(empty)))
        sweeper.packs(live, empty)
    except Corrupt as error:
        damage = str(error)
    with root.index.view() as txn:
        found = list(find_orphans(root, txn, sweeper.horizon))
    tell(GcProgress("orphans", 0, len(found)))
    sweeper.orphans(None if damage else live, found)
    if compaction and not damage:
        tell(GcProgress("compact", 0))
        with contextlib.suppress(Corrupt):  # a merged tree or pack is damaged: fsck tells
            compact(sweeper, lease, roots)
    return damage


def _dry_run(
    root: StoreRoot, roots: RootsOf, lease: Lease, horizon: int, tell: Callable[[Any], object]
) -> tuple[Counts, str | None]:
    counts, damage = Counts(), None
    tell(GcProgress("mark", 0))
    with root.index.view() as txn:
        pins = root.leases.pins()
        mark = Mark(root, roots(txn), pins, horizon).rows(txn)
        count_rows(counts, mark)
        counts.bytes += sum(disk_usage(path) for path in row_files(root, mark))
        try:
            _dry_contents(root, txn, mark, pins, counts)
        except Corrupt as error:
            damage = str(error)
        for orphan in find_orphans(root, txn, horizon):
            if orphan.pin not in pins:
                counts.orphans += 1
                counts.bytes += disk_usage(orphan.path)
    return counts, damage


def _dry_contents(root: StoreRoot, txn: Txn, mark: Mark, pins: set[bytes], counts: Counts) -> None:
    live = ContentMark(root)
    live.skip(mark.dead.layers, mark.dead.chains)
    pins = pins | live.bases(txn, pins)
    dead = [key for key in live.refresh(txn).dead_contents(txn) if key not in pins]
    used = pack_usage(txn)
    for key in dead:
        value = ContentValue.decode(txn.get("contents", key) or b"")
        counts.contents += 1
        if value.pack in used:
            used[value.pack] -= value.blocks
        else:
            counts.bytes += disk_usage(root.contents.file_path(key, value))
    for pack_id, blocks in used.items():
        if not blocks and pack_id not in live.packs:
            counts.packs += 1
            counts.bytes += disk_usage(root.contents.pack_path(pack_id))


__all__ = ["GcProgress", "GcResult", "Roots", "RootsOf", "collect"]
