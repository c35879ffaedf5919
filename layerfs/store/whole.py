"""Making whole objects of deltas, for readers that open objects by themselves (the kernel's overlayfs)."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Set
from typing import TYPE_CHECKING

from layerfs.store.delta import Delta, open_object
from layerfs.store.durable import writing
from layerfs.store.format import FLAG_DELTA, ContentValue

if TYPE_CHECKING:
    from pathlib import Path

    from layerfs.store.root import StoreRoot

_PIECE = 1 << 20


def make_whole(root: StoreRoot, identities: Set[bytes]) -> int:
    """Makes whole objects of the deltas among some contents; how many there were. A crash leaves an orphan at most.

    Raises:
        Corrupt: a delta or its base is missing or damaged. NoSpace, StoreReadOnly.
    """
    with root.index.view() as txn:
        wanted = [identity for identity, _ in txn.scan("deltas") if identity in identities]
    for identity in wanted:
        _make_whole(root, identity)
    return len(wanted)


def _make_whole(root: StoreRoot, identity: bytes) -> None:
    with root.leases.acquire("whole") as lease:
        lease.pin(identity)  # which keeps its base
        found = open_object(root.path / "objects", identity)
        target, old = root.contents.object_path(identity), root.contents.delta_path(identity)
        with contextlib.closing(found):
            if isinstance(found, Delta):
                copy = lease.tmp / f"whole-{identity.hex()}"
                _write(found, copy)
                root.place(copy, target)
                root.durable([target])
        with root.index.update() as txn:
            row = txn.get("contents", identity)
            if row is not None:
                value = ContentValue.decode(row)
                txn.put("contents", identity, value._replace(flags=value.flags & ~FLAG_DELTA).encode())
            txn.delete("deltas", identity)
        old.unlink(missing_ok=True)


def _write(delta: Delta, path: Path) -> None:
    with writing("an object"), path.open("xb", buffering=0) as out:
        os.fchmod(out.fileno(), 0o400)
        os.ftruncate(out.fileno(), delta.size)
        for start, length in delta.extents():
            at, end = start, start + length
            while at < end:
                at += os.pwrite(out.fileno(), delta.pread(min(_PIECE, end - at), at), at)
