"""overlayfs's on-disk format: what an upper directory's special entries and xattrs mean.

| mark (below `trusted.overlay.` or `user.overlay.`) | on | meaning |
|---|---|---|
| `opaque` = `y` | directory | hides what lower layers have in it |
| `opaque` = `x` | directory | may hold whiteouts in their xattr form |
| `whiteout` | empty file | whiteout in its xattr form (where mknod is not allowed) |
| `redirect` | directory, metacopy | the lower name: a path from the root (`/...`), or a name in the same directory |
| `metacopy` | regular file | attributes only; the bytes are still the lower file's |
| `layerfs.blocks` | regular file | block-level file: missing blocks are an object's (docs/format.md) |
| `origin` | any | file handle of the lower inode this was copied from: keeps `st_ino` |
| `impure` = `y` | directory | holds entries with an origin, so listings have to look at each |
| `layerfs.ino` | any | our own: the `st_ino` to keep, where the lower inode is not a tree's |

A whiteout is a character device 0:0.
"""

from __future__ import annotations

import stat
import struct
from dataclasses import dataclass
from pathlib import Path

from layerfs.layer.upper import prefix_of

__all__ = ["TREE_INO", "TRUSTED", "USER", "Marks", "decode_origin", "encode_origin", "is_whiteout", "marks_of"]

TREE_INO = 1 << 63  # st_ino of a tree's inode is this | nid: what overlayfs's xino makes of it, and no host number

_HANDLE = struct.Struct("<BBBBB16sIII")  # version magic length flags type uuid, then nid high, nid low, generation
_VERSION, _MAGIC, _TYPE_INO64 = 0, 0xFB, 0x81


@dataclass(frozen=True, slots=True)
class Marks:
    """The names of overlayfs's xattrs below one prefix, and the escaping of users' own names that look like them."""

    prefix: bytes

    def name(self, mark: bytes) -> bytes:
        return self.prefix + mark

    def escape(self, name: bytes) -> bytes:
        """How a user's xattr is stored: names below the private prefix move below `overlay.` (reference 3.7)."""
        return self.prefix + b"overlay." + name[len(self.prefix) :] if name.startswith(self.prefix) else name

    def unescape(self, name: bytes) -> bytes | None:
        """What the user sees of a stored xattr; None for overlayfs's own."""
        if not name.startswith(self.prefix):
            return name
        inner = self.prefix + b"overlay."
        return self.prefix + name[len(inner) :] if name.startswith(inner) else None


def marks_of(upper: Path) -> Marks:
    """Those that an upper directory has, by who it belongs to."""
    return Marks(prefix_of(upper))


TRUSTED = Marks(b"trusted.overlay.")
USER = Marks(b"user.overlay.")


def is_whiteout(mode: int, rdev: int) -> bool:
    return stat.S_ISCHR(mode) and rdev == 0


def encode_origin(uuid: bytes, nid: int) -> bytes:
    """The kernel's own origin mark for an inode of an EROFS image (little-endian hosts), so that engines agree."""
    return _HANDLE.pack(_VERSION, _MAGIC, _HANDLE.size, 0, _TYPE_INO64, uuid, nid >> 32, nid & 0xFFFFFFFF, 0)


def decode_origin(value: bytes, uuid: bytes) -> int | None:
    """The nid of an origin mark when it belongs to the image with that uuid; None for any other."""
    if len(value) != _HANDLE.size:
        return None
    version, magic, length, _, kind, owner, high, low, _ = _HANDLE.unpack(value)
    if (version, magic, length, kind, owner) != (_VERSION, _MAGIC, _HANDLE.size, _TYPE_INO64, uuid):
        return None
    return int(high << 32 | low)
