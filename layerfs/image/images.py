"""The images and references of a store: add, find, list, tag, remove.

All that one call changes is one index transaction; nobody sees an image without its names or its layers.
"""

from __future__ import annotations

import functools
import time
from collections.abc import Iterable, Mapping, Sequence

from layerfs._lazy import TYPE_CHECKING
from layerfs._record import replace
from layerfs.digest import DiffID, Digest
from layerfs.errors import Corrupt, ImageNotFound, InvalidInput, NotFound
from layerfs.image.find import find_image
from layerfs.image.record import ImageRecord, Tag, read_image, read_tag, scan_images, scan_tags
from layerfs.oci import ImageConfig
from layerfs.oci.config import CONFIG_MAX
from layerfs.reference import Reference

if TYPE_CHECKING:
    from typing import Any

    from layerfs.image.filters import ImageSummary
    from layerfs.image.removal import Removed, Users
    from layerfs.oci import Manifest
    from layerfs.store.index import Txn
    from layerfs.store.root import StoreRoot


_SMALL = 1 << 16  # bytes of a config, or a manifest, that is kept parsed: nearly all have a few thousand


@functools.lru_cache(maxsize=64)
def _parsed(raw: bytes, what: str) -> ImageConfig:
    return ImageConfig.parse(raw, what=what)


@functools.lru_cache(maxsize=16)
def _parsed_manifest(raw: bytes, kind: str) -> Manifest:
    from layerfs.oci import Manifest

    return Manifest.parse(raw, kind)


class Images:
    """Safe from threads and processes."""

    def __init__(self, root: StoreRoot) -> None:
        self._root = root

    def add(
        self,
        config: ImageConfig,
        *,
        manifest: Manifest | None = None,
        references: Iterable[Reference] = (),
        parent: Digest | None = None,
        index: Digest | None = None,
    ) -> ImageRecord:
        """Makes an image visible, under these names; hold a lease since before its layers were looked up.

        index: the index that the names stand for where they come from, and that has the manifest among others.

        An image that is known keeps when it was added, its parent and its manifest if it has them.

        Raises:
            NotFound: a layer is not in the store.
        """
        blobs = tuple(layer.digest for layer in manifest.layers) if manifest else ()
        record = ImageRecord(
            config.id,
            config.diff_ids,
            config.platform,
            config.created_ns,
            time.time_ns(),
            manifest.digest if manifest else None,
            blobs,
            parent,
        )
        from layerfs.oci import media

        config_type = (manifest and manifest.config.media_type) or media.OCI_CONFIG
        names = [reference.tagged() for reference in references]
        with self._root.index.update() as txn:
            self._require_layers(txn, config.diff_ids)
            self._root.blobs.put(config.raw, media_type=config_type, expected=config.id, txn=txn)
            if manifest is not None:
                self._root.blobs.put(manifest.raw, media_type=manifest.media_type, txn=txn)
            record = _merged(read_image(txn, config.id), record)
            txn.put_json("images", record.id.raw, record.row())
            for name in names:
                tag = Tag(name, record.id, manifest.digest if manifest else None, index)
                txn.put_json("references", name.key.encode(), tag.row())
        return record

    def _require_layers(self, txn: Txn, diff_ids: Iterable[DiffID]) -> None:
        for diff_id in diff_ids:
            if txn.get("layers", diff_id.raw) is None:
                raise NotFound(f"layer {diff_id} is not in the store")

    def get(self, image: Digest) -> ImageRecord:
        """By full ID. Raises ImageNotFound."""
        with self._root.index.view() as txn:
            record = read_image(txn, image)
        if record is None:
            raise ImageNotFound(f"No such image: {image}")
        return record

    def resolve(self, name: str) -> ImageRecord:
        """What a user calls an image: a name, `name:tag`, `name@digest`, an ID or a unique start of one.

        A name goes before an ID that starts the same, as with docker.

        Raises:
            ImageNotFound: `No such image: NAME:TAG`.
            Ambiguous: several IDs start so; `candidates` has them.
            InvalidInput: no reference at all.
        """
        return self.find(name)[0]

    def find(self, name: str) -> tuple[ImageRecord, Reference | None]:
        """`resolve`, and the name (as the row has it) when it was one, None when it was an ID."""
        with self._root.index.view() as txn:
            return find_image(txn, name)

    def config(self, record: ImageRecord) -> ImageConfig:
        """The parsed config, verified. Raises as `raw_config`."""
        raw, what = self.raw_config(record), f"config of image {record.id.short}"
        return _parsed(raw, what) if len(raw) <= _SMALL else ImageConfig.parse(raw, what=what)

    def raw_config(self, record: ImageRecord) -> bytes:
        """The config's bytes, verified.

        Raises:
            ImageNotFound: it was removed meanwhile. Corrupt: the blob is damaged or missing.
        """
        known = record
        while True:
            try:
                return self._read_config(known.id)
            except NotFound:
                with self._root.index.view() as txn:
                    now = read_image(txn, known.id)
                if now is None:
                    raise ImageNotFound(f"No such image: {known.id}") from None
                if now.added_ns == known.added_ns:  # else it was removed, and is there again
                    raise Corrupt(f"the config of image {known.id} is missing from the store") from None
                known = now

    def _read_config(self, id: Digest) -> bytes:
        return self._root.blobs.read(id, limit=CONFIG_MAX)

    def manifest(self, digest: Digest | None) -> Manifest | None:
        """A manifest that an image or a name came with, if it is still kept."""
        if digest is None or not self._root.blobs.has(digest):
            return None
        raw, kind = self._root.blobs.read(digest), str(self._root.blobs.stat(digest).get("media_type", ""))
        return _parsed_manifest(raw, kind) if len(raw) <= _SMALL else _parsed_manifest.__wrapped__(raw, kind)

    def tags(self, image: Digest) -> list[Tag]:
        """All names of an image, sorted."""
        with self._root.index.view() as txn:
            return [tag for tag in scan_tags(txn) if tag.image == image]

    def names(self) -> dict[Digest, list[Tag]]:
        """The names of every image that has some."""
        found: dict[Digest, list[Tag]] = {}
        with self._root.index.view() as txn:
            for tag in scan_tags(txn):
                found.setdefault(tag.image, []).append(tag)
        return found

    def size(self, record: ImageRecord) -> int:
        """Bytes of files, summed over the layers, as docker counts."""
        with self._root.index.view() as txn:
            sizes = layer_sizes(txn, set(record.diff_ids))
        return sum(sizes[diff_id] for diff_id in record.diff_ids)

    def tag(self, source: str | Digest, reference: Reference, *, manifest: Digest | None = None) -> ImageRecord:
        """Gives an image one more name; a name that means another image moves.

        `manifest` is the manifest this name stands for (a pull or push knows it); else the source name's own.

        Raises:
            ImageNotFound; InvalidInput: a name by digest (only for a source by ID, as a pull gives it), or `sha256:…`.
        """
        if reference.familiar_name == "sha256":
            raise InvalidInput("refusing to create an ambiguous tag using digest algorithm as name")
        if reference.digest is not None and not isinstance(source, Digest):
            raise InvalidInput("refusing to create a tag with a digest reference")
        with self._root.index.update() as txn:
            if isinstance(source, Digest):
                found, name = read_image(txn, source), None
            else:
                found, name = find_image(txn, source)
            if found is None:
                raise ImageNotFound(f"No such image: {source}")
            old = read_tag(txn, name) if name else None
            digest = manifest or reference.digest or (old.manifest if old else None)
            index = old.index if old and digest == old.manifest else None
            txn.put_json("references", reference.key.encode(), Tag(reference, found.id, digest, index).row())
        return found

    def untag(self, reference: Reference) -> Digest:
        """Takes a name away; the image stays. Returns the image's ID. Raises ImageNotFound."""
        with self._root.index.update() as txn:
            tag = read_tag(txn, reference)
            if tag is None:
                raise ImageNotFound(f"No such image: {reference.tagged().familiar}")
            txn.delete("references", reference.key.encode())
        return tag.image

    def remove(self, name: str, *, users: Users, force: bool = False, prune: bool = True) -> list[Removed]:
        """`docker rmi`: untags, and removes the image with its last name, then its unused untagged parents.

        `users` tells which containers stand on an image. Layers and contents go with the next `gc`.

        Raises:
            Conflict (an InUse): docker's words; ImageNotFound; Ambiguous.
        """
        from layerfs.image.removal import Remover

        with self._root.index.update() as txn:
            record, reference = find_image(txn, name)
            remover = Remover(list(scan_images(txn)), list(scan_tags(txn)), users)
            plan = remover.remove(record.id, name, reference, force=force, prune=prune)
            for gone in plan.references:
                txn.delete("references", gone.key.encode())
            for image in plan.images:
                txn.delete("images", image.raw)
        return plan.lines

    def list(self, filters: Mapping[str, Sequence[str]] | None = None, *, show_all: bool = False) -> list[ImageSummary]:
        """Newest first, as `docker images`; untagged parents only with `show_all`.

        filters: `dangling label before since until reference`, each with its values.
        """
        from layerfs.image.filters import Filters, ImageSummary

        chosen = Filters(filters or {}, created=lambda name: self.resolve(name).created_ns or 0)
        with self._root.index.view() as txn:
            records, tags = list(scan_images(txn)), list(scan_tags(txn))
            sizes = layer_sizes(txn, {diff_id for record in records for diff_id in record.diff_ids})
        parents = {record.parent for record in records}
        names: dict[Digest, list[Tag]] = {}
        for tag in tags:
            names.setdefault(tag.image, []).append(tag)
        summaries = [
            ImageSummary(
                record,
                tuple(tag for tag in names.get(record.id, ()) if not tag.by_digest),
                tuple(tag for tag in names.get(record.id, ()) if tag.by_digest),
                sum(sizes.get(diff_id, 0) for diff_id in record.diff_ids),
                record.id in parents,
            )
            for record in records
        ]
        summaries.sort(key=lambda summary: (-(summary.record.created_ns or 0), -summary.record.added_ns))
        return chosen.apply(summaries, lambda record: dict(self.config(record).config.labels), show_all=show_all)


def layer_sizes(txn: Txn, diff_ids: Iterable[DiffID]) -> dict[DiffID, int]:
    """Docker's layer size (bytes of files) of each layer; 0 for one whose row is missing."""
    rows: dict[DiffID, Any] = {diff_id: txn.get_json("layers", diff_id.raw) for diff_id in diff_ids}
    return {diff_id: int(row.get("size", 0)) if isinstance(row, dict) else 0 for diff_id, row in rows.items()}


def _merged(old: ImageRecord | None, new: ImageRecord) -> ImageRecord:
    if old is None:
        return new
    if old.manifest is not None:  # blobs of both are this image's; the first manifest's are in the order of its layers
        blobs = (*old.layer_blobs, *(blob for blob in new.layer_blobs if blob not in old.layer_blobs))
        new = replace(new, manifest=old.manifest, layer_blobs=blobs)
    return replace(new, added_ns=old.added_ns, parent=old.parent or new.parent)
