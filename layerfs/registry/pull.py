"""Pulling: what a name means in its registry, what of it the store has not, and bringing exactly that.

A manifest is pulled by one process at a time and a blob too (a claim on its partial file), whatever image it is for;
who comes later finds it in the store. What a pull that failed has brought already is used by the next one.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterator, Sequence

from layerfs._record import dataclass
from layerfs.digest import DiffID, Digest
from layerfs.errors import Corrupt, InvalidArchive, InvalidInput, LayerfsError, RegistryNotFound
from layerfs.image.images import Images
from layerfs.image.record import ImageRecord, Tag, read_image, read_tag
from layerfs.layer.layers import has_layer
from layerfs.layer.merged import merged_tree
from layerfs.layer.progress import Progress, Report
from layerfs.oci import Descriptor, ImageConfig, Index, Manifest, Platform, media, parse_document
from layerfs.oci.config import CONFIG_MAX
from layerfs.reference import Reference
from layerfs.registry.bring import Bringer, Need, claim_when_free
from layerfs.registry.client import INDEX_DEPTH, Client, Fetched, is_referrers_tag
from layerfs.registry.connect import Registries
from layerfs.registry.download import Upstream, pieces
from layerfs.store.leases import Lease
from layerfs.store.root import StoreRoot

MANIFESTS_MAX = 1000  # in an index and those below it
_CONFIG_TYPES = media.CONFIGS | {"application/octet-stream", ""}


@dataclass(frozen=True, slots=True)
class Pulled:
    """What a name is now. `digest`: what the registry has under it; `changed`: it was something else here before.

    `images`: all that were pulled, `image` among them.
    """

    reference: Reference
    image: ImageRecord
    digest: Digest
    changed: bool
    images: tuple[ImageRecord, ...]


def check_image(manifest: Manifest, config: ImageConfig, where: str) -> None:
    """Raises InvalidArchive when manifest and config are not of one image that we can have."""
    for layer in manifest.layers:
        if media.layer_compression(layer.media_type) is None:
            raise InvalidArchive(f"{where}: layer {layer.digest} has the unknown type {layer.media_type!r}")
    if len(manifest.layers) != len(config.diff_ids):
        raise InvalidArchive(
            f"{where}: invalid manifest, layers length mismatch: "
            f"expected {len(config.diff_ids)}, got {len(manifest.layers)}"
        )
    promised: dict[Digest, tuple[DiffID, int]] = {}
    for diff_id, layer in zip(config.diff_ids, manifest.layers, strict=True):
        if promised.setdefault(layer.digest, (diff_id, layer.size)) != (diff_id, layer.size):
            raise InvalidArchive(f"{where}: layer {layer.digest} is said to be two different layers")


def check_kind(manifest: Manifest, where: str) -> None:
    """Raises InvalidArchive for an artifact that is no image."""
    if manifest.config.media_type not in _CONFIG_TYPES:
        raise InvalidArchive(f"{where}: not an image: its config is {manifest.config.media_type!r}")


def is_image(manifest: Manifest) -> bool:
    """Whether it is of an image: not of an attestation or another artifact."""
    if manifest.config.media_type not in _CONFIG_TYPES or manifest.artifact_type:
        return False
    return all(media.layer_compression(layer.media_type) for layer in manifest.layers)


class Puller:
    """Pulls from one repository under one lease."""

    def __init__(
        self, root: StoreRoot, registries: Registries, reference: Reference, lease: Lease, progress: Report | None
    ) -> None:
        self._root, self._lease, self._images = root, lease, Images(root)
        clients = registries.readers(reference.domain, reference.path)
        self._upstream = Upstream(clients, reference.path, registries.stop)
        self._reference = reference.tagged()
        self._report = _one_at_a_time(progress)
        self._keep = registries.settings.keep_blobs
        self._bringer = Bringer(root, lease, self._upstream, self._report, self._keep)

    def pull(self, platform: Platform | None, *, everything: bool = False) -> Pulled:
        """One name. `everything`: all platforms of an index, and what else it has, as it is.

        Raises:
            RegistryError, Corrupt, InvalidArchive, NoSpace: nothing of the image in question is seen then.
        """
        before = self._before()
        if not everything and before is not None and (known := self._unchanged(before, platform)) is not None:
            return known
        top = self._top()
        found = self._everything(top, platform) if everything else [self._choose(top, platform)]
        index = top.digest if isinstance(top.document, Index) else None
        others = [self._image(each, None, [self._reference.with_digest(each.digest)]) for each in found[1:]]
        if index is not None:
            self._keep_index(top, everything)
        names = list(dict.fromkeys((self._reference, self._reference.with_digest(top.digest))))
        record = self._image(found[0], platform if index is None else None, names, index)
        changed = before is None or (before.image, before.digest) != (record.id, top.digest)
        return Pulled(self._reference, record, top.digest, changed, (record, *others))

    # what is there

    def _before(self) -> Tag | None:
        with self._root.index.view() as txn:
            return read_tag(txn, self._reference)

    def _unchanged(self, before: Tag, platform: Platform | None) -> Pulled | None:
        """The image that the name means here, when it is whole and the registry has the same under the name."""
        with self._root.index.view() as txn:
            record = read_image(txn, before.image)
        if record is None or before.digest is None:
            return None
        wanted = platform or (Platform.host() if before.index else record.platform)
        if not record.platform.fits(wanted) or not all(has_layer(self._root, d) for d in record.diff_ids):
            return None
        manifest = self._images.manifest(before.manifest or record.manifest)
        if manifest is not None and self._unkept(manifest, record.diff_ids):
            return None
        self._lease.pin(b"".join(key.raw for key in (record.id, *record.diff_ids)))
        if self._reference.digest is None and self._now() != before.digest:
            return None
        return Pulled(self._reference, record, before.digest, False, (record,))

    def _now(self) -> Digest | None:
        tag = self._reference.tag or ""
        return self._upstream.ask(lambda client: client.head_manifest(self._upstream.repository, tag))

    # manifests

    def _top(self) -> Fetched:
        digest = self._reference.digest
        if digest is not None:
            return self._document(Descriptor("", digest, -1))
        tag, repository = self._reference.tag or "", self._upstream.repository
        top = self._upstream.ask(lambda client: client.manifest(repository, tag))
        self._lease.pin(top.digest.raw)
        return top

    def _document(self, descriptor: Descriptor) -> Fetched:
        """A manifest or index by digest: from the store, else from the registry."""
        digest, repository = descriptor.digest, self._upstream.repository
        self._lease.pin(digest.raw)
        if self._root.blobs.has(digest):
            with contextlib.suppress(LayerfsError):
                raw, kind = self._root.blobs.read(digest), self._root.blobs.stat(digest)["media_type"]
                return Fetched(parse_document(raw, descriptor.media_type or str(kind)), repository)
        if descriptor.size < 0:
            return self._upstream.ask(lambda client: client.manifest(repository, digest))
        return self._upstream.ask(lambda client: client.child(repository, descriptor))

    def _choose(self, top: Fetched, platform: Platform | None) -> Fetched:
        wanted, fetched = platform or Platform.host(), top
        for _ in range(INDEX_DEPTH):
            if isinstance(fetched.document, Manifest):
                return fetched
            chosen = fetched.document.choose(wanted)
            if chosen is None:
                raise RegistryNotFound(
                    f"no matching manifest for {wanted} in the manifest list entries of {self._reference.familiar}"
                )
            fetched = self._document(chosen)
        raise InvalidArchive(f"{self._reference.familiar}: indexes are nested more than {INDEX_DEPTH} deep")

    def _everything(self, top: Fetched, platform: Platform | None) -> list[Fetched]:
        """The manifests of all images: the one that is chosen first, then the others in their order."""
        images = [each for each in self._below(top) if isinstance(each.document, Manifest) and is_image(each.document)]
        if not images:
            raise InvalidArchive(f"{self._reference.familiar}: no image in it")
        first = images[0]
        with contextlib.suppress(RegistryNotFound):
            first = self._choose(top, platform)
        return [first, *(each for each in images if each.digest != first.digest)]

    def _below(self, top: Fetched) -> Iterator[Fetched]:
        """Every manifest below an index, each once."""
        waiting, seen = [(top, 0)], {top.digest}
        while waiting:
            each, depth = waiting.pop(0)
            if isinstance(each.document, Manifest):
                yield each
                continue
            if depth == INDEX_DEPTH:
                raise InvalidArchive(f"{self._reference.familiar}: indexes are nested more than {INDEX_DEPTH} deep")
            for entry in each.document.known:
                if entry.digest not in seen:
                    seen.add(entry.digest)
                    waiting.append((self._document(entry), depth + 1))
            if len(seen) > MANIFESTS_MAX:
                raise InvalidArchive(f"{self._reference.familiar}: more than {MANIFESTS_MAX} manifests")

    def _keep_index(self, top: Fetched, everything: bool) -> None:
        """The index itself; with all below it that is no image, as it is."""
        if everything:
            for each in self._below(top):
                if isinstance(each.document, Manifest) and not is_image(each.document):
                    blobs = (each.document.config, *each.document.layers)
                    self._bringer.bring([Need(blob) for blob in blobs if blob.data is None])
                    self._put(each)
            for each in self._indexes(top):
                self._others(each)
                self._put(each)
        self._put(top)

    def _indexes(self, top: Fetched) -> Iterator[Fetched]:
        waiting = [top]
        while waiting:
            each = waiting.pop()
            if isinstance(each.document, Index):
                yield each
                waiting += [self._document(m) for m in each.document.known if m.media_type in media.INDEXES]

    def _others(self, fetched: Fetched) -> None:
        """What an index names beside manifests, as far as the registry has it as a blob."""
        assert isinstance(fetched.document, Index)
        repository = self._upstream.repository
        for entry in fetched.document.others:
            there = self._upstream.ask(lambda client, entry=entry: client.has_blob(repository, entry.digest))  # type: ignore[misc]
            if there is not None and entry.data is None:
                self._bringer.bring([Need(entry)])

    def _put(self, fetched: Fetched) -> None:
        self._lease.pin(fetched.digest.raw)
        self._root.blobs.put(fetched.raw, media_type=fetched.document.media_type, expected=fetched.digest)

    # one image

    def _image(
        self, fetched: Fetched, platform: Platform | None, names: Sequence[Reference], index: Digest | None = None
    ) -> ImageRecord:
        """Brings an image. It is seen, under its names, when it is whole."""
        manifest, where = fetched.document, self._reference.familiar
        assert isinstance(manifest, Manifest)
        check_kind(manifest, where)
        self._lease.pin(fetched.digest.raw)
        with contextlib.closing(claim_when_free(self._root, fetched.digest, self._upstream.stop, self._wait)):
            config = self._config(manifest)
            check_image(manifest, config, where)
            if platform is not None and not config.platform.fits(platform):
                raise RegistryNotFound(
                    f"image with reference {where} was found but its platform ({config.platform}) "
                    f"does not match the specified platform ({platform})"
                )
            self._layers(manifest, config)
            merged_tree(self._root, config.diff_ids)
            return self._images.add(config, manifest=manifest, references=names, index=index)

    def _wait(self, digest: Digest) -> None:
        self._report(Progress("wait", str(digest), 0))

    def _config(self, manifest: Manifest) -> ImageConfig:
        descriptor = manifest.config
        self._lease.pin(descriptor.digest.raw)
        return ImageConfig.parse(self._small(descriptor), what=f"{self._upstream.place}: config {descriptor.digest}")

    def _small(self, descriptor: Descriptor) -> bytes:
        """A small blob, verified."""
        if descriptor.data is not None:
            return descriptor.data
        where = f"{self._upstream.place}: config {descriptor.digest}"
        if descriptor.size > CONFIG_MAX:
            raise InvalidArchive(f"{where} is {descriptor.size} bytes long, more than the {CONFIG_MAX} allowed")
        if self._root.blobs.has(descriptor.digest):
            with contextlib.suppress(LayerfsError):
                return self._root.blobs.read(descriptor.digest, limit=CONFIG_MAX)
        raw = b"".join(pieces(self._upstream, descriptor))
        if Digest.of(raw) != descriptor.digest:
            raise Corrupt(f"{where}: digest mismatch: got {Digest.of(raw)}")
        return raw

    def _layers(self, manifest: Manifest, config: ImageConfig) -> None:
        """Each layer is fetched once; of one that comes in several forms it is noted where the others are."""
        pairs = list(dict.fromkeys(zip(config.diff_ids, manifest.layers, strict=True)))
        self._lease.pin(b"".join(d.raw + layer.digest.raw for d, layer in pairs))
        first = dict(reversed(pairs))
        needs = [Need(layer, diff_id, has_layer(self._root, diff_id) is not None) for diff_id, layer in first.items()]
        self._bringer.bring(needs[::-1])
        self._bringer.bring([Need(layer, diff_id, True) for diff_id, layer in pairs if first[diff_id] != layer])
        self._bringer.bring([Need(blob) for blob in self._unkept(manifest, config.diff_ids)])

    def _unkept(self, manifest: Manifest, diff_ids: Sequence[DiffID]) -> list[Descriptor]:
        """The compressed layers that the store has no more, or in another form, and that are `always` to be kept."""
        if self._keep != "always":
            return []
        named = {
            layer.digest: layer
            for diff_id, layer in zip(diff_ids, manifest.layers, strict=False)
            if layer.digest != diff_id and not media.is_foreign(layer.media_type)
        }
        return [layer for digest, layer in named.items() if not self._root.blobs.has(digest)]


def all_tags(registries: Registries, reference: Reference) -> list[Reference]:
    """Every tag of a repository, as names, but for those that list referrers where there is no API for that."""
    if reference.tag or reference.digest:
        raise InvalidInput("tag can't be used with --all-tags/-a")
    upstream = Upstream(registries.readers(reference.domain, reference.path), reference.path, registries.stop)

    def listed(client: Client) -> Sequence[str]:
        return list(client.tags(reference.path))

    return [reference.with_tag(tag) for tag in upstream.ask(listed) if not is_referrers_tag(tag)]


def _one_at_a_time(progress: Report | None) -> Callable[[Progress], None]:
    """A callback that several threads may call."""
    lock = threading.Lock()

    def report(record: Progress) -> None:
        if progress is not None:
            with lock:
                progress(record)

    return report


__all__ = ["Pulled", "Puller", "all_tags", "check_image", "check_kind", "is_image"]
