"""Several layers as one: what a merged tree has otherwise than the tree below them, as entries of a single layer.

Only what the layers name is looked at, so it costs what they changed, not what there is.
"""

from __future__ import annotations

import stat
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from layerfs.digest import DiffID, chain_id
from layerfs.errors import Corrupt
from layerfs.layer.commit import StoredContent, store_entries
from layerfs.layer.entry import Entry, whiteout
from layerfs.layer.merged import layer_tree, merged_tree
from layerfs.layer.tree import Inode, Tree

if TYPE_CHECKING:
    from layerfs.layer.layers import Layer
    from layerfs.store import StoreRoot
    from layerfs.store.contents import Contents
    from layerfs.store.leases import Lease

Pair = tuple[Inode | None, Inode | None]  # what a path was, and what it is
_PIECE = 1 << 20
_VARYING = ((32, 72), (1028, 1032), (1072, 1088))  # subject and its checksums: layerfs header, superblock, its uuid


def fold_layers(root: StoreRoot, below: Sequence[DiffID], layers: Sequence[DiffID], *, lease: Lease) -> Layer | None:
    """One layer that makes of the stack `below` what `layers` make of it; None when that is nothing.

    Raises:
        Corrupt: the stack with that layer is not, byte for byte, the tree that it was. Never seen.
    """
    whole = (*below, *layers)
    lease.pin(b"".join(diff_id.raw for diff_id in whole) + chain_id(whole).raw)
    old, new = merged_tree(root, below), merged_tree(root, whole)
    deltas = [layer_tree(root, diff_id) for diff_id in layers]
    entries = list(folded_entries(root.contents, old, deltas, new))
    layer = store_entries(root, entries, lease=lease) if entries else None
    folded = (*below, layer.diff_id) if layer else tuple(below)
    if folded:
        lease.pin(chain_id(folded).raw)
    if not same_tree(merged_tree(root, folded).path, new.path):
        raise Corrupt("a fold of layers would have changed the tree: they stay as they are")
    return layer


def same_tree(one: str | Path, other: str | Path) -> bool:
    """Whether two tree files say the same: equal trees have equal bytes, but for what names the tree itself."""
    with Path(one).open("rb") as first, Path(other).open("rb") as second:
        while True:
            at = first.tell()
            left, right = first.read(_PIECE), second.read(_PIECE)
            if at == 0:
                left, right = _blanked(left), _blanked(right)
            if left != right:
                return False
            if not left:
                return True


def _blanked(start: bytes) -> bytes:
    """The beginning of a tree file without what names the tree: its subject, twice, and the checksums."""
    text = bytearray(start)
    for at, end in _VARYING:
        text[at:end] = bytes(end - at)
    return bytes(text)


def folded_entries(contents: Contents, old: Tree, deltas: Sequence[Tree], new: Tree) -> Iterator[Entry]:
    """The entries that make `old` into `new`, depth first; `deltas`: the layer trees in between."""
    pairs = dict(touched(old, deltas, new))
    changed = {path for path, pair in pairs.items() if is_changed(old, new, *pair)}
    for path in _names_of_links(old, new, pairs, changed):
        pairs[path] = (old.resolve(path), new.resolve(path))
        changed.add(path)
    first: dict[int, Entry] = {}
    for path in sorted(_with_parents(changed), key=lambda path: path.split(b"/") if path else []):
        now = pairs[path][1] if path in pairs else new.resolve(path)
        if now is None:
            yield whiteout(path)
        elif now.nid in first:
            yield first[now.nid].linked(path, first[now.nid].path)
        else:
            entry = inode_entry(contents, new, path, now)
            if now.nlink > 1 and not stat.S_ISDIR(now.mode):
                first[now.nid] = entry
            yield entry


def touched(old: Tree, deltas: Sequence[Tree], new: Tree) -> Iterator[tuple[bytes, Pair]]:
    """Every path that the layers say something about, with what it was and is. Below what is not there now nothing
    comes."""
    yield b"", (old.root, new.root)
    stack: list[tuple[bytes, Inode | None, Inode, list[tuple[Tree, Inode]], bool]]
    opaque = any(delta.is_opaque(delta.root) for delta in deltas)
    stack = [(b"", old.root, new.root, [(delta, delta.root) for delta in deltas], opaque)]
    while stack:
        prefix, was_dir, now_dir, places, whole = stack.pop()
        names = {entry.name for tree, place in places for entry in tree.listdir(place)}
        if whole:
            names |= {entry.name for entry in new.listdir(now_dir)}
            names |= {entry.name for entry in old.listdir(was_dir)} if was_dir else set()
        for name in names:
            was = old.lookup(was_dir, name) if was_dir else None
            now = new.lookup(now_dir, name)
            if was is None and now is None:
                continue
            yield prefix + name, (was, now)
            if now is not None and stat.S_ISDIR(now.mode):
                found = [(tree, inode) for tree, place in places if (inode := tree.lookup(place, name))]
                below = [(tree, inode) for tree, inode in found if stat.S_ISDIR(inode.mode)]
                all_of_it = whole or len(below) < len(found) or any(tree.is_opaque(inode) for tree, inode in below)
                was = was if was is not None and stat.S_ISDIR(was.mode) else None
                stack.append((prefix + name + b"/", was, now, below, all_of_it or was is None))


def is_changed(old: Tree, new: Tree, was: Inode | None, now: Inode | None) -> bool:
    """Also when the names of a file with several are no longer those of one file below."""
    if was is None or now is None:
        return True
    if (was.mode, was.uid, was.gid, was.mtime_ns) != (now.mode, now.uid, now.gid, now.mtime_ns):
        return True
    if old.xattrs(was) != new.xattrs(now):
        return True
    if stat.S_ISDIR(now.mode):
        return False
    if was.rdev != now.rdev or (stat.S_ISLNK(now.mode) and old.readlink(was) != new.readlink(now)):
        return True
    if stat.S_ISREG(now.mode) and (was.size != now.size or old.content(was) != new.content(now)):
        return True
    return now.nlink > 1 and not _linked_below(old, was, new.links(now))


def _linked_below(old: Tree, was: Inode, names: Iterable[bytes]) -> bool:
    found = [old.resolve(name) for name in names]
    return all(inode is not None and inode.nid == was.nid for inode in found)


def _names_of_links(old: Tree, new: Tree, pairs: dict[bytes, Pair], changed: set[bytes]) -> set[bytes]:
    """The other names of changed files; and of those that shared a file below with one that goes on without them."""
    inodes = [now for path in changed if (now := pairs[path][1]) and now.nlink > 1 and not stat.S_ISDIR(now.mode)]
    return {name for inode in inodes for name in new.links(inode)} - changed


def _with_parents(paths: set[bytes]) -> set[bytes]:
    """With the directories above them, but the root, which is only there for itself."""
    found = set(paths)
    for path in paths:
        at = path.rpartition(b"/")[0]
        while at and at not in found:
            found.add(at)
            at = at.rpartition(b"/")[0]
    return found


def inode_entry(contents: Contents, tree: Tree, path: bytes, inode: Inode) -> Entry:
    """The entry of something in a tree."""
    identity = tree.content(inode) if stat.S_ISREG(inode.mode) else None
    return Entry(
        path,
        inode.mode,
        inode.uid,
        inode.gid,
        inode.mtime_ns,
        inode.size if stat.S_ISREG(inode.mode) else 0,
        tree.readlink(inode) if stat.S_ISLNK(inode.mode) else b"",
        rdev=inode.rdev,
        xattrs=tuple(sorted(tree.xattrs(inode).items())),
        content=StoredContent(contents, identity, inode.size) if identity is not None else None,
    )


__all__ = ["fold_layers", "folded_entries", "inode_entry", "is_changed", "same_tree", "touched"]
