"""What an image stores for nothing: files that later layers overwrite or remove, copies of files of which only the
attributes changed, and equal files."""

from __future__ import annotations

import stat
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from layerfs.digest import DiffID
from layerfs.layer.merged import layer_tree, merged_tree
from layerfs.layer.shadow import Shadow
from layerfs.layer.tree import Tree
from layerfs.store.root import StoreRoot

Reason = Literal["overwritten", "removed", "copied"]


@dataclass(frozen=True, slots=True)
class WastedFile:
    """A file in layer number `layer` (from 0, base first) that the image does not need there. `copied`: a layer above
    has the same bytes once more, with other attributes."""

    path: bytes  # with a leading slash
    layer: int
    size: int
    reason: Reason


@dataclass(frozen=True, slots=True)
class Duplicate:
    """One content under several paths of the image (names of one inode count once)."""

    size: int
    paths: tuple[bytes, ...]

    @property
    def extra(self) -> int:
        return self.size * (len(self.paths) - 1)


@dataclass(frozen=True, slots=True)
class Waste:
    """Bytes of files: `total` in all layers, `wasted` of them. `files` and `duplicates` by size, largest first."""

    total: int
    files: tuple[WastedFile, ...]
    duplicates: tuple[Duplicate, ...]

    @property
    def wasted(self) -> int:
        return sum(file.size for file in self.files)

    @property
    def efficiency(self) -> float:
        """The part of the bytes that is seen, as dive counts it; 1.0 of an empty image."""
        return 1 - self.wasted / self.total if self.total else 1.0


def find_waste(root: StoreRoot, diff_ids: Sequence[DiffID]) -> Waste:
    shadow, files, total = Shadow(), list[WastedFile](), 0
    above: dict[bytes, bytes] = {}  # path -> identity, of the nearest layer above
    for number in reversed(range(len(diff_ids))):
        tree, here = layer_tree(root, diff_ids[number]), dict[bytes, bytes]()
        seen: set[int] = set()
        for path, inode in tree.walk():
            identity = tree.content(inode) if stat.S_ISREG(inode.mode) else None
            if identity is None:
                continue
            here[path] = identity
            if inode.nid in seen:
                continue  # one more name
            seen.add(inode.nid)
            total += inode.size
            why = shadow.hides(path)
            if why is not None:
                reason: Reason = "copied" if above.get(path) == identity else why
                files.append(WastedFile(b"/" + path, number, inode.size, reason))
        shadow.add(tree)
        above |= here
    files.sort(key=lambda file: (-file.size, file.path, file.layer))
    return Waste(total, tuple(files), tuple(_duplicates(merged_tree(root, diff_ids))))


def _duplicates(tree: Tree) -> list[Duplicate]:
    places: dict[bytes, list[bytes]] = defaultdict(list)
    sizes: dict[bytes, int] = {}
    seen: set[int] = set()
    for path, inode in tree.walk():
        identity = tree.content(inode) if stat.S_ISREG(inode.mode) else None
        if identity is not None and inode.nid not in seen:
            seen.add(inode.nid)
            places[identity].append(b"/" + path)
            sizes[identity] = inode.size
    found = [Duplicate(sizes[each], tuple(paths)) for each, paths in places.items() if len(paths) > 1]
    return sorted(found, key=lambda each: (-each.extra, each.paths))
