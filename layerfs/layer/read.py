"""Reading a layer from a stream, in whatever form it comes, into the store."""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from layerfs.digest import DiffID, Digest
from layerfs.errors import Corrupt
from layerfs.layer.codec import MEDIA_TYPES, READ, Decompressed, Limits, Readable, detect
from layerfs.layer.ingest import Ingest
from layerfs.layer.layers import Layer, Source
from layerfs.layer.progress import Progress, Report
from layerfs.layer.publish import Publisher, Wish
from layerfs.oci.descriptor import Descriptor

if TYPE_CHECKING:
    from layerfs.layer.codec import Codec
    from layerfs.store import StoreRoot
    from layerfs.store.blobs import BlobWriter
    from layerfs.store.leases import Lease

KeepBlob = Literal["always", "auto", "never"]
SMALL_BLOB = 1 << 16  # bytes that are not worth a thought


def is_worth_keeping(blob: int, contents: int) -> bool:
    """Whether a compressed layer is kept (`auto`): unless it is clearly larger than the contents that came with it.

    Most of such a layer was in the store before: near-identical images would cost a whole compressed layer each.
    """
    return blob <= contents + contents // 4 + SMALL_BLOB  # random bytes grow a little when they are compressed


def read_layer(
    root: StoreRoot,
    stream: Readable,
    *,
    lease: Lease,
    expected: DiffID | None = None,
    descriptor: Descriptor | None = None,
    media_type: str | None = None,
    keep_blob: KeepBlob = "always",
    source: Source | None = None,
    limits: Limits | None = None,
    progress: Report | None = None,
) -> Layer:
    """Reads the layer to the very end of the stream and publishes it; `has_layer` tells beforehand if it is known.

    Compression is found by content. A gzip or zstd stream is kept as it came when `keep_blob` wants that, under
    `media_type` (or the descriptor's, or that of its form); a plain tar can be had again from its record, and xz and
    bzip2, which no registry takes, are not kept.

    Raises:
        Corrupt: digest or size are not the descriptor's, or the diff ID is not `expected`.
        InvalidArchive: damaged compression, or a tar that breaks its rules.
        NoSpace: the disk is full. In every case nothing of the layer can be seen.
    """
    layers: list[Layer] = []
    with Publisher(root, lease) as publisher:
        unpack_layer(
            publisher,
            stream,
            expected=expected,
            descriptor=descriptor,
            media_type=media_type,
            keep_blob=keep_blob,
            source=source,
            limits=limits,
            progress=progress,
            done=layers.append,
        )
        publisher.flush()
    return layers[0]


def unpack_layer(
    publisher: Publisher,
    stream: Readable,
    *,
    expected: DiffID | None = None,
    descriptor: Descriptor | None = None,
    media_type: str | None = None,
    keep_blob: KeepBlob = "always",
    file: Path | None = None,
    dropped: Callable[[], object] = lambda: None,
    source: Source | None = None,
    limits: Limits | None = None,
    progress: Report | None = None,
    done: Callable[[Layer], object] = lambda _: None,
) -> None:
    """As `read_layer`, one of several layers that are published together: this one when `done` is called.

    file: the file of this store's file system that the stream reads; it becomes the blob, if one is kept.
    dropped: called when none is, before anything is made durable: what is forgotten then never reaches the disk.
    """
    with contextlib.ExitStack() as stack:
        source_in = _Input(stream, descriptor)
        codec = detect(source_in.head)
        kind = media_type or (descriptor.media_type if descriptor else MEDIA_TYPES.get(codec, ""))
        blob: BlobWriter | None = None
        if keep_blob != "never" and codec in ("gzip", "zstd"):
            blobs, lease = publisher.root.blobs, publisher.lease
            blob = stack.enter_context(blobs.adopt(lease, file, kind) if file else blobs.writer(lease, kind))
        source_in.begin(blob, codec)
        name = str(descriptor.digest) if descriptor else str(expected or "")
        with Ingest(publisher.root, publisher.lease, publisher) as ingest:
            for piece in Decompressed(source_in, limits=limits).pieces():
                ingest.feed(piece)
                if progress is not None:
                    progress(Progress("read", name, source_in.count, descriptor.size if descriptor else None))
            diff_id = ingest.finish()
            if expected is not None and diff_id != expected:
                raise Corrupt(f"the layer has the diff ID {diff_id} instead of {expected}")
            source_in.check(diff_id)
            wish = Wish(before=dropped, source=source, done=done)
            if blob is not None:
                digest = blob.check(*((descriptor.digest, descriptor.size) if descriptor else (None, None)))
                if keep_blob == "always" or is_worth_keeping(blob.size, ingest.new_bytes):
                    wish = Wish(Descriptor(kind, digest, blob.size), blob, source, done=done)
            ready = ingest.ready(wish)
        if wish.writer is not None:
            stack.pop_all()  # it is closed with what is ready
    publisher.add(ready)


class _Input:
    """The stream as it came: counted, checked against its descriptor, copied to the blob that is kept."""

    def __init__(self, stream: Readable, descriptor: Descriptor | None) -> None:
        self._stream, self._descriptor = stream, descriptor
        self._hash: hashlib._Hash | None = None
        self._blob: BlobWriter | None = None
        self.count = 0
        self.head = b""
        while len(self.head) < 6 and (data := stream.read(READ)):
            self.head += data
        self._held = self.head

    def begin(self, blob: BlobWriter | None, codec: Codec) -> None:
        """Hashing here is needed only where neither the blob's writer nor the tar's reader does it."""
        self._blob = blob
        self._hash = hashlib.sha256() if self._descriptor and blob is None and codec != "plain" else None

    def read(self, count: int = -1, /) -> bytes:
        data, self._held = self._held, b""
        data = data or self._stream.read(count)
        self.count += len(data)
        if self._descriptor is not None and self.count > self._descriptor.size:
            raise Corrupt(f"{self._descriptor.digest} has more than the expected {self._descriptor.size} bytes")
        if self._blob is not None and data:
            self._blob.write(data)
        if self._hash is not None:
            self._hash.update(data)
        return data

    def check(self, diff_id: DiffID) -> None:
        """At the end of the stream. A kept blob is checked by its own writer."""
        if self._descriptor is None or self._blob is not None:
            return
        if self.count != self._descriptor.size:
            raise Corrupt(f"size mismatch: got {self.count} bytes, expected {self._descriptor.size}")
        found = Digest(self._hash.hexdigest()) if self._hash is not None else diff_id
        if found != self._descriptor.digest:
            raise Corrupt(f"digest mismatch: got {found}, expected {self._descriptor.digest}")
