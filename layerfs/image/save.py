"""Saving images: docker's archive (docker 28's form, which is an OCI layout too) and OCI layouts."""

from __future__ import annotations

import contextlib
import io
import os
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, Literal

from layerfs.digest import DiffID, Digest
from layerfs.errors import InvalidInput, NotFound
from layerfs.image.forms import Form, layer_form
from layerfs.image.images import Images
from layerfs.image.output import DirectoryOutput, Output, TarOutput, output_file
from layerfs.image.record import ImageRecord, Tag, scan_tags
from layerfs.layer.layers import Layer, get_layer
from layerfs.layer.progress import Report
from layerfs.oci import Descriptor, ImageConfig, Manifest, build_index, build_manifest, layout, media
from layerfs.oci.descriptor import IMAGE_NAME, REF_NAME
from layerfs.oci.fields import dump
from layerfs.reference import Reference
from layerfs.store.leases import Lease
from layerfs.store.root import StoreRoot

if TYPE_CHECKING:
    from layerfs.image.forms import Compression

Format = Literal["docker", "oci", "oci-dir"]
_EMPTY = "0" * 64


@dataclass(frozen=True, slots=True)
class Chosen:
    """An image to save, the names it is saved under, and the manifest that these stand for, if it came with one."""

    record: ImageRecord
    manifest: Digest | None
    names: tuple[Reference, ...]


@dataclass(frozen=True, slots=True)
class Saved:
    """One image as it was written.

    digest: of its manifest there. instead_of: the manifest that it came with, when that was wanted (`original`) and
        another one had to be made; `lacking` says which of its blobs could not be given.
    """

    image: ImageRecord
    names: tuple[Reference, ...]
    digest: Digest
    instead_of: Digest | None = None
    lacking: tuple[Digest, ...] = ()

    @property
    def name(self) -> str:
        return self.names[0].familiar if self.names else self.image.id.short

    @property
    def reason(self) -> str:
        """Why there is another manifest; empty when there is not."""
        if not self.lacking:
            return ""
        which = f"layer {self.lacking[0]} is"
        if len(self.lacking) > 1:
            which = f"{len(self.lacking)} layers, such as {self.lacking[0]}, are"
        return f'{which} not kept as pulled (keep-blobs = "always" keeps them)'


def choose(root: StoreRoot, names: Iterable[str]) -> list[Chosen]:
    """What `docker save NAME…` takes: a repository without a tag means all its tags, an ID no name at all.

    An image whose names stand for several manifests comes once for each.

    Raises:
        ImageNotFound: a name that is none.
    """
    images = Images(root)
    chosen: dict[tuple[ImageRecord, Digest | None], list[Reference]] = {}
    for name in names:
        for tag in _tags(root, images, name):
            record = images.get(tag.image)
            kept = chosen.setdefault((record, tag.manifest or record.manifest), [])
            if tag.reference.digest is None and tag.reference not in kept:
                kept.append(tag.reference)
    if not chosen:
        raise InvalidInput("no images to save")
    return [Chosen(record, manifest, tuple(kept)) for (record, manifest), kept in chosen.items()]


def _tags(root: StoreRoot, images: Images, name: str) -> list[Tag]:
    """The rows that a name means; for an ID, a row without a name."""
    with root.index.view() as txn, contextlib.suppress(InvalidInput):
        reference = Reference.parse(name)
        if not reference.tag and not reference.digest:
            tags = [tag for tag in scan_tags(txn, reference.name + ":") if not tag.by_digest]
            if tags:
                return tags
    record, found = images.find(name)
    if found is not None:
        return [tag for tag in images.tags(record.id) if tag.reference == found]
    return [Tag(Reference.parse("id").with_digest(record.id), record.id)]


def save(
    root: StoreRoot,
    names: Sequence[str],
    target: str | os.PathLike[str] | BinaryIO,
    *,
    format: Format = "docker",
    compression: Compression | None = None,
    exact: bool = False,
    progress: Report | None = None,
) -> list[Saved]:
    """Writes images to a file, a stream or (format `oci-dir`) a new directory.

    compression: of the layers. `original` gives the manifest and the blobs the image came with, byte for byte, where
    they are kept or are of our own making; else a new manifest, of layers that are kept, plain, or compressed anew. It
    is the default for OCI layouts; `none` is that of docker archives, as docker has it.
    exact: `original` with the manifest that an image came with, or an error before anything is written.

    Raises:
        ImageNotFound, InvalidInput, AlreadyExists, NoSpace; Corrupt: a layer's bytes are damaged. NotFound: a blob that
        an exact archive needs is not to be had.
    """
    if exact and compression not in (None, "original"):
        raise InvalidInput(f"layers cannot be {compression} and exactly as they came")
    compression = compression or ("none" if format == "docker" and not exact else "original")
    with root.leases.reading("save") as lease:
        chosen = choose(root, names)
        members = _Members(root, lease, compression, progress)
        parts = [members.image(each) for each in chosen]
        for part in parts if exact else ():
            if part.saved.lacking:
                raise NotFound(f"{part.saved.name}: manifest {part.saved.instead_of}: {part.saved.reason}")
        documents = _docker_documents(parts) if format == "docker" else {}
        documents |= _layout_documents(parts)
        for name, data in documents.items():
            members.put(name, data)
        if format == "oci-dir":
            if not isinstance(target, str | os.PathLike):
                raise InvalidInput("a layout directory needs a path")
            members.write(DirectoryOutput(Path(target)))
        else:
            with output_file(target) as write:
                members.write(TarOutput(write))
    return [part.saved for part in parts]


@dataclass(frozen=True, slots=True)
class Part:
    """One image as it is written."""

    chosen: Chosen
    config: ImageConfig
    manifest: Manifest
    saved: Saved


class _Members:
    """The members of an archive, each once; written in the order of their names."""

    def __init__(self, root: StoreRoot, lease: Lease, compression: Compression, progress: Report | None) -> None:
        self._root, self._lease, self._compression, self._progress = root, lease, compression, progress
        self._images = Images(root)
        self._members: dict[str, tuple[int, Callable[[], BinaryIO]]] = {}
        self._made: dict[tuple[DiffID, str | None], Form] = {}

    def put(self, name: str, data: bytes) -> None:
        self._members[name] = (len(data), partial(io.BytesIO, data))

    def image(self, chosen: Chosen) -> Part:
        record = chosen.record
        self._lease.pin(b"".join(key.raw for key in (record.id, *record.diff_ids, *record.layer_blobs)))
        config = self._images.config(record)
        came = self._came_with(chosen) if self._compression == "original" else None
        forms, lacking = self._given(record, came) if came is not None else ([], ())
        manifest = came
        if manifest is None or lacking:
            forms = self._forms(record, came)
            own = Descriptor(media.OCI_CONFIG, record.id, len(config.raw))
            manifest = build_manifest(own, tuple(form.descriptor for form in forms))
        for form in forms:
            self._members[layout.blob_path(form.descriptor.digest)] = (form.descriptor.size, form.open)
        self.put(layout.blob_path(record.id), config.raw)
        self.put(layout.blob_path(manifest.digest), manifest.raw)
        instead_of = came.digest if came and lacking else None
        return Part(chosen, config, manifest, Saved(record, chosen.names, manifest.digest, instead_of, lacking))

    def _came_with(self, chosen: Chosen) -> Manifest | None:
        """The manifest the image came with, when it is of this image."""
        record = chosen.record
        manifest = self._images.manifest(chosen.manifest)
        if manifest is None or manifest.config.digest != record.id or len(manifest.layers) != len(record.diff_ids):
            return None
        self._lease.pin(b"".join(layer.digest.raw for layer in manifest.layers))
        return manifest

    def _given(self, record: ImageRecord, manifest: Manifest) -> tuple[list[Form], tuple[Digest, ...]]:
        """The layers as a manifest names them, and its blobs that cannot be given."""
        forms, lacking = [], []
        for diff_id, descriptor in zip(record.diff_ids, manifest.layers, strict=True):
            form = self._found(diff_id, descriptor)
            if form is not None:
                forms.append(form)
            elif descriptor.digest not in lacking:
                lacking.append(descriptor.digest)
        return forms, tuple(lacking)

    def _found(self, diff_id: DiffID, descriptor: Descriptor) -> Form | None:
        """A layer as its manifest names it: plain, kept, or made again, which gives the same bytes if we made it."""
        layer = get_layer(self._root, diff_id)
        if descriptor.digest == diff_id or self._root.blobs.has(descriptor.digest):
            return Form(self._root, layer, descriptor)
        form = self._anew(layer, descriptor)
        return form if form.descriptor.digest == descriptor.digest else None

    def _anew(self, layer: Layer, descriptor: Descriptor) -> Form:
        """A layer in the form that it came in, by our own compressor; once for each."""
        kind = media.layer_compression(descriptor.media_type)
        form = self._made.get((layer.diff_id, kind))
        if form is None:
            wanted: Compression = kind if kind in ("gzip", "zstd") else "none"
            form = layer_form(self._root, layer, wanted, self._lease, progress=self._progress)
            self._made[layer.diff_id, kind] = form
        return form

    def _forms(self, record: ImageRecord, came: Manifest | None) -> list[Form]:
        """The layers of a new manifest: what came compressed is compressed again where it is not kept."""
        forms = []
        for number, diff_id in enumerate(record.diff_ids):
            layer = get_layer(self._root, diff_id)
            form = layer_form(self._root, layer, self._compression, self._lease, progress=self._progress)
            if came is not None and form.descriptor.digest == diff_id:
                form = self._anew(layer, came.layers[number])
            forms.append(form)
        return forms

    def write(self, output: Output) -> None:
        for name in sorted(self._members):
            size, source = self._members[name]
            output.add(name, size, source)
        output.finish()


def _layout_documents(parts: Sequence[Part]) -> dict[str, bytes]:
    entries = tuple(entry for part in parts for entry in _entries(part))
    return {layout.HEADER: layout.HEADER_BYTES, layout.INDEX: build_index(entries).raw}


def _entries(part: Part) -> list[Descriptor]:
    """One entry of the index for each name (docker's annotations), or one without any."""
    manifest = part.manifest
    plain = Descriptor(manifest.media_type, manifest.digest, len(manifest.raw))
    return [
        replace(plain, annotations=((IMAGE_NAME, str(name)), (REF_NAME, name.tag or ""))) for name in part.chosen.names
    ] or [plain]


def _docker_documents(parts: Sequence[Part]) -> dict[str, bytes]:
    """manifest.json and, when there are names, `repositories`."""
    images: list[dict[str, Any]] = []
    repositories: dict[str, dict[str, str]] = {}
    for part in parts:
        layers = part.manifest.layers
        images.append(
            {
                "Config": layout.blob_path(part.config.id),
                "RepoTags": [name.familiar for name in part.chosen.names] or None,
                "Layers": [layout.blob_path(layer.digest) for layer in layers],
                "LayerSources": {
                    str(diff_id): layer.document() for diff_id, layer in zip(part.config.diff_ids, layers, strict=True)
                },
            }
        )
        for name in part.chosen.names:
            top = layers[-1].digest.hex if layers else _EMPTY
            repositories.setdefault(name.familiar_name, {})[name.tag or ""] = top
    documents = {"manifest.json": dump(images)}
    if repositories:
        documents["repositories"] = dump(repositories)
    return documents
