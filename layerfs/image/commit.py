"""New images from a parent, a layer and a config: the config is built by pure functions, then added."""

from __future__ import annotations

import time
from collections.abc import Iterable, Sequence

from layerfs.digest import DiffID, Digest
from layerfs.image.changes import apply_changes
from layerfs.image.images import Images
from layerfs.image.record import ImageRecord
from layerfs.oci import ContainerConfig, History, ImageConfig, Platform, build_config
from layerfs.reference import Reference
from layerfs.store.root import StoreRoot

EMPTY_TAR = DiffID(Digest("5f70bf18a086007016e948b04aed3b82103a36bea41755b6cddfaf10ace3c6ef"))


def child_config(
    parent: ImageConfig | None,
    diff_id: DiffID | None,
    config: ContainerConfig,
    *,
    created_ns: int,
    created_by: str = "",
    author: str = "",
    comment: str = "",
    platform: Platform | None = None,
) -> ImageConfig:
    """The config of a child image: the parent's layers and history and one entry more (reference facts 1.4).

    No layer, or that of the empty tar, makes an `empty_layer` entry, as docker has it.
    """
    empty = diff_id is None or diff_id == EMPTY_TAR
    entry = History(created_ns, created_by, author, comment, empty)
    layers = parent.diff_ids if parent else ()
    return build_config(
        platform=platform or (parent.platform if parent else Platform.host()),
        config=config,
        diff_ids=layers if empty or diff_id is None else (*layers, diff_id),
        history=(*(parent.history if parent else ()), entry),
        created_ns=created_ns,
        author=author,
    )


def commit_image(
    root: StoreRoot,
    parent: ImageRecord | None,
    diff_id: DiffID | None,
    config: ContainerConfig,
    *,
    command: Sequence[str] = (),
    author: str = "",
    message: str = "",
    changes: Iterable[str] = (),
    references: Iterable[Reference] = (),
    created_ns: int | None = None,
) -> ImageRecord:
    """`docker commit`: an image of `parent` (None: from scratch) plus a layer that is in the store (None: no change).

    Args:
        config: the container's config; `changes` (Dockerfile instructions) are applied to it.
        command: what the container ran, path and arguments; joined by blanks it is the entry's `created_by`.

    Hold a lease since before the layer was published.

    Raises:
        InvalidInput: a bad change; NotFound: the layer is not in the store.
    """
    images = Images(root)
    child = child_config(
        images.config(parent) if parent else None,
        diff_id,
        apply_changes(config, changes),
        created_ns=time.time_ns() if created_ns is None else created_ns,
        created_by=" ".join(command),
        author=author,
        comment=message,
    )
    return images.add(child, references=references, parent=parent.id if parent else None)
