"""Taking a layer's tar into the store: parsed, hashed and staged as it comes, published as the last act.

What a crash or an error leaves behind lies below the lease's directory, or is an orphan that `gc` removes.
"""

from __future__ import annotations

import contextlib
import queue
import secrets
import struct
import threading
from collections.abc import Callable, Iterable
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, BinaryIO, Self

from layerfs._record import dataclass
from layerfs.digest import DiffID, Digest
from layerfs.layer.codec import Compressor, compressor
from layerfs.layer.layers import Layer, Source
from layerfs.layer.publish import Publisher, Ready, Wish, publish_layer
from layerfs.native import LayerReader, LayerResult
from layerfs.store.durable import writing
from layerfs.store.format import new_size

if TYPE_CHECKING:
    from layerfs.store import StoreRoot
    from layerfs.store.delta import Delta, DeltaHead
    from layerfs.store.leases import Lease

AHEAD = 8  # pieces of about 1 MiB between the two threads
STRETCH = 16 << 20  # bytes of a file that are read where they lie, at once
_RANGE = struct.Struct("<qQQ")


@dataclass(frozen=True, slots=True)
class _Ranges:
    encoded: bytes  # for LayerReader.feed_ranges


_Piece = bytes | int | _Ranges  # of a tar; a delta's number, before its file; its bytes


class Ingest:
    """One layer on its way in. A context manager: `feed` the tar, `finish` to get its diff ID, `publish`.

    A second thread parses while the caller reads or inflates; `feed` raises what happened there. Without `publish`,
    leaving the context removes everything.
    """

    def __init__(self, root: StoreRoot, lease: Lease, publisher: Publisher | None = None) -> None:
        """publisher: what it is about to publish is known, too; `ready` is for it."""
        self._root, self._lease, self._publisher = root, lease, publisher
        stem = secrets.token_hex(8)
        self._tree, self._split = lease.tmp / f"tree-{stem}", lease.tmp / f"split-{stem}"
        self._cleanup = contextlib.ExitStack()
        self._result: LayerResult | None = None
        self._given = False

    def __enter__(self) -> Self:
        with contextlib.ExitStack() as stack:
            self._contents = self._root.contents.writer(self._lease)
            stack.callback(self._remove)
            with writing("a layer"):
                split: BinaryIO = stack.enter_context(self._split.open("xb", buffering=1 << 16))
            self._file = split
            self._record: Compressor = compressor("zstd", split.write)
            self._reader = LayerReader(
                pack_fd=self._contents.pack_fd,
                pack_id=self._contents.pack_id,
                objects_fd=self._contents.objects_fd,
                lookup=self._lookup,
            )
            stack.callback(self._reader.close)  # before the lease's directory goes
            self._worker = stack.enter_context(_Worker(self._parse))
            self._cleanup = stack.pop_all()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            self._cleanup.close()
        except OSError:  # the split file's buffer on a full disk: the first error is the one to tell
            if error is None:
                raise

    def _lookup(self, identities: bytes) -> bytes:
        found = self._contents.lookup(identities)
        return found if self._publisher is None else self._publisher.known(identities, found)

    def feed(self, data: bytes) -> None:
        """The next bytes of the tar. Raises InvalidArchive, NoSpace, and what else parsing an earlier piece met."""
        if data:
            self._worker.put(data)

    def add_delta(self, head: DeltaHead, pieces: Iterable[bytes]) -> tuple[int, Path] | None:
        """As `ContentWriter.add_delta`."""
        return self._contents.add_delta(head, pieces)

    def link_file(self, directory: int, name: bytes) -> int | None:
        """As `ContentWriter.link_file`."""
        return self._contents.link_file(directory, name)

    def clone_file(self, source: int) -> tuple[int, int, bytes] | None:
        """As `ContentWriter.clone_file`: number, directory, name."""
        made = self._contents.clone_file(source)
        return (made[0], self._contents.objects_fd, made[1].encode()) if made is not None else None

    def feed_delta(self, delta: Delta, check: Callable[[], object]) -> None:
        """The next bytes of the tar are all those of the file that `expect_delta` announced: of this one, which is read
        where it lies. `check` is called now and then; it may raise."""
        try:
            for at in range(0, delta.size, STRETCH):
                check()
                places = delta.places(at, min(at + STRETCH, delta.size))
                self._worker.put(_Ranges(b"".join(_RANGE.pack(*place) for place in places)))
        finally:
            self._worker.settle()

    def expect_delta(self, number: int) -> None:
        """The next file that is fed is the content of this delta, or of this file."""
        self._worker.put(number)

    def finish(self) -> DiffID:
        """The tar is at its end; its diff ID."""
        self._worker.join()
        self._result = self._reader.finish(str(self._tree))
        with writing("a layer"):
            self._record.write(self._reader.take_split())
            self._record.close()
            self._file.close()
        return DiffID(Digest.from_raw(self._result.diff_id))

    @property
    def tar_size(self) -> int:
        return self._finished().tar_size

    @property
    def new_bytes(self) -> int:
        """Bytes of the contents that the store did not have."""
        return new_size(self._finished().contents)

    def ready(self, wish: Wish) -> Ready:
        """The layer, to be published: from now on whoever has this cares for its files."""
        ready = Ready(self._contents, self._finished(), self._tree, self._split, wish)
        self._given = True
        return ready

    def publish(self, *, source: Source | None = None) -> Layer:
        """Makes the layer visible, durable; one that another process published meanwhile is used instead."""
        return publish_layer(self._root, self._lease, self.ready(Wish(source=source)))

    def _parse(self, data: _Piece) -> None:
        if isinstance(data, int):
            self._reader.delta(data)
            return
        if isinstance(data, _Ranges):
            self._reader.feed_ranges(data.encoded)
        else:
            self._reader.feed(data)
        if record := self._reader.take_split():
            with writing("a layer"):
                self._record.write(record)

    def _finished(self) -> LayerResult:
        if self._result is None:
            raise RuntimeError("finish() first")
        return self._result

    def _remove(self) -> None:
        if self._given:
            return
        self._contents.close()
        for path in (self._tree, self._split):
            path.unlink(missing_ok=True)


class _Worker:
    """A thread that takes pieces in order; one piece alone, as of most layers of a file or two, is worth no thread.
    After an error it only drains, so the caller is never stuck behind it.
    """

    def __init__(self, work: Callable[[_Piece], None]) -> None:
        self._work = work
        self._queue: queue.Queue[_Piece | None] = queue.Queue(AHEAD)
        self._error: BaseException | None = None
        self._thread = threading.Thread(target=self._run, name="layer", daemon=True)
        self._running = self._cancelled = False

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._cancelled = True
        self._stop()

    def put(self, data: _Piece) -> None:
        if self._error is not None:
            raise self._error
        if not self._running and self._queue.unfinished_tasks:
            self._start()
        self._queue.put(data)

    def _start(self) -> None:
        self._thread.start()
        self._running = True

    def join(self) -> None:
        if not self._running:
            self._queue.put(None)
            self._run()
        self._stop()
        if self._error is not None:
            raise self._error

    def _stop(self) -> None:
        if self._running:
            self._queue.put(None)
            self._running = False
        if self._thread.ident is not None:
            self._thread.join()  # also after an interrupt of the wait for it

    def settle(self) -> None:
        """Until all pieces are done."""
        if not self._running:
            self._start()
        self._queue.join()

    def _run(self) -> None:
        while (data := self._queue.get()) is not None:
            if self._error is None and not self._cancelled:
                try:
                    self._work(data)
                except BaseException as error:
                    self._error = error
            self._queue.task_done()
