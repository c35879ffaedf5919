"""Images of what containers hold: one layer above their image, whatever snapshots lie between."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from layerfs.digest import DiffID
from layerfs.engine.image import Image
from layerfs.engine.points import made_points
from layerfs.engine.snapshots import stack_of_state, steady
from layerfs.image.commit import commit_image
from layerfs.image.images import Images
from layerfs.layer.commit import commit_layer
from layerfs.layer.fold import fold_layers
from layerfs.layer.merged import merged_tree
from layerfs.reference import Reference
from layerfs.snapshot.absorb import pin_stack

if TYPE_CHECKING:
    from layerfs.engine.container import Container
    from layerfs.layer.progress import Report
    from layerfs.snapshot import ContainerRecord
    from layerfs.store.leases import Lease


def commit(
    box: Container,
    tag: str | None,
    *,
    state: str | None = None,
    message: str = "",
    author: str = "",
    changes: Sequence[str] = (),
    progress: Report | None = None,
) -> Image:
    """An image of what a container holds now, or (`state`) of one of its states. See Container.commit."""
    references = [Reference.parse(tag).tagged()] if tag else []
    root = box.store.root
    parent = box.store.image_of(box.record)
    config = box.settings.config(Images(root).config(parent).config)
    with root.leases.acquire("commit") as lease:

        def made(record: ContainerRecord) -> DiffID | None:
            return _layer(box, record, lease, parent.diff_ids, state, progress)

        image = commit_image(
            root,
            parent,
            steady(box, made) if state is None else made(box.record),
            config,
            command=[*(config.entrypoint or ()), *(config.cmd or ())],
            author=author,
            message=message,
            changes=changes,
            references=references,
        )
    return Image(box.store, image)


def _layer(
    box: Container,
    record: ContainerRecord,
    lease: Lease,
    image: tuple[DiffID, ...],
    state: str | None,
    progress: Report | None,
) -> DiffID | None:
    """What makes of the image what is wanted; None when that is nothing."""
    root = box.store.root
    stack = stack_of_state(box.store, record, record.base if state is None else state)
    pin_stack(lease, stack)
    tree = merged_tree(root, stack)
    if state is None:
        table = box.store.container_table
        index, hidden = table.work(record) / "index", made_points(box.directory)
        layer = commit_layer(
            root, table.upper(record), tree, lease=lease, index=index, progress=progress, hidden=hidden
        )
        stack = (*stack, layer.diff_id) if layer else stack
    above = stack[len(image) :]
    if len(above) <= 1:
        return above[0] if above else None
    folded = fold_layers(root, image, above, lease=lease)
    return folded.diff_id if folded else None
