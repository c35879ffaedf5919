"""What images take: docker's sizes for `system df`, and what `gc` must keep for them."""

from __future__ import annotations

from collections import Counter

from layerfs._record import dataclass
from layerfs.digest import Digest, chain_id
from layerfs.errors import LayerfsError
from layerfs.image.images import Images, layer_sizes
from layerfs.image.record import ImageRecord, Tag, scan_images, scan_tags
from layerfs.oci import Index, parse_document
from layerfs.store.index import Txn
from layerfs.store.mark import Roots
from layerfs.store.root import StoreRoot


@dataclass(frozen=True, slots=True)
class ImageUsage:
    """Bytes of files. `shared`: in layers that other images have too; `unique`: the rest; they add up to `size`."""

    record: ImageRecord
    tags: tuple[Tag, ...]
    size: int
    shared: int

    @property
    def unique(self) -> int:
        return self.size - self.shared


@dataclass(frozen=True, slots=True)
class ImagesUsage:
    """`total` counts every layer once."""

    images: tuple[ImageUsage, ...]
    total: int


def images_usage(root: StoreRoot) -> ImagesUsage:
    with root.index.view() as txn:
        records, tags = list(scan_images(txn)), list(scan_tags(txn))
        owners = Counter(diff_id for record in records for diff_id in set(record.diff_ids))
        sizes = layer_sizes(txn, owners)
    usages = []
    for record in records:
        shared = sum(sizes[diff_id] for diff_id in record.diff_ids if owners[diff_id] > 1)
        size = sum(sizes[diff_id] for diff_id in record.diff_ids)
        usages.append(ImageUsage(record, tuple(tag for tag in tags if tag.image == record.id), size, shared))
    return ImagesUsage(tuple(usages), sum(sizes.values()))


def image_roots(root: StoreRoot, txn: Txn) -> Roots:
    """What `gc` must keep for images, tagged or not: configs, manifests (also those of single names), layers, trees.

    A name may stand for another manifest than its image came with first; its layers' blobs are kept as well. So is the
    index that a name stands for in its registry, with what the store has of it.
    """
    records = list(scan_images(txn))
    blobs = {digest.raw for record in records for digest in (record.id, *record.layer_blobs)}
    first, tags = {record.manifest for record in records}, list(scan_tags(txn))
    others = {tag.manifest for tag in tags} - first
    blobs |= {manifest.raw for manifest in first | others if manifest is not None}
    blobs |= {digest.raw for manifest in others if manifest for digest in _layers(root, manifest)}
    for index in {tag.index for tag in tags if tag.index}:
        blobs |= {digest.raw for digest in _index(root, index)}
    return Roots(
        images=frozenset(record.id.raw for record in records),
        layers=frozenset(diff_id.raw for record in records for diff_id in record.diff_ids),
        chains=frozenset(chain_id(record.diff_ids).raw for record in records if record.diff_ids),
        blobs=frozenset(blobs),
    )


def _layers(root: StoreRoot, manifest: Digest) -> list[Digest]:
    """The layer blobs that a kept manifest names; none when it is not kept or damaged, which is fsck's to tell."""
    try:
        parsed = Images(root).manifest(manifest)
    except LayerfsError:
        return []
    return [layer.digest for layer in parsed.layers] if parsed else []


def _index(root: StoreRoot, index: Digest) -> set[Digest]:
    """An index and all below it that is kept: manifests, configs, layers, whatever they are of."""
    found, waiting = {index}, [index]
    while waiting:
        digest = waiting.pop()
        try:
            document = parse_document(root.blobs.read(digest), str(root.blobs.stat(digest)["media_type"]))
        except LayerfsError:
            continue
        if isinstance(document, Index):
            below = {entry.digest for entry in document.manifests}
            known = {entry.digest for entry in document.known}
            waiting += [each for each in known - found if root.blobs.has(each)]
        else:
            below = {each.digest for each in (document.config, *document.layers)}
        found |= below
    return found
