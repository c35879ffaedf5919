"""`docker history`: one row for each instruction, newest first (reference facts 1.5)."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from layerfs._record import dataclass
from layerfs.digest import Digest
from layerfs.image.images import Images, layer_sizes
from layerfs.image.record import ImageRecord, read_image
from layerfs.oci import History
from layerfs.store.root import StoreRoot

MISSING = "<missing>"


@dataclass(frozen=True, slots=True)
class HistoryRow:
    """`id` is None for instructions whose image is not known here; then docker prints `<missing>`."""

    id: Digest | None
    created_ns: int | None
    created_by: str
    size: int
    comment: str
    tags: tuple[str, ...] = ()

    @property
    def id_text(self) -> str:
        return MISSING if self.id is None else str(self.id)


def history(root: StoreRoot, record: ImageRecord) -> list[HistoryRow]:
    """The rows of an image. An image without history has none, as with docker."""
    images = Images(root)
    config = images.config(record)
    names = images.names()
    with root.index.view() as txn:
        sizes = layer_sizes(txn, set(config.diff_ids))
        ids = _identities(record, len(config.history), lambda parent: read_image(txn, parent))
    rows = []
    for image, entry, size in zip(
        ids, reversed(config.history), _sizes(config.history, [sizes[d] for d in config.diff_ids]), strict=True
    ):
        tags = tuple(tag.reference.familiar for tag in names.get(image, ()) if not tag.by_digest) if image else ()
        rows.append(HistoryRow(image, entry.created_ns, entry.created_by, size, entry.comment, tags))
    return rows


def _sizes(entries: Sequence[History], sizes: Sequence[int]) -> list[int]:
    """The size of each entry, newest first: that of its layer, 0 without one."""
    layers = iter(sizes)
    return [0 if entry.empty_layer else next(layers, 0) for entry in entries][::-1]


def _identities(record: ImageRecord, count: int, get: Callable[[Digest], ImageRecord | None]) -> list[Digest | None]:
    """The image of each row: the image itself, then its local parents as far as they are known."""
    ids: list[Digest | None] = []
    current: ImageRecord | None = record
    while current is not None and len(ids) < count:
        ids.append(current.id)
        current = get(current.parent) if current.parent else None
    return ids + [None] * (count - len(ids))
