"""From what a user calls an image to its record: names go before IDs, IDs may be cut short."""

from __future__ import annotations

from layerfs._lazy import pattern
from layerfs.digest import Digest
from layerfs.errors import Ambiguous, Corrupt, ImageNotFound, InvalidInput
from layerfs.image.record import ImageRecord, Tag, read_image, read_tag, scan_tags
from layerfs.reference import Reference
from layerfs.store.index import Txn

_ID = pattern(r"(?:sha256:)?([0-9a-f]{1,64})\Z")


def find_image(txn: Txn, name: str) -> tuple[ImageRecord, Reference | None]:
    """The image, and the name of the row that means it, None when it was an ID. Errors: see `Images.resolve`."""
    match = _ID.match(name)
    if match and len(match[1]) == 64:
        record = read_image(txn, Digest(match[1]))
        if record is None:
            raise ImageNotFound(f"No such image: sha256:{match[1]}")
        return record, None
    reference: Reference | None = None
    try:
        reference = Reference.parse(name).tagged()
    except InvalidInput:
        if not match:
            raise
    tag = _find_tag(txn, reference) if reference else None
    if tag is not None:
        record = read_image(txn, tag.image)
        if record is None:
            raise Corrupt(f"{tag.reference} means the image {tag.image}, which is missing")
        return record, tag.reference
    if match:
        found = [
            Digest.from_raw(key) for key, _ in txn.scan("images", _prefix(match[1])) if key.hex().startswith(match[1])
        ]
        if len(found) == 1:
            record = read_image(txn, found[0])
            assert record is not None
            return record, None
        if found:
            candidates = tuple(map(str, found))
            raise Ambiguous(
                f"multiple IDs found with provided prefix: {match[1]} ({', '.join(candidates)})", candidates=candidates
            )
    raise ImageNotFound(f"No such image: {reference.familiar if reference else name}")


def _find_tag(txn: Txn, reference: Reference) -> Tag | None:
    """The row of a name; a digest that no row has is looked for among those of the repository's tags."""
    tag = read_tag(txn, reference)
    if tag is None and reference.digest is not None:
        tags = (tag for tag in scan_tags(txn, reference.name + ":") if reference.digest in (tag.manifest, tag.index))
        tag = next(tags, None)
    return tag


def _prefix(digits: str) -> bytes:
    return bytes.fromhex(digits[: len(digits) // 2 * 2])
