"""What `copy` calls the ends of a copy, as skopeo does: `docker://NAME`, `oci:DIR[:TAG]`, `oci-archive:FILE[:TAG]`,
`docker-archive:FILE[:NAME]`.
"""

from __future__ import annotations

from typing import Literal, cast

from layerfs._record import dataclass
from layerfs.errors import InvalidInput
from layerfs.reference import Reference

Kind = Literal["docker", "oci", "oci-archive", "docker-archive"]
_KINDS = ("oci-archive", "docker-archive", "oci")
WORDS = "docker://NAME, oci:DIR[:TAG], oci-archive:FILE[:TAG] or docker-archive:FILE[:NAME]"


@dataclass(frozen=True, slots=True)
class Place:
    """One end of a copy. `name`: of the image there; for a registry `reference` has it."""

    kind: Kind
    path: str = ""
    name: str = ""
    reference: Reference | None = None

    @classmethod
    def parse(cls, text: str) -> Place:
        """Raises InvalidInput."""
        kind, colon, rest = text.partition(":")
        if kind == "docker" and rest.startswith("//"):
            return cls("docker", reference=Reference.parse(rest[2:]).tagged())
        if not colon or kind not in _KINDS or not rest:
            raise InvalidInput(f"invalid image name {text!r}: want {WORDS}")
        path, _, name = rest.partition(":")
        if not path:
            raise InvalidInput(f"invalid image name {text!r}: want {WORDS}")
        return cls(cast(Kind, kind), path, name)

    def __str__(self) -> str:
        if self.reference is not None:
            return f"docker://{self.reference.familiar}"
        return f"{self.kind}:{self.path}" + (f":{self.name}" if self.name else "")
