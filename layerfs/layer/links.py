"""Hard links between an upper and the tree below it.

Three things need more than one look at a name: whether the names of an upper file are those that the lower file had;
lower files with names inside and outside of a moved directory, which must all be in the layer to stay together; and
the index of an upper that the kernel wrote with `index=on`, whose copies count under all names of the lower inode.
"""

from __future__ import annotations

import os
import stat
import struct
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from layerfs.errors import InUse
from layerfs.layer.host import Descent
from layerfs.layer.tree import Inode, Tree
from layerfs.layer.upper import UpperEntry, read_upper, redirected

_HANDLE = struct.Struct("<BBBBB16sIII")  # version magic length flags type uuid, then nid high, nid low, generation
_FIXED = (0, 0xFB, _HANDLE.size)
_TYPE_INO64 = 0x81  # the file handles of EROFS


class Links:
    """What the upper's hard links mean; `close()` it.

    `groups`: the names of each upper inode with several, unless one lies below a directory that does not show what
    the lower has there. `moved`: nids of hard-linked lower files below moved directories. `copies`: nid to its
    name in the index.
    """

    def __init__(self, upper: Path, lower: Tree, marks: bytes, index: Path | None) -> None:
        self._top, self._lower, self._marks = upper, lower, marks
        self.groups: dict[tuple[int, int], list[bytes]] = {}
        self.moved: set[int] = set()
        self.copies: dict[int, bytes] = {}
        self._copied: set[tuple[int, int]] = set()
        self._names: dict[bytes, set[bytes]] = {}
        self._index = Descent(index, own=True) if index is not None and index.is_dir() else None
        try:
            if lower.entries + 1 != lower.inode_count:  # else the lower has no hard links: nothing to keep together
                self._scan()
                self._load()
        except (FileNotFoundError, NotADirectoryError) as error:
            self.close()
            raise InUse("the upper directory changed while it was read", path=os.fspath(upper)) from error
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        if self._index is not None:
            self._index.__exit__(None, None, None)

    def names(self, directory: bytes) -> set[bytes]:
        """Names in a lower directory that must be looked at although the upper may lack them, or that lead to such."""
        return self._names.get(directory, set())

    def copy(self, nid: int) -> UpperEntry | None:
        """The index's copy of a lower inode."""
        name = self.copies.get(nid)
        if name is None or self._index is None:
            return None
        return replace(read_upper(self._index, name, self._marks), indexed=True)

    def unchanged(self, entry: UpperEntry, path: bytes, here: Inode) -> bool:
        """Whether the names of an upper file are those that the lower inode still would have without it."""
        if not entry.linked and here.nlink < 2:
            return True
        if here.nlink < 2 or here.nid in self.moved:
            return False
        names = self.groups.get(entry.inode, []) if entry.linked else [path]
        if not names and entry.inode not in self._copied:
            return False
        for name in names:
            inode = self._lower.resolve(name)
            if inode is None or inode.nid != here.nid:
                return False
        if entry.inode in self._copied or len(names) == here.nlink:
            return True
        return all(name in names or self._hidden(name) for name in self._lower.links(here))

    def _hidden(self, path: bytes) -> bool:
        """Whether the upper has something else in the place of a lower name."""
        with Descent(self._top, own=True) as place:
            *directories, last = path.split(b"/")
            try:
                for name in directories:
                    entry = read_upper(place, name, self._marks)
                    if not entry.is_dir or entry.opaque or entry.redirect is not None:
                        return True
                    place.enter(name)
                place.status(last)
            except FileNotFoundError:
                return False
            return True

    def _scan(self) -> None:
        """One look at the names of the whole upper."""
        tainted: set[tuple[int, int]] = set()
        with Descent(self._top, own=True) as place:
            root = read_upper(place, b".", self._marks)
            base = None if root.opaque else self._lower.root
            stack = [(b"", iter(place.names()), base, root.opaque)]
            while stack:
                prefix, names, base, replaced = stack[-1]
                for name in names:
                    status = place.status(name)
                    if stat.S_ISDIR(status.st_mode):
                        entry = read_upper(place, name, self._marks)
                        below = self._below(entry, base, prefix + name)
                        replaced = replaced or entry.opaque or entry.redirect is not None
                        place.enter(name)
                        stack.append((prefix + name + b"/", iter(place.names()), below, replaced))
                        break
                    if status.st_nlink > 1 and not (stat.S_ISCHR(status.st_mode) and status.st_rdev == 0):
                        inode = (status.st_dev, status.st_ino)
                        self.groups.setdefault(inode, []).append(prefix + name)
                        tainted.update([inode] if replaced else [])
                else:
                    stack.pop()
                    if stack:
                        place.leave()
        for inode in tainted:
            del self.groups[inode]
        for nid in self.moved:
            self._add_names(nid)

    def _below(self, entry: UpperEntry, base: Inode | None, path: bytes) -> Inode | None:
        """The lower directory that an upper one shows; notes what moves along with it."""
        if entry.opaque:
            return None
        found = redirected(self._lower, base, entry, path)
        if found is not None:
            self.moved.update(_hard_links(self._lower, found))
        elif base is not None:
            found = self._lower.lookup(base, entry.name)
        return found if found is not None and stat.S_ISDIR(found.mode) else None

    def _load(self) -> None:
        """The index's copies."""
        for name in self._index.names() if self._index is not None else ():
            nid = _nid_of(name, self._lower.subject[:16])
            if nid is None or self._index is None:
                continue
            entry = read_upper(self._index, name, self._marks)
            if entry.is_dir or entry.whiteout:
                continue  # these only serve file handles
            self.copies[nid] = name
            self._copied.add(entry.inode)
            if entry.shown_links(self._lower.inode(nid).nlink) > entry.status.st_nlink - 1:  # one is the index's own
                self._add_names(nid)

    def _add_names(self, nid: int) -> None:
        for path in self._lower.links(self._lower.inode(nid)):
            rest = path
            while rest:
                directory, _, name = rest.rpartition(b"/")
                self._names.setdefault(directory, set()).add(name)
                rest = directory


def _hard_links(lower: Tree, top: Inode) -> Iterator[int]:
    """The nids of files with several names below a lower directory."""
    stack = [top]
    while stack:
        for entry in lower.listdir(stack.pop()):
            inode = lower.inode(entry.nid)
            if stat.S_ISDIR(inode.mode):
                stack.append(inode)
            elif inode.nlink > 1:
                yield inode.nid


def _nid_of(name: bytes, uuid: bytes) -> int | None:
    """The nid of an index entry's name, a file handle in hex, when it belongs to the image with that uuid."""
    try:
        handle = bytes.fromhex(os.fsdecode(name))
        version, magic, length, _, kind, owner, high, low, _ = _HANDLE.unpack(handle)
    except (ValueError, struct.error):
        return None
    if (version, magic, length) != _FIXED or kind != _TYPE_INO64 or owner != uuid:
        return None
    return int(high << 32 | low)
