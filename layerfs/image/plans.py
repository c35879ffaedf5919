"""Which images an archive holds, and where their parts are: docker archives and OCI layouts as lists of plans.

Nothing is written here, and no layer is read.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from layerfs.digest import DiffID, Digest
from layerfs.errors import InvalidArchive, InvalidInput
from layerfs.image.archive import Archive, clean, read_member
from layerfs.image.source import DOCKER_LEGACY, DOCKER_MANIFEST
from layerfs.oci import Descriptor, ImageConfig, Index, Manifest, Platform, layout, media, parse_document
from layerfs.oci.config import CONFIG_MAX
from layerfs.oci.descriptor import IMAGE_NAME, REF_NAME
from layerfs.oci.fields import DOCUMENT_MAX, Fields, load
from layerfs.reference import Reference

_INDEX_DEPTH = 8
_BESIDE_MAX = 1000  # documents read in search of docker's manifests
_CONFIG_TYPES = media.CONFIGS | {"application/octet-stream", ""}


@dataclass(frozen=True, slots=True)
class LayerPlan:
    """A layer and where it is; a descriptor when the archive promises its size and digest."""

    diff_id: DiffID
    member: str
    descriptor: Descriptor | None = None


@dataclass(frozen=True, slots=True)
class ImagePlan:
    """One image of an archive. `label` is what the archive calls it when it has no full name."""

    config: ImageConfig
    layers: tuple[LayerPlan, ...]
    names: tuple[Reference, ...] = ()
    label: str = ""
    manifest: Manifest | None = None

    @property
    def called(self) -> str:
        return ", ".join(name.familiar for name in self.names) or self.label or str(self.config.id)

    def answers(self, wanted: str) -> bool:
        """Whether a user may mean this image by `wanted`: a name, the label, or a digest."""
        digests = {str(self.config.id)} | ({str(self.manifest.digest)} if self.manifest else set())
        if wanted in {self.label, *digests}:
            return True
        try:
            return Reference.parse(wanted).tagged() in self.names
        except InvalidInput:
            return False


def docker_plans(archive: Archive) -> Iterator[ImagePlan]:
    """The images of a docker archive, in its order.

    Raises:
        InvalidArchive: no or a bad manifest.json (the form from before docker 1.10 is refused), a missing member, or
            another number of layers than the config has.
    """
    manifests = _manifests_beside(archive)
    for number, fields in enumerate(_docker_manifest(archive)):
        member = fields.text("Config")
        if not member:
            raise InvalidArchive(f"{fields.where}.Config is missing", path=archive.where)
        config = ImageConfig.parse(read_member(archive, member, limit=CONFIG_MAX), what=member)
        layers = fields.texts("Layers") or ()
        _same_count(len(layers), config, archive)
        names = tuple(_name(text, fields.where) for text in fields.texts("RepoTags") or ())
        manifest = manifests.get((config.id, tuple(map(clean, layers))))
        promised = manifest.layers if manifest else (None,) * len(layers)
        plans = tuple(map(LayerPlan, config.diff_ids, layers, promised))
        yield ImagePlan(config, plans, names, str(number), manifest)


def _docker_manifest(archive: Archive) -> list[Fields]:
    if not archive.has(DOCKER_MANIFEST):
        reason = "not an image archive: it has neither manifest.json nor an OCI layout"
        if archive.has(DOCKER_LEGACY):
            reason = "it has no manifest.json: saved by docker before 1.10, load and save it with a newer one first"
        raise InvalidArchive(reason, path=archive.where)
    value = load(read_member(archive, DOCKER_MANIFEST), DOCKER_MANIFEST)
    if not isinstance(value, list):
        raise InvalidArchive(f"{DOCKER_MANIFEST} is not a list of images", path=archive.where)
    images = Fields({"": value}, DOCKER_MANIFEST).children("")
    if not images:
        raise InvalidArchive(f"{DOCKER_MANIFEST} lists no images", path=archive.where)
    return images


def _manifests_beside(archive: Archive) -> dict[tuple[Digest, tuple[str, ...]], Manifest]:
    """Manifests of the layout that docker's newer archives are too, by config and layer members.

    They are kept when they say something that the archive's own list does not: digests of compressed layers. What is
    wrong with that layout is of no interest here, as docker does not read it.
    """
    found: dict[tuple[Digest, tuple[str, ...]], Manifest] = {}
    if not (archive.has(layout.HEADER) and archive.has(layout.INDEX)):
        return found
    with contextlib.suppress(InvalidArchive):
        waiting = list(Index.parse(read_member(archive, layout.INDEX), what=layout.INDEX).manifests)
        for _ in range(_BESIDE_MAX):
            if not waiting:
                break
            with contextlib.suppress(InvalidArchive):
                entry = waiting.pop()
                document = parse_document(read_blob(archive, entry, limit=DOCUMENT_MAX), entry.media_type)
                if isinstance(document, Index):
                    waiting += document.manifests
                elif any(media.layer_compression(layer.media_type) != "plain" for layer in document.layers):
                    members = tuple(layout.blob_path(layer.digest) for layer in document.layers)
                    found[document.config.digest, members] = document
    return found


def oci_plans(archive: Archive, platform: Platform) -> Iterator[ImagePlan]:
    """The images of an OCI layout: one for each name of its index, for the platform where there is a choice.

    Entries of unknown media types are ignored, as the specification asks, and so are artifacts beside images (`copy
    --referrers` puts signatures there), but a layout with nothing else is an error.

    Raises:
        InvalidArchive: a bad document, a missing blob, one name for two images, nothing for the platform.
    """
    layout.check_header(read_member(archive, layout.HEADER, limit=1 << 16))
    index = Index.parse(read_member(archive, layout.INDEX), what=layout.INDEX)
    if not index.known:
        types = ", ".join(sorted({repr(entry.media_type) for entry in index.manifests}))
        reason = f"only entries of unknown types ({types})" if types else "no manifests"
        raise InvalidArchive(f"{layout.INDEX} has {reason}", path=archive.where)
    found, other = False, ""
    for entries in _grouped(index.known, archive):
        manifest = _manifest(archive, _chosen(entries, platform, archive), platform)
        if manifest.config.media_type not in _CONFIG_TYPES:
            other = other or manifest.config.media_type
            continue
        found = True
        yield _oci_plan(archive, manifest, entries[0].annotation(REF_NAME), _oci_names(entries[0]))
    if other and not found:
        raise InvalidArchive(f"not an image: its config is {other!r}", path=archive.where)


def _grouped(entries: Sequence[Descriptor], archive: Archive) -> Iterator[list[Descriptor]]:
    """Entries that are one image: those of one name, or without names, when they differ in their platforms."""
    groups: dict[tuple[str, str], list[Descriptor]] = {}
    for entry in entries:
        key = entry.annotation(IMAGE_NAME), entry.annotation(REF_NAME)
        if entry not in groups.setdefault(key, []):
            groups[key].append(entry)
    for key, group in groups.items():
        platforms = {str(entry.platform) if entry.platform else None for entry in group}
        if len(group) == 1 or (len(platforms) == len(group) and None not in platforms):
            yield group
        elif any(key):
            raise InvalidArchive(
                f"{layout.INDEX} has {len(group)} images named {key[0] or key[1]!r}", path=archive.where
            )
        else:
            yield from ([entry] for entry in group if entry.platform is None or not entry.platform.unknown)


def _chosen(entries: list[Descriptor], platform: Platform, archive: Archive) -> Descriptor:
    if len(entries) == 1:
        return entries[0]
    return _choose(Index(b"", media.OCI_INDEX, tuple(entries)), platform, archive)


def _choose(index: Index, platform: Platform, archive: Archive) -> Descriptor:
    chosen = index.choose(platform)
    if chosen is None:
        offered = ", ".join(str(m.platform) for m in index.manifests if m.platform and not m.platform.unknown)
        raise InvalidArchive(f"no image for {platform} (there are: {offered or 'none'})", path=archive.where)
    return chosen


def _oci_names(entry: Descriptor) -> tuple[Reference, ...]:
    """containerd's full name, else a ref.name that is one (has a repository); a bare tag names nothing."""
    full, short = entry.annotation(IMAGE_NAME), entry.annotation(REF_NAME)
    if full:
        return (_name(full, f"{layout.INDEX}: {IMAGE_NAME}"),)
    if ":" in short or "/" in short:
        with contextlib.suppress(InvalidArchive):  # the specification lets it be nearly anything
            return (_name(short, ""),)
    return ()


def _oci_plan(archive: Archive, manifest: Manifest, label: str, names: tuple[Reference, ...]) -> ImagePlan:
    raw = read_blob(archive, manifest.config, limit=CONFIG_MAX)
    config = ImageConfig.parse(raw, what=f"config {manifest.config.digest}")
    _same_count(len(manifest.layers), config, archive)
    for layer in manifest.layers:
        if media.layer_compression(layer.media_type) is None:
            raise InvalidArchive(f"layer {layer.digest} has the unknown type {layer.media_type!r}", path=archive.where)
    pairs = zip(config.diff_ids, manifest.layers, strict=True)
    plans = tuple(LayerPlan(diff_id, layout.blob_path(layer.digest), layer) for diff_id, layer in pairs)
    return ImagePlan(config, plans, names, label, manifest)


def _manifest(archive: Archive, entry: Descriptor, platform: Platform) -> Manifest:
    """The manifest that an entry means: its own, or one from the index (in the index ...) that it names."""
    for _ in range(_INDEX_DEPTH):
        raw = read_blob(archive, entry, limit=DOCUMENT_MAX)
        document = parse_document(raw, entry.media_type, what=f"manifest {entry.digest}")
        if isinstance(document, Manifest):
            return document
        entry = _choose(document, platform, archive)
    raise InvalidArchive(f"indexes are nested more than {_INDEX_DEPTH} deep", path=archive.where)


def read_blob(archive: Archive, descriptor: Descriptor, *, limit: int) -> bytes:
    """A small blob of a layout, checked against its descriptor; inline data serves as well."""
    if descriptor.data is not None:
        return descriptor.data
    if descriptor.size > limit:
        raise InvalidArchive(f"blob {descriptor.digest} is longer than the {limit} bytes allowed", path=archive.where)
    raw = read_member(archive, layout.blob_path(descriptor.digest), limit=limit)
    if len(raw) != descriptor.size:
        raise InvalidArchive(
            f"blob {descriptor.digest}: size mismatch: {len(raw)} bytes, its descriptor says {descriptor.size}",
            path=archive.where,
        )
    if Digest.of(raw) != descriptor.digest:
        raise InvalidArchive(f"blob {descriptor.digest}: digest mismatch: {Digest.of(raw)}", path=archive.where)
    return raw


def _same_count(layers: int, config: ImageConfig, archive: Archive) -> None:
    if layers != len(config.diff_ids):
        raise InvalidArchive(
            f"invalid manifest, layers length mismatch: expected {len(config.diff_ids)}, got {layers}",
            path=archive.where,
        )


def _name(text: str, where: str) -> Reference:
    try:
        reference = Reference.parse(text).tagged()
    except InvalidInput as error:
        raise InvalidArchive(f"{where}: {text!r}: {error.message}") from None
    if reference.digest is not None:
        raise InvalidArchive(f"{where}: invalid tag {text!r}")
    return reference
