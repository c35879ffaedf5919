"""Records of the OCI and docker specifications: bytes in, records out, bytes back.

Every record is frozen and keeps the raw bytes that its digest was made from; nothing received is ever re-encoded.
"""

from layerfs.oci.config import ContainerConfig, Healthcheck, History, ImageConfig, build_config
from layerfs.oci.descriptor import Descriptor, Platform
from layerfs.oci.manifest import Index, Manifest, build_index, build_manifest, parse_document

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
