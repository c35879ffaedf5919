"""What images take: docker's sizes for `system df`, and what `gc` must keep for them."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

from layerfs.image.images import layer_sizes
from layerfs.image.record import ImageRecord, Tag, scan_images, scan_tags
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
