"""The directories of writable layers: made to look like the root below them, and taken away."""

from __future__ import annotations

import contextlib
import errno
import functools
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
    "is_empty",
    "make_place",
    "new_place",
    "remove_discarded",
    "remove_upper",
    "unfinished",
    "upper_below",
]

REMOVED, NEW = ".removed-", ".new-"
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
    def of_upper(cls, upper: str | Path) -> Look:
        status, names = os.stat(upper), os.listxattr(upper)  # noqa: PTH116 (in every snapshot)
        xattrs = _shown(Path(upper), names) if names else {}
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


def make_place(root: StoreRoot, place: str, look: Look, owner: tuple[int, int]) -> None:
    """A directory with an empty upper that looks like that; it is there at once, whole, or has been there before. The
    first mount makes work beside it. `owner`: who says which marks it has (layer.upper.prefix_of)."""
    home = upper_below(root.path, place)
    new = f"{home.parent}/{NEW}{os.urandom(8).hex()}"  # pathlib takes as long as the system calls
    with writing("a writable layer"):
        try:
            os.mkdir(new, 0o700)  # noqa: PTH102
            if owner[0] != os.geteuid():
                os.chown(new, *owner)
            os.mkdir(f"{new}/upper", 0o700)  # noqa: PTH102
            look.put_on(f"{new}/upper")
            _publish(root, new, home)
        except BaseException:
            remove_tree(Path(new))
            raise


def _publish(root: StoreRoot, new: str, home: Path) -> None:
    """One that is there has something in it, so a rename does not replace it; but what that is may not be an upper: a
    container's own directory has its lock and its programs' files as well."""
    try:
        os.rename(new, home)  # noqa: PTH104
        return
    except OSError as error:
        if error.errno not in (errno.ENOTEMPTY, errno.EEXIST):
            raise
    with root.lock("uppers"):
        if not os.path.lexists(f"{home}/upper"):
            os.rename(f"{new}/upper", home / "upper")  # noqa: PTH104
    remove_tree(Path(new))


def new_place(root: StoreRoot, look: Look, owner: tuple[int, int]) -> str:
    """A new directory in `uppers/`, for who cannot wait for its first use: its name."""
    name = os.urandom(16).hex()
    make_place(root, f"uppers/{name}", look, owner)
    return name


def is_empty(upper: str) -> bool:
    with os.scandir(upper) as entries:
        return next(entries, None) is None


@functools.lru_cache(maxsize=64)
def upper_below(top: Path, place: str) -> Path:
    """The directory of a place, `uppers/NAME` or `containers/ID`."""
    kind, _, name = place.partition("/")
    if kind not in ("uppers", "containers") or not name.isalnum():
        raise ValueError(f"not a place: {place!r}")
    return top / place


def unfinished(root: StoreRoot, place: str) -> bool:
    """Whether hard links wait for their names there: a killed server's, or those that the kernel keeps in its index."""
    work = f"{upper_below(root.path, place)}/work"
    for name in ("index", "scratch"):
        with contextlib.suppress(FileNotFoundError, NotADirectoryError), os.scandir(f"{work}/{name}") as entries:
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
