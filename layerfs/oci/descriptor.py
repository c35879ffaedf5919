"""Descriptors (a promise about a blob: type, digest, size) and platforms."""

from __future__ import annotations

import os

from layerfs._lazy import TYPE_CHECKING
from layerfs._record import dataclass
from layerfs.digest import Digest
from layerfs.errors import InvalidArchive, InvalidInput
from layerfs.oci.fields import Fields

if TYPE_CHECKING:
    from typing import Any

REF_NAME = "org.opencontainers.image.ref.name"
IMAGE_NAME = "io.containerd.image.name"

_MACHINES = {
    "x86_64": ("amd64", ""),
    "aarch64": ("arm64", ""),
    "armv7l": ("arm", "v7"),
    "armv6l": ("arm", "v6"),
    "i386": ("386", ""),
    "i686": ("386", ""),
    "ppc64le": ("ppc64le", ""),
    "riscv64": ("riscv64", ""),
    "s390x": ("s390x", ""),
    "loongarch64": ("loong64", ""),
}
_LEVELS = {"arm": "v7", "amd64": "v1"}  # variants that are ordered, and the one that is meant by none
_ARCHITECTURES = frozenset(_MACHINES) | {architecture for architecture, _ in _MACHINES.values()}
_SYSTEMS = frozenset(
    [
        "aix",
        "android",
        "darwin",
        "dragonfly",
        "freebsd",
        "illumos",
        "ios",
        "js",
        "linux",
        "netbsd",
        "openbsd",
        "plan9",
        "solaris",
        "windows",
    ]
)
_RARE = frozenset(
    [
        "amd64p32",
        "armbe",
        "arm64be",
        "loong64",
        "mips",
        "mipsle",
        "mips64",
        "mips64le",
        "ppc64",
        "riscv",
        "s390",
        "sparc",
        "sparc64",
        "wasm",
    ]
)


@dataclass(frozen=True, slots=True)
class Platform:
    """What an image runs on; `str()` is `os/architecture[/variant]`."""

    os: str
    architecture: str
    variant: str = ""
    os_version: str = ""
    os_features: tuple[str, ...] = ()

    @classmethod
    def host(cls) -> Platform:
        machine = os.uname().machine
        return cls("linux", *_MACHINES.get(machine, (machine, "")))

    @classmethod
    def parse(cls, text: str) -> Platform:
        """Parse `os/architecture[/variant]`, or `architecture[/variant]` (for linux), or an os alone.

        Raises:
            InvalidInput: empty, with more parts, or one word that is neither.
        """
        parts = text.lower().split("/")
        if not 1 <= len(parts) <= 3 or not all(parts):
            raise InvalidInput(f"invalid platform {text!r}: want os/architecture[/variant]")
        if len(parts) == 1 and parts[0] not in _SYSTEMS | _ARCHITECTURES | _RARE:
            raise InvalidInput(f'"{text}": unknown operating system or architecture: invalid argument')
        if len(parts) == 1 and parts[0] in _SYSTEMS:
            parts.append(cls.host().architecture)
        elif len(parts) == 1 or parts[0] in _ARCHITECTURES:
            parts.insert(0, "linux")
        if len(parts) > 3:
            raise InvalidInput(f"invalid platform {text!r}: want os/architecture[/variant]")
        architecture, variant = _MACHINES.get(parts[1], (parts[1], ""))
        return cls(parts[0], architecture, parts[2] if len(parts) == 3 else variant)

    @classmethod
    def read(cls, fields: Fields) -> Platform:
        return cls(
            fields.text("os"),
            fields.text("architecture"),
            fields.text("variant"),
            fields.text("os.version"),
            fields.texts("os.features") or (),
        )

    @property
    def normal_variant(self) -> str:
        return "" if (self.architecture, self.variant) == ("arm64", "v8") else self.variant

    @property
    def unknown(self) -> bool:
        """True for BuildKit's attestations, which are listed beside the images of an index."""
        return self.os == "unknown" and self.architecture == "unknown"

    def fits(self, wanted: Platform) -> bool:
        """True when this runs on `wanted`; a variant counts only when both name one.

        As containerd has it: arm64 without a variant is v8; an arm or amd64 processor runs what lower variants run.
        """
        if (self.os, self.architecture) != (wanted.os, wanted.architecture):
            return False
        mine, theirs = self.normal_variant, wanted.normal_variant
        return not mine or not theirs or mine == theirs or 0 < self._level < wanted._level

    def nearness(self, wanted: Platform) -> int:
        """Of two that fit the one with more of it is the better one."""
        if self.normal_variant == wanted.normal_variant:
            return 1000
        return self._level if self._level <= wanted._level else 0

    @property
    def _level(self) -> int:
        """The number in the variant; 0 where none counts."""
        usual = _LEVELS.get(self.architecture, "")
        digits = (self.variant or usual)[1:] if usual else ""
        return int(digits) if digits.isascii() and digits.isdigit() and len(digits) < 3 else 0

    def document(self) -> dict[str, Any]:
        values = {
            "architecture": self.architecture,
            "os": self.os,
            "os.version": self.os_version,
            "os.features": list(self.os_features),
            "variant": self.variant,
        }
        return {key: value for key, value in values.items() if value}

    def __str__(self) -> str:
        return "/".join(filter(None, (self.os, self.architecture, self.variant)))


@dataclass(frozen=True, slots=True)
class Descriptor:
    media_type: str
    digest: Digest
    size: int
    urls: tuple[str, ...] = ()
    annotations: tuple[tuple[str, str], ...] = ()
    platform: Platform | None = None
    artifact_type: str = ""
    data: bytes | None = None

    @classmethod
    def read(cls, fields: Fields) -> Descriptor:
        """From parsed JSON.

        Raises:
            InvalidArchive: a missing or wrong field, a negative size, inline data of another size or digest.
        """
        platform = fields.child("platform")
        descriptor = cls(
            fields.text("mediaType"),
            fields.digest("digest"),
            fields.integer("size", -1),
            fields.texts("urls") or (),
            fields.pairs("annotations"),
            Platform.read(platform) if platform else None,
            fields.text("artifactType"),
            _inline(fields),
        )
        if descriptor.size < 0:
            raise InvalidArchive(f"{fields.where}.size is missing or negative")
        data = descriptor.data
        if data is not None and (len(data) != descriptor.size or Digest.of(data) != descriptor.digest):
            raise InvalidArchive(f"{fields.where}.data does not have the descriptor's size and digest")
        return descriptor

    def annotation(self, name: str) -> str:
        return dict(self.annotations).get(name, "")

    def document(self) -> dict[str, Any]:
        """The JSON object, fields in the specification's order, empty ones left out."""
        values: dict[str, Any] = {"mediaType": self.media_type, "digest": str(self.digest), "size": self.size}
        if self.urls:
            values["urls"] = list(self.urls)
        if self.annotations:
            values["annotations"] = dict(sorted(self.annotations))
        if self.data is not None:
            import base64

            values["data"] = base64.b64encode(self.data).decode()
        if self.platform:
            values["platform"] = self.platform.document()
        if self.artifact_type:
            values["artifactType"] = self.artifact_type
        return values


def _inline(fields: Fields) -> bytes | None:
    import base64

    if not fields.has("data"):
        return None
    try:
        return base64.b64decode(fields.text("data"), validate=True)
    except ValueError:  # binascii.Error is one
        raise InvalidArchive(f"{fields.where}.data is not base64") from None
