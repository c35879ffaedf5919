"""Copying images, indexes and artifacts between registries, layouts and archives, without a store.

All is copied byte for byte, so digests stay. An index comes whole with `everything`; otherwise the manifest for one
platform is taken from it. Only a docker archive, which has no compressed layers, is written otherwise.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import tempfile
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import BinaryIO, Protocol, cast

from layerfs._record import dataclass, field, replace
from layerfs._threads import in_parallel
from layerfs.digest import Digest
from layerfs.errors import InvalidArchive, InvalidInput, RegistryNotFound
from layerfs.image.output import GrownLayout, Output, TarOutput, output_file
from layerfs.layer.codec import Decompressed
from layerfs.layer.progress import Progress, Report
from layerfs.oci import Descriptor, ImageConfig, Index, Manifest, Platform, build_index, layout, media
from layerfs.oci.config import CONFIG_MAX
from layerfs.oci.descriptor import IMAGE_NAME, REF_NAME
from layerfs.oci.fields import dump
from layerfs.reference import Reference
from layerfs.registry.client import INDEX_DEPTH
from layerfs.registry.connect import Registries
from layerfs.registry.download import upstream_of
from layerfs.registry.origins import Origin, RegistryOrigin, open_archive_origin
from layerfs.registry.places import Place
from layerfs.registry.upload import Uploads

_PIECE = 1 << 20


@dataclass(frozen=True, slots=True)
class Copied:
    """What was copied: the top manifest or index, and how many manifests and blobs there are below and with it."""

    digest: Digest
    manifests: int
    blobs: int


@dataclass(slots=True)
class _Tree:
    """What is to be copied, each once, what others name before those."""

    top: Manifest | Index
    documents: dict[Digest, Manifest | Index] = field(default_factory=dict)
    blobs: dict[Digest, Descriptor] = field(default_factory=dict)


class _Target(Protocol):
    def write(self, tree: _Tree, origin: Origin) -> None: ...


@dataclass(slots=True)
class _Scratch:
    tmp: Path


def copy(
    source: Place,
    target: Place,
    registries: Registries,
    *,
    everything: bool = False,
    platform: Platform | None = None,
    referrers: bool = False,
    progress: Report | None = None,
) -> Copied:
    """Copies an image.

    Args:
        everything: an index with all that it names, instead of the manifest for `platform` (this machine's when None).
        referrers: also what says that it belongs to the image: signatures, attestations.

    Raises:
        RegistryError, InvalidArchive, Corrupt, NotFound: in registries what is there by then stays, without a tag.
        AlreadyExists: a layout's directory that is not empty, and no layout.
    """
    if target.reference is not None and target.reference.digest is not None:
        raise InvalidInput("the target of a copy is a tag, not a digest")
    with tempfile.TemporaryDirectory(prefix="layerfs-copy-") as tmp:
        scratch = _Scratch(Path(tmp))
        with _origin(source, registries, scratch) as origin:
            top = origin.top()
            if isinstance(top, Index) and not everything:
                top = _choose(origin, top, platform or Platform.host(), str(source))
            tree = _Tree(top)
            _collect(origin, top, tree, referrers)
            _target(source, target, registries, scratch, progress).write(tree, origin)
    return Copied(top.digest, len(tree.documents), len(tree.blobs))


@contextlib.contextmanager
def _origin(place: Place, registries: Registries, scratch: _Scratch) -> Iterator[Origin]:
    if place.reference is not None:
        yield RegistryOrigin(upstream_of(registries, place.reference.name), place.reference)
        return
    with open_archive_origin(place, scratch) as origin:
        yield origin


def _choose(origin: Origin, index: Index, platform: Platform, where: str) -> Manifest:
    document: Manifest | Index = index
    for _ in range(INDEX_DEPTH):
        if isinstance(document, Manifest):
            return document
        chosen = document.choose(platform)
        if chosen is None:
            raise RegistryNotFound(f"no matching manifest for {platform} in the manifest list entries of {where}")
        document = origin.document(chosen)
    raise InvalidArchive(f"{where}: indexes are nested too deep")


def _collect(origin: Origin, document: Manifest | Index, tree: _Tree, referrers: bool, depth: int = 0) -> None:
    """Notes a document after all that it names."""
    if document.digest in tree.documents:
        return
    if depth > INDEX_DEPTH:
        raise InvalidArchive(f"{document.digest}: nested too deep")
    if isinstance(document, Index):
        for entry in document.manifests:
            if entry.media_type in media.MANIFESTS | media.INDEXES:
                _collect(origin, origin.document(entry), tree, referrers, depth + 1)
            else:
                tree.blobs[entry.digest] = entry
    else:
        for descriptor in (document.config, *document.layers):
            if not (media.is_foreign(descriptor.media_type) and descriptor.urls):
                tree.blobs[descriptor.digest] = descriptor
    tree.documents[document.digest] = document
    for entry in origin.referrers(document.digest) if referrers else ():
        _collect(origin, origin.document(entry), tree, referrers, depth + 1)


def _target(
    source: Place, target: Place, registries: Registries, scratch: _Scratch, progress: Report | None
) -> _Target:
    if target.reference is not None:
        return _ToRegistry(registries, target.reference, source.reference, progress)
    if target.kind == "docker-archive":
        return _ToDockerArchive(target, source, scratch.tmp, progress)
    return _ToLayout(target, source, progress)


class _ToRegistry:
    def __init__(
        self, registries: Registries, reference: Reference, source: Reference | None, progress: Report | None
    ) -> None:
        self._uploads = Uploads(registries.client(reference.domain, reference.path))
        self._reference, self._progress, self._cancel = reference, progress, registries.cancel
        same = source is not None and source.domain == reference.domain
        self._mounts = [source.path] if same and source is not None else []

    def write(self, tree: _Tree, origin: Origin) -> None:
        in_parallel([partial(self._blob, descriptor, origin) for descriptor in tree.blobs.values()], self._cancel)
        for document in tree.documents.values():
            if document.digest != tree.top.digest:
                self._uploads.manifest(self._reference.path, document.digest, document)
        self._uploads.manifest(self._reference.path, self._reference.tag or "latest", tree.top)

    def _blob(self, descriptor: Descriptor, origin: Origin) -> None:
        report = _reporter(self._progress, descriptor)
        opened = partial(origin.open, descriptor)
        self._uploads.blob(self._reference.path, descriptor, opened, mounts=self._mounts, report=report)


class _ToLayout:
    """A directory, new or a layout already, or a tar."""

    def __init__(self, target: Place, source: Place, progress: Report | None) -> None:
        self._target, self._source, self._progress = target, source, progress

    def write(self, tree: _Tree, origin: Origin) -> None:
        members = {layout.blob_path(d): partial(io.BytesIO, document.raw) for d, document in tree.documents.items()}
        sizes = {layout.blob_path(d): len(document.raw) for d, document in tree.documents.items()}
        streams: dict[str, Callable[[], BinaryIO]] = dict(members)
        for descriptor in tree.blobs.values():
            name = layout.blob_path(descriptor.digest)
            if name not in streams:
                streams[name] = _told(partial(origin.open, descriptor), descriptor, self._progress)
                sizes[name] = descriptor.size
        for name, data in self._documents(tree).items():
            streams[name], sizes[name] = partial(io.BytesIO, data), len(data)
        with _output(self._target) as output:
            for name in sorted(streams):
                output.add(name, sizes[name], streams[name])
            output.finish()

    def _documents(self, tree: _Tree) -> dict[str, bytes]:
        top = Descriptor(tree.top.media_type, tree.top.digest, len(tree.top.raw))
        named = {d.digest for document in tree.documents.values() for d in _children(document)}
        loose = [document for digest, document in tree.documents.items() if digest not in named | {top.digest}]
        entries = [replace(top, annotations=self._annotations())]
        entries += [Descriptor(document.media_type, document.digest, len(document.raw)) for document in loose]
        return {layout.HEADER: layout.HEADER_BYTES, layout.INDEX: build_index(tuple(entries)).raw}

    def _annotations(self) -> tuple[tuple[str, str], ...]:
        """The tag asked for, else the one that it has where it comes from, with its full name."""
        if self._target.name:
            return ((REF_NAME, self._target.name),)
        reference = self._source.reference
        if reference is not None and reference.tag:
            return ((IMAGE_NAME, str(reference.with_tag(reference.tag))), (REF_NAME, reference.tag))
        return ((REF_NAME, self._source.name),) if self._source.name else ()


class _ToDockerArchive:
    """What `docker load` takes: plain layers, and manifest.json."""

    def __init__(self, target: Place, source: Place, tmp: Path, progress: Report | None) -> None:
        self._target, self._source, self._tmp, self._progress = target, source, tmp, progress

    def write(self, tree: _Tree, origin: Origin) -> None:
        manifest = tree.top
        if isinstance(manifest, Index):
            raise InvalidInput("a docker archive holds no index; choose a platform")
        config = _config(origin, manifest, str(self._source))
        if len(config.diff_ids) != len(manifest.layers):
            raise InvalidArchive(f"{self._source}: invalid manifest, layers length mismatch")
        streams: dict[str, tuple[int, Callable[[], BinaryIO]]] = {
            layout.blob_path(config.id): (len(config.raw), partial(io.BytesIO, config.raw))
        }
        names = []
        for diff_id, descriptor in zip(config.diff_ids, manifest.layers, strict=True):
            name = layout.blob_path(diff_id)
            names.append(name)
            if name not in streams:
                path = self._plain(origin, diff_id, descriptor)
                streams[name] = (path.stat().st_size, partial(cast(Callable[[], BinaryIO], path.open), "rb"))  # type: ignore[call-arg]
        entry = {"Config": layout.blob_path(config.id), "RepoTags": self._names(), "Layers": names}
        raw = dump([entry])
        streams["manifest.json"] = (len(raw), partial(io.BytesIO, raw))
        with _output(self._target) as output:
            for name in sorted(streams):
                size, opened = streams[name]
                output.add(name, size, opened)
            output.finish()

    def _names(self) -> list[str] | None:
        if self._target.name:
            return [Reference.parse(self._target.name).tagged().familiar]
        reference = self._source.reference
        return [reference.with_tag(reference.tag).familiar] if reference and reference.tag else None

    def _plain(self, origin: Origin, diff_id: Digest, descriptor: Descriptor) -> Path:
        """A layer's tar in a file, checked against its diff ID."""
        path, where = self._tmp / diff_id.hex, f"{self._source}: layer {descriptor.digest}"
        sha = hashlib.sha256()
        with _told(partial(origin.open, descriptor), descriptor, self._progress)() as stream, path.open("wb") as file:
            try:
                for piece in Decompressed(stream).pieces():
                    sha.update(piece)
                    file.write(piece)
            except InvalidArchive as error:
                raise InvalidArchive(f"{where}: {error.message}", path=error.filename) from error
        if sha.hexdigest() != diff_id.hex:
            raise InvalidArchive(f"{where} has the diff ID sha256:{sha.hexdigest()} instead of {diff_id}")
        return path


def _config(origin: Origin, manifest: Manifest, where: str) -> ImageConfig:
    if manifest.config.size > CONFIG_MAX or manifest.config.media_type not in media.CONFIGS:
        raise InvalidArchive(f"{where}: not an image: its config is {manifest.config.media_type!r}")
    with origin.open(manifest.config) as file:
        raw = b"".join(iter(lambda: file.read(_PIECE), b""))
    return ImageConfig.parse(raw, what=f"{where}: config {manifest.config.digest}")


def _children(document: Manifest | Index) -> Sequence[Descriptor]:
    return document.manifests if isinstance(document, Index) else ()


@contextlib.contextmanager
def _output(target: Place) -> Iterator[Output]:
    if target.kind == "oci":
        yield GrownLayout(Path(target.path))
        return
    with output_file(target.path) as write:
        yield TarOutput(write)


def _reporter(progress: Report | None, descriptor: Descriptor) -> Callable[[int], object] | None:
    if progress is None:
        return None
    return lambda count: progress(Progress("copy", str(descriptor.digest), count, descriptor.size))


class _Told:
    """A stream that tells how much of it was read."""

    def __init__(self, stream: BinaryIO, report: Callable[[int], object]) -> None:
        self._stream, self._report, self._count = stream, report, 0

    def read(self, count: int = -1) -> bytes:
        data = self._stream.read(count)
        self._count += len(data)
        self._report(self._count)
        return data

    def close(self) -> None:
        self._stream.close()

    def __enter__(self) -> _Told:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _told(opened: Callable[[], BinaryIO], descriptor: Descriptor, progress: Report | None) -> Callable[[], BinaryIO]:
    report = _reporter(progress, descriptor)
    return opened if report is None else lambda: cast(BinaryIO, _Told(opened(), report))
