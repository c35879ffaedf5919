"""From what a user calls a thing to the thing: containers, images, layers; and who stands on an image."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Sequence

from layerfs._lazy import TYPE_CHECKING
from layerfs.digest import DiffID, Digest
from layerfs.engine.container import Container
from layerfs.engine.image import Image
from layerfs.errors import Ambiguous, ContainerNotFound, ImageNotFound, InvalidInput, NotFound
from layerfs.image.images import Images

if TYPE_CHECKING:
    from typing import Any

    from layerfs.engine.store import Store
    from layerfs.image.record import ImageRecord
    from layerfs.image.removal import ImageUse
    from layerfs.snapshot import ContainerRecord


def container_or_image(store: Store, name: str) -> Container | Image:
    """Containers go first, as with docker. Raises NotFound."""
    try:
        return store.container(name)
    except ContainerNotFound:
        try:
            return store.image(name)
        except ImageNotFound:
            raise NotFound(f"No such container or image: {name}") from None


def image_of(store: Store, record: ContainerRecord) -> ImageRecord:
    """The image a container stands on, also when it was removed by force: its layers and config stay as long as the
    container.
    """
    from layerfs.image.record import ImageRecord
    from layerfs.oci import Platform

    try:
        return Images(store.root).get(Digest(record.image))
    except ImageNotFound:
        layers = tuple(DiffID(Digest(text)) for text in record.config.get("layers", ()))
        return ImageRecord(Digest(record.image), layers, Platform.host(), None, 0)


def users_of_images(store: Store) -> Callable[[Digest], Sequence[ImageUse]]:
    """The containers that stand on an image, and what has it mounted: looked up when first asked, so that within an
    update nothing can come between.
    """
    from layerfs.engine.state import State
    from layerfs.image.removal import ImageUse
    from layerfs.snapshot import MountTable

    @functools.cache
    def uses() -> dict[str, list[ImageUse]]:
        found: dict[str, list[ImageUse]] = {}
        for record in store.container_table.list():
            found.setdefault(record.image, []).append(
                ImageUse(record.id, State.read(record.state, store.container_table.path(record.id)).running)
            )
        for mounted in MountTable(store.root).live():
            if mounted.image and not mounted.container:
                found.setdefault(mounted.image, []).append(ImageUse(mounted.id, True))
        return found

    return lambda image: uses().get(image.hex, [])


def stack_of(store: Store, what: str | Image) -> tuple[DiffID, ...]:
    """The layers of an image, or one layer alone by its diff ID (`sha256:…` or a start of its digits).

    Raises:
        ImageNotFound, Ambiguous.
    """
    if isinstance(what, Image):
        return what.record.diff_ids
    try:
        return Images(store.root).resolve(what).diff_ids
    except ImageNotFound:
        layer = _layer_starting(store, what.removeprefix("sha256:"))
        if layer is None:
            raise
        return (layer,)


def tree_lines(store: Store, what: str) -> Iterator[str]:
    """The tree of an image, or of one layer by its diff ID, one line an entry (docs/format.md)."""
    from layerfs.layer import layer_tree, merged_tree
    from layerfs.layer.tree_text import tree_text

    try:
        tree = merged_tree(store.root, Images(store.root).resolve(what).diff_ids)
    except ImageNotFound:
        tree = layer_tree(store.root, stack_of(store, what)[0])
    return tree_text(tree)


def _layer_starting(store: Store, start: str) -> DiffID | None:
    with store.root.index.view() as txn:
        found = [key.hex() for key in txn.keys("layers") if key.hex().startswith(start)] if start else []
    if len(found) > 1:
        raise Ambiguous(
            f"multiple layers found with provided prefix: {start} ({', '.join(found)})", candidates=tuple(found)
        )
    return DiffID(Digest(found[0])) if found else None


def inspect(store: Store, name: str, kind: str | None, size: bool) -> dict[str, Any]:
    """A container or an image in docker's form. Raises NotFound."""
    from layerfs.engine.inspection import inspect_container, inspect_image

    if kind != "image":
        try:
            return inspect_container(store.container(name), size=size)
        except ContainerNotFound:
            if kind == "container":
                raise
    try:
        return inspect_image(store.image(name))
    except (ImageNotFound, InvalidInput):
        if kind == "image":
            raise
        raise NotFound(f"No such object: {name}") from None
