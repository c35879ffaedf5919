"""Bringing new contents into the store: pack and objects of one layer, staged, made durable, then published."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import signal
from collections.abc import Iterable, Sequence
from functools import cached_property
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING

from layerfs.errors import Corrupt, StoreError
from layerfs.store.delta import SUFFIX, DeltaHead, write_delta
from layerfs.store.durable import make_durable, place_file, writing
from layerfs.store.format import (
    BLOCK,
    BLOCKS_VERSION,
    FLAG_DELTA,
    KIND_OBJECT,
    UNKNOWN,
    ContentValue,
    NewContent,
    new_objects,
    object_name,
    pack_key,
    packed_rows,
)
from layerfs.store.trash import remove_tree
from layerfs.store.version import raise_format

if TYPE_CHECKING:
    from layerfs.store.contents import Contents
    from layerfs.store.index import Txn
    from layerfs.store.leases import Lease

_FICLONE = 0x40049409


def new_pack_id() -> int:
    """A random number that names one pack for ever."""
    return int.from_bytes(os.urandom(8), "little") >> 1 | 1


def pack_pin(pack_id: int) -> bytes:
    """The key under which a lease pins a pack that is not published yet."""
    return b"pack".ljust(24, b"\0") + pack_key(pack_id)


def _is_written(directory: int, name: bytes) -> bool:
    """Whether anybody may write to a file, by a descriptor or a mapping: the kernel gives no lease for it then."""
    fd = os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, dir_fd=directory)
    try:
        fcntl.fcntl(fd, fcntl.F_SETSIG, signal.SIGURG)  # nobody opens it now; if so, that is what we would ignore
        fcntl.fcntl(fd, fcntl.F_SETLEASE, fcntl.F_RDLCK)
        fcntl.fcntl(fd, fcntl.F_SETLEASE, fcntl.F_UNLCK)
    except OSError:
        return True
    else:
        return False
    finally:
        os.close(fd)


def _identities(rows: list[tuple[bytes, bytes]]) -> bytes:
    return b"".join([identity for identity, _ in rows])


class ContentWriter:
    """New contents of one layer.

    `pack_fd` and `objects_fd` go to the reader of the layer, with `pack_id` and `lookup`. Then `stage()` with what it
    found (or `seal`, and `place` with others), then, in the transaction that publishes the layer, `publish()`. What is
    not placed goes with the lease.
    A context manager: leaving it closes the descriptors.
    """

    def __init__(self, contents: Contents, lease: Lease) -> None:
        self._contents, self._lease = contents, lease
        self.pack_id = new_pack_id()
        self._pack = lease.tmp / f"pack-{self.pack_id:016x}"
        self._objects = lease.tmp / f"objects-{self.pack_id:016x}"
        self._sealed: list[tuple[bytes, bytes]] | None = None  # identities and rows
        self._new_objects: list[NewContent] = []
        self._placed = False
        self._pack_blocks = 0
        self._bases: dict[bytes, bytes] = {}  # of the deltas among what is staged
        self._deltas = 0
        self._files: set[tuple[int, int]] = set()  # inodes of those that came whole
        self._clones = True  # whether the host may be able to

    @cached_property
    def pack_fd(self) -> int:
        """The layer's own pack: an empty file, open for reading and writing."""
        with writing("a pack"):
            return os.open(self._pack, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)

    @cached_property
    def objects_fd(self) -> int:
        """The directory that takes new objects, each named by its 64 hex digits."""
        with writing("objects"):
            self._objects.mkdir(0o700)
        return os.open(self._objects, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)

    def lookup(self, identities: bytes) -> bytes:
        """`Contents.lookup` under this writer's lease."""
        return self._contents.lookup(identities, self._lease)

    def add_object(self, path: Path, identity: bytes) -> None:
        """Moves a finished file on the same file system in as an object; list it in `stage()`."""
        _ = self.objects_fd
        with writing("an object"):
            path.chmod(0o400)
            path.rename(self._objects / identity.hex())

    def add_delta(self, head: DeltaHead, pieces: Iterable[bytes]) -> tuple[int, Path] | None:
        """A delta of a content whose identity is not known yet: its number for `LayerReader.delta`, and its file.

        The base is pinned. None when the store does not have that as a whole object.
        """
        base = self.lookup(head.base)
        if base[0] != KIND_OBJECT or ContentValue.decode(base).delta:
            return None
        number, place = self._next()
        with writing("a delta object"):
            write_delta(self._objects / place, head, pieces)
        return number, self._objects / place

    def link_file(self, directory: int, name: bytes) -> int | None:
        """A file on the store's file system that is finished, gets no other bytes, and is about to lose the name that
        it has: the number for `LayerReader.delta`. Its attributes stay until then. None when that cannot be, or
        somebody has it open for writing still: who had it open in passthrough when a server was killed, say."""
        if _is_written(directory, name):
            return None
        number, place = self._next()
        try:
            os.link(name, place, src_dir_fd=directory, dst_dir_fd=self.objects_fd, follow_symlinks=False)
        except OSError:  # too many names, not ours to link, …: its bytes are copied
            return None
        status = os.stat(place, dir_fd=self.objects_fd, follow_symlinks=False)
        self._files.add((status.st_dev, status.st_ino))
        return number

    def clone_file(self, source: int) -> tuple[int, str] | None:
        """A file that shares the bytes of an open one: the number for `LayerReader.delta`, and its name below
        `objects_fd`. None where the host cannot do that."""
        if not self._clones:
            return None
        number, place = self._next()
        with writing("an object"):
            fd = os.open(place, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o400, dir_fd=self.objects_fd)
        try:
            fcntl.ioctl(fd, _FICLONE, source)
            status = os.fstat(fd)
        except OSError as error:
            os.unlink(place, dir_fd=self.objects_fd)
            self._clones = error.errno == errno.ENOSPC
            return None
        finally:
            os.close(fd)
        self._files.add((status.st_dev, status.st_ino))
        return number, place

    def _next(self) -> tuple[int, str]:
        _ = self.objects_fd
        self._deltas += 1
        return self._deltas, f".delta-{self._deltas}"

    def seal(self, result_contents: bytes, pack_blocks: int) -> list[tuple[bytes, bytes]]:
        """Takes what the reader has found, and closes what it wrote to: nothing comes after it. Call it once.

        result_contents: 64-byte records (`LayerResult.contents`). Returns identities and rows, as `publish` will put
        them. Raises StoreError when part of the pack is not there.
        """
        if self._sealed is not None:
            raise StoreError("stage() was called before")
        objects = [self._as_made(content) for content in new_objects(result_contents)]
        rows = packed_rows(result_contents, self.pack_id)
        rows += [(content.identity, content.value(self.pack_id).encode()) for content in objects]
        if pack_blocks:
            self._end_pack(pack_blocks)
        self._close_descriptors()
        self._sealed, self._new_objects, self._pack_blocks = rows, objects, pack_blocks
        return rows

    def place(self) -> list[Path]:
        """Moves what was sealed to its places. Returns the paths placed; make them durable before you publish.

        Raises NoSpace; StoreError when an object is not there.
        """
        if self._sealed is None:
            raise StoreError("place() before seal()")
        self._lease.pin(_identities(self._sealed) + pack_pin(self.pack_id))
        with writing("contents"):
            placed = self._place_pack()
            placed += self._place_objects(self._new_objects)
        if self._bases:
            raise_format(self._contents.path, BLOCKS_VERSION)
        self._placed = True
        return placed

    def stage(self, result_contents: bytes, pack_blocks: int) -> list[Path]:
        """`seal`, `place`, and what was placed is durable."""
        self.seal(result_contents, pack_blocks)
        placed = self.place()
        with writing("contents"):
            make_durable(placed, self._contents.path)
        return placed

    def _as_made(self, content: NewContent) -> NewContent:
        """The reader takes all that the caller has made for deltas."""
        if not self._files or not content.flags & FLAG_DELTA:
            return content
        status = (self._objects / content.identity.hex()).stat()
        whole = (status.st_dev, status.st_ino) in self._files
        return content._replace(flags=content.flags & ~FLAG_DELTA) if whole else content

    def _end_pack(self, blocks: int) -> None:
        size = os.fstat(self.pack_fd).st_size
        if not (blocks - 1) * BLOCK < size <= blocks * BLOCK:
            raise StoreError(f"a pack of {blocks} blocks has {size} bytes", path=str(self._pack))
        with writing("contents"):
            os.ftruncate(self.pack_fd, blocks * BLOCK)
            os.fchmod(self.pack_fd, 0o400)

    def _place_pack(self) -> list[Path]:
        if not self._pack_blocks:
            self._pack.unlink(missing_ok=True)
            return []
        target = self._contents.pack_path(self.pack_id)
        self._pack.rename(target)
        return [target]

    def _place_objects(self, objects: Sequence[NewContent]) -> list[Path]:
        if not objects:
            return []
        identities = b"".join(content.identity for content in objects)
        with self._contents.index.view() as txn:
            known = self._contents.find(txn, identities)
        placed, top = [], self._contents.path / "objects"
        for number, content in enumerate(objects):
            if known[number * 32 : number * 32 + 32] != UNKNOWN:
                continue  # published by somebody else meanwhile: keep the file that is mapped and cached
            source, target = self._objects / content.identity.hex(), top / object_name(content.identity)
            size = source.stat().st_size
            if content.flags & FLAG_DELTA:
                target = target.with_name(target.name + SUFFIX)
                size = self._note_base(content.identity, source)
            if size != content.size:
                raise Corrupt("an object changed while it was written", path=str(source))
            place_file(source, target)
            placed.append(target)
        return placed

    def _note_base(self, identity: bytes, path: Path) -> int:
        """The size of a delta's content."""
        with path.open("rb") as file:
            head = DeltaHead.read(file.fileno())
        self._bases[identity] = head.base
        return head.size

    def publish(self, txn: Txn) -> None:
        """Puts the rows. A row that is there stays, unless its file is gone."""
        if self._sealed is None or not self._placed:
            raise StoreError("publish() before stage()")
        if self._bases or txn.put_many("contents", self._sealed, overwrite=False) < len(self._sealed):
            self._mend(txn, self._sealed)
        if self._pack_blocks:
            row = {"blocks": self._pack_blocks, "created": self._lease.record.created}
            txn.put_json("packs", pack_key(self.pack_id), row)

    def _mend(self, txn: Txn, sealed: list[tuple[bytes, bytes]]) -> None:
        """Some rows may be there, of files that may not."""
        known = self._contents.find(txn, _identities(sealed))
        rows = [row for number, row in enumerate(sealed) if known[number * 32 : number * 32 + 32] == UNKNOWN]
        txn.put_many("contents", rows)
        for identity, _ in rows:
            if identity in self._bases:
                txn.put("deltas", identity, self._bases[identity])

    def drop_pack(self) -> None:
        """Removes the pack, wherever it is: nothing will be published. Idempotent."""
        for path in (self._pack, self._contents.pack_path(self.pack_id)):
            path.unlink(missing_ok=True)

    def close(self) -> None:
        """Closes the descriptors and removes what was not placed. Idempotent."""
        self._close_descriptors()
        with contextlib.suppress(FileNotFoundError):
            self._pack.unlink()
        remove_tree(self._objects)

    def _close_descriptors(self) -> None:
        for name in ("pack_fd", "objects_fd"):
            fd = self.__dict__.get(name, -1)
            if fd >= 0:
                self.__dict__[name] = -1
                os.close(fd)

    def __enter__(self) -> ContentWriter:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
