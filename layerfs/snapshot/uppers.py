"""The directories of writable layers: made to look like the root below them, and taken away."""

from __future__ import annotations

import contextlib
import os
import stat
from collections.abc import Iterable
from pathlib import Path

from layerfs._lazy import TYPE_CHECKING
from layerfs._record import dataclass, field
from layerfs.layer.upper import prefix_of, visible_xattrs
from layerfs.store.durable import writing
from layerfs.store.trash import remove_tree

if TYPE_CHECKING:
    from typing import Any

    from layerfs.layer.tree import Tree
    from layerfs.store.root import StoreRoot

__all__ = [
    "Look",
    "discard",
    "is_fresh",
    "make_upper",
    "new_place",
    "remove_discarded",
    "remove_upper",
    "unfinished",
    "upper_below",
]

REMOVED = ".removed-"
OBJECT_MODE = 0o400


@dataclass(frozen=True, slots=True)
class Look:
    """Attributes of a root directory; a mount shows those of its upper. xattrs in hex."""

    mode: int = 0o755
    uid: int | None = None
    gid: int | None = None
    mtime_ns: int | None = None
    xattrs: dict[str, str] = field(default_factory=dict, hash=False)

    @classmethod
    def of_tree(cls, tree: Tree | None) -> Look:
        if tree is None:
            return cls()
        root = tree.root
        xattrs = {os.fsdecode(name): value.hex() for name, value in tree.xattrs(root).items()}
        return cls(stat.S_IMODE(root.mode), root.uid, root.gid, root.mtime_ns, xattrs)

    @classmethod
    def of_upper(cls, upper: Path) -> Look:
        status, names = upper.stat(), os.listxattr(upper)
        xattrs = _shown(upper, names) if names else {}
        return cls(stat.S_IMODE(status.st_mode), status.st_uid, status.st_gid, status.st_mtime_ns, xattrs)

    @classmethod
    def from_row(cls, row: dict[str, Any]) -> Look:
        return cls(**row)

    def row(self) -> dict[str, Any]:
        return {"mode": self.mode, "uid": self.uid, "gid": self.gid, "mtime_ns": self.mtime_ns, "xattrs": self.xattrs}

    def put_on(self, upper: str) -> None:
        """As far as this process may; never what the umask would say."""
        if self.uid is not None and self.gid is not None:
            with contextlib.suppress(PermissionError):
                os.chown(upper, self.uid, self.gid)
        os.chmod(upper, self.mode)  # noqa: PTH101
        for name, value in self.xattrs.items():
            with contextlib.suppress(OSError):
                os.setxattr(upper, name, bytes.fromhex(value))
        if self.mtime_ns is not None:
            os.utime(upper, ns=(self.mtime_ns, self.mtime_ns))


def _shown(upper: Path, names: Iterable[str]) -> dict[str, str]:
    values = {os.fsencode(name): os.getxattr(upper, name) for name in names}
    return {os.fsdecode(name): value.hex() for name, value in visible_xattrs(values, prefix_of(upper)).items()}


def make_upper(place: Path, look: Look) -> int:
    """`upper` in a directory (`work` comes with the first mount); when (ns) it was changed last, for `is_fresh`."""
    upper = f"{place}/upper"  # pathlib takes as long as the system calls, and a snapshot is little else
    os.mkdir(upper, 0o700)  # noqa: PTH102
    look.put_on(upper)
    return os.stat(upper).st_ctime_ns  # noqa: PTH116


def is_fresh(upper: Path, fresh_ns: int) -> bool:
    """Whether nothing has happened in it since it was made. May say no too often: then a state is kept for nothing."""
    if upper.stat().st_ctime_ns != fresh_ns:
        return False
    with os.scandir(upper) as entries:
        return next(entries, None) is None


def new_place(root: StoreRoot, owner: Path, look: Look) -> tuple[str, int]:
    """A new directory in `uppers/` with an upper; it belongs to whom `owner` does, which says whose marks it has."""
    name = os.urandom(16).hex()
    place, owned = root.path / "uppers" / name, owner.stat()
    try:
        with writing("a writable layer"):
            place.mkdir(0o700)
            if owned.st_uid != os.geteuid():
                os.chown(place, owned.st_uid, owned.st_gid)
            return name, make_upper(place, look)
    except BaseException:
        remove_tree(place)
        raise


def upper_below(top: Path, place: str) -> Path:
    """The directory of a place, `uppers/NAME` or `containers/ID`."""
    kind, _, name = place.partition("/")
    if kind not in ("uppers", "containers") or not name.isalnum():
        raise ValueError(f"not a place: {place!r}")
    return top / place


def unfinished(root: StoreRoot, place: str) -> bool:
    """Whether hard links wait for their names there: a killed server's, or those that the kernel keeps in its index."""
    work = upper_below(root.path, place) / "work"
    for name in ("index", "scratch"):
        with contextlib.suppress(FileNotFoundError, NotADirectoryError), os.scandir(work / name) as entries:
            if any(entry.name != "whiteout" for entry in entries):
                return True
    return False


def discard(root: StoreRoot, places: Iterable[str]) -> list[Path]:
    """Puts what no row refers to out of the way, at once; `remove_discarded` takes it away. A crash leaves it to gc."""
    found = []
    for place in places:
        home, kind = upper_below(root.path, place), place.partition("/")[0]
        aside = root.path / "uppers" / f"{REMOVED}{os.urandom(8).hex()}"
        with contextlib.suppress(FileNotFoundError):
            if kind == "uppers":
                home.rename(aside)
            else:  # a container's own directory goes on without them
                aside.mkdir(0o700)
                for name in ("upper", "work"):
                    with contextlib.suppress(FileNotFoundError):
                        (home / name).rename(aside / name)
            found.append(aside)
    return found


def remove_discarded(paths: Iterable[Path]) -> int:
    """The bytes of disk that this gave back."""
    return sum(remove_upper(path) for path in paths)


def remove_upper(path: Path) -> int:
    """Removes a directory that no row refers to. Files that have become objects look like these from now on."""
    return remove_tree(path, linked_mode=OBJECT_MODE)
