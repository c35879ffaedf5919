"""Compaction: what is alive in packs that are mostly dead moves to a new pack, and the trees are pointed there.

Nothing may hold a location meanwhile, so it only runs while no other lease lives, and under the `trees` lock, which
who publishes a layer or merged tree takes. Trees are replaced before the rows: a crash in between leaves trees that use
a pack without a row, and such a pack is alive (`ContentMark.packs`).
"""

from __future__ import annotations

import hashlib
import os
import struct
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from layerfs.errors import Corrupt
from layerfs.store.durable import pread_all, writing
from layerfs.store.format import BLOCK, KIND_OBJECT, KIND_PACK, ContentValue, pack_key
from layerfs.store.sweep import Sweeper, pack_blocks, pack_usage
from layerfs.store.treefile import TreeFile
from layerfs.store.writer import new_pack_id

if TYPE_CHECKING:
    from layerfs.store.format import TreeKind
    from layerfs.store.index import Txn
    from layerfs.store.leases import Lease
    from layerfs.store.mark import RootsOf
    from layerfs.store.root import StoreRoot

SHARE = 0.5  # a pack with less of it alive is rewritten
MIN_GAIN = 64 * 1024  # bytes; below that rewriting trees costs more than it gives
_MOVE = struct.Struct("<QIIQQ")
Place = tuple[int, int]  # pack, block


@dataclass
class Plan:
    """What moves. `used`: every live place in the packs, with the identity and size (bytes) of what is there."""

    packs: set[int]
    trees: list[tuple[TreeKind, bytes]] = field(default_factory=list)
    used: dict[Place, tuple[bytes, int]] = field(default_factory=dict)
    rows: list[bytes] = field(default_factory=list)


def compact(sweeper: Sweeper, lease: Lease, roots: RootsOf) -> None:
    """Rewrites the packs that are mostly dead; none when another lease lives, nor those of mounted trees.

    Who mounts holds the lock shared from before the mount's row is written, so that none is overlooked.
    """
    root = sweeper.root
    with root.lock("trees"):
        with root.index.view() as txn:
            plan = _plan(root, txn, _busy(root, roots(txn).mounted))
        if not plan.packs or _others(root, lease):
            return
        moves = _copy(root, plan, lease)
        if moves is None:
            return
        pack_id, blocks, new_places = moves
        trees = _remap(root, plan, lease, pack_id, new_places)
        _switch(sweeper, lease, plan, trees, pack_id, blocks, new_places)


def _busy(root: StoreRoot, mounted: frozenset[bytes]) -> set[int]:
    packs: set[int] = set()
    for chain in mounted:
        try:
            packs.update(TreeFile(root.tree_path("merged", chain.hex())).packs)
        except Corrupt:
            continue
    return packs


def _others(root: StoreRoot, lease: Lease) -> bool:
    return any(record.id != lease.id for record in root.leases.living())


def _plan(root: StoreRoot, txn: Txn, busy: set[int]) -> Plan:
    """By rows first, which is cheap; then exactly, by the trees that use a candidate."""
    usage = pack_usage(txn)
    sizes = {pack_id: pack_blocks(root, pack_id) for pack_id in usage}
    candidates = {pack_id for pack_id, used in usage.items() if pack_id not in busy and _worth(used, sizes[pack_id])}
    plan = Plan(candidates)
    if not candidates:
        return plan
    for key, row in txn.scan("contents"):
        value = ContentValue.decode(row)
        if value.kind == KIND_PACK and value.pack in candidates:
            plan.used[value.pack, value.block] = (key, value.size)
            plan.rows.append(key)
    for key in txn.keys("layers"):
        _add_tree(root, plan, "layer", key)
    for key in txn.keys("trees"):
        _add_tree(root, plan, "merged", key)
    return _drop(plan, {pack_id for pack_id in candidates if not _worth(_blocks_used(plan, pack_id), sizes[pack_id])})


def _worth(used: int, size: int) -> bool:
    return used < size * SHARE and (size - used) * BLOCK >= MIN_GAIN


def _add_tree(root: StoreRoot, plan: Plan, kind: TreeKind, key: bytes) -> None:
    tree = TreeFile(root.tree_path(kind, key.hex()))
    if plan.packs.isdisjoint(tree.packs):
        return
    plan.trees.append((kind, key))
    for file in tree.packed_files():
        if file.pack in plan.packs:
            plan.used[file.pack, file.block] = (file.identity, file.size)


def _blocks_used(plan: Plan, pack_id: int) -> int:
    return sum(-(-size // BLOCK) for (pack, _), (_, size) in plan.used.items() if pack == pack_id)


def _drop(plan: Plan, packs: Iterable[int]) -> Plan:
    """Leaves packs as they are."""
    plan.packs -= set(packs)
    plan.used = {place: what for place, what in plan.used.items() if place[0] in plan.packs}
    return plan


def _copy(root: StoreRoot, plan: Plan, lease: Lease) -> tuple[int, int, dict[bytes, int]] | None:
    """Writes the new pack, verifying each content: (pack id, blocks, identity → block); None when one is damaged."""
    pack_id = new_pack_id()
    path = lease.tmp / f"pack-{pack_id:016x}"
    places: dict[bytes, int] = {}
    blocks = 0
    with writing("a pack"), path.open("xb") as out:
        for (pack, block), (identity, size) in sorted(plan.used.items()):
            if identity in places:
                continue
            data = _read(root, pack, block, size)
            if hashlib.sha256(data).digest() != identity:
                return None  # fsck's business; never spread it
            places[identity] = blocks
            blocks += -(-size // BLOCK)
            out.write(data.ljust(-(-size // BLOCK) * BLOCK, b"\0"))
        os.fchmod(out.fileno(), 0o400)
    return pack_id, blocks, places


def _read(root: StoreRoot, pack: int, block: int, size: int) -> bytes:
    fd = root.contents.open_pack(pack)
    try:
        return pread_all(fd, size, block * BLOCK)
    finally:
        os.close(fd)


def _remap(
    root: StoreRoot, plan: Plan, lease: Lease, pack_id: int, places: dict[bytes, int]
) -> list[tuple[Path, Path]]:
    """Rewrites the trees below `tmp/`: (new file, its place)."""
    from layerfs.native import remap_tree

    mapping = b"".join(
        _MOVE.pack(pack, block, places[identity], pack_id, 0)
        for (pack, block), (identity, _) in sorted(plan.used.items())
    )
    trees = []
    for kind, key in plan.trees:
        source = root.tree_path(kind, key.hex())
        target = lease.tmp / source.name
        target.unlink(missing_ok=True)
        with writing("a tree"):
            remap_tree(str(source), str(target), mapping)
        trees.append((target, source))
    return trees


def _switch(
    sweeper: Sweeper,
    lease: Lease,
    plan: Plan,
    trees: list[tuple[Path, Path]],
    pack_id: int,
    blocks: int,
    places: dict[bytes, int],
) -> None:
    root = sweeper.root
    with sweeper.step() as step:
        if _others(root, lease):
            return
        new_pack = root.contents.pack_path(pack_id)
        if blocks:
            root.place(lease.tmp / f"pack-{pack_id:016x}", new_pack)
        for temporary, place in trees:
            root.place(temporary, place)
        root.durable([*([new_pack] if blocks else []), *(place for _, place in trees)])
        _point_rows(step.txn, plan, pack_id, places)
        if blocks:
            step.txn.put_json("packs", pack_key(pack_id), {"blocks": blocks, "created": lease.record.created})
        _name_packs(root, step.txn, plan)
        for old in plan.packs:
            step.txn.delete("packs", pack_key(old))
            step.files.append(root.contents.pack_path(old))
            sweeper.counts.packs_compacted += 1
        sweeper.counts.bytes -= blocks * BLOCK


def _point_rows(txn: Txn, plan: Plan, pack_id: int, places: dict[bytes, int]) -> None:
    for identity in plan.rows:
        row = txn.get("contents", identity)
        if row is None or row[0] == KIND_OBJECT:
            continue
        value = ContentValue.decode(row)
        if value.pack in plan.packs:
            moved = value._replace(pack=pack_id, block=places[identity])
            txn.put("contents", identity, moved.encode())


def _name_packs(root: StoreRoot, txn: Txn, plan: Plan) -> None:
    """The rows of layers list the packs of their trees."""
    for kind, key in plan.trees:
        row = txn.get_json("layers", key) if kind == "layer" else None
        if isinstance(row, dict) and "packs" in row:
            row["packs"] = [f"{pack:016x}" for pack in TreeFile(root.tree_path("layer", key.hex())).packs]
            txn.put_json("layers", key, row)
