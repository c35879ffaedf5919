"""An image in a store."""

from __future__ import annotations

import os
from pathlib import Path

from layerfs._lazy import TYPE_CHECKING
from layerfs._record import dataclass
from layerfs.digest import ChainID, DiffID, Digest, chain_ids
from layerfs.engine.mounts import mount_image
from layerfs.errors import ImageNotFound
from layerfs.image.images import Images

if TYPE_CHECKING:
    from typing import Any, BinaryIO

    from layerfs.engine.records import Changes
    from layerfs.engine.store import Store
    from layerfs.image.history import HistoryRow
    from layerfs.image.record import ImageRecord
    from layerfs.image.save import Saved
    from layerfs.image.waste import Waste
    from layerfs.layer.tree import Tree
    from layerfs.oci import Descriptor, ImageConfig
    from layerfs.snapshot import MountHandle
    from layerfs.snapshot.options import Options


@dataclass(frozen=True, slots=True)
class Layer:
    """One layer of an image. `size`: bytes of its files, as docker counts; `tar_size`: of its tar; `blob`: the
    compressed form kept.
    """

    diff_id: DiffID
    chain_id: ChainID
    size: int
    tar_size: int
    blob: Descriptor | None


class Image:
    """An image; immutable, and good as long as it is in the store."""

    def __init__(self, store: Store, record: ImageRecord) -> None:
        self.store, self.record = store, record
        self._config: ImageConfig | None = None

    def __repr__(self) -> str:
        return f"<layerfs.Image {self.short_id} {' '.join(self.tags)}>".replace(" >", ">")

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Image) and (self.record.id, self.store.path) == (other.record.id, other.store.path)

    def __hash__(self) -> int:
        return hash(self.record.id)

    @property
    def id(self) -> str:
        """The digest of the config: `sha256:<64 hex>`."""
        return str(self.record.id)

    @property
    def short_id(self) -> str:
        """Twelve hex digits, as docker prints them."""
        return self.record.id.short

    @property
    def digest(self) -> Digest | None:
        """The digest of the manifest it came with."""
        return self.record.manifest

    @property
    def tags(self) -> tuple[str, ...]:
        """Its names now, in docker's short form."""
        found = Images(self.store.root).tags(self.record.id)
        return tuple(tag.reference.familiar for tag in found if not tag.by_digest)

    @property
    def config(self) -> ImageConfig:
        """The parsed config; `.raw` has its bytes. Raises Corrupt when they are damaged."""
        if self._config is None:
            self._config = Images(self.store.root).config(self.record)
        return self._config

    @property
    def layers(self) -> tuple[Layer, ...]:
        """Base first, each with its sizes."""
        from layerfs.layer import get_layer

        found = []
        for diff_id, chain in zip(self.record.diff_ids, chain_ids(self.record.diff_ids), strict=True):
            layer = get_layer(self.store.root, diff_id)
            found.append(Layer(diff_id, chain, layer.size, layer.tar_size, layer.blob))
        return tuple(found)

    @property
    def size(self) -> int:
        """Bytes of files, summed over the layers, as `docker images` counts."""
        return Images(self.store.root).size(self.record)

    @property
    def parent(self) -> Image | None:
        """The local image this one was committed on."""
        return self.store.image(str(self.record.parent)) if self.record.parent else None

    def provides(self, platform: str) -> bool:
        """Whether it is of `os/architecture[/variant]`; a variant that is not named may be any. Raises InvalidInput."""
        from layerfs.oci import Platform

        own, wanted = self.config.platform, Platform.parse(platform)
        same = (own.os, own.architecture) == (wanted.os, wanted.architecture)
        return same and wanted.normal_variant in ("", own.normal_variant)

    def check_platform(self, name: str, platform: str | None) -> None:
        """Nothing where it is of that platform, or none is named. Raises ImageNotFound in docker's words."""
        if platform and not self.provides(platform):
            why = f"was found but does not provide the specified platform ({platform})"
            raise ImageNotFound(f"image with reference {name} {why}")

    def inspect(self) -> dict[str, Any]:
        """All there is to know of it, in the form of docker's `image inspect`."""
        from layerfs.engine.inspection import inspect_image

        return inspect_image(self)

    def history(self) -> list[HistoryRow]:
        """`docker history`'s rows, newest first; `id` is None where docker prints `<missing>`."""
        from layerfs.image.history import history

        return history(self.store.root, self.record)

    def tag(self, name: str) -> None:
        """Give it one more name."""
        self.store.tag(self.id, name)

    def tree(self) -> Tree:
        """Its merged tree, for reading without a mount."""
        from layerfs.layer import merged_tree

        return merged_tree(self.store.root, self.record.diff_ids)

    def mount(
        self, target: str | os.PathLike[str] | None = None, *, engine: str | None = None, options: Options = ()
    ) -> MountHandle:
        """Mount it read-only, at `target` or at a new place in the store.

        Use it with `with`: that gives a pathlib.Path and unmounts at the end. engine: `kernel`, `python`, None for
        the best one here.

        Raises:
            MountError, Unsupported, InUse, InvalidInput.
        """
        return mount_image(self.store, self.record, None if target is None else Path(target), engine, options)

    def diff(self, other: Image) -> Changes:
        """What `other` has otherwise: added, changed, deleted, with sizes."""
        return self.store.diff(self, other)

    def waste(self) -> Waste:
        """What it stores for nothing: `.files` that later layers hide, `.duplicates`, `.wasted` and `.total` bytes."""
        from layerfs.image.waste import find_waste

        return find_waste(self.store.root, self.record.diff_ids)

    def optimize(self, tag: str | None = None) -> Image:
        """An equal image without that waste: each file once, in the lowest layer that brought its bytes. The flattened
        trees are compared. Returns itself when there is nothing to gain.
        """
        from layerfs.image.optimize import optimize
        from layerfs.reference import Reference

        references = [Reference.parse(tag).tagged()] if tag else []
        return Image(self.store, optimize(self.store.root, self.record, references))

    def export(self, target: str | os.PathLike[str] | BinaryIO) -> None:
        """Write the whole file system as one tar."""
        self.store.export(self, target)

    def save(self, target: str | os.PathLike[str] | BinaryIO, **options: Any) -> list[Saved]:
        """Write it as an archive under all its names; see Store.save."""
        return self.store.save(self.tags or [self.id], target, **options)
