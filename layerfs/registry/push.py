"""Pushing an image of the store: what the registry lacks, from where it is nearest; the manifest last.

The manifest that a name came with goes byte for byte, when each of its blobs is there, kept here, or in a registry
that it came from. Otherwise a new one is made: of layers in a form that is known (because another manifest names it)
and can be had, and else compressed anew.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_EXCEPTION, Future, ThreadPoolExecutor, wait
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import partial
from typing import BinaryIO, Literal, TypeVar, cast

from layerfs.digest import DiffID, Digest
from layerfs.errors import ImageNotFound, InvalidInput, LayerfsError
from layerfs.image.forms import layer_form, plain_form
from layerfs.image.images import Images
from layerfs.image.record import ImageRecord, Tag, read_tag, scan_images, scan_tags
from layerfs.layer.layers import Layer, Source, add_source, get_layer, get_sources
from layerfs.layer.progress import Progress, Report
from layerfs.oci import Descriptor, Manifest, build_manifest, media
from layerfs.reference import Reference, parse
from layerfs.registry.connect import Registries
from layerfs.registry.upload import Sent, Uploads
from layerfs.store.leases import Lease
from layerfs.store.root import StoreRoot

PARALLEL = 5
Compression = Literal["gzip", "zstd", "none"]
_T = TypeVar("_T")


@dataclass(frozen=True, slots=True)
class PushedLayer:
    """What became of one layer; `sent` says how its blob came there."""

    diff_id: DiffID
    descriptor: Descriptor
    sent: Sent


@dataclass(frozen=True, slots=True)
class Pushed:
    """What a reference means now in its registry."""

    reference: Reference
    manifest: Manifest
    layers: tuple[PushedLayer, ...]

    @property
    def digest(self) -> Digest:
        return self.manifest.digest

    @property
    def size(self) -> int:
        return len(self.manifest.raw)


@dataclass(frozen=True, slots=True)
class _Blob:
    """A layer's blob that can be given to the registry, or is there."""

    diff_id: DiffID
    descriptor: Descriptor
    open: Callable[[], BinaryIO] | None  # None: it is there

    @property
    def key(self) -> Digest:
        return self.descriptor.digest


@dataclass(frozen=True, slots=True)
class _Unmade:
    """A layer whose form is chosen, or made, when it is sent."""

    layer: Layer
    known: tuple[Descriptor, ...]  # how manifests name it
    lease: Lease

    @property
    def diff_id(self) -> DiffID:
        return self.layer.diff_id

    @property
    def key(self) -> Digest:
        return self.layer.diff_id


class Pusher:
    """Pushes images of a store to one repository.

    Args:
        compression: of layers that have no form yet.
        done: is told of each layer when its blob is there.
    """

    def __init__(
        self,
        root: StoreRoot,
        registries: Registries,
        reference: Reference,
        *,
        compression: Compression = "gzip",
        progress: Report | None = None,
        done: Callable[[PushedLayer], object] | None = None,
    ) -> None:
        self._root, self._registries, self._compression = root, registries, compression
        self._repository = reference.path
        self._client = registries.client(reference.domain, reference.path)
        self._uploads = Uploads(self._client)
        self._images = Images(root)
        self._progress, self._done = progress, done

    def push(self, tag: Tag) -> Pushed:
        """Pushes what a name means, and notes that it is there.

        Raises:
            RegistryDenied, RegistryUnreachable, RegistryError; Corrupt: a layer is damaged.
        """
        record = self._images.get(tag.image)
        with self._root.leases.acquire("push") as lease:
            lease.pin(b"".join(key.raw for key in (record.id, *record.diff_ids, *record.layer_blobs)))
            config = self._images.config(record).raw
            manifest = self._images.manifest(tag.manifest or record.manifest)
            blobs = self._given(record, manifest, lease) if manifest else None
            if manifest is not None and blobs is not None:
                layers = self._send(blobs, manifest.config, config)
            else:
                descriptor = Descriptor(media.OCI_CONFIG, record.id, len(config))
                layers = self._send(self._unmade(record, lease), descriptor, config)
                manifest = build_manifest(descriptor, tuple(layer.descriptor for layer in layers))
            where = tag.reference.tag or "latest"
            self._uploads.manifest(self._repository, where, manifest)
            pushed = Pushed(tag.reference, manifest, layers)
            self._note(record, pushed)
        return pushed

    # what goes

    def _given(self, record: ImageRecord, manifest: Manifest, lease: Lease) -> list[_Blob] | None:
        """The blobs of the manifest that the name came with; None when one can not be had any more."""
        if manifest.config.digest != record.id or len(manifest.layers) != len(record.diff_ids):
            return None
        lease.pin(b"".join(layer.digest.raw for layer in manifest.layers))
        pairs = list(zip(record.diff_ids, manifest.layers, strict=True))
        blobs = in_parallel(
            [partial(self._found, diff_id, descriptor) for diff_id, descriptor in pairs], self._registries.cancel
        )
        return None if None in blobs else cast(list[_Blob], blobs)

    def _found(self, diff_id: DiffID, descriptor: Descriptor) -> _Blob | None:
        """A blob by its descriptor: there already, kept here, or in a registry that it came from."""
        if media.is_foreign(descriptor.media_type) and descriptor.urls:
            return _Blob(diff_id, descriptor, None)  # registries do not have to hold these
        if self._client.has_blob(self._repository, descriptor.digest, push=True) is not None:
            return _Blob(diff_id, descriptor, None)
        if descriptor.digest == diff_id:
            return _Blob(diff_id, descriptor, plain_form(self._root, get_layer(self._root, diff_id)).open)
        if self._root.blobs.has(descriptor.digest):
            return _Blob(diff_id, descriptor, partial(self._root.blobs.open, descriptor.digest))
        if descriptor.size == 0:
            return _Blob(diff_id, descriptor, io.BytesIO)
        remote = self._remote(diff_id, descriptor.digest)
        return _Blob(diff_id, descriptor, remote) if remote else None

    def _remote(self, diff_id: DiffID, digest: Digest) -> Callable[[], BinaryIO] | None:
        """Reads a blob from the registry that it came from, when it is still there."""
        for source in self._sources(diff_id, digest):
            with suppress(LayerfsError):
                client = self._registries.client(source.domain, source.path)
                if client.has_blob(source.path, digest) is not None:
                    return lambda: cast(BinaryIO, client.blob(source.path, digest))
        return None

    def _sources(self, diff_id: DiffID, digest: Digest) -> Iterator[Reference]:
        """Repositories that the blob was seen in, the newest first."""
        for source in reversed(get_sources(self._root, diff_id)):
            if source.kind == "registry" and source.digest == str(digest):
                with suppress(LayerfsError):
                    yield parse(source.place)

    def _unmade(self, record: ImageRecord, lease: Lease) -> list[_Unmade]:
        known = _known_forms(self._root, self._images, frozenset(record.diff_ids))
        return [_Unmade(get_layer(self._root, d), tuple(known.get(d, ())), lease) for d in record.diff_ids]

    def _chosen(self, unmade: _Unmade) -> _Blob:
        """A layer in a form that is there or can be had, else compressed anew."""
        layer, lease = unmade.layer, unmade.lease
        kept = (layer.blob,) if layer.blob else ()
        for descriptor in dict.fromkeys((*kept, *unmade.known)):
            kind = media.layer_compression(descriptor.media_type)
            if kind is None or media.is_foreign(descriptor.media_type):
                continue
            plain = Descriptor(media.oci_layer(kind), descriptor.digest, descriptor.size)
            found = self._found(layer.diff_id, plain)
            if found is not None:
                return found
        form = layer_form(self._root, layer, self._compression, lease, progress=self._progress)
        there = self._client.has_blob(self._repository, form.descriptor.digest, push=True) is not None
        return _Blob(layer.diff_id, form.descriptor, None if there else form.open)

    # sending

    def _send(self, blobs: Sequence[_Blob | _Unmade], config: Descriptor, raw: bytes) -> tuple[PushedLayer, ...]:
        """All at once, and the config beside them; what comes twice is sent once."""
        once = {blob.key: blob for blob in blobs}
        jobs: list[Callable[[], PushedLayer | Sent]] = [partial(self._send_one, blob) for blob in once.values()]
        jobs.append(partial(self._uploads.blob, self._repository, config, partial(io.BytesIO, raw)))
        sent = dict(zip(once, cast(list[PushedLayer], in_parallel(jobs, self._registries.cancel)), strict=False))
        return tuple(replace(sent[blob.key], diff_id=blob.diff_id) for blob in blobs)

    def _send_one(self, blob: _Blob | _Unmade) -> PushedLayer:
        if isinstance(blob, _Unmade):
            blob = self._chosen(blob)
        sent = Sent("there")
        if blob.open is not None:
            here = self._client.session.name
            mounts = [s.path for s in self._sources(blob.diff_id, blob.descriptor.digest) if s.domain == here]
            sent = self._uploads.blob(
                self._repository,
                blob.descriptor,
                blob.open,
                mounts=mounts,
                known_missing=True,
                report=self._reporter(blob),
            )
        pushed = PushedLayer(blob.diff_id, blob.descriptor, sent)
        if self._done is not None:
            self._done(pushed)
        return pushed

    def _reporter(self, blob: _Blob) -> Callable[[int], object] | None:
        progress = self._progress
        if progress is None:
            return None
        total = blob.descriptor.size
        return lambda count: progress(Progress("push", str(blob.diff_id), count, total))

    # what is remembered

    def _note(self, record: ImageRecord, pushed: Pushed) -> None:
        """The manifest, that the names mean it, and where the layers can be had again: one transaction."""
        place = self._client.place(self._repository)
        name, digest = pushed.reference.tagged(), pushed.digest
        with self._root.index.update() as txn:
            self._root.blobs.put(pushed.manifest.raw, media_type=pushed.manifest.media_type, txn=txn)
            for layer in pushed.layers:
                if layer.descriptor.urls:
                    continue
                source = Source("registry", place, str(layer.descriptor.digest))
                if source.row() not in (txn.get_json("sources", layer.diff_id.raw) or ()):
                    add_source(txn, layer.diff_id, source)
            for reference in (name, name.with_digest(digest)):
                txn.put_json("references", reference.key.encode(), Tag(reference, record.id, digest).row())
            if record.manifest is None:
                blobs = tuple(layer.descriptor.digest for layer in pushed.layers)
                txn.put_json("images", record.id.raw, replace(record, manifest=digest, layer_blobs=blobs).row())


def _known_forms(root: StoreRoot, images: Images, wanted: frozenset[DiffID]) -> dict[DiffID, list[Descriptor]]:
    """How the manifests that images came with name these layers."""
    with root.index.view() as txn:
        records = [record for record in scan_images(txn) if not wanted.isdisjoint(record.diff_ids)]
    found: dict[DiffID, list[Descriptor]] = {}
    for record in records:
        manifest = None
        with suppress(LayerfsError):
            manifest = images.manifest(record.manifest)
        if manifest is None or len(manifest.layers) != len(record.diff_ids):
            continue
        for diff_id, descriptor in zip(record.diff_ids, manifest.layers, strict=True):
            if descriptor not in found.setdefault(diff_id, []):
                found[diff_id].append(descriptor)
    return found


def in_parallel(jobs: Sequence[Callable[[], _T]], cancel: Callable[[], object]) -> list[_T]:
    """The results in order. The first failure, or a signal's exception, ends it: `cancel` stops what goes on."""
    if len(jobs) < 2:
        return [job() for job in jobs]
    with ThreadPoolExecutor(PARALLEL, thread_name_prefix="push") as pool:
        futures: list[Future[_T]] = [pool.submit(job) for job in jobs]
        try:
            for future in wait(futures, return_when=FIRST_EXCEPTION).done:
                future.result()
            return [future.result() for future in futures]
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            cancel()
            raise


def tags_to_push(root: StoreRoot, reference: Reference, *, all_tags: bool = False) -> list[Tag]:
    """What `docker push NAME[:TAG]` and `push --all-tags NAME` mean.

    Raises:
        ImageNotFound: in docker's words. InvalidInput: a name by digest, or a tag together with `all_tags`.
    """
    if reference.digest is not None:
        raise InvalidInput("cannot push a digest reference")
    if all_tags and reference.tag:
        raise InvalidInput("tag can't be used with --all-tags/-a")
    with root.index.view() as txn:
        if all_tags:
            found = [tag for tag in scan_tags(txn, reference.name + ":") if not tag.by_digest]
        else:
            tag = read_tag(txn, reference.tagged())
            found = [tag] if tag else []
    if not found:
        raise ImageNotFound(f"An image does not exist locally with the tag: {reference.familiar_name}")
    return found
