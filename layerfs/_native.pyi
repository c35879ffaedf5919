"""The C extension's functions. `layerfs._pure` has a plain-Python twin of each that is marked [twin]."""

import os
from collections.abc import Callable, Sequence
from typing import NamedTuple

ABI: int

class LayerResult(NamedTuple):
    diff_id: bytes  # 32, sha256 of every byte fed
    tar_size: int  # bytes fed
    contents: bytes  # new contents, 64 bytes each: identity 32, u64 size, u64 xxh64, u64 block (pack) or 0,
    # u8 kind (1 pack, 2 object), u8 flags (1 sparse, 2 delta), 6 zero
    pack_blocks: int  # 4 KiB blocks written to the pack
    content_size: int  # docker's layer size: sum of sizes of the regular files in the tree
    entries: int  # names in the tree
    unresolved_links: int  # hard links into lower layers

class LayerReader:
    """[twin] Streams a layer tar into contents, a tree and a tar-split record (docs/format.md).

    pack_fd: an empty file open for writing, this layer's own pack; pack_id its number.
    objects_fd: a directory on the store's file system; new objects are written there as `<64 hex>`, mode 0400.
            The C core duplicates both. Its thread may still write after feed(); finish(), an error and close() wait
            for it.
    lookup: called with n*32 bytes of identities, answers n*32 bytes of `contents` index values (kind 0 = unknown).
            It may be called from feed() and finish(), with the GIL held, on the calling thread.
    Not safe for use by two threads at once. All methods release the GIL while they work.
    Errors: layerfs errors (InvalidArchive, NoSpace, OSError of the host).
    """

    def __init__(
        self,
        *,
        pack_fd: int,
        pack_id: int,
        objects_fd: int,
        lookup: Callable[[bytes], bytes],
        max_entries: int = 20_000_000,
        max_file_size: int = 1 << 44,
    ) -> None: ...
    def feed(self, data: bytes | bytearray | memoryview, /) -> None: ...
    def delta(self, number: int, /) -> None: ...
    # the next file over 128 KiB is only hashed: the caller has made `.delta-<number>` in objects_fd, which becomes
    # `<64 hex>` (flag delta), or goes when the content is known
    def feed_ranges(self, ranges: bytes, /) -> None: ...
    # the next bytes of the tar are in files: i64 fd (-1: zeros), u64 offset, u64 length of each range. All of them
    # belong to one file that `delta` announced, and that is not sparse (InvalidInput else)
    def take_split(self) -> bytes: ...  # tar-split bytes made since the last call; after every feed and after finish
    def finish(self, tree_path: str) -> LayerResult: ...  # writes the layer tree file
    def close(self) -> None: ...  # stops; removes what is half written; idempotent, and done when the reader is dropped

class MergeResult(NamedTuple):
    entries: int
    content_size: int

def merge_trees(paths: Sequence[str], out_path: str, subject: bytes, /) -> MergeResult: ...

"""[twin] Fold tree files, base first (the first may be a merged tree), into a merged tree. GIL released.
InvalidArchive on an unresolvable link."""

class Fold:
    """[twin] merge_trees that goes on: tree files are added one after the other, and any of these stacks is written.
    Not for several threads at once; of no use after an error. GIL released."""

    def __init__(self) -> None: ...
    def add(self, path: str, /) -> None: ...
    def write(self, out_path: str, subject: bytes, /) -> MergeResult: ...

def remap_tree(path: str, out_path: str, mapping: bytes, /) -> None: ...

"""[twin] Copy a tree with packed files moved. mapping: 32-byte records u64 old pack, u32 old block, u32 new block,
u64 new pack, u64 zero; sorted by (old pack, old block)."""

def verify_tree(path: str, /) -> bool: ...

"""[twin] Header, superblock and table are sound and the XXH64 fits."""

def sha256(data: bytes | bytearray | memoryview, /) -> bytes: ...

"""[twin]"""

def hash_fd(fd: int, sparse: bool, /) -> tuple[bytes, int]: ...

"""[twin] (identity, xxh64) of an open regular file's whole content, by pread; GIL released.
sparse: the sparse identity, reading only SEEK_DATA extents."""

def xxh64(data: bytes | bytearray | memoryview, /) -> int: ...

"""[twin]"""

# Linux calls that Python 3.11 lacks; no twin.
def mount_new(
    fstype: str, options: Sequence[tuple[str, str | int | None]], target: str | None, attributes: int, /
) -> int | None: ...

"""fsopen, fsconfig (value None: a flag; int: a descriptor), fsmount(attributes: MOUNT_ATTR_*), move_mount.
With target None the mount is attached nowhere and its fd is returned (closing it frees the mount).
Errors carry the kernel's fs-context message."""

def mount(source: str | None, target: str, fstype: str | None, flags: int, data: str | None, /) -> None: ...
def umount(target: str, flags: int, /) -> None: ...
def openat2(dir_fd: int, path: bytes, flags: int, mode: int, resolve: int, /) -> int: ...
def renameat2(old_dir_fd: int, old: bytes, new_dir_fd: int, new: bytes, flags: int, /) -> None: ...
def syncfs(fd: int, /) -> None: ...
def device_of(path: str | os.PathLike[str], /) -> int: ...  # asks no server, which may be stuck
def spawn(program: bytes, environment: tuple[bytes, ...], fds: tuple[int, ...], /) -> object: ...  # beside the caller
def spawned(child: object, /) -> tuple[int, int]: ...  # pid and descriptor; waits until it has begun
def unshare(flags: int, /) -> None: ...  # of the calling thread, as setns
def setns(fd: int, kind: int, /) -> None: ...
