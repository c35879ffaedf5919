"""Contents of regular files by identity: small ones in packs, big ones as objects (docs/format.md)."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import io
import os
import threading
from collections import OrderedDict
from collections.abc import Callable, Iterator
from pathlib import Path
from types import TracebackType

from layerfs._lazy import TYPE_CHECKING
from layerfs.errors import Corrupt, NotFound
from layerfs.store.delta import SUFFIX, Delta
from layerfs.store.durable import pread_all
from layerfs.store.format import (
    BLOCK,
    ID_SIZE,
    KIND_PACK,
    UNKNOWN,
    ContentValue,
    check_hex,
    object_name,
)
from layerfs.store.index import Index, Txn
from layerfs.store.leases import Lease

if TYPE_CHECKING:
    from layerfs.store.writer import ContentWriter

_READ = os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW
OPEN_PACKS = 64  # descriptors kept for reading


class ContentReader:
    """One content. Positions are its own; `pread` is safe from threads. A context manager."""

    def __init__(self, fd: int, base: int, value: ContentValue, what: str) -> None:
        self._fd, self._base, self._value, self._what = fd, base, value, what
        self.size, self.sparse = value.size, value.sparse
        self._position = 0

    def fileno(self) -> int:
        """The descriptor of the file that holds the content; for a packed one, of its pack."""
        return self._fd

    def pread(self, offset: int, count: int) -> bytes:
        """Bytes at `offset`; fewer than `count` only at the end. Raises Corrupt when the file is too short."""
        count = min(count, self.size - offset)
        if count <= 0:
            return b""
        data = pread_all(self._fd, count, self._base + offset)
        if len(data) != count:
            raise Corrupt(f"{self._what} ends early: {offset + len(data)} of {self.size} bytes")
        return data

    def read(self, count: int = -1) -> bytes:
        count = self.size - self._position if count is None or count < 0 else count
        data = self.pread(self._position, count)
        self._position += len(data)
        return data

    def seek(self, offset: int) -> None:
        self._position = offset

    def extents(self) -> Iterator[tuple[int, int]]:
        """(offset, length) of the parts that are not holes, in order; what is between reads as zeros."""
        if self._value.kind == KIND_PACK:
            yield 0, self.size
            return
        end = 0
        while end < self.size:
            try:
                start = os.lseek(self._fd, end, os.SEEK_DATA)
            except OSError as error:
                if error.errno == errno.ENXIO:
                    return
                raise
            end = min(os.lseek(self._fd, start, os.SEEK_HOLE), self.size)
            yield start, end - start

    def hash(self) -> tuple[bytes, int]:
        """(identity, xxh64) of the bytes that are there."""
        from layerfs.native import hash_fd, sha256, xxh64

        if self._value.kind == KIND_PACK:
            data = self.pread(0, self.size)
            return sha256(data), xxh64(data)
        return hash_fd(self.fileno(), self.sparse)

    @property
    def checksum(self) -> int:
        """What its row says."""
        return self._value.xxh64

    def close(self) -> None:
        fd, self._fd = self._fd, -1
        if fd >= 0:
            os.close(fd)

    def __enter__(self) -> ContentReader:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


class DeltaReader(ContentReader):
    """A content that is kept as a delta: no file has all of its bytes."""

    def __init__(self, delta: Delta, value: ContentValue, what: str) -> None:
        super().__init__(-1, 0, value, what)
        self._delta = delta

    def fileno(self) -> int:
        raise io.UnsupportedOperation(f"{self._what} is kept as a delta")

    def pread(self, offset: int, count: int) -> bytes:
        return self._delta.pread(count, offset)

    def extents(self) -> Iterator[tuple[int, int]]:
        return self._delta.extents()

    def hash(self) -> tuple[bytes, int]:
        return self._delta.hash(sparse=self.sparse)

    def close(self) -> None:
        self._delta.close()


class Contents:
    """Looks contents up, reads them, and makes writers of new ones. Safe from threads."""

    def __init__(
        self,
        path: Path,
        index: Index,
        gc_lock: Callable[[], contextlib.AbstractContextManager[None]],
    ) -> None:
        self.path, self.index = path, index
        self._gc_lock = gc_lock
        self._packs: OrderedDict[int, int] = OrderedDict()
        self._lock = threading.Lock()

    def __del__(self, close: Callable[[int], None] = os.close) -> None:
        for fd in self._packs.values():  # of a store that nobody has closed
            close(fd)

    def pack_path(self, pack_id: int) -> Path:
        return self.path / "packs" / f"{pack_id:016x}"

    def object_path(self, identity: bytes) -> Path:
        check_hex(identity.hex())
        return self.path / "objects" / object_name(identity)

    def delta_path(self, identity: bytes) -> Path:
        path = self.object_path(identity)
        return path.with_name(path.name + SUFFIX)

    def file_path(self, identity: bytes, value: ContentValue) -> Path:
        """Where the file of an object is, as its row says."""
        return self.delta_path(identity) if value.delta else self.object_path(identity)

    def lookup(self, identities: bytes, lease: Lease | None = None) -> bytes:
        """Index values of n identities (n·32 bytes in, n·32 out); 32 zero bytes for one that is not there.

        With a lease the identities are pinned first, so what is found stays until the lease ends. A row whose
        file is gone counts as not there: the caller writes the content again, and `publish` mends the row.
        """
        if lease is not None:
            lease.pin(identities)
        with self.index.view() as txn:
            return self.find(txn, identities)

    def find(self, txn: Txn, identities: bytes) -> bytes:
        """`lookup` in an open transaction, without pins."""
        packs: dict[bytes, bool] = {}
        wanted = [identities[start : start + ID_SIZE] for start in range(0, len(identities), ID_SIZE)]
        found = txn.get_many("contents", wanted)
        if not found:
            return bytes(len(identities))
        answer = []
        for identity in wanted:
            value = found.get(identity)
            answer.append(value if value is not None and self._has_file(txn, identity, value, packs) else UNKNOWN)
        return b"".join(answer)

    def _has_file(self, txn: Txn, identity: bytes, encoded: bytes, packs: dict[bytes, bool]) -> bool:
        if encoded[:1] == b"\x01" and encoded[8:16] in packs:  # the common case, by the bytes of the pack's number
            return packs[encoded[8:16]]
        try:
            value = ContentValue.decode(encoded)
        except Corrupt:  # as good as no row: it is written again
            return False
        if value.kind == KIND_PACK:
            found = packs[encoded[8:16]] = self.pack_path(value.pack).exists()
            return found
        if not value.delta:
            return self.object_path(identity).exists()
        base = txn.get("deltas", identity)
        return base is not None and self.object_path(base).exists() and self.delta_path(identity).exists()

    def stat(self, identity: bytes) -> ContentValue:
        """The row of a content. Raises NotFound."""
        with self.index.view() as txn:
            value = txn.get("contents", identity)
        if value is None:
            raise NotFound(f"no content {identity.hex()} in the store")
        return ContentValue.decode(value)

    def open(self, identity: bytes, *, verify: bool = False) -> ContentReader:
        """A reader of one content.

        Raises:
            NotFound: the identity is not in the index.
            Corrupt: its file is missing or too short, or (with `verify`) its bytes have another identity.
        """
        value = self.stat(identity)
        try:
            reader = self._open(identity, value)
        except FileNotFoundError:  # gc moved it to another pack in between, or a delta has become a whole object
            value = self.stat(identity)
            try:
                reader = self._open(identity, value)
            except FileNotFoundError as error:
                raise Corrupt(f"the file of content {identity.hex()} is missing", path=error.filename) from error
        if verify:
            try:
                verify_reader(reader, identity)
            except BaseException:
                reader.close()
                raise
        return reader

    def _open(self, identity: bytes, value: ContentValue) -> ContentReader:
        what = f"content {identity.hex()}"
        if value.kind == KIND_PACK:
            fd, base = self.open_pack(value.pack), value.block * BLOCK
        elif value.delta:
            delta = Delta.of(self.path / "objects", os.open(self.delta_path(identity), _READ))
            if delta.size != value.size:
                delta.close()
                raise Corrupt(f"{what} should have {value.size} bytes, it has {delta.size}")
            return DeltaReader(delta, value, what)
        else:
            fd, base = os.open(self.object_path(identity), _READ), 0
        size = os.fstat(fd).st_size
        if size < base + value.size or (value.kind != KIND_PACK and size != value.size):
            os.close(fd)
            raise Corrupt(f"{what} should end at {base + value.size}, its file has {size} bytes")
        return ContentReader(fd, base, value, what)

    def open_pack(self, pack_id: int) -> int:
        """An own descriptor of a pack, to be closed. One is kept open: reading many small files opens no file each."""
        with self._lock:
            kept = self._packs.pop(pack_id, None)
            if kept is not None and os.fstat(kept).st_nlink == 0:  # compacted away: let its blocks go
                os.close(kept)
                kept = None
            if kept is None:
                kept = os.open(self.pack_path(pack_id), os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
            self._packs[pack_id] = kept
            if len(self._packs) > OPEN_PACKS:
                os.close(self._packs.popitem(last=False)[1])
            return fcntl.fcntl(kept, fcntl.F_DUPFD_CLOEXEC, 0)

    def read(self, identity: bytes, *, verify: bool = False) -> bytes:
        """A whole content in memory: for small ones. Errors as `open`."""
        with self.open(identity, verify=verify) as reader:
            return reader.read()

    def writer(self, lease: Lease) -> ContentWriter:
        """A writer of new contents: one pack, and objects; one for each layer."""
        from layerfs.store.writer import ContentWriter

        return ContentWriter(self, lease)

    def forget_packs(self) -> None:
        """Closes the descriptors of packs that are kept open."""
        with self._lock:
            while self._packs:
                os.close(self._packs.popitem()[1])


def verify_reader(reader: ContentReader, identity: bytes) -> None:
    """Raises Corrupt when the bytes of a content have another identity or checksum than its row says."""
    found, checksum = reader.hash()
    if found != identity:
        raise Corrupt(f"content {identity.hex()} has the identity {found.hex()}")
    if checksum != reader.checksum:
        raise Corrupt(f"content {identity.hex()} has another checksum than its row")
