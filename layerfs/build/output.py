"""`--output`: what becomes of a finished image, as plain data."""

from __future__ import annotations

from typing import Literal, cast, get_args

from layerfs._record import dataclass
from layerfs.errors import InvalidInput

Kind = Literal["image", "local", "tar", "oci", "docker"]
_TYPES = (*get_args(Kind), "registry")


@dataclass(frozen=True, slots=True)
class Output:
    """`dest`: a path; `-` is standard output; "" for docker: only the store. `names` are further names of the image.
    `push`: all its names go to their registries."""

    kind: Kind = "image"
    dest: str = ""
    names: tuple[str, ...] = ()
    compression: str = ""
    push: bool = False

    @classmethod
    def parse(cls, text: str) -> Output:
        """`type=TYPE,KEY=VALUE,…`, or a directory alone, or `-` for a tar on standard output. Raises InvalidInput."""
        if "=" not in text:
            return cls("tar", "-") if text == "-" else cls("local", text)
        values: dict[str, str] = {}
        for field in text.split(","):
            key, equals, value = field.partition("=")
            if not equals and "name" in values:  # name=a,b
                values["name"] += f",{field}"
                continue
            if not equals or not key.strip():
                raise InvalidInput(f"invalid value {field!r} in output {text!r}")
            values[key.strip().lower()] = value
        return cls._checked(values, text)

    @classmethod
    def _checked(cls, values: dict[str, str], text: str) -> Output:
        kind, dest = values.pop("type", ""), values.pop("dest", "")
        if not kind:
            raise InvalidInput(f"type is required for output {text!r}")
        if kind not in _TYPES:
            raise InvalidInput(f"unknown output type {kind!r} (there are {', '.join(_TYPES)})")
        push = kind == "registry"
        if push:
            kind = "image"
        if kind == "image":
            push = values.pop("push", str(push).lower()) == "true"
        if kind in ("local", "tar", "oci") and not dest:
            if kind == "local":
                raise InvalidInput("dest is required for output type local")
            dest = "-"
        names = tuple(filter(None, values.pop("name", "").split(",")))
        compression = values.pop("compression", "")
        if compression not in ("", "gzip", "zstd", "uncompressed"):
            raise InvalidInput(f"unknown compression {compression!r} (there are gzip, zstd, uncompressed)")
        if values:
            raise InvalidInput(f"unknown key {min(values)!r} in output {text!r}")
        return cls(cast(Kind, kind), dest, names, compression, push)
