"""Records of the OCI and docker specifications: bytes in, records out, bytes back.

Every record is frozen and keeps the raw bytes that its digest was made from; nothing received is ever re-encoded.
"""

from __future__ import annotations

from layerfs._lazy import TYPE_CHECKING, loader

if TYPE_CHECKING:
    from layerfs.oci.config import ContainerConfig, Healthcheck, History, ImageConfig, build_config
    from layerfs.oci.descriptor import Descriptor, Platform
    from layerfs.oci.manifest import Index, Manifest, build_index, build_manifest, parse_document

__getattr__ = loader(
    __name__,
    {
        "ContainerConfig": "config",
        "Descriptor": "descriptor",
        "Healthcheck": "config",
        "History": "config",
        "ImageConfig": "config",
        "Index": "manifest",
        "Manifest": "manifest",
        "Platform": "descriptor",
        "build_config": "config",
        "build_index": "manifest",
        "build_manifest": "manifest",
        "parse_document": "manifest",
    },
)

__all__ = [
    "ContainerConfig",
    "Descriptor",
    "Healthcheck",
    "History",
    "ImageConfig",
    "Index",
    "Manifest",
    "Platform",
    "build_config",
    "build_index",
    "build_manifest",
    "parse_document",
]
