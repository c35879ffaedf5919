"""Pushing an image of the store: what the registry lacks, from where it is nearest; the manifest last.

The manifest that a name came with goes byte for byte, when each of its blobs is there, kept here, in a registry that it
came from, or of our own making. Otherwise a new one is made: of layers in a form that is known (because another
manifest names it) and can be had, and else compressed anew.
"""

from __future__ import annotations

import functools
import io
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from functools import partial

from layerfs._lazy import TYPE_CHECKING, cast
from layerfs._record import dataclass, replace
from layerfs._threads import in_parallel
from layerfs.digest import DiffID, Digest
from layerfs.errors import ImageNotFound, InvalidInput, LayerfsError, NotFound, RegistryError
from layerfs.image.forms import Form, layer_form, plain_form
from layerfs.image.images import Images
from layerfs.image.record import ImageRecord, Tag, read_image, read_tag, scan_images, scan_tags
from layerfs.layer.layers import Layer, Source, add_source, get_layer, get_sources, layer_row
from layerfs.layer.progress import Progress, Report
from layerfs.oci import Descriptor, Index, Manifest, build_manifest, media, parse_document
from layerfs.reference import Reference, parse
from layerfs.registry.client import INDEX_DEPTH, Client
from layerfs.registry.connect import Registries
from layerfs.registry.transport import Response
from layerfs.registry.turns import Begun, Task, finished, in_turns
from layerfs.registry.upload import Sent, Uploads
from layerfs.store.index import KEY_MAX, Draft, Txn
from layerfs.store.leases import Lease
from layerfs.store.root import StoreRoot

if TYPE_CHECKING:
    from typing import BinaryIO, Literal

    Compression = Literal["gzip", "zstd", "none"]

_NO_QUESTION = 1 << 16  # bytes of a blob that was just made, which costs less to send than to ask for
_SMALL = 1 << 20  # bytes that go in turns; of a tar: compressed in not much more time than a registry takes to answer
_AHEAD = 3  # small new layers whose uploads are opened before they are compressed
_LACKS = frozenset({400, 404, 422})  # what registries say to a manifest that names a blob which they do not have
_ANCESTORS = 100  # that are looked at for a manifest before all images are


@dataclass(frozen=True, slots=True)
class PushedLayer:
    """What became of one layer; `sent` says how its blob came there."""

    diff_id: DiffID
    descriptor: Descriptor
    sent: Sent


@dataclass(frozen=True, slots=True)
class Pushed:
    """What a reference means now in its registry.

    instead_of: the manifest that the name came with, when another one had to be made; `lacking` says which of its
        blobs could not be had any more.
    """

    reference: Reference
    document: Manifest | Index
    layers: tuple[PushedLayer, ...]
    instead_of: Digest | None = None
    lacking: tuple[Digest, ...] = ()

    @property
    def digest(self) -> Digest:
        return self.document.digest

    @property
    def size(self) -> int:
        return len(self.document.raw)

    @property
    def reason(self) -> str:
        """Why there is another manifest; empty when there is not."""
        return _lacks(self.lacking) if self.lacking else ""


@dataclass(frozen=True, slots=True)
class _Blob:
    """A layer's blob that can be given to the registry, or is there."""

    diff_id: DiffID
    descriptor: Descriptor
    open: Callable[[], BinaryIO] | None  # None: it is there
    far: bool = False  # it is read from another registry

    @property
    def key(self) -> Digest:
        return self.descriptor.digest


@dataclass(frozen=True, slots=True)
class _Unmade:
    """A layer whose form is chosen, or made, when it is sent."""

    layer: Layer
    records: Callable[[], Iterator[ImageRecord]]  # whose manifests may name it: an ancestor, all images, newest first
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
        exact: an image goes with the manifest that it came with, or not at all.
        done: is told of each layer when its blob is there.
    """

    def __init__(
        self,
        root: StoreRoot,
        registries: Registries,
        reference: Reference,
        *,
        compression: Compression = "gzip",
        exact: bool = False,
        progress: Report | None = None,
        done: Callable[[PushedLayer], object] | None = None,
    ) -> None:
        self._root, self._registries, self._compression, self._exact = root, registries, compression, exact
        self._repository = reference.path
        self._client = registries.client(reference.domain, reference.path)
        self._uploads = Uploads(self._client)
        self._images = Images(root)
        self._progress, self._done = progress, done
        self._forms: dict[tuple[DiffID, Compression], Form] = {}  # in the lease's directory
        self._begun: dict[Digest, Begun[Response]] = {}  # by config or diff ID: uploads that wait for their blob
        self._believing, self._believed = False, dict[Digest, None]()  # what is taken to be in the registry
        self._draft: Draft | None = None  # of the note

    def push(self, tag: Tag, *, everything: bool = False) -> Pushed:
        """Pushes what a name means, and notes that it is there.

        everything: the index that the name was pulled with, and all that it names, instead of the image alone.

        Raises:
            RegistryDenied, RegistryUnreachable, RegistryError; Corrupt: a layer is damaged. NotFound: a part of the
            index is not in the store; or one of the image's manifest cannot be had, which has to be pushed exactly.
        """
        try:
            if not everything or tag.index is None:
                self._begin(tag)
            with self._root.leases.acquire("push") as lease:
                self._forms.clear()
                pushed = self._attempt(tag, everything, lease, believing=not self._exact and not self._begun)
                if pushed is None:
                    pushed = self._attempt(tag, everything, lease, believing=False)
                assert pushed is not None  # nothing was believed
                for layer in dict.fromkeys(pushed.layers) if self._believed else ():
                    if layer.descriptor.digest in self._believed:
                        self._tell(layer)
                self._note(tag, pushed)
        except BaseException:
            self._registries.cancel()  # what was begun, too
            raise
        finally:
            self._begun.clear()
        return pushed

    def _attempt(self, tag: Tag, everything: bool, lease: Lease, *, believing: bool) -> Pushed | None:
        """What is in the registry now; None when a blob that was believed to be there is not.

        believing: a layer that came from this repository, or went there, is not asked for before it is named, but while
            the manifest is on its way. Most registries refuse a manifest that names what they lack. Where new layers
            are sent first, it is asked for meanwhile.
        """
        self._believing = believing
        self._believed.clear()
        try:
            if everything and tag.index is not None:
                pushed = self._index(tag, tag.index, lease)
            else:
                pushed = self._image(tag, lease)
            return pushed if self._publish(tag, pushed, lease) else None
        except RegistryError as error:
            if self._believed and error.status in _LACKS:
                return None
            raise

    def _publish(self, tag: Tag, pushed: Pushed, lease: Lease) -> bool:
        """The manifest goes to the registry; meanwhile its file is made durable here, the note is made ready, and the
        registry is asked for what was believed: whether all of that is there.
        """
        name = tag.reference.tag or "latest"
        put = Begun(self._uploads.puts_manifest(self._repository, name, pushed.document))
        looks = [self._is_there(digest) for digest in self._believed]
        return all(in_turns([*looks, self._stage(tag, pushed, lease), self._ends(put)]))

    def _is_there(self, digest: Digest) -> Task[bool]:
        there = yield from self._client.looks_for_blob(self._repository, digest, push=True)
        return there is not None

    def _ends(self, put: Begun[Digest]) -> Task[bool]:
        yield from put.rest()
        return True

    def _stage(self, tag: Tag, pushed: Pushed, lease: Lease) -> Task[bool]:
        yield from ()
        document = pushed.document
        lease.pin(document.digest.raw)
        if not self._root.blobs.has(document.digest):
            with self._root.blobs.writer(lease) as writer:
                writer.write(document.raw)
                writer.place()
        with self._root.index.view() as view:
            self._draft = Draft(view)
            self._write_note(self._draft, tag, pushed)
        return True

    # ahead of all else

    def _begin(self, tag: Tag) -> None:
        """Opens the uploads that an image which has been nowhere needs for certain: the registry takes its time."""
        with self._root.index.view() as txn:
            if not self._client.session.is_known:
                self._client.session.believe(txn.get_json("meta", self._registry_key()))
            record = read_image(txn, tag.image)
            if record is None or tag.manifest is not None or record.manifest is not None:
                return
            keys = [record.id, *self._new_layers(txn, record)]
        for key in keys:
            self._begun[key] = self._uploads.begin(self._repository)

    def _registry_key(self) -> bytes:
        return f"registry:{self._client.name}".encode()[:KEY_MAX]

    def _new_layers(self, txn: Txn, record: ImageRecord) -> list[DiffID]:
        """Of the topmost layers the small ones that are neither kept compressed nor known to be anywhere."""
        found = []
        for diff_id in dict.fromkeys(record.diff_ids[-_AHEAD:]):
            layer = layer_row(txn, diff_id)
            is_new = layer is not None and layer.blob is None and txn.get("sources", diff_id.raw) is None
            if layer is not None and is_new and layer.tar_size <= _SMALL:
                found.append(diff_id)
        return found

    def _image(self, tag: Tag, lease: Lease) -> Pushed:
        record = self._images.get(tag.image)
        lease.pin(b"".join(key.raw for key in (record.id, *record.diff_ids, *record.layer_blobs)))
        config = self._images.raw_config(record)
        manifest = self._images.manifest(tag.manifest or record.manifest)
        lacking: tuple[Digest, ...] = ()
        if manifest is not None and _is_of(manifest, record):
            blobs, lacking = self._given(record, manifest, lease)
            if not lacking:
                return Pushed(tag.reference, manifest, self._send(blobs, manifest.config, config))
            if self._exact:
                raise NotFound(f"{tag.reference.familiar}: manifest {manifest.digest}: {_lacks(lacking)}")
        descriptor = Descriptor(media.OCI_CONFIG, record.id, len(config))
        layers = self._send(self._unmade(record, lease), descriptor, config)
        document = build_manifest(descriptor, tuple(layer.descriptor for layer in layers))
        return Pushed(tag.reference, document, layers, manifest.digest if manifest and lacking else None, lacking)

    # an index

    def _index(self, tag: Tag, digest: Digest, lease: Lease) -> Pushed:
        """All below an index; what is named goes before what names it. The index itself is the caller's."""
        layers: list[PushedLayer] = []
        documents = list(self._below(digest, lease))
        for document in documents:
            if isinstance(document, Manifest):
                layers += self._part(document, lease)
            else:
                self._blobs([entry for entry in document.others if self._is_kept(entry)], lease)
        for document in documents[:-1]:
            self._uploads.manifest(self._repository, document.digest, document)
        return Pushed(tag.reference, documents[-1], tuple(layers))

    def _below(self, digest: Digest, lease: Lease, depth: int = 0) -> Iterator[Manifest | Index]:
        lease.pin(digest.raw)
        try:
            raw, kind = self._root.blobs.read(digest), str(self._root.blobs.stat(digest)["media_type"])
        except NotFound:
            raise NotFound(f"manifest {digest} is not in the store: pull with --all-platforms first") from None
        document = parse_document(raw, kind, what=f"manifest {digest}")
        if isinstance(document, Index) and depth < INDEX_DEPTH:
            for entry in document.known:
                yield from self._below(entry.digest, lease, depth + 1)
        yield document

    def _part(self, manifest: Manifest, lease: Lease) -> tuple[PushedLayer, ...]:
        """A manifest's blobs: of an image, or of something else (an attestation), which the store has as it came."""
        with suppress(ImageNotFound):
            record = self._images.get(manifest.config.digest)
            if _is_of(manifest, record):
                blobs, lacking = self._given(record, manifest, lease)
                if lacking:
                    raise NotFound(f"manifest {manifest.digest}: {_lacks(lacking)}")
                return self._send(blobs, manifest.config, self._images.raw_config(record))
        self._blobs([manifest.config, *manifest.layers], lease)
        return ()

    def _blobs(self, blobs: Sequence[Descriptor], lease: Lease) -> None:
        lease.pin(b"".join(blob.digest.raw for blob in blobs))
        for blob in dict.fromkeys(blobs):
            opened = partial(io.BytesIO, blob.data) if blob.data is not None else partial(self._kept, blob.digest)
            self._uploads.blob(self._repository, blob, opened)

    def _is_kept(self, blob: Descriptor) -> bool:
        return blob.data is not None or self._root.blobs.has(blob.digest)

    def _kept(self, digest: Digest) -> BinaryIO:
        try:
            return self._root.blobs.open(digest)
        except NotFound:
            raise NotFound(f"blob {digest} is not in the store: pull with --all-platforms first") from None

    # what goes

    def _given(self, record: ImageRecord, manifest: Manifest, lease: Lease) -> tuple[list[_Blob], tuple[Digest, ...]]:
        """The blobs of the manifest that the name came with, and which of them can not be had any more."""
        lease.pin(b"".join(layer.digest.raw for layer in manifest.layers))
        pairs = list(zip(record.diff_ids, manifest.layers, strict=True))
        blobs = in_turns([self._finds(diff_id, descriptor) for diff_id, descriptor in pairs])
        again = [pair for pair, blob in zip(pairs, blobs, strict=True) if blob is None]
        jobs = [partial(self._rebuilt, diff_id, descriptor, lease) for diff_id, descriptor in again]
        rebuilt = iter(in_parallel(jobs, self._registries.cancel))
        blobs = [next(rebuilt) if blob is None else blob for blob in blobs]
        lacking = [layer.digest for layer, blob in zip(manifest.layers, blobs, strict=True) if blob is None]
        return [blob for blob in blobs if blob is not None], tuple(dict.fromkeys(lacking))

    def _finds(self, diff_id: DiffID, descriptor: Descriptor) -> Task[_Blob | None]:
        """A blob by its descriptor: there already, kept here, or in a registry that it came from."""
        if media.is_foreign(descriptor.media_type) and descriptor.urls:
            return _Blob(diff_id, descriptor, None)  # registries do not have to hold these
        if self._believing and self._was_there(diff_id, descriptor.digest):
            self._believed[descriptor.digest] = None
            return _Blob(diff_id, descriptor, None)
        if (yield from self._is_there(descriptor.digest)):
            return _Blob(diff_id, descriptor, None)
        if descriptor.digest == diff_id:
            return _Blob(diff_id, descriptor, plain_form(self._root, get_layer(self._root, diff_id)).open)
        if self._root.blobs.has(descriptor.digest):
            return _Blob(diff_id, descriptor, partial(self._root.blobs.open, descriptor.digest))
        remote = self._remote(diff_id, descriptor.digest)
        return _Blob(diff_id, descriptor, remote, far=True) if remote else None

    def _was_there(self, diff_id: DiffID, digest: Digest) -> bool:
        return Source("registry", self._client.place(self._repository), str(digest)) in get_sources(self._root, diff_id)

    def _rebuilt(self, diff_id: DiffID, descriptor: Descriptor, lease: Lease) -> _Blob | None:
        """A blob that is nowhere may have been made by us: the same layer gives the same bytes again then."""
        kind = media.layer_compression(descriptor.media_type)
        if kind not in ("gzip", "zstd"):
            return None
        form = self._form(get_layer(self._root, diff_id), cast("Compression", kind), lease)
        return _Blob(diff_id, descriptor, form.open) if form.descriptor.digest == descriptor.digest else None

    def _form(self, layer: Layer, compression: Compression, lease: Lease) -> Form:
        """A layer in a form of our own, made once for a push."""
        key = layer.diff_id, compression
        if key not in self._forms:
            self._forms[key] = layer_form(self._root, layer, compression, lease, progress=self._progress)
        return self._forms[key]

    def _remote(self, diff_id: DiffID, digest: Digest) -> Callable[[], BinaryIO] | None:
        """Reads a blob from the registry that it came from, or from one of its mirrors, when it is still there."""
        for source in self._sources(diff_id, digest):
            for client in self._registries.readers(source.domain, source.path):
                with suppress(LayerfsError):
                    if client.has_blob(source.path, digest) is not None:
                        return partial(_opened, client, source.path, digest)
        return None

    def _sources(self, diff_id: DiffID, digest: Digest) -> Iterator[Reference]:
        """Repositories that the blob was seen in, the newest first."""
        for source in reversed(get_sources(self._root, diff_id)):
            if source.kind == "registry" and source.digest == str(digest):
                with suppress(LayerfsError):
                    yield parse(source.place)

    def _unmade(self, record: ImageRecord, lease: Lease) -> list[_Unmade]:
        @functools.cache
        def relative() -> list[ImageRecord]:
            return self._relative(record)

        @functools.cache
        def known() -> list[ImageRecord]:
            with self._root.index.view() as txn:
                return sorted(scan_images(txn), key=lambda one: one.added_ns, reverse=True)

        def records() -> Iterator[ImageRecord]:
            yield from relative()
            yield from known()

        return [_Unmade(get_layer(self._root, diff_id), records, lease) for diff_id in record.diff_ids]

    def _relative(self, record: ImageRecord) -> list[ImageRecord]:
        """The next ancestor that has a manifest, if there is one: it names all layers but the new ones."""
        with self._root.index.view() as txn:
            now: ImageRecord | None = record
            for _ in range(_ANCESTORS):
                now = read_image(txn, now.parent) if now is not None and now.parent else None
                if now is None or now.manifest is not None:
                    break
        return [now] if now is not None and now.manifest is not None else []

    def _finds_form(self, unmade: _Unmade) -> Task[_Blob | None]:
        """A layer in a form that is there or can be had."""
        for descriptor in self._known_forms(unmade):
            kind = media.layer_compression(descriptor.media_type)
            if kind is None or media.is_foreign(descriptor.media_type):
                continue
            plain = Descriptor(media.oci_layer(kind), descriptor.digest, descriptor.size)
            found = yield from self._finds(unmade.diff_id, plain)
            if found is not None:
                return found
        return None

    def _made(self, unmade: _Unmade) -> _Blob:
        """A layer compressed anew."""
        form, there = self._form(unmade.layer, self._compression, unmade.lease), False
        if form.descriptor.size > _NO_QUESTION:
            there = self._client.has_blob(self._repository, form.descriptor.digest, push=True) is not None
        return _Blob(unmade.diff_id, form.descriptor, None if there else form.open)

    def _known_forms(self, unmade: _Unmade) -> Iterator[Descriptor]:
        """How a layer is kept, and how the manifests that images came with name it; each once, read when asked for.

        One that came from nowhere and went nowhere yet is named by none.
        """
        told: set[Descriptor] = set()
        if unmade.layer.blob:
            told.add(unmade.layer.blob)
            yield unmade.layer.blob
        if not get_sources(self._root, unmade.diff_id):
            return
        for record in unmade.records():
            if unmade.diff_id not in record.diff_ids:
                continue
            manifest = None
            with suppress(LayerfsError):
                manifest = self._images.manifest(record.manifest)
            if manifest is None or len(manifest.layers) != len(record.diff_ids):
                continue
            for diff_id, descriptor in zip(record.diff_ids, manifest.layers, strict=True):
                if diff_id == unmade.diff_id and descriptor not in told:
                    told.add(descriptor)
                    yield descriptor

    # sending

    def _send(self, blobs: Sequence[_Blob | _Unmade], config: Descriptor, raw: bytes) -> tuple[PushedLayer, ...]:
        """What comes twice is sent once. The registry is asked for all, and gets what is small, in turns; what is left
        of the layers goes side by side.
        """
        once = {blob.key: blob for blob in blobs}
        new = any(isinstance(blob, _Unmade) for blob in blobs) and config.size <= _NO_QUESTION
        keys = sorted(once, key=lambda key: key not in self._begun)  # what the registry expects goes first
        at = sum(key in self._begun for key in keys)
        begun = self._begun.pop(config.digest, None)
        opened = partial(io.BytesIO, raw)
        tasks: list[Task[_Blob | _Unmade | PushedLayer | Sent]] = [self._settles(once[key]) for key in keys]
        tasks.insert(at, self._uploads.gives(self._repository, config, opened, known_missing=new, begun=begun))
        done = in_turns(tasks)
        del done[at]
        settled = dict(zip(keys, cast("list[_Blob | _Unmade | PushedLayer]", done), strict=True))
        left = {key: blob for key, blob in settled.items() if not isinstance(blob, PushedLayer)}
        jobs = [partial(self._send_one, blob) for blob in left.values()]
        sent = settled | dict(zip(left, in_parallel(jobs, self._registries.cancel), strict=True))
        return tuple(replace(cast(PushedLayer, sent[blob.key]), diff_id=blob.diff_id) for blob in blobs)

    def _settles(self, blob: _Blob | _Unmade) -> Task[_Blob | _Unmade | PushedLayer | Sent]:
        """A layer that is there, or has been sent, or else what there is to be sent."""
        if isinstance(blob, _Unmade):
            begun = self._begun.pop(blob.diff_id, None)
            if begun is not None:
                form = self._form(blob.layer, self._compression, blob.lease)
                return (yield from self._sends(_Blob(blob.diff_id, form.descriptor, form.open), begun))
            found = yield from self._finds_form(blob)
            if found is None and blob.layer.tar_size > _SMALL:
                return blob
            blob = found or self._made(blob)
        if blob.open is not None and (blob.far or blob.descriptor.size > _SMALL):
            return blob
        return (yield from self._sends(blob))

    def _send_one(self, blob: _Blob | _Unmade) -> PushedLayer:
        return finished(self._sends(self._made(blob) if isinstance(blob, _Unmade) else blob))

    def _sends(self, blob: _Blob, begun: Begun[Response] | None = None) -> Task[PushedLayer]:
        sent = Sent("there")
        if blob.open is not None:
            here = self._client.session.name
            mounts = [s.path for s in self._sources(blob.diff_id, blob.descriptor.digest) if s.domain == here]
            sent = yield from self._uploads.gives(
                self._repository,
                blob.descriptor,
                blob.open,
                mounts=mounts,
                known_missing=True,
                begun=begun,
                report=self._reporter(blob),
            )
        pushed = PushedLayer(blob.diff_id, blob.descriptor, sent)
        if blob.descriptor.digest not in self._believed:
            self._tell(pushed)
        return pushed

    def _tell(self, layer: PushedLayer) -> None:
        if self._done is not None:
            self._done(layer)

    def _reporter(self, blob: _Blob) -> Callable[[int], object] | None:
        progress = self._progress
        if progress is None:
            return None
        total = blob.descriptor.size
        return lambda count: progress(Progress("push", str(blob.diff_id), count, total))

    # what is remembered

    def _note(self, tag: Tag, pushed: Pushed) -> None:
        """What the registry has now: one transaction. A power cut may take it: the next push asks then."""
        with self._root.index.update(durable=False) as txn:
            if self._draft is None or not self._draft.apply(txn):
                self._write_note(txn, tag, pushed)

    def _write_note(self, txn: Txn, tag: Tag, pushed: Pushed) -> None:
        """The manifest, that the names mean it, and where the layers can be had again.

        An image that was removed meanwhile stays so, and a name that means another one now is left alone.
        """
        place, document = self._client.place(self._repository), pushed.document
        record = read_image(txn, tag.image)
        if record is None:
            return
        self._root.blobs.publish(document.digest, len(document.raw), document.media_type, txn=txn)
        for layer in pushed.layers:
            source = Source("registry", place, str(layer.descriptor.digest))
            if not layer.descriptor.urls and source.row() not in (txn.get_json("sources", layer.diff_id.raw) or ()):
                add_source(txn, layer.diff_id, source)
        row = replace(tag, manifest=document.digest, index=None) if isinstance(document, Manifest) else tag
        for reference in (tag.reference, tag.reference.with_digest(document.digest)):
            now = read_tag(txn, reference)
            if reference.digest is not None or (now is not None and now.image == tag.image):
                txn.put_json("references", reference.key.encode(), replace(row, reference=reference).row())
        if record.manifest is None and isinstance(document, Manifest):
            blobs = tuple(layer.descriptor.digest for layer in pushed.layers)
            new = replace(record, manifest=document.digest, layer_blobs=blobs)
            txn.put_json("images", record.id.raw, new.row())
        findings = self._client.session.findings(txn.get_json("meta", self._registry_key()))
        if findings is not None:
            txn.put_json("meta", self._registry_key(), findings)


def _is_of(manifest: Manifest, record: ImageRecord) -> bool:
    return manifest.config.digest == record.id and len(manifest.layers) == len(record.diff_ids)


def _lacks(blobs: Sequence[Digest]) -> str:
    """That blobs of a manifest are nowhere, and what to do about it."""
    which = f"layer {blobs[0]}" if len(blobs) == 1 else f"{len(blobs)} layers, such as {blobs[0]},"
    how = "is" if len(blobs) == 1 else "are"
    return (
        f"{which} {how} neither kept as pulled nor in a registry pulled from "
        'any more (keep-blobs = "always" keeps them)'
    )


def _opened(client: Client, repository: str, digest: Digest) -> BinaryIO:
    return cast("BinaryIO", client.blob(repository, digest))


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
