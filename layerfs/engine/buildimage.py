"""The end of a build: an image of the state that was reached."""

from __future__ import annotations

from typing import TYPE_CHECKING

from layerfs._record import replace
from layerfs.build.config import State
from layerfs.digest import Digest
from layerfs.engine.image import Image
from layerfs.errors import ImageNotFound
from layerfs.image.images import Images
from layerfs.oci import ImageConfig

if TYPE_CHECKING:
    from collections.abc import Sequence

    from layerfs.build.cachekeys import Made
    from layerfs.engine.build import BuildOptions
    from layerfs.engine.store import Store
    from layerfs.store.leases import Lease


def finished(
    store: Store,
    lease: Lease,
    options: BuildOptions,
    state: State,
    now_ns: int,
    inline: Sequence[Made] | None = None,
) -> Image:
    """The image under its names; nothing is written when it is there already, and has them. `inline`: the records of
    its steps, for an image that is its own cache."""
    epoch_ns = None if options.epoch is None else options.epoch * 1_000_000_000
    if options.squash:
        from layerfs.build.squash import squashed

        state = squashed(store.root, state.base, state, lease, epoch_ns)
    if epoch_ns is not None:
        state = replace(state, created_ns=epoch_ns)
    config = state.image(options.labels or {}, state.created_ns if state.created_ns is not None else now_ns)
    if inline is not None:
        from layerfs.build.cacheplaces import with_inline

        config = ImageConfig.parse(with_inline(config.raw, inline))
    images = Images(store.root)
    lease.pin(config.id.raw)
    if not _is_there(images, config, options):
        parent = Digest.parse(state.parent) if options.legacy and state.parent else None
        if parent == config.id:
            parent = None
        images.add(config, references=options.tags, parent=parent)
    return Image(store, images.get(config.id))


def _is_there(images: Images, config: ImageConfig, options: BuildOptions) -> bool:
    try:
        images.get(config.id)
    except ImageNotFound:
        return False
    named = {tag.reference for tag in images.tags(config.id)}
    return all(tag in named for tag in options.tags)
