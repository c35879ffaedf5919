"""A layer as bytes for others: plain, compressed anew, or in the form it came in."""

from __future__ import annotations

import hashlib
import io
import os
from pathlib import Path

from layerfs._lazy import TYPE_CHECKING
from layerfs._record import dataclass
from layerfs.digest import Digest
from layerfs.layer.codec import compressor
from layerfs.layer.layers import Layer
from layerfs.layer.progress import Report
from layerfs.layer.split import open_layer, write_layer
from layerfs.oci import Descriptor, media
from layerfs.store.durable import writing
from layerfs.store.leases import Lease
from layerfs.store.root import StoreRoot

if TYPE_CHECKING:
    from typing import BinaryIO, Literal

    Compression = Literal["none", "gzip", "zstd", "original"]

_SMALL = 1 << 18  # bytes of a tar that is kept in memory when it is compressed


@dataclass(frozen=True, slots=True)
class Form:
    """One form of a layer: what it is, and how to read it. Good as long as the lease that it was made under."""

    root: StoreRoot
    layer: Layer
    descriptor: Descriptor
    file: Path | None = None  # compressed anew
    data: bytes | None = None  # the same of a small layer

    def open(self) -> BinaryIO:
        """The bytes; their reader verifies a plain layer itself. Raises Corrupt, NotFound."""
        if self.data is not None:
            return io.BytesIO(self.data)
        if self.file is not None:
            return self.file.open("rb")
        if self.descriptor.digest == self.layer.diff_id:
            return open_layer(self.root, self.layer.diff_id)
        return self.root.blobs.open(self.descriptor.digest)


def plain_form(root: StoreRoot, layer: Layer) -> Form:
    return Form(root, layer, Descriptor(media.OCI_LAYER, layer.diff_id, layer.tar_size))


def layer_form(
    root: StoreRoot, layer: Layer, compression: Compression, lease: Lease, *, progress: Report | None = None
) -> Form:
    """A layer in the form asked for.

    A kept blob of that form is used as it is; with `original`, a layer without a kept blob is plain. What has to be
    compressed goes to the lease's directory first, as its digest must be known before it is written anywhere.
    """
    if compression == "none":
        return plain_form(root, layer)
    kept = _kept(root, layer, lease)
    if kept is not None and compression in ("original", media.layer_compression(kept.media_type)):
        known = media.layer_compression(kept.media_type) or "gzip"
        return Form(root, layer, Descriptor(media.oci_layer(known), kept.digest, kept.size))
    if compression == "original":
        return plain_form(root, layer)
    return _compress(root, layer, compression, lease, progress)


def _kept(root: StoreRoot, layer: Layer, lease: Lease) -> Descriptor | None:
    if layer.blob is None:
        return None
    lease.pin(layer.blob.digest.raw)
    return layer.blob if root.blobs.has(layer.blob.digest) else None


def _compress(
    root: StoreRoot, layer: Layer, compression: Literal["gzip", "zstd"], lease: Lease, progress: Report | None
) -> Form:
    if layer.tar_size <= _SMALL:
        kept = io.BytesIO()
        return Form(root, layer, _packed(root, layer, compression, kept, progress), data=kept.getvalue())
    path = lease.tmp / f"layer-{os.urandom(8).hex()}"
    with writing("a compressed layer"), path.open("xb", buffering=0) as file:
        descriptor = _packed(root, layer, compression, file, progress)
    return Form(root, layer, descriptor, path)


def _packed(
    root: StoreRoot, layer: Layer, compression: Literal["gzip", "zstd"], file: BinaryIO, progress: Report | None
) -> Descriptor:
    sink = _Sink(file)
    packer = compressor(compression, sink.write)
    write_layer(root, layer.diff_id, _AsFile(packer.write), size=layer.tar_size, progress=progress)  # type: ignore[arg-type]
    packer.close()
    return Descriptor(media.oci_layer(compression), Digest(sink.sha.hexdigest()), sink.size)


class _Sink:
    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self.sha, self.size = hashlib.sha256(), 0

    def write(self, data: bytes) -> None:
        view = memoryview(data)
        while view:
            view = view[self._file.write(view) :]
        self.sha.update(data)
        self.size += len(data)


class _AsFile:
    """An object with nothing but `write`."""

    def __init__(self, write: object) -> None:
        self.write = write
