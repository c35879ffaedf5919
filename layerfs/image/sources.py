"""Reading a layer's tar again from where it came: what `fsck --repair` is fed with."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO, cast

from layerfs.digest import Digest
from layerfs.errors import LayerfsError, Unsupported
from layerfs.image.source import open_archive, open_file
from layerfs.layer.codec import Decompressed
from layerfs.layer.directory import directory_entries
from layerfs.layer.layers import Layer, Source, get_sources
from layerfs.layer.write import TarWriter
from layerfs.store.leases import Lease
from layerfs.store.root import StoreRoot


def layer_streams(root: StoreRoot, layer: Layer, lease: Lease) -> Iterator[BinaryIO]:
    """The layer's tar from every place that still has something: the kept blob, then where it was read from.

    The bytes are not verified here. A stream is good until the next one is asked for.
    """
    if layer.blob is not None:
        with contextlib.suppress(LayerfsError, OSError), root.blobs.open(layer.blob.digest) as file:
            yield cast(BinaryIO, Decompressed(file))
    for source in get_sources(root, layer.diff_id):
        with contextlib.suppress(LayerfsError, OSError), open_source(source, lease) as stream:
            yield stream


def blob_streams(root: StoreRoot, digest: Digest, lease: Lease) -> Iterator[BinaryIO]:
    """A compressed layer as it is in the layouts that it came from."""
    with root.index.view() as txn:
        rows = [Source.from_row(row) for _, rows in txn.scan_json("sources") for row in rows]
    for source in rows:
        if source.kind == "layout" and source.digest == str(digest):
            with (
                contextlib.suppress(LayerfsError, OSError),
                open_archive(source.place, lease) as archive,
                archive.open(source.member) as file,
            ):
                yield file


@contextlib.contextmanager
def open_source(source: Source, lease: Lease) -> Iterator[BinaryIO]:
    """One source, as a stream of the uncompressed tar.

    Raises:
        NotFound, InvalidArchive: it is gone, or something else now. Unsupported: a kind this version cannot read.
    """
    with contextlib.ExitStack() as stack:
        if source.kind == "tar":
            yield cast(BinaryIO, Decompressed(stack.enter_context(open_file(Path(source.place)))))
        elif source.kind in ("archive", "layout"):
            archive = stack.enter_context(open_archive(source.place, lease))
            yield cast(BinaryIO, Decompressed(stack.enter_context(archive.open(source.member))))
        elif source.kind == "directory":
            yield stack.enter_context(_directory_tar(Path(source.place), lease))
        else:
            raise Unsupported(f"cannot read a layer again from a {source.kind}", path=source.place)


@contextlib.contextmanager
def _directory_tar(top: Path, lease: Lease) -> Iterator[BinaryIO]:
    """The canonical tar of a directory as it is now, in a file of the lease."""
    path = lease.tmp / "source.tar"
    try:
        with path.open("wb") as file:
            writer = TarWriter(file.write)
            writer.add_all(directory_entries(top))
            writer.finish()
        with path.open("rb") as file:
            yield file
    finally:
        path.unlink(missing_ok=True)
