"""An equal image without waste: each file once, in the lowest layer that brought its bytes, as it is in the end.

So what a `chmod` or `chown` has copied, and what was overwritten or removed, is gone; the layers are as many as still
bring something. The flattened tree must come out the same, byte for byte.
"""

from __future__ import annotations

import json
import stat
from collections.abc import Iterable, Iterator, Sequence

from layerfs.digest import DiffID, chain_id
from layerfs.errors import Corrupt
from layerfs.image.images import Images
from layerfs.image.record import ImageRecord
from layerfs.layer.commit import store_entries
from layerfs.layer.entry import Entry
from layerfs.layer.fold import inode_entry, same_tree
from layerfs.layer.layers import get_layer
from layerfs.layer.merged import layer_tree, merged_tree
from layerfs.layer.tree import Inode, Tree
from layerfs.oci import ImageConfig
from layerfs.reference import Reference
from layerfs.store.contents import Contents
from layerfs.store.leases import Lease
from layerfs.store.root import StoreRoot


def optimize(root: StoreRoot, record: ImageRecord, references: Iterable[Reference] = ()) -> ImageRecord:
    """The optimized image, under these names; the same one when there is nothing to gain.

    Raises:
        Corrupt: the flattened tree would have been another one; nothing was made.
    """
    images = Images(root)
    config = images.config(record)
    with root.leases.acquire("optimize") as lease:
        if record.diff_ids:
            lease.pin(b"".join(diff_id.raw for diff_id in record.diff_ids) + chain_id(record.diff_ids).raw)
        layers = _rewritten(root, record.diff_ids, lease)
        kept = tuple(diff_id for diff_id in layers if diff_id is not None)
        if kept:
            lease.pin(chain_id(kept).raw)
        if not same_tree(merged_tree(root, kept).path, merged_tree(root, record.diff_ids).path):
            raise Corrupt("the optimized image would not have been equal")
        if _size(root, kept) >= _size(root, record.diff_ids):
            return images.add(config, references=references)
        return images.add(_config(config, layers), references=references)


def _size(root: StoreRoot, diff_ids: Sequence[DiffID]) -> int:
    return sum(get_layer(root, diff_id).size for diff_id in diff_ids)


def _rewritten(root: StoreRoot, diff_ids: Sequence[DiffID], lease: Lease) -> list[DiffID | None]:
    """For each layer what it becomes; None: nothing."""
    new = merged_tree(root, diff_ids)
    homes = _homes(new, [layer_tree(root, diff_id) for diff_id in diff_ids])
    found: list[DiffID | None] = []
    for number in range(len(diff_ids)):
        mine = {path for path, home in homes.items() if home == number}
        entries = list(_entries(root.contents, new, mine))
        found.append(store_entries(root, entries, lease=lease).diff_id if entries else None)
    return found


def _homes(new: Tree, layers: Sequence[Tree]) -> dict[bytes, int]:
    """For each path of the image the layer that it goes into: the lowest that has it there with the same bytes; where
    none has it at this path (it came there through a symlink) the topmost. Names of one inode stay together.
    """
    homes: dict[bytes, int] = {}
    inodes: dict[int, int] = {}
    brought = [dict(layer.walk()) for layer in layers]
    last = len(layers) - 1
    for path, inode in new.walk():
        if not path and _is_default(inode):
            continue
        home = next((n for n, layer in enumerate(layers) if _brings(new, inode, layer, brought[n].get(path))), last)
        if inode.nlink > 1 and not stat.S_ISDIR(inode.mode):
            home = inodes.setdefault(inode.nid, home)
        homes[path] = home
    return homes


def _is_default(inode: Inode) -> bool:
    """The root of an image that says nothing about it."""
    return (inode.mode, inode.uid, inode.gid, inode.mtime_ns) == (stat.S_IFDIR | 0o755, 0, 0, 0)


def _brings(new: Tree, inode: Inode, layer: Tree, found: Inode | None) -> bool:
    if found is None or stat.S_IFMT(found.mode) != stat.S_IFMT(inode.mode) or layer.link_target(found) is not None:
        return False
    if stat.S_ISREG(inode.mode):
        return found.size == inode.size and layer.content(found) == new.content(inode)
    if stat.S_ISLNK(inode.mode):
        return layer.readlink(found) == new.readlink(inode)
    return found.rdev == inode.rdev and not layer.is_whiteout(found)


def _entries(contents: Contents, tree: Tree, paths: set[bytes]) -> Iterator[Entry]:
    """These, with the directories above them, depth first."""
    every = set(paths)
    for path in paths:
        at = path.rpartition(b"/")[0]
        while at and at not in every:
            every.add(at)
            at = at.rpartition(b"/")[0]
    first: dict[int, Entry] = {}
    for path in sorted(every, key=lambda path: path.split(b"/") if path else []):
        inode = tree.resolve(path)
        assert inode is not None
        if inode.nid in first:
            yield first[inode.nid].linked(path, first[inode.nid].path)
            continue
        entry = inode_entry(contents, tree, path, inode)
        if inode.nlink > 1 and not stat.S_ISDIR(inode.mode):
            first[inode.nid] = entry
        yield entry


def _config(config: ImageConfig, layers: Sequence[DiffID | None]) -> ImageConfig:
    """With other layers; history entries whose layer went say so. All else stays as it was written."""
    document = json.loads(config.raw)
    document["rootfs"]["diff_ids"] = [str(diff_id) for diff_id in layers if diff_id is not None]
    waiting = list(layers)
    for entry in document.get("history") or []:
        if not entry.get("empty_layer") and waiting and waiting.pop(0) is None:
            entry["empty_layer"] = True
    return ImageConfig.parse(json.dumps(document, separators=(",", ":")).encode())
