"""Rows of the `images` and `references` tables as records (docs/format.md)."""

from __future__ import annotations

from collections.abc import Iterator

from layerfs._lazy import TYPE_CHECKING
from layerfs._record import dataclass
from layerfs.digest import DiffID, Digest
from layerfs.errors import Corrupt
from layerfs.oci import Platform
from layerfs.reference import Reference
from layerfs.store.index import Txn

if TYPE_CHECKING:
    from typing import Any


@dataclass(frozen=True, slots=True)
class ImageRecord:
    """What the index knows of an image; the rest is in its config blob.

    `manifest` and `layer_blobs` (the compressed layers it names, base first) are those it came with, if any.
    `parent` is set for images committed or built here. Times are nanoseconds since the epoch.
    """

    id: Digest
    diff_ids: tuple[DiffID, ...]
    platform: Platform
    created_ns: int | None
    added_ns: int
    manifest: Digest | None = None
    layer_blobs: tuple[Digest, ...] = ()
    parent: Digest | None = None

    @classmethod
    def from_row(cls, key: bytes, row: Any) -> ImageRecord:
        try:
            os, architecture, variant = map(str, row["platform"])
            return cls(
                Digest.from_raw(key),
                tuple(DiffID(Digest(str(text))) for text in row["diff_ids"]),
                Platform(os, architecture, variant),
                None if row["created"] is None else int(row["created"]),
                int(row["added"]),
                _digest(row["manifest"]),
                tuple(Digest(str(text)) for text in row["blobs"]),
                _digest(row["parent"]),
            )
        except (KeyError, TypeError, ValueError) as error:
            raise Corrupt(f"the row of image sha256:{key.hex()} is damaged ({error})") from None

    def row(self) -> dict[str, Any]:
        return {
            "added": self.added_ns,
            "blobs": [digest.hex for digest in self.layer_blobs],
            "created": self.created_ns,
            "diff_ids": [diff_id.hex for diff_id in self.diff_ids],
            "manifest": self.manifest.hex if self.manifest else None,
            "parent": self.parent.hex if self.parent else None,
            "platform": [self.platform.os, self.platform.architecture, self.platform.variant],
        }


@dataclass(frozen=True, slots=True, order=True)
class Tag:
    """A row of `references`: a name (by tag or by digest) and the image it means now.

    `manifest`: the image's own that the name stands for. `index`: what the registry has under the name, when that is
    an index of several.
    """

    reference: Reference
    image: Digest
    manifest: Digest | None = None
    index: Digest | None = None

    @property
    def digest(self) -> Digest | None:
        """What the registry has under the name."""
        return self.index or self.manifest

    @property
    def by_digest(self) -> bool:
        return self.reference.digest is not None

    @classmethod
    def from_row(cls, key: bytes, row: Any) -> Tag:
        try:
            reference, manifest, index = Reference.parse(key.decode()), row["manifest"], row.get("index")
            return cls(reference, Digest(str(row["image"])), _digest(manifest), _digest(index))
        except (KeyError, TypeError, ValueError, OSError) as error:
            raise Corrupt(f"the row of reference {key!r} is damaged ({error})") from None

    def row(self) -> dict[str, Any]:
        row: dict[str, Any] = {"image": self.image.hex, "manifest": self.manifest.hex if self.manifest else None}
        return row if self.index is None else row | {"index": self.index.hex}


def read_image(txn: Txn, image: Digest) -> ImageRecord | None:
    row = txn.get_json("images", image.raw)
    return None if row is None else ImageRecord.from_row(image.raw, row)


def read_tag(txn: Txn, reference: Reference) -> Tag | None:
    key = reference.key.encode()
    row = txn.get_json("references", key)
    return None if row is None else Tag.from_row(key, row)


def scan_images(txn: Txn) -> Iterator[ImageRecord]:
    for key, row in txn.scan_json("images"):
        yield ImageRecord.from_row(key, row)


def scan_tags(txn: Txn, name: str = "") -> Iterator[Tag]:
    """All tags, or those whose key starts with `name`, sorted by key."""
    for key, row in txn.scan_json("references", name.encode()):
        yield Tag.from_row(key, row)


def _digest(text: Any) -> Digest | None:
    return None if text is None else Digest(str(text))
