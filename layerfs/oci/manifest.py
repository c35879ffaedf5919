"""Manifests (the layers of one image) and indexes (manifests per platform), of both families."""

from __future__ import annotations

from layerfs._lazy import TYPE_CHECKING
from layerfs._record import dataclass
from layerfs.digest import Digest
from layerfs.errors import InvalidArchive
from layerfs.oci import media
from layerfs.oci.descriptor import Descriptor, Platform
from layerfs.oci.fields import Fields, dump, load_object

if TYPE_CHECKING:
    from typing import Any


@dataclass(frozen=True, slots=True)
class Manifest:
    """One image: its config and its layers, base first. `raw` is what the digest is made from."""

    raw: bytes
    media_type: str
    config: Descriptor
    layers: tuple[Descriptor, ...]
    annotations: tuple[tuple[str, str], ...] = ()
    subject: Descriptor | None = None
    artifact_type: str = ""

    @property
    def digest(self) -> Digest:
        return Digest.of(self.raw)

    @classmethod
    def parse(cls, raw: bytes, media_type: str = "", *, what: str = "manifest") -> Manifest:
        """Parse a manifest; `media_type` is what its descriptor (or the registry) said.

        Raises:
            InvalidArchive: not such a document, schema 1, or a media type that contradicts itself.
        """
        document = parse_document(raw, media_type, what=what)
        if isinstance(document, Index):
            raise InvalidArchive(f"{what} is an index of several manifests, not one manifest")
        return document


@dataclass(frozen=True, slots=True)
class Index:
    raw: bytes
    media_type: str
    manifests: tuple[Descriptor, ...]
    annotations: tuple[tuple[str, str], ...] = ()

    @property
    def digest(self) -> Digest:
        return Digest.of(self.raw)

    @classmethod
    def parse(cls, raw: bytes, media_type: str = "", *, what: str = "index") -> Index:
        document = parse_document(raw, media_type or media.OCI_INDEX, what=what)
        if isinstance(document, Manifest):
            raise InvalidArchive(f"{what} is a manifest, not an index")
        return document

    @property
    def known(self) -> tuple[Descriptor, ...]:
        """Manifests and indexes; the specification wants entries of other types to be ignored."""
        return tuple(entry for entry in self.manifests if entry.media_type in media.MANIFESTS | media.INDEXES)

    @property
    def others(self) -> tuple[Descriptor, ...]:
        """Entries of other types, which are blobs to who wants all of it."""
        return tuple(entry for entry in self.manifests if entry.media_type not in media.MANIFESTS | media.INDEXES)

    def choose(self, wanted: Platform) -> Descriptor | None:
        """The manifest for a platform, the first of equals (image-spec: the first match wins); None when there is none.

        A manifest that names no platform matches when no other does; attestations never match.
        """
        named = [(m.platform, m) for m in self.known if m.platform and not m.platform.unknown]
        fitting = [(platform.nearness(wanted), m) for platform, m in named if platform.fits(wanted)]
        if fitting:
            return max(fitting, key=lambda pair: pair[0])[1]
        return next((manifest for manifest in self.known if manifest.platform is None), None)


def parse_document(raw: bytes, media_type: str = "", *, what: str = "manifest") -> Manifest | Index:
    """A manifest or an index, whichever it is: by its own `mediaType`, the one given, or its fields.

    A document that could be read as both is refused (it would mean different images to different readers); one whose
    type and descriptor name different families of the same kind is taken, as all tools do.
    """
    fields = load_object(raw, what)
    own = fields.text("mediaType")
    if media_type in media.SCHEMA_1 or own in media.SCHEMA_1 or fields.integer("schemaVersion", 2) == 1:
        raise InvalidArchive(f"{what} is a schema 1 manifest, which is obsolete: save or push the image anew")
    if own and media_type and not _same_kind(own, media_type):
        raise InvalidArchive(f"{what}.mediaType is {own!r}, but its descriptor says {media_type!r}")
    if fields.has("manifests") and (fields.has("layers") or fields.has("config")):
        raise InvalidArchive(f"{what} has the fields of a manifest and of an index")
    if fields.integer("schemaVersion", 2) != 2:
        raise InvalidArchive(f"{what}.schemaVersion is {fields.integer('schemaVersion')}, not 2")
    kind = own or media_type
    if kind in media.INDEXES or (kind not in media.MANIFESTS and fields.has("manifests")):
        return _index(raw, kind if kind in media.INDEXES else media.OCI_INDEX, fields)
    if kind in media.MANIFESTS or (not kind and fields.has("config")):
        return _manifest(raw, kind or media.OCI_MANIFEST, fields)
    raise InvalidArchive(f"{what} has the unknown media type {kind!r}")


def _same_kind(one: str, other: str) -> bool:
    pair = {one, other}
    return one == other or pair <= media.MANIFESTS or pair <= media.INDEXES


def build_manifest(config: Descriptor, layers: tuple[Descriptor, ...], *, docker: bool = False) -> Manifest:
    """A new manifest, OCI or docker schema 2; equal parts give equal bytes."""
    media_type = media.DOCKER_MANIFEST if docker else media.OCI_MANIFEST
    document = {
        "schemaVersion": 2,
        "mediaType": media_type,
        "config": config.document(),
        "layers": [layer.document() for layer in layers],
    }
    return Manifest(dump(document), media_type, config, layers)


def build_index(manifests: tuple[Descriptor, ...]) -> Index:
    document: dict[str, Any] = {
        "schemaVersion": 2,
        "mediaType": media.OCI_INDEX,
        "manifests": [manifest.document() for manifest in manifests],
    }
    return Index(dump(document), media.OCI_INDEX, manifests)


def _manifest(raw: bytes, media_type: str, fields: Fields) -> Manifest:
    config, subject = fields.child("config"), fields.child("subject")
    if config is None:
        raise InvalidArchive(f"{fields.where}.config is missing")
    return Manifest(
        raw,
        media_type,
        Descriptor.read(config),
        tuple(map(Descriptor.read, fields.children("layers"))),
        fields.pairs("annotations"),
        Descriptor.read(subject) if subject else None,
        fields.text("artifactType"),
    )


def _index(raw: bytes, media_type: str, fields: Fields) -> Index:
    return Index(
        raw, media_type, tuple(map(Descriptor.read, fields.children("manifests"))), fields.pairs("annotations")
    )
