"""One entry of an upper directory in overlayfs's own format: what it is, without the marks.

Marks are xattrs below `trusted.overlay.` (as root) or `user.overlay.` (mounts with `userxattr`); only those of the
mode in use count, as the other ones are plain xattrs that a container's user may set.
"""

from __future__ import annotations

import os
import stat
from pathlib import Path

from layerfs._record import dataclass
from layerfs.errors import Corrupt
from layerfs.layer.host import Descent, image_xattrs
from layerfs.layer.tree import Inode, Tree

TRUSTED, USER = b"trusted.overlay.", b"user.overlay."


@dataclass(frozen=True, slots=True)
class UpperEntry:
    """`name` in `place`'s directory. `status` and `xattrs` are what the user of the mount sees; `whiteout` means: gone.

    `redirect`: the lower name of a moved directory or metacopy, as stored. `metacopy`: the bytes are the lower file's.
    `base`: the mark of a block-level file, as stored: missing blocks are an object's (layer/blocks.py).
    `nlink`: of a hard-linked file that is in the index: how many names the user sees, as stored.
    """

    place: Descent
    name: bytes
    status: os.stat_result
    xattrs: dict[bytes, bytes]
    whiteout: bool = False
    opaque: bool = False
    hides: bool = False  # a directory that may hold whiteouts in their xattr form
    metacopy: bool = False
    redirect: bytes | None = None
    base: bytes | None = None
    nlink: bytes | None = None
    indexed: bool = False  # read from the index: it stands for any number of names

    @property
    def mode(self) -> int:
        return self.status.st_mode

    @property
    def inode(self) -> tuple[int, int]:
        return self.status.st_dev, self.status.st_ino

    @property
    def is_dir(self) -> bool:
        return stat.S_ISDIR(self.status.st_mode)

    @property
    def linked(self) -> bool:
        return (self.indexed or self.status.st_nlink > 1) and not self.is_dir

    def shown_links(self, lower_links: int) -> int:
        """The number of names that the user sees, of a file in the index. The mark is relative: `U+1`, `L-2`."""
        text = self.nlink or b"U+0"
        try:
            return (self.status.st_nlink if text[:1] == b"U" else lower_links) + int(text[1:])
        except ValueError:
            return 0


def redirected(lower: Tree, base: Inode | None, entry: UpperEntry, path: bytes) -> Inode | None:
    """What a redirect names: a path from the lower's root, or a name in `base`, the lower directory of its parent.

    None when there is no redirect. Raises Corrupt when the lower tree lacks what it names.
    """
    if entry.redirect is None:
        return None
    if entry.redirect.startswith(b"/"):
        found = lower.resolve(entry.redirect)
    else:
        found = lower.lookup(base, entry.redirect) if base is not None else None
    if found is None or b".." in entry.redirect.split(b"/"):
        raise Corrupt(f"redirect to {os.fsdecode(entry.redirect)!r}, which the lower tree lacks", path=b"/" + path)
    return found


@dataclass(frozen=True, slots=True)
class OrdinaryUser:
    """Who has a container, when that is not root of the host. All files in it are his, whatever they should be."""

    uid: int
    gid: int

    @classmethod
    def of(cls, upper: Path) -> OrdinaryUser | None:
        home = (upper / "..").stat()
        return None if home.st_uid == 0 and is_host_root() else cls(home.st_uid, home.st_gid)

    def owner(self, stored: int, lower: int) -> int:
        """Root of a user namespace may have given a file to himself, where the namespace has the other id."""
        return lower if stored == self.uid and (stored or not _is_known("uid_map", lower)) else stored

    def group(self, stored: int, lower: int) -> int:
        return lower if stored == self.gid and (stored or not _is_known("gid_map", lower)) else stored


def _is_known(name: str, id: int) -> bool:
    """Whether this user namespace has the id."""
    rows = ([int(word) for word in line.split()] for line in Path(f"/proc/self/{name}").read_text().splitlines())
    return any(first <= id < first + count for first, _, count in rows)


def prefix_of(upper: Path) -> bytes:
    """How the marks of an upper directory begin: `user.overlay.` where `trusted.` xattrs cannot be had (not root, or
    root of a user namespace only), and in the container of an ordinary user, also when root looks at it.
    """
    return TRUSTED if is_host_root() and (upper / "..").stat().st_uid == 0 else USER


def is_host_root() -> bool:
    """Whether this process is root outside of all user namespaces."""
    if os.geteuid() != 0:
        return False
    try:
        fd = os.open("/proc/self/uid_map", os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return True
    try:
        return os.read(fd, 4096).split() == [b"0", b"0", b"4294967295"]
    finally:
        os.close(fd)


def read_upper(place: Descent, name: bytes, prefix: bytes, *, hides: bool = False) -> UpperEntry:
    """The entry `name` of the current directory (b"." for the top). `hides`: the directory has `opaque=x`."""
    status = place.status(name)
    if stat.S_ISCHR(status.st_mode) and status.st_rdev == 0:
        return UpperEntry(place, name, status, {}, whiteout=True)
    found = place.xattrs(name)
    opaque = found.get(prefix + b"opaque")
    return UpperEntry(
        place,
        name,
        status,
        visible_xattrs(found, prefix) if found else found,
        whiteout=hides and prefix + b"whiteout" in found and stat.S_ISREG(status.st_mode) and not status.st_size,
        opaque=opaque == b"y",
        hides=opaque == b"x",
        metacopy=prefix + b"metacopy" in found and stat.S_ISREG(status.st_mode),
        redirect=found.get(prefix + b"redirect"),
        base=found.get(prefix + b"layerfs.blocks") if stat.S_ISREG(status.st_mode) else None,
        nlink=found.get(prefix + b"nlink"),
    )


def visible_xattrs(found: dict[bytes, bytes], prefix: bytes) -> dict[bytes, bytes]:
    """Without overlayfs's own; those that it keeps for the user below `overlay.` under their own names."""
    escaped = prefix + b"overlay."
    shown: dict[bytes, bytes] = {}
    for name, value in found.items():
        if not name.startswith(prefix):
            shown[name] = value
        elif name.startswith(escaped):
            shown[prefix + name[len(escaped) :]] = value
    return image_xattrs(shown)
