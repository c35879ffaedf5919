"""`--squash`: the layers of a build as one, made of what the finished tree has otherwise than the base's."""

from __future__ import annotations

import stat
from collections.abc import Hashable, Iterator

from layerfs._record import replace
from layerfs.build.config import State
from layerfs.build.files import Item, TreeFiles, below
from layerfs.digest import DiffID
from layerfs.layer.commit import store_entries
from layerfs.layer.entry import Entry, whiteout
from layerfs.layer.merged import merged_tree
from layerfs.oci import History
from layerfs.store.leases import Lease
from layerfs.store.root import StoreRoot


def squashed(root: StoreRoot, base: tuple[DiffID, ...], state: State, lease: Lease, latest_ns: int | None) -> State:
    """The state with one layer on `base`; its history has one row more, and none of the build's has a layer."""
    if len(state.layers) - len(base) < 2:
        return state
    entries = list(
        difference(TreeFiles(root, merged_tree(root, base)), TreeFiles(root, merged_tree(root, state.layers)))
    )
    layers = base
    if entries:
        layers = (*base, store_entries(root, entries, lease=lease, latest_ns=latest_ns).diff_id)
    history = tuple(_emptied(state.history, len(base)))
    merged = History(state.created_ns, "", "", f"merge to {len(layers)} layers", not entries)
    return replace(state, layers=layers, history=(*history, merged))


def _emptied(history: tuple[History, ...], kept: int) -> Iterator[History]:
    for row in history:
        yield row if row.empty_layer or kept > 0 else replace(row, empty_layer=True)
        kept -= not row.empty_layer


def difference(old: TreeFiles, new: TreeFiles) -> Iterator[Entry]:
    """The entries of the layer that makes `old` into `new`, with the directories above them."""
    return iter(_Difference(old, new).directory(b"", old.root, new.root))


class _Difference:
    def __init__(self, old: TreeFiles, new: TreeFiles) -> None:
        self._old, self._new = old, new
        self._links: dict[Hashable, Entry] = {}

    def directory(self, path: bytes, old: Item | None, new: Item) -> list[Entry]:
        """What is to be said about a directory and all that is in it; nothing when nothing changed."""
        before = {item.name: item for item in self._old.children(old)} if old is not None and old.is_dir else {}
        inside: list[Entry] = []
        names = set()
        for item in self._new.children(new):
            names.add(item.name)
            place, known = below(path, item.name), before.get(item.name)
            if item.is_dir:
                inside += self.directory(place, known, item)
            elif item.inode is not None or not self._same(known, item):
                inside += self._file(place, known, item)
        inside += [whiteout(below(path, name)) for name in sorted(before.keys() - names)]
        if inside or old is None or not self._same(old, new):
            return ([self._entry(path, new)] if path else []) + inside
        return []

    def _file(self, path: bytes, known: Item | None, item: Item) -> list[Entry]:
        if item.inode is None:
            return [self._entry(path, item)]
        first = self._links.get(item.inode)
        if first is not None:
            return [first.linked(path, first.path)]
        self._links[item.inode] = entry = self._entry(path, item)
        return [entry]

    def _same(self, old: Item | None, new: Item) -> bool:
        if old is None or (old.mode, old.uid, old.gid, old.size, old.rdev, old.mtime_ns) != (
            new.mode,
            new.uid,
            new.gid,
            new.size,
            new.rdev,
            new.mtime_ns,
        ):
            return False
        if new.is_link and self._old.readlink(old) != self._new.readlink(new):
            return False
        if new.is_file and self._old.identity(old) != self._new.identity(new):
            return False
        return self._old.xattrs(old) == self._new.xattrs(new)

    def _entry(self, path: bytes, item: Item) -> Entry:
        files = self._new
        return Entry(
            path,
            item.mode,
            item.uid,
            item.gid,
            item.mtime_ns,
            item.size,
            files.readlink(item) if stat.S_ISLNK(item.mode) else b"",
            rdev=item.rdev,
            xattrs=files.xattrs(item),
            content=files.content(item) if item.is_file else None,
        )
