"""Media types of both families (image-spec media-types.md; docker's schema 2)."""

from __future__ import annotations

from layerfs._lazy import TYPE_CHECKING

if TYPE_CHECKING:
    from typing import Literal

    Compression = Literal["plain", "gzip", "zstd"]


OCI_INDEX = "application/vnd.oci.image.index.v1+json"
OCI_MANIFEST = "application/vnd.oci.image.manifest.v1+json"
OCI_CONFIG = "application/vnd.oci.image.config.v1+json"
OCI_LAYER = "application/vnd.oci.image.layer.v1.tar"
OCI_LAYER_GZIP = OCI_LAYER + "+gzip"
OCI_LAYER_ZSTD = OCI_LAYER + "+zstd"
OCI_EMPTY = "application/vnd.oci.empty.v1+json"

DOCKER_INDEX = "application/vnd.docker.distribution.manifest.list.v2+json"
DOCKER_MANIFEST = "application/vnd.docker.distribution.manifest.v2+json"
DOCKER_CONFIG = "application/vnd.docker.container.image.v1+json"
DOCKER_LAYER = "application/vnd.docker.image.rootfs.diff.tar"
DOCKER_LAYER_GZIP = DOCKER_LAYER + ".gzip"
DOCKER_LAYER_ZSTD = DOCKER_LAYER + ".zstd"

INDEXES = frozenset({OCI_INDEX, DOCKER_INDEX})
MANIFESTS = frozenset({OCI_MANIFEST, DOCKER_MANIFEST})
CONFIGS = frozenset({OCI_CONFIG, DOCKER_CONFIG})
SCHEMA_1 = frozenset(
    {
        "application/vnd.docker.distribution.manifest.v1+json",
        "application/vnd.docker.distribution.manifest.v1+prettyjws",
    }
)

_NONDISTRIBUTABLE = "application/vnd.oci.image.layer.nondistributable.v1.tar"
_FOREIGN = "application/vnd.docker.image.rootfs.foreign.diff.tar"
_PLUS: tuple[tuple[str, Compression], ...] = (("", "plain"), ("+gzip", "gzip"), ("+zstd", "zstd"))
_DOT: tuple[tuple[str, Compression], ...] = (("", "plain"), (".gzip", "gzip"), (".zstd", "zstd"))
_LAYERS = {
    base + suffix: compression
    for base, suffixes in ((OCI_LAYER, _PLUS), (_NONDISTRIBUTABLE, _PLUS), (DOCKER_LAYER, _DOT), (_FOREIGN, _DOT))
    for suffix, compression in suffixes
}


def layer_compression(media_type: str) -> Compression | None:
    """How a layer of this type is compressed by its name; None when it is no layer type.

    The name is a hint only: readers look at the bytes.
    """
    return _LAYERS.get(media_type)


def is_foreign(media_type: str) -> bool:
    """True for layers that a registry does not have to hold (they come with `urls`)."""
    return media_type.startswith((_NONDISTRIBUTABLE, _FOREIGN))


def oci_layer(compression: Compression) -> str:
    return {"plain": OCI_LAYER, "gzip": OCI_LAYER_GZIP, "zstd": OCI_LAYER_ZSTD}[compression]
