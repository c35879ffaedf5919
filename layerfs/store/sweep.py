"""Deleting what is dead, in short steps that hold up writers and look-ups only for their own length."""

from __future__ import annotations

import contextlib
import os
import stat
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from layerfs.digest import Digest
from layerfs.store.format import BLOCK, KIND_OBJECT, ContentValue, pack_key
from layerfs.store.mark import ContentMark, Mark, RootsOf
from layerfs.store.orphans import Orphan, empty_directories
from layerfs.store.trash import Trash, mounts_below
from layerfs.store.writer import pack_pin

if TYPE_CHECKING:
    from layerfs.store.index import Txn
    from layerfs.store.root import StoreRoot

BATCH = 2048  # rows deleted in one step


@dataclass
class Counts:
    """What went, or would go. `bytes` is disk space given back."""

    images: int = 0
    layers: int = 0
    trees: int = 0
    blobs: int = 0
    contents: int = 0
    packs: int = 0
    orphans: int = 0
    packs_compacted: int = 0
    bytes: int = 0


@dataclass
class Step:
    """One locked step: what it has decided to move away, once the rows are gone."""

    txn: Txn
    pins: set[bytes]
    files: list[Path] = field(default_factory=list)


class Sweeper:
    """Sweeps one store. Only one at a time: `collect` holds the lock for that."""

    def __init__(self, root: StoreRoot, trash: Trash, horizon: int) -> None:
        self.root, self.trash, self.horizon = root, trash, horizon
        self.counts = Counts()

    @contextlib.contextmanager
    def step(self) -> Iterator[Step]:
        """Index and gc lock are held for the body; then the rows are committed, then the files are moved away.

        The transaction comes first: a writer that publishes a blob holds it and then waits for the lock. And what was
        published before it is in its snapshot, while who publishes after it still has his pins.
        """
        with contextlib.ExitStack() as lock:
            with self.root.index.update() as txn:
                lock.enter_context(self.root.lock("gc"))
                step = Step(txn, self.root.leases.pins())
                yield step
            for path in step.files:
                self.trash.take(path)
        self.counts.bytes += self.trash.empty()

    def rows(self, roots: RootsOf) -> None:
        """Images, layers, chains, blobs: decided anew under the lock."""
        with self.step() as step:
            mark = Mark(self.root, roots(step.txn), step.pins, self.horizon).rows(step.txn)
            delete_rows(step.txn, mark)
            step.files += row_files(self.root, mark)
            count_rows(self.counts, mark)

    def contents(self, live: ContentMark, dead: list[bytes]) -> None:
        for start in range(0, len(dead), BATCH):
            with self.step() as step:
                live.refresh(step.txn)
                held = step.pins | live.bases(step.txn, step.pins)
                for identity in dead[start : start + BATCH]:
                    if identity not in live.identities and identity not in held:
                        self._content(step, identity)

    def _content(self, step: Step, identity: bytes) -> None:
        row = step.txn.get("contents", identity)
        if row is None:
            return
        if row[0] == KIND_OBJECT:
            step.files.append(self.root.contents.file_path(identity, ContentValue.decode(row)))
            step.txn.delete("deltas", identity)
        step.txn.delete("contents", identity)
        self.counts.contents += 1

    def packs(self, live: ContentMark, dead: Iterable[int]) -> None:
        """Packs without contents. They gain none: rows into a pack are only made when it is published."""
        with self.step() as step:
            live.refresh(step.txn)
            live.adopt_packs(step.txn, self.horizon)
            for pack_id in dead:
                if pack_id not in live.packs and pack_pin(pack_id) not in step.pins:
                    step.txn.delete("packs", pack_key(pack_id))
                    step.files.append(self.root.contents.pack_path(pack_id))
                    self.counts.packs += 1

    def orphans(self, live: ContentMark | None, found: list[Orphan]) -> None:
        for start in range(0, len(found), BATCH):
            with self.step() as step:
                packs = live.refresh(step.txn).packs if live is not None else set()
                for orphan in found[start : start + BATCH]:
                    if orphan.wanted(step.txn, step.pins, packs) or (live is None and orphan.kind == "pack"):
                        continue
                    if orphan.kind == "container" and mounts_below(orphan.path):
                        continue
                    step.files.append(orphan.path)
                    self.counts.orphans += 1
        for directory in empty_directories(self.root.path):
            with contextlib.suppress(OSError):
                directory.rmdir()


def delete_rows(txn: Txn, mark: Mark) -> None:
    for table, keys in (
        ("images", mark.dead.images),
        ("layers", mark.dead.layers),
        ("trees", mark.dead.chains),
        ("blobs", mark.dead.blobs),
        ("sources", mark.dead.sources),
    ):
        for key in keys:
            txn.delete(table, key)


def row_files(root: StoreRoot, mark: Mark) -> list[Path]:
    """The files of dead rows."""
    files = [root.tree_path("layer", key.hex()) for key in mark.dead.layers]
    files += [root.split_path(key.hex()) for key in mark.dead.layers]
    files += [root.tree_path("merged", key.hex()) for key in mark.dead.chains]
    files += [root.blobs.blob_path(Digest.from_raw(key)) for key in mark.dead.blobs]
    return files


def count_rows(counts: Counts, mark: Mark) -> None:
    counts.images += len(mark.dead.images)
    counts.layers += len(mark.dead.layers)
    counts.trees += len(mark.dead.chains)
    counts.blobs += len(mark.dead.blobs)


def pack_usage(txn: Txn) -> dict[int, int]:
    """Blocks of each pack that contents rows refer to; 0 for a pack that none does."""
    used = {int.from_bytes(key, "big"): 0 for key in txn.keys("packs")}
    for _, row in txn.scan("contents"):
        if row[0] != KIND_OBJECT:
            value = ContentValue.decode(row)
            used[value.pack] = used.get(value.pack, 0) + value.blocks
    return used


def pack_blocks(root: StoreRoot, pack_id: int) -> int:
    try:
        return root.contents.pack_path(pack_id).stat().st_size // BLOCK
    except FileNotFoundError:
        return 0


def disk_usage(path: Path) -> int:
    """Bytes allocated to a file, or to the files of a directory; 0 when it is gone."""
    try:
        status = path.lstat()
    except OSError:
        return 0
    if not stat.S_ISDIR(status.st_mode):
        return status.st_blocks * 512
    total, pending = 0, [path]
    while pending:
        with contextlib.suppress(OSError), os.scandir(pending.pop()) as entries:
            for entry in entries:
                if entry.is_dir(follow_symlinks=False):
                    pending.append(Path(entry.path))
                else:
                    total += entry.stat(follow_symlinks=False).st_blocks * 512
    return total
