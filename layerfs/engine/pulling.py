"""Pulling into a store, and having an image at hand: pulled when it is missing."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, BinaryIO

from layerfs.engine.image import Image
from layerfs.errors import ImageNotFound, InvalidInput
from layerfs.layer.layers import get_sources
from layerfs.oci import Platform
from layerfs.reference import Reference

if TYPE_CHECKING:
    from layerfs.digest import DiffID, Digest
    from layerfs.engine.store import Store
    from layerfs.layer.progress import Report
    from layerfs.registry.config import Settings
    from layerfs.registry.connect import Registries
    from layerfs.registry.pull import Pulled as Pulled

POLICIES = ("always", "missing", "never")


def _registries(store: Store | None = None, settings: Settings | None = None) -> Registries:
    from layerfs.registry.config import Settings
    from layerfs.registry.connect import Registries

    if store is None:
        return Registries(settings or Settings.load(os.environ))
    return Registries(settings or store.connections.settings(), kept=store.connections)


def pull(
    store: Store,
    name: str,
    *,
    platform: str | None = None,
    all_platforms: bool = False,
    settings: Settings | None = None,
    progress: Report | None = None,
) -> Pulled:
    """See Store.pull."""
    from layerfs.registry.pull import Puller

    reference, wanted = Reference.parse(name), Platform.parse(platform) if platform else None
    with _registries(store, settings) as registries, store.root.leases.acquire("pull") as lease:
        return Puller(store.root, registries, reference, lease, progress).pull(wanted, everything=all_platforms)


def tags_to_pull(name: str, *, settings: Settings | None = None) -> list[Reference]:
    """Every tag that a repository has in its registry."""
    from layerfs.registry.pull import all_tags

    with _registries(settings=settings) as registries:
        return all_tags(registries, Reference.parse(name))


def at_hand(
    store: Store,
    name: str,
    policy: str = "missing",
    *,
    platform: str | None = None,
    fetch: Callable[[str], object],
) -> Image:
    """An image by any name, after `fetch(name)` where docker's policy wants that.

    Raises:
        ImageNotFound: it is not here, and the policy is `never`, or the name is none that a registry could know.
    """
    if policy not in POLICIES:
        raise InvalidInput(f'invalid pull option: \'{policy}\': must be one of "always", "missing" or "never"')
    try:
        found = store.image(name)
        fits = platform is None or found.config.platform.fits(Platform.parse(platform))
        if policy == "never" or (policy == "missing" and fits):
            return found
    except ImageNotFound:
        if policy == "never" or not _is_name(name):
            raise
    fetch(name)
    return store.image(name)


def _is_name(text: str) -> bool:
    """Whether a registry could have it: not an ID."""
    try:
        return Reference.parse(text).familiar_name != "sha256"
    except InvalidInput:
        return False


def fetched_layers(store: Store, diff_id: DiffID) -> Iterator[BinaryIO]:
    """A layer's tar from the registries it came from; nothing where there are none."""
    if any(source.kind == "registry" for source in get_sources(store.root, diff_id)):
        from layerfs.registry import again

        with _registries(store) as registries:
            yield from again.fetched_layers(store.root, diff_id, registries)


def fetched_blobs(store: Store, digest: Digest) -> Iterator[BinaryIO]:
    """A blob from the registries it came from."""
    from layerfs.registry import again

    with _registries(store) as registries:
        yield from again.fetched_blobs(store.root, digest, registries)
