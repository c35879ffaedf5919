"""Checking a store: every row against its file, every byte against its digest; and repair."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from layerfs.errors import Corrupt
from layerfs.store.links import check_links
from layerfs.store.mark import ContentMark
from layerfs.store.orphans import find_orphans
from layerfs.store.problems import Findings, Problem
from layerfs.store.repair import Repairer, Sources
from layerfs.store.verify import Replay, Verifier

if TYPE_CHECKING:
    from layerfs.store.root import StoreRoot


@dataclass(frozen=True, slots=True)
class FsckProgress:
    """One step of a check; counts rows. `kind`: blobs, contents, layers, repair."""

    kind: str
    current: int
    total: int | None = None
    id: str = "fsck"


def check(
    root: StoreRoot,
    *,
    repair: Sources | None = None,
    replay: Replay | None = None,
    quick: bool = False,
    information: bool = False,
    progress: Callable[[Any], object] | None = None,
) -> list[Problem]:
    """Everything that is wrong; an empty list means that the store is whole. gc waits meanwhile, all else goes on.

    Args:
        repair: given a diff ID (32 bytes), yields streams of that layer's uncompressed tar, best first; given a blob's
            digest, streams of the blob. What comes is verified. None: nothing is changed.
        replay: writes the tar of a layer, made from its tar-split record and verified, to a file
            (`layerfs.layer.write_layer`). None: records are only looked at from outside.
        quick: by size and XXH64 where that is kept, instead of by sha256; no replay.
        information: also list orphans, with severity `info`.
    """
    tell = progress or (lambda _: None)
    with contextlib.nullcontext() if root.read_only else root.lock("collect"):
        verifier = Verifier(root, quick, replay, lambda kind, number, total: tell(FsckProgress(kind, number, total)))
        found = verifier.found
        with root.index.view() as txn:
            readable = check_links(root, txn, found)
        if readable:
            verifier.blobs()
            verifier.packs()
            verifier.contents()
            verifier.trees()
        if repair is not None and found.problems:
            tell(FsckProgress("repair", 0, len(found.problems)))
            with root.leases.acquire("fsck") as lease:
                Repairer(root, found, lease, repair, replay).run()
        if information:
            _orphans(root, found)
        return found.problems


def _orphans(root: StoreRoot, found: Findings) -> None:
    pins = root.leases.pins()
    with root.index.view() as txn:
        live = ContentMark(root)
        with contextlib.suppress(Corrupt):
            live.refresh(txn)
        for orphan in find_orphans(root, txn, time.time_ns()):
            if not orphan.wanted(txn, pins, live.packs):
                found.info("orphan", str(orphan.path.relative_to(root.path)), f"a {orphan.kind} that nothing refers to")


__all__ = ["FsckProgress", "Problem", "check"]
