"""The image layout: fixed names and the header file (image-spec image-layout.md)."""

from __future__ import annotations

from layerfs.digest import Digest
from layerfs.errors import InvalidArchive
from layerfs.oci.fields import load_object

HEADER = "oci-layout"
INDEX = "index.json"
HEADER_BYTES = b'{"imageLayoutVersion":"1.0.0"}'


def blob_path(digest: Digest) -> str:
    return f"blobs/sha256/{digest.hex}"


def check_header(raw: bytes) -> None:
    """Refuse a layout of another major version.

    Raises:
        InvalidArchive: no version, or not 1.x.
    """
    version = load_object(raw, HEADER, limit=1 << 16).text("imageLayoutVersion")
    if version.partition(".")[0] != "1":
        raise InvalidArchive(f"{HEADER} names the unsupported layout version {version!r}")
