"""Where `copy` reads: a registry, an OCI layout, a docker archive; each as manifests and blobs by descriptor."""

from __future__ import annotations

import contextlib
import hashlib
import io
from collections.abc import Iterator
from typing import BinaryIO, Protocol, cast

from layerfs.digest import Digest, VerifyingReader
from layerfs.errors import ImageNotFound, InvalidArchive, InvalidInput
from layerfs.image.archive import Archive, read_member
from layerfs.image.plans import ImagePlan, LayerPlan, docker_plans, read_blob
from layerfs.image.source import Scratch, kind_of, open_archive
from layerfs.layer.codec import detect
from layerfs.oci import Descriptor, Index, Manifest, build_manifest, layout, media, parse_document
from layerfs.oci.descriptor import IMAGE_NAME, REF_NAME
from layerfs.oci.fields import DOCUMENT_MAX
from layerfs.reference import Reference
from layerfs.registry.download import PiecesStream, Upstream, pieces
from layerfs.registry.places import Place

_HEAD = 6


class Origin(Protocol):
    """An image, or an index of them, to be read."""

    def top(self) -> Manifest | Index: ...

    def document(self, descriptor: Descriptor) -> Manifest | Index:
        """What an index names, verified."""
        ...

    def open(self, descriptor: Descriptor) -> BinaryIO:
        """A blob's bytes; reading them to the end verifies them."""
        ...

    def referrers(self, digest: Digest) -> tuple[Descriptor, ...]:
        """What says that it belongs to a manifest."""
        ...


class RegistryOrigin:
    """From the mirrors of a registry, too; a blob whose connection breaks off goes on where it was."""

    def __init__(self, upstream: Upstream, reference: Reference) -> None:
        self._upstream, self.reference = upstream, reference.tagged()

    def top(self) -> Manifest | Index:
        name = self.reference
        return self._upstream.ask(lambda client: client.manifest(name.path, name.digest or name.tag or "")).document

    def document(self, descriptor: Descriptor) -> Manifest | Index:
        return self._upstream.ask(lambda client: client.child(self.reference.path, descriptor)).document

    def open(self, descriptor: Descriptor) -> BinaryIO:
        if descriptor.data is not None:
            return io.BytesIO(descriptor.data)
        return verified(cast(BinaryIO, PiecesStream(pieces(self._upstream, descriptor))), descriptor)

    def referrers(self, digest: Digest) -> tuple[Descriptor, ...]:
        """Those that the registry itself knows: a mirror may not have them all."""
        return self._upstream.clients[-1].referrers(self.reference.path, digest)


class LayoutOrigin:
    """An OCI layout, in a directory or a tar. `wanted`: its tag, full name or digest; needed when it holds several."""

    def __init__(self, archive: Archive, wanted: str) -> None:
        self._archive = archive
        layout.check_header(read_member(archive, layout.HEADER, limit=1 << 16))
        self._index = Index.parse(read_member(archive, layout.INDEX), what=layout.INDEX)
        self._entry = _entry(self._index, wanted, archive.where)

    def top(self) -> Manifest | Index:
        return self.document(self._entry)

    def document(self, descriptor: Descriptor) -> Manifest | Index:
        raw = read_blob(self._archive, descriptor, limit=DOCUMENT_MAX)
        return parse_document(raw, descriptor.media_type, what=f"manifest {descriptor.digest}")

    def open(self, descriptor: Descriptor) -> BinaryIO:
        if descriptor.data is not None:
            return io.BytesIO(descriptor.data)
        return verified(self._archive.open(layout.blob_path(descriptor.digest)), descriptor)

    def referrers(self, digest: Digest) -> tuple[Descriptor, ...]:
        """Those that the layout's index lists."""
        found = []
        for entry in self._index.manifests:
            if entry.media_type in media.MANIFESTS:
                document = self.document(entry)
                if isinstance(document, Manifest) and document.subject and document.subject.digest == digest:
                    found.append(entry)
        return tuple(found)


class DockerArchiveOrigin:
    """A docker archive; its layers get descriptors of the bytes that it holds."""

    def __init__(self, archive: Archive, wanted: str) -> None:
        self._archive = archive
        self._members: dict[Digest, str] = {}
        self._plan = _plan(archive, wanted)
        self._manifest = self._plan.manifest or self._made()
        for layer, descriptor in zip(self._plan.layers, self._manifest.layers, strict=True):
            self._members[descriptor.digest] = layer.member

    def _made(self) -> Manifest:
        raw = self._plan.config.raw
        config = Descriptor(media.DOCKER_CONFIG, self._plan.config.id, len(raw))
        return build_manifest(config, tuple(map(self._describe, self._plan.layers)), docker=True)

    def _describe(self, plan: LayerPlan) -> Descriptor:
        size = self._archive.size(plan.member)
        with self._archive.open(plan.member) as file:
            codec = detect(file.peek(_HEAD)[:_HEAD])  # type: ignore[attr-defined]
            if codec == "plain":
                return Descriptor(media.DOCKER_LAYER, plan.diff_id, size)
            sha = hashlib.sha256()
            while data := file.read(1 << 20):
                sha.update(data)
        kind = {"gzip": media.DOCKER_LAYER_GZIP, "zstd": media.DOCKER_LAYER_ZSTD}.get(codec)
        if kind is None:
            raise InvalidArchive(f"{plan.member} is compressed as {codec}, which registries do not know")
        return Descriptor(kind, Digest(sha.hexdigest()), size)

    def top(self) -> Manifest | Index:
        return self._manifest

    def document(self, descriptor: Descriptor) -> Manifest | Index:
        raise InvalidArchive("a docker archive has no indexes", path=self._archive.where)

    def open(self, descriptor: Descriptor) -> BinaryIO:
        if descriptor.digest == self._plan.config.id:
            return io.BytesIO(self._plan.config.raw)
        return verified(self._archive.open(self._members[descriptor.digest]), descriptor)

    def referrers(self, digest: Digest) -> tuple[Descriptor, ...]:
        return ()


@contextlib.contextmanager
def open_archive_origin(place: Place, scratch: Scratch) -> Iterator[Origin]:
    """The layout or archive at a place. Raises InvalidArchive, ImageNotFound, NotFound."""
    with open_archive(place.path, scratch) as archive:
        if place.kind == "docker-archive":
            yield DockerArchiveOrigin(archive, place.name)
        elif kind_of(archive) == "rootfs":
            raise InvalidArchive("not an OCI layout", path=archive.where)
        else:
            yield LayoutOrigin(archive, place.name)


class _Verified:
    """A reader with `close`."""

    def __init__(self, stream: BinaryIO, descriptor: Descriptor) -> None:
        self._stream = stream
        self._reader = VerifyingReader(stream, descriptor.digest, descriptor.size)
        self._left = descriptor.size

    def read(self, count: int = 1 << 20) -> bytes:
        data = self._reader.read(1 << 20 if count < 0 else count)
        self._left -= len(data)
        if data and not self._left:
            self._reader.check()  # whoever knows the size does not read on
        return data

    def close(self) -> None:
        self._stream.close()

    def __enter__(self) -> _Verified:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def verified(stream: BinaryIO, descriptor: Descriptor) -> BinaryIO:
    """The stream, whose last bytes are only given when all of them are those that the descriptor promises."""
    return cast(BinaryIO, _Verified(stream, descriptor))


def _entry(index: Index, wanted: str, where: str) -> Descriptor:
    entries = [e for e in index.manifests if e.media_type in media.MANIFESTS | media.INDEXES]
    if wanted:
        entries = [e for e in entries if wanted in (e.annotation(REF_NAME), e.annotation(IMAGE_NAME), str(e.digest))]
        if not entries:
            raise ImageNotFound(f"no image {wanted!r} in the layout", path=where)
    if len({entry.digest for entry in entries}) != 1:
        called = ", ".join(e.annotation(REF_NAME) or str(e.digest) for e in entries) or "none"
        raise InvalidInput(f"the layout holds {len(entries)} images, name one ({called})", path=where)
    return entries[0]


def _plan(archive: Archive, wanted: str) -> ImagePlan:
    plans = [plan for plan in docker_plans(archive) if not wanted or plan.answers(wanted)]
    if not plans:
        raise ImageNotFound(f"no image {wanted!r} in the archive", path=archive.where)
    if len(plans) > 1:
        called = "; ".join(plan.called for plan in plans)
        raise InvalidInput(f"the archive holds {len(plans)} images, name one ({called})", path=archive.where)
    return plans[0]
