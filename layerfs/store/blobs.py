"""Blobs: manifests, configs and compressed layers, kept byte for byte and named by their sha256."""

from __future__ import annotations

import contextlib
import fcntl
import os
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from types import TracebackType

from layerfs._lazy import TYPE_CHECKING
from layerfs.digest import Digest
from layerfs.errors import Corrupt, InvalidInput, NotFound, StoreError
from layerfs.store.durable import make_durable, place_file, write_all, writing
from layerfs.store.index import Index, Txn
from layerfs.store.leases import Lease, newborn_name

if TYPE_CHECKING:
    import queue
    from typing import Any, BinaryIO

ALONE_FROM = 1 << 20  # bytes from which a blob is hashed in a thread
READ_LIMIT = 64 << 20  # bytes; the most that `read` takes into memory unless told otherwise


class _Hash:
    """sha256 of what comes; what follows the first pieces in a thread of its own: who unpacks a blob meanwhile has
    enough to do."""

    def __init__(self) -> None:
        import hashlib

        self._hash = hashlib.sha256()
        self._size = 0
        self._thread: threading.Thread | None = None

    def update(self, data: bytes | memoryview) -> None:
        self._size += len(data)
        if self._thread is None and self._size > ALONE_FROM:
            self._begin()
        if self._thread is None:
            self._hash.update(data)
        else:
            self._queue.put(bytes(data))

    def _begin(self) -> None:
        import queue

        self._queue: queue.Queue[bytes | None] = queue.Queue(16)
        self._thread = threading.Thread(target=self._run, name="digest", daemon=True)
        self._thread.start()

    def _run(self) -> None:
        while (data := self._queue.get()) is not None:
            self._hash.update(data)

    def end(self) -> None:
        """Waits for the thread. Idempotent."""
        thread, self._thread = self._thread, None
        if thread is not None:
            self._queue.put(None)
            thread.join()

    def digest(self) -> Digest:
        """Nothing may come after it."""
        self.end()
        return Digest(self._hash.hexdigest())


class BlobWriter:
    """Streams one blob into the store. A context manager: left without `commit`, nothing stays."""

    def __init__(self, blobs: Blobs, lease: Lease, media_type: str) -> None:
        self._blobs, self.media_type = blobs, media_type
        self.path = lease.tmp / f"blob-{os.urandom(8).hex()}"
        self._lease = lease
        self._hash = _Hash()
        self.size = 0
        with writing("a blob"):
            self._fd = os.open(self.path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)

    def write(self, data: bytes | memoryview) -> int:
        """Takes the next bytes; their number. Raises NoSpace."""
        with writing("a blob"):
            write_all(self._fd, data)
        self._hash.update(data)
        self.size += len(data)
        return len(data)

    def place(self, expected: Digest | None = None, size: int | None = None) -> Digest:
        """Puts the file in place, durable. Nobody sees it before `Blobs.publish`; until then the lease keeps it.

        Raises:
            Corrupt: digest or size (bytes) are not as expected; nothing is kept.
        """
        try:
            digest = self.check(expected, size)
            self._lease.pin(digest.raw)
            target = self.move()
            with writing("a blob"):
                self._blobs.durable(target)
        finally:
            self.close()
        return digest

    def commit(self, expected: Digest | None = None, size: int | None = None, *, txn: Txn | None = None) -> Digest:
        """Puts file and row in place, durable; with `txn` the row goes into that transaction. Raises as `place`."""
        digest = self.place(expected, size)
        self.publish(txn)
        return digest

    def check(self, expected: Digest | None = None, size: int | None = None) -> Digest:
        """The digest of what was written. Raises Corrupt when it, or the number of bytes, are not as expected."""
        if self._fd < 0:
            raise StoreError("the blob writer is closed")
        self._digest = self._hash.digest()
        _expect(self._digest, self.size, expected, size)
        return self._digest

    def move(self) -> Path:
        """Puts the file in place after `check`, as one of several that are made durable together. Its path."""
        target = self._blobs.blob_path(self._digest)
        with writing("a blob"):
            os.fchmod(self._fd, 0o400)
            place_file(self.path, target)
        return target

    def publish(self, txn: Txn | None = None) -> None:
        """Puts the row; the file is in place, and durable."""
        self._blobs.publish(self._digest, self.size, self.media_type, txn=txn)

    def close(self) -> None:
        """Idempotent; removes what was not committed."""
        self._hash.end()
        fd, self._fd = self._fd, -1
        if fd >= 0:
            os.close(fd)
            self.path.unlink(missing_ok=True)

    def __enter__(self) -> BlobWriter:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


class AdoptedBlob(BlobWriter):
    """A blob whose bytes are in a file of the store already, which `commit` moves to its place: `write` only counts and
    hashes what the caller has read of it. Left without `commit`, the file stays as it is.
    """

    def __init__(self, blobs: Blobs, lease: Lease, media_type: str, file: Path) -> None:
        self._blobs, self._lease, self.media_type, self.path = blobs, lease, media_type, file
        self._hash = _Hash()
        self.size = 0
        self._fd = os.open(file, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)

    def write(self, data: bytes | memoryview) -> int:
        self._hash.update(data)
        self.size += len(data)
        return len(data)

    def close(self) -> None:
        self._hash.end()
        fd, self._fd = self._fd, -1
        if fd >= 0:
            os.close(fd)


class Blobs:
    """The blobs of a store. Safe from threads and processes; putting what is there is cheap and harmless."""

    def __init__(
        self, path: Path, index: Index, gc_lock: Callable[[], contextlib.AbstractContextManager[None]]
    ) -> None:
        self.path, self.index = path, index
        self._gc_lock = gc_lock
        self._lasting = False  # the directory's own name is durable; nobody removes it

    def blob_path(self, digest: Digest) -> Path:
        return self.path / "blobs" / "sha256" / digest.hex

    def put(self, data: bytes, *, media_type: str, expected: Digest | None = None, txn: Txn | None = None) -> Digest:
        """Stores a small blob, durable with the index commit that shows it: that of `txn`, else one of its own.

        Raises:
            Corrupt: `expected` is another digest than that of the data.
        """
        digest = Digest.of(data)
        _expect(digest, len(data), expected, None)
        if self._refresh(digest, data):
            return digest
        with writing("a blob"), self._scratch() as (path, fd):
            write_all(fd, data)
            os.fchmod(fd, 0o400)
            os.fsync(fd)
            if txn is not None:
                self._show(path, digest, len(data), media_type, txn)
            else:
                with self.index.update() as own:  # gc sweeps in an update too: it finds file and row, or neither
                    self._show(path, digest, len(data), media_type, own)
        return digest

    def _show(self, path: Path, digest: Digest, size: int, media_type: str, txn: Txn) -> None:
        self.place(path, digest)
        self.publish(digest, size, media_type, txn=txn)

    def _refresh(self, digest: Digest, data: bytes) -> bool:
        """Whether the blob is there and undamaged; its time becomes now, so that `gc` takes it for new."""
        path = self.blob_path(digest)
        with self._gc_lock():
            try:
                if path.stat().st_size != len(data) or path.read_bytes() != data:
                    return False
                with self.index.view() as txn:
                    if txn.get("blobs", digest.raw) is None:
                        return False  # an orphan may not be durable
                os.utime(path)
            except FileNotFoundError:
                return False
        return True

    @contextlib.contextmanager
    def _scratch(self) -> Iterator[tuple[Path, int]]:
        """A locked file straight below `tmp/`: its lock says that its writer lives."""
        name = os.urandom(16).hex()
        path, newborn = self.path / "tmp" / f"blob-{name}", self.path / "tmp" / newborn_name()
        fd = os.open(newborn, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(fd, fcntl.LOCK_EX)
            newborn.rename(path)
            yield path, fd
        finally:
            fcntl.flock(fd, fcntl.LOCK_UN)
            os.close(fd)
            path.unlink(missing_ok=True)

    def place(self, source: Path, digest: Digest) -> None:
        """Renames a finished file to its name, durable."""
        target = self.blob_path(digest)
        place_file(source, target)
        self.durable(target)

    def durable(self, target: Path) -> None:
        """A file that is in place survives a power cut, with its name."""
        make_durable([target], target.parent if self._lasting else self.path)
        self._lasting = True

    def publish(self, digest: Digest, size: int, media_type: str, *, txn: Txn | None = None) -> None:
        """Puts the row of a blob whose file is in place; a row that is there stays."""
        row = {"size": size, "media_type": media_type}
        if txn is not None:
            txn.put_json("blobs", digest.raw, row, overwrite=False)
            return
        with self.index.update() as update:
            update.put_json("blobs", digest.raw, row, overwrite=False)

    def writer(self, lease: Lease, media_type: str = "application/octet-stream") -> BlobWriter:
        """A writer for a blob of any size."""
        return BlobWriter(self, lease, media_type)

    def adopt(self, lease: Lease, file: Path, media_type: str = "application/octet-stream") -> AdoptedBlob:
        """A writer for a blob that is a file of this store's file system already."""
        return AdoptedBlob(self, lease, media_type, file)

    def stat(self, digest: Digest) -> dict[str, Any]:
        """The row: `size`, `media_type`. Raises NotFound."""
        with self.index.view() as txn:
            row = txn.get_json("blobs", digest.raw)
        if not isinstance(row, dict):
            raise NotFound(f"no blob {digest} in the store")
        return row

    def has(self, digest: Digest) -> bool:
        """Whether row and file are there; says nothing about its bytes."""
        with self.index.view() as txn:
            return txn.get("blobs", digest.raw) is not None and self.blob_path(digest).is_file()

    def open(self, digest: Digest) -> BinaryIO:
        """The blob's file. Raises NotFound; Corrupt when the file is missing or has another size than its row."""
        size, path = self.stat(digest)["size"], self.blob_path(digest)
        try:
            file = path.open("rb")
        except FileNotFoundError:
            size = self.stat(digest)["size"]  # it may just have been collected, and even be there again
            try:
                file = path.open("rb")
            except FileNotFoundError as error:
                raise Corrupt(f"the file of blob {digest} is missing", path=str(path)) from error
        found = os.fstat(file.fileno()).st_size
        if found != size:
            file.close()
            raise Corrupt(f"blob {digest} has {found} bytes instead of {size}", path=str(path))
        return file

    def read(self, digest: Digest, *, limit: int = READ_LIMIT) -> bytes:
        """The whole blob, verified.

        Raises:
            NotFound, Corrupt: as `open`, and when the bytes have another digest.
            InvalidInput: it has more than `limit` bytes.
        """
        with self.open(digest) as file:
            size = os.fstat(file.fileno()).st_size
            if size > limit:
                raise InvalidInput(f"blob {digest} has {size} bytes, more than the {limit} allowed here")
            data = file.read(limit + 1)
        if Digest.of(data) != digest:
            raise Corrupt(f"blob {digest} is damaged", path=str(self.blob_path(digest)))
        return data


def _expect(found: Digest, found_size: int, expected: Digest | None, size: int | None) -> None:
    if size is not None and found_size != size:
        raise Corrupt(f"size mismatch: got {found_size} bytes, expected {size}")
    if expected is not None and found != expected:
        raise Corrupt(f"digest mismatch: got {found}, expected {expected}")
