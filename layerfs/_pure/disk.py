"""Names and layouts of the tree file's bytes (docs/format.md, "Tree files"); shared by the reader and the writer."""

from __future__ import annotations

import stat
import struct

BLOCK = 4096
SLOT = 32  # a nid counts these
ROOT_NID = 1  # not 0: the kernel gives nids out as inode numbers, and C libraries skip entries with number 0

MAGIC = b"LAYERFS\0"
VERSION = 1
KIND_LAYER, KIND_MERGED = 1, 2
HEADER = struct.Struct("<8sIIQQ32sQQQ")  # magic version kind table count subject xxh64 names content_size
CHECKSUM_AT = 64

SUPER_AT = 1024
SUPER = struct.Struct("<IIIBBHQQIIII16s16sIHHHBBIQ24s")
EROFS_MAGIC = 0xE0F5E1E2
COMPAT = 0x3  # superblock checksum, mtime
CHUNKED, DEVICE_TABLE = 0x4, 0x8

DEVICE_AT = SUPER_AT + 128
DEVICE = struct.Struct("<64sII56x")
MAX_DEVICES = 65535

INODE = struct.Struct("<HHHHQIIIIqII16x")  # format xattr_icount mode reserved size u ino uid gid mtime nsec nlink
PLAIN, INLINE, CHUNKS = 0, 2, 4
CHUNK_INDEX = struct.Struct("<HHI")
CHUNK_INDEXES = 0x20
NOWHERE = 0xFFFFFFFF

DIRENT = struct.Struct("<QHBx")
FILE_TYPES = (0, stat.S_IFREG, stat.S_IFDIR, stat.S_IFCHR, stat.S_IFBLK, stat.S_IFIFO, stat.S_IFSOCK, stat.S_IFLNK)

XATTR = struct.Struct("<BBH")
XATTR_HEADER = 12
XATTR_PREFIXES = {
    1: b"user.",
    2: b"system.posix_acl_access",
    3: b"system.posix_acl_default",
    4: b"trusted.",
    6: b"security.",
}

OVERLAY = b"trusted.overlay."
OPAQUE = b"trusted.overlay.opaque"
METACOPY = b"trusted.overlay.metacopy"
REDIRECT = b"trusted.overlay.redirect"
IMPLICIT = b"trusted.overlay.layerfs.implicit"
LINK = b"trusted.overlay.layerfs.link"

KIND_NONE, KIND_PACK, KIND_OBJECT = 0, 1, 2  # where contents are; the index's numbers


def round_up(value: int, unit: int) -> int:
    return -(-value // unit) * unit


def blocks_of(size: int) -> int:
    """4 KiB blocks that `size` bytes take."""
    return -(-size // BLOCK)


def chunk_bits(size: int) -> int:
    """The smallest number (at most 31) such that `4096 << bits` holds `size` bytes."""
    return min(31, max(0, (blocks_of(size) - 1).bit_length()))


def encode_device(major: int, minor: int) -> int:
    """The kernel's new_encode_dev."""
    return (minor & 0xFF) | (major << 8) | ((minor & ~0xFF) << 12)


def decode_device(value: int) -> tuple[int, int]:
    return (value & 0xFFF00) >> 8, (value & 0xFF) | ((value >> 12) & 0xFFF00)
