"""Makes an upper directory that a kernel mount left fit for every engine.

The kernel keeps hard-linked copies in `work/index` (option `index=on`), and leaves `work/work/incompat/volatile`
behind when a volatile mount was not unmounted; both, and the mark that ties an upper root to one lower root, would
stop or mislead the next mount. The caller holds the container's lock, and nothing is mounted.
"""

from __future__ import annotations

import contextlib
import os
import stat
from collections.abc import Sequence
from pathlib import Path

from layerfs.layer.tree import Tree
from layerfs.layer.upper import TRUSTED
from layerfs.store.trash import remove_tree

_ORIGIN, _NLINK = TRUSTED + b"origin", TRUSTED + b"nlink"
_SCRATCH = "scratch"  # the union's, which is loaded when there is something to do: that takes longer than mounting

__all__ = ["settle"]


def settle(tree: Tree, upper: Path, work: Path, frozen: Sequence[Path] = (), *, keep_index: bool = False) -> None:
    """Index entries become hard links under all names that are still visible; index and volatile leftovers go.

    `keep_index`: a kernel mount over the same tree comes next; it goes on with its index.
    """
    there, index = _names(work), work / "index"
    if not there:
        return
    if "index" in there and not (keep_index and _is_of(upper, tree)):
        _adopt(index, work / _SCRATCH, tree.subject[:16])
        remove_tree(index)
        _drop(upper, _ORIGIN)
    if _names(work / _SCRATCH):
        from layerfs.union.upper import open_upper

        with contextlib.closing(open_upper(tree, None, upper, work, frozen)):
            pass  # opening finishes what it finds there
    if "work" in there:
        remove_tree(work / "work" / "incompat")


def _is_of(upper: Path, tree: Tree) -> bool:
    from layerfs.union.format import encode_origin

    return _mark(upper, _ORIGIN) == encode_origin(tree.subject[:16], tree.root.nid)


def _adopt(index: Path, scratch: Path, uuid: bytes) -> None:
    """Moves copies of hard-linked files to where the union looks for unfinished ones."""
    from layerfs.union.format import TREE_INO, is_whiteout
    from layerfs.union.upper import links_name

    scratch.mkdir(mode=0o700, exist_ok=True)
    for entry in sorted(index.iterdir()):
        found = entry.lstat()
        nid = _nid(entry.name, uuid)
        if nid is None or stat.S_ISDIR(found.st_mode) or is_whiteout(found.st_mode, found.st_rdev):
            continue
        _drop(entry, _NLINK)
        entry.rename(scratch / os.fsdecode(links_name(TREE_INO | nid)))


def _nid(name: str, uuid: bytes) -> int | None:
    """An index entry's name is its origin in hex."""
    from layerfs.union.format import decode_origin

    try:
        return decode_origin(bytes.fromhex(name), uuid)
    except ValueError:
        return None


def _mark(path: Path, name: bytes) -> bytes | None:
    try:
        return os.getxattr(path, name, follow_symlinks=False)
    except OSError:
        return None


def _drop(path: Path, name: bytes) -> None:
    with contextlib.suppress(OSError):
        os.removexattr(path, name, follow_symlinks=False)


def _names(directory: Path) -> list[str]:
    try:
        return os.listdir(directory)
    except FileNotFoundError:
        return []
