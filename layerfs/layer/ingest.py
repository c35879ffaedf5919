"""Taking a layer's tar into the store: parsed, hashed and staged as it comes, published as the last act.

What a crash or an error leaves behind lies below the lease's directory, or is an orphan that `gc` removes.
"""

from __future__ import annotations

import contextlib
import queue
import secrets
import struct
import threading
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, BinaryIO, Self

from layerfs._record import dataclass
from layerfs.digest import DiffID, Digest
from layerfs.errors import Corrupt
from layerfs.layer.codec import Compressor, compressor
from layerfs.layer.layers import Layer, Source, add_source, has_layer, put_layer
from layerfs.layer.tree import Tree
from layerfs.native import LayerReader, LayerResult
from layerfs.store.durable import writing
from layerfs.store.format import new_size

if TYPE_CHECKING:
    from layerfs.oci.descriptor import Descriptor
    from layerfs.store import StoreRoot
    from layerfs.store.delta import Delta, DeltaHead
    from layerfs.store.leases import Lease

AHEAD = 8  # pieces of about 1 MiB between the two threads
LARGE = 64 << 20  # bytes of tar from which data is synced before the lock is taken
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

    def __init__(self, root: StoreRoot, lease: Lease) -> None:
        self._root, self._lease = root, lease
        stem = secrets.token_hex(8)
        self._tree, self._split = lease.tmp / f"tree-{stem}", lease.tmp / f"split-{stem}"
        self._cleanup = contextlib.ExitStack()
        self._result: LayerResult | None = None

    def __enter__(self) -> Self:
        with contextlib.ExitStack() as stack:
            stack.callback(self._remove)
            self._contents = stack.enter_context(self._root.contents.writer(self._lease))
            with writing("a layer"):
                split: BinaryIO = stack.enter_context(self._split.open("xb", buffering=1 << 16))
            self._file = split
            self._record: Compressor = compressor("zstd", split.write)
            self._reader = LayerReader(
                pack_fd=self._contents.pack_fd,
                pack_id=self._contents.pack_id,
                objects_fd=self._contents.objects_fd,
                lookup=self._contents.lookup,
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

    def publish(self, *, blob: Descriptor | None = None, source: Source | None = None) -> Layer:
        """Makes the layer visible, durable; one that another process published meanwhile is used instead."""
        result = self._finished()
        diff_id = DiffID(Digest.from_raw(result.diff_id))
        self._lease.pin(diff_id.raw)
        known = has_layer(self._root, diff_id)
        if known is None:
            also = [self._tree, self._split] if result.tar_size > LARGE else []
            placed = self._contents.stage(result.contents, result.pack_blocks, also=also)
            with self._root.lock("trees"):
                known = has_layer(self._root, diff_id)
                if known is None:
                    return self._publish(diff_id, result, blob, source)
            self._drop_pack(placed)
        return self._note(known, blob, source)

    def _publish(self, diff_id: DiffID, result: LayerResult, blob: Descriptor | None, source: Source | None) -> Layer:
        root = self._root
        layer = Layer(
            diff_id,
            result.tar_size,
            result.content_size,
            result.entries,
            result.unresolved_links,
            time.time_ns(),
            Tree.open(self._tree).packs,
            blob,
        )
        places = [root.tree_path("layer", diff_id.hex), root.split_path(diff_id.hex)]
        for temporary, place in zip((self._tree, self._split), places, strict=True):
            root.place(temporary, place)
        root.durable(places)
        with root.index.update() as txn:
            self._contents.publish(txn)
            put_layer(txn, layer)
            if source is not None:
                add_source(txn, diff_id, source)
        return layer

    def _note(self, layer: Layer, blob: Descriptor | None, source: Source | None) -> Layer:
        """What this reading adds to a layer that is known: a kept blob, a source."""
        if source is None and (blob is None or layer.blob is not None):
            return layer
        with self._root.index.update() as txn:
            row = txn.get_json("layers", layer.diff_id.raw)
            if row is None:
                raise Corrupt(f"layer {layer.diff_id} went away")
            if blob is not None and row["blob"] is None:
                row["blob"] = blob.document()
                txn.put_json("layers", layer.diff_id.raw, row)
            if source is not None:
                add_source(txn, layer.diff_id, source)
        return Layer.from_row(layer.diff_id, row)

    def _drop_pack(self, placed: list[Path]) -> None:
        """The pack was for nothing; objects may be somebody's by now and are left to gc."""
        for path in placed:
            if path == self._root.contents.pack_path(self._contents.pack_id):
                path.unlink(missing_ok=True)

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
        for path in (self._tree, self._split):
            path.unlink(missing_ok=True)


class _Worker:
    """A thread that takes pieces in order. After an error it only drains, so the caller is never stuck behind it."""

    def __init__(self, work: Callable[[_Piece], None]) -> None:
        self._work = work
        self._queue: queue.Queue[_Piece | None] = queue.Queue(AHEAD)
        self._error: BaseException | None = None
        self._thread = threading.Thread(target=self._run, name="layer", daemon=True)
        self._running = self._cancelled = False

    def __enter__(self) -> Self:
        self._thread.start()
        self._running = True
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._cancelled = True
        self._stop()

    def put(self, data: _Piece) -> None:
        if self._error is not None:
            raise self._error
        self._queue.put(data)

    def join(self) -> None:
        self._stop()
        if self._error is not None:
            raise self._error

    def _stop(self) -> None:
        if self._running:
            self._queue.put(None)
            self._running = False
        self._thread.join()  # also after an interrupt of the wait for it

    def settle(self) -> None:
        """Until all pieces are done."""
        self._queue.join()

    def _run(self) -> None:
        while (data := self._queue.get()) is not None:
            if self._error is None and not self._cancelled:
                try:
                    self._work(data)
                except BaseException as error:
                    self._error = error
            self._queue.task_done()
