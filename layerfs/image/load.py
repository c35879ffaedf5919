"""Loading image archives: layers first, two at a time, then each image with its names in one transaction.

A layer that is known is not parsed again. Whether its bytes are looked at depends on what vouches for them:

* a layout's blob that this layer was once read from, or that an image with this config came with: its bytes are hashed
  as they are, and need not be there;
* another compressed form of a known layer: it is inflated and hashed, and kept, as a manifest names it;
* a docker archive, which promises nothing of its layers: they are hashed (and inflated when compressed).
"""

from __future__ import annotations

import hashlib
import os
import threading
from collections.abc import Iterable, Iterator
from contextlib import nullcontext
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import BinaryIO, cast

from layerfs._threads import in_parallel
from layerfs.digest import DiffID, Digest, VerifyingReader
from layerfs.errors import Corrupt, ImageNotFound, InvalidArchive, InvalidInput
from layerfs.image.archive import Archive
from layerfs.image.images import Images
from layerfs.image.plans import ImagePlan, LayerPlan, docker_plans, oci_plans
from layerfs.image.record import ImageRecord, read_image
from layerfs.image.source import kind_of, open_archive
from layerfs.layer.codec import Decompressed, detect
from layerfs.layer.layers import Layer, Source, has_layer, note_source
from layerfs.layer.merged import merged_tree
from layerfs.layer.progress import Progress, Report
from layerfs.layer.publish import Publisher
from layerfs.layer.read import unpack_layer
from layerfs.oci import Descriptor, Platform
from layerfs.reference import Reference
from layerfs.store.blobs import BlobWriter
from layerfs.store.leases import Lease
from layerfs.store.root import StoreRoot

_THREADS = 2  # each inflates in one more thread
_PIECE = 1 << 20


@dataclass(frozen=True, slots=True)
class Loaded:
    """An image that is now in the store, and the names that this load gave it."""

    image: ImageRecord
    names: tuple[Reference, ...]

    @property
    def tags(self) -> tuple[str, ...]:
        return tuple(name.familiar for name in self.names)


def load_archive(
    root: StoreRoot,
    source: str | os.PathLike[str] | BinaryIO,
    *,
    platform: Platform | None = None,
    select: str | None = None,
    name: Reference | None = None,
    progress: Report | None = None,
) -> list[Loaded]:
    """Loads the images of a docker archive or an OCI layout (a directory, or a tar in any compression, or a stream).

    Args:
        platform: what to take from an index; this machine's when None.
        select: load only this image: a name, the layout's tag, a digest, or a docker archive's number.
        name: the only name to give, instead of the archive's own; then the archive must hold (or `select`) one image.

    Raises:
        InvalidArchive, Corrupt: nothing of the image in question is seen then; images loaded before it stay.
        InvalidInput: more than one image, with `name`; the message lists them.
        ImageNotFound: nothing answers to `select`.
    """
    return list(iterate_archive(root, source, platform=platform, select=select, name=name, progress=progress))


def iterate_archive(
    root: StoreRoot,
    source: str | os.PathLike[str] | BinaryIO,
    *,
    platform: Platform | None = None,
    select: str | None = None,
    name: Reference | None = None,
    progress: Report | None = None,
) -> Iterator[Loaded]:
    """`load_archive`, one image after the other as they become visible."""
    with root.leases.acquire("load") as lease, open_archive(source, lease) as archive:
        yield from load_opened(root, archive, lease, platform=platform, select=select, name=name, progress=progress)


def load_opened(
    root: StoreRoot,
    archive: Archive,
    lease: Lease,
    *,
    platform: Platform | None = None,
    select: str | None = None,
    name: Reference | None = None,
    single: bool = False,
    progress: Report | None = None,
) -> Iterator[Loaded]:
    """`iterate_archive` of an archive that is open; with `single`, more than one image is an error."""
    is_layout = kind_of(archive) == "oci"
    plans = oci_plans(archive, platform or Platform.host()) if is_layout else docker_plans(archive)
    loader = _Loader(root, archive, lease, progress)
    for plan in _selected(plans, select, name, single, archive):
        if platform is not None and not plan.config.platform.fits(platform):
            wrong = f"image {plan.called} is for {plan.config.platform}, not for {platform}"
            raise InvalidArchive(wrong, path=archive.where)
        yield loader.load(plan)


def _selected(
    plans: Iterable[ImagePlan], select: str | None, name: Reference | None, single: bool, archive: Archive
) -> Iterable[ImagePlan]:
    if select is None and name is None and not single:
        return plans
    found = [plan for plan in plans if select is None or plan.answers(select)]
    if not found:
        raise ImageNotFound(f"no image {select!r} in the archive", path=archive.where)
    if name is None and not single:
        return found
    if len({(plan.config.id, plan.called) for plan in found}) > 1:
        called = "; ".join(plan.called for plan in found)
        raise InvalidInput(f"the archive holds {len(found)} images, choose one: {called}", path=archive.where)
    return [replace(found[0], names=found[0].names if name is None else (name,))]


class _Loader:
    def __init__(self, root: StoreRoot, archive: Archive, lease: Lease, progress: Report | None) -> None:
        self._root, self._archive, self._lease, self._progress = root, archive, lease, progress
        self._images, self._publisher = Images(root), Publisher(root, lease)
        self._stop = threading.Event()

    def load(self, plan: ImagePlan) -> Loaded:
        self._lease.pin(b"".join(layer.diff_id.raw for layer in plan.layers) + plan.config.id.raw)
        with self._root.index.view() as txn:
            known = read_image(txn, plan.config.id)
        vouched = dict(zip(known.layer_blobs, known.diff_ids, strict=False)) if known else {}
        once = {(layer.diff_id, layer.descriptor): layer for layer in plan.layers}
        with self._publisher:
            self._read_all(list(once.values()), vouched)
            self._publisher.flush()
        merged_tree(self._root, plan.config.diff_ids)
        record = self._images.add(plan.config, manifest=plan.manifest, references=plan.names)
        return Loaded(record, plan.names)

    def _read_all(self, layers: list[LayerPlan], vouched: dict[Digest, DiffID]) -> None:
        """Those that are missing. When one fails, or the user interrupts, no other is read to its end for nothing."""
        in_parallel([partial(self._ensure, layer, vouched) for layer in layers], self._stop.set, _THREADS)

    def _ensure(self, plan: LayerPlan, vouched: dict[Digest, DiffID]) -> None:
        layer = has_layer(self._root, plan.diff_id)
        try:
            if layer is None:
                self._read(plan)
                return
            here = True
            if plan.descriptor is None:
                self._verify(plan)
            elif not self._is_vouched(plan, plan.descriptor, layer, vouched):
                self._keep(plan, plan.descriptor, layer)
            elif here := self._archive.has(plan.member):
                self._verify_blob(plan, plan.descriptor)
            if here and (source := self._source(plan)):
                note_source(self._root, plan.diff_id, source)
        except (Corrupt, InvalidArchive) as error:
            raise type(error)(f"layer {plan.member}: {error.message}", path=self._archive.where) from error

    def _read(self, plan: LayerPlan) -> None:
        with self._archive.open(plan.member) as file:
            unpack_layer(
                self._publisher,
                _Watched(file, self._stop),
                expected=plan.diff_id,
                descriptor=plan.descriptor,
                keep_blob="always" if plan.descriptor is not None else "never",
                source=self._source(plan),
                progress=self._progress,
            )

    def _source(self, plan: LayerPlan) -> Source | None:
        """Where the layer can be had again; None from a stream."""
        place = self._archive.where
        if place == "-":
            return None
        digest = str(plan.descriptor.digest) if plan.descriptor else ""
        return Source("layout" if plan.descriptor else "archive", str(Path(place).absolute()), digest, plan.member)

    def _is_vouched(self, plan: LayerPlan, descriptor: Descriptor, layer: Layer, vouched: dict[Digest, DiffID]) -> bool:
        if descriptor.digest == plan.diff_id and descriptor.size == layer.tar_size:
            return True  # a plain tar; its digest says it all, and it can be had again from the record
        same = layer.blob is not None and layer.blob.digest == descriptor.digest
        if not same and vouched.get(descriptor.digest) != plan.diff_id:
            return False
        self._lease.pin(descriptor.digest.raw)
        blobs = self._root.blobs
        return blobs.has(descriptor.digest) and blobs.stat(descriptor.digest)["size"] == descriptor.size

    def _verify(self, plan: LayerPlan) -> None:
        """The bytes of a known layer must be those of its diff ID."""
        with self._archive.open(plan.member) as file:
            self._hash(file, plan, self._archive.size(plan.member), None)

    def _verify_blob(self, plan: LayerPlan, descriptor: Descriptor) -> None:
        """A copy of a blob that the store has: a damaged one is told, and is no source for repairs."""
        with self._archive.open(plan.member) as file:
            source = VerifyingReader(cast(BinaryIO, _Watched(file, self._stop)), descriptor.digest, descriptor.size)
            while source.read(_PIECE):
                if self._progress is not None:
                    self._progress(Progress("verify", str(plan.diff_id), source.count, descriptor.size))

    def _keep(self, plan: LayerPlan, descriptor: Descriptor, layer: Layer) -> None:
        """Another compressed form of a known layer: checked, and kept for the manifest that names it."""
        with self._archive.open(plan.member) as file:
            plain = detect(file.peek(6)[:6]) == "plain"  # type: ignore[attr-defined]
            writer = nullcontext() if plain else self._root.blobs.writer(self._lease, descriptor.media_type)
            with writer as blob:
                self._hash(file, plan, descriptor.size, blob)
                if blob is None:
                    raise Corrupt(f"digest mismatch: got {plan.diff_id}, expected {descriptor.digest}")
                blob.commit(descriptor.digest, descriptor.size)
        if layer.blob is None:
            self._note_blob(plan.diff_id, descriptor)

    def _note_blob(self, diff_id: DiffID, descriptor: Descriptor) -> None:
        with self._root.index.update() as txn:
            row = txn.get_json("layers", diff_id.raw)
            if row is not None and row["blob"] is None:
                kept = Descriptor(descriptor.media_type, descriptor.digest, descriptor.size)
                txn.put_json("layers", diff_id.raw, {**row, "blob": kept.document()})

    def _hash(self, file: BinaryIO, plan: LayerPlan, total: int, blob: BlobWriter | None) -> None:
        source = _Watched(file, self._stop, blob, total)
        sha = hashlib.sha256()
        for piece in Decompressed(source).pieces():
            sha.update(piece)
            if self._progress is not None:
                self._progress(Progress("verify", str(plan.diff_id), source.count, total))
        if sha.hexdigest() != plan.diff_id.hex:
            raise Corrupt(f"the layer has the diff ID sha256:{sha.hexdigest()} instead of {plan.diff_id}")


class _Watched:
    """Reads until somebody says stop; copies what is read to a blob, and refuses to go past the promised size."""

    def __init__(
        self, file: BinaryIO, stop: threading.Event, blob: BlobWriter | None = None, limit: int | None = None
    ) -> None:
        self._file, self._stop, self._blob, self._limit, self.count = file, stop, blob, limit, 0

    def read(self, count: int = -1, /) -> bytes:
        if self._stop.is_set():
            raise InvalidArchive("given up, as another layer failed")
        data = self._file.read(_PIECE if count < 0 else count)
        self.count += len(data)
        if self._limit is not None and self.count > self._limit:
            raise Corrupt(f"more than the expected {self._limit} bytes")
        if self._blob is not None and data:
            self._blob.write(data)
        return data
