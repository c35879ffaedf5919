"""Fetching what the store had once: for `fsck --repair`, from the repositories that it came from."""

from __future__ import annotations

import contextlib
import io
from collections.abc import Iterator
from typing import BinaryIO, cast

from layerfs.digest import DiffID, Digest
from layerfs.errors import LayerfsError
from layerfs.image.record import scan_images, scan_tags
from layerfs.layer.codec import Decompressed
from layerfs.layer.layers import Source, get_sources
from layerfs.oci import Descriptor
from layerfs.registry.connect import Registries
from layerfs.registry.download import PiecesStream, pieces, upstream_of
from layerfs.store.root import StoreRoot


def fetched_layers(root: StoreRoot, diff_id: DiffID, registries: Registries) -> Iterator[BinaryIO]:
    """A layer's tar from every repository it came from, newest first; what cannot be reached is left out."""
    for source in reversed(get_sources(root, diff_id)):
        if source.kind == "registry":
            with contextlib.suppress(LayerfsError):
                yield cast(BinaryIO, Decompressed(_blob(registries, source.place, Digest.parse(source.digest))))


def fetched_blobs(root: StoreRoot, digest: Digest, registries: Registries) -> Iterator[BinaryIO]:
    """A blob (a compressed layer, a config, a manifest, an index) from the repositories that should have it."""
    for place in _places_of_layer(root, digest):
        with contextlib.suppress(LayerfsError):
            yield cast(BinaryIO, _blob(registries, place, digest))
    for place in _places_of_image(root, digest):
        with contextlib.suppress(LayerfsError):
            yield cast(BinaryIO, _blob(registries, place, digest))
        with contextlib.suppress(LayerfsError):
            upstream = upstream_of(registries, place)
            manifest = upstream.ask(lambda client: client.manifest(upstream.repository, digest))  # noqa: B023
            yield io.BytesIO(manifest.raw)


def _places_of_layer(root: StoreRoot, digest: Digest) -> list[str]:
    with root.index.view() as txn:
        rows = [Source.from_row(row) for _, rows in txn.scan_json("sources") for row in rows]
    return [row.place for row in rows if row.kind == "registry" and row.digest == str(digest)]


def _places_of_image(root: StoreRoot, digest: Digest) -> list[str]:
    """Where the image came from whose config or manifest it is: that its layers came from, too."""
    with root.index.view() as txn:
        images = [record for record in scan_images(txn) if digest in (record.id, record.manifest)]
        tags = [tag for tag in scan_tags(txn) if digest in (tag.manifest, tag.index)]
        known = {record.id: record for record in scan_images(txn)}
    stacks = [record.diff_ids for record in images] + [known[tag.image].diff_ids for tag in tags if tag.image in known]
    sources = [source for stack in stacks for diff_id in stack for source in get_sources(root, diff_id)]
    places = [source.place for source in sources if source.kind == "registry"]
    return list(dict.fromkeys([*places, *(tag.reference.name for tag in tags)]))


def _blob(registries: Registries, place: str, digest: Digest) -> PiecesStream:
    upstream = upstream_of(registries, place)
    size = upstream.ask(lambda client: client.has_blob(upstream.repository, digest))
    if size is None:
        return PiecesStream(iter(()))
    return PiecesStream(pieces(upstream, Descriptor("", digest, size)))
