"""From what a user calls an image to its record: names go before IDs, IDs may be cut short."""

from __future__ import annotations

from layerfs.digest import Digest, is_hex
from layerfs.errors import Ambiguous, Corrupt, ImageNotFound, InvalidInput
from layerfs.image.record import ImageRecord, Tag, read_image, read_tag, scan_tags
from layerfs.reference import Reference
from layerfs.store.index import Txn


def find_image(txn: Txn, name: str) -> tuple[ImageRecord, Reference | None]:
    """The image, and the name of the row that means it, None when it was an ID. Errors: see `Images.resolve`."""
    digits = _digits(name)
    if len(digits) == 64:
        record = read_image(txn, Digest(digits))
        if record is None:
            raise ImageNotFound(f"No such image: sha256:{digits}")
        return record, None
    reference: Reference | None = None
    try:
        reference = Reference.parse(name).tagged()
    except InvalidInput:
        if not digits:
            raise
    tag = _find_tag(txn, reference) if reference else None
    if tag is not None:
        record = read_image(txn, tag.image)
        if record is None:
            raise Corrupt(f"{tag.reference} means the image {tag.image}, which is missing")
        return record, tag.reference
    if digits:
        found = [Digest.from_raw(key) for key, _ in txn.scan("images", _prefix(digits)) if key.hex().startswith(digits)]
        if len(found) == 1:
            record = read_image(txn, found[0])
            assert record is not None
            return record, None
        if found:
            candidates = tuple(map(str, found))
            raise Ambiguous(
                f"multiple IDs found with provided prefix: {digits} ({', '.join(candidates)})", candidates=candidates
            )
    raise ImageNotFound(f"No such image: {reference.familiar if reference else name}")


def _find_tag(txn: Txn, reference: Reference) -> Tag | None:
    """The row of a name; a digest that no row has is looked for among those of the repository's tags."""
    tag = read_tag(txn, reference)
    if tag is None and reference.digest is not None:
        tags = (tag for tag in scan_tags(txn, reference.name + ":") if reference.digest in (tag.manifest, tag.index))
        tag = next(tags, None)
    return tag


def _digits(name: str) -> str:
    """Those of an ID or a start of one; "" for what is none."""
    digits = name.removeprefix("sha256:")
    return digits if is_hex(digits, min(len(digits), 64)) else ""


def _prefix(digits: str) -> bytes:
    return bytes.fromhex(digits[: len(digits) // 2 * 2])
