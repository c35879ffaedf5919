"""`-v` and `--mount`: docker's two ways to say what is mounted where. Pure."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping

from layerfs._lazy import TYPE_CHECKING, pattern
from layerfs._record import dataclass
from layerfs.errors import InvalidInput
from layerfs.runtime.options import Bind, Tmpfs, container_path
from layerfs.runtime.resources import parse_size

if TYPE_CHECKING:
    from typing import Final, Literal

    Kind = Literal["bind", "volume", "tmpfs"]

NAME: Final = pattern(r"[a-zA-Z0-9][a-zA-Z0-9_.-]*\Z", re.ASCII)
PROPAGATIONS: Final = ("private", "rprivate", "shared", "rshared", "slave", "rslave")
_IGNORED: Final = {"z", "Z", "consistent", "cached", "delegated", "volume", "copy"}
_TRUE, _FALSE = ("1", "true", ""), ("0", "false")


@dataclass(frozen=True, slots=True)
class Wanted:
    """One mount. `source`: an absolute path of the host (bind), a volume's name (volume), "" for one without a name."""

    kind: Kind
    target: bytes
    source: str = ""
    read_only: bool = False
    propagation: str = ""
    make_source: bool = False  # -v: a directory that is missing on the host is made
    recursive: bool = True
    copy: bool = True  # what the image has there goes into an empty volume
    subpath: str = ""
    options: tuple[str, ...] = ()  # tmpfs
    mapped: bool = False  # podman's idmap: with the ids of the container's user namespace

    def bind(self, source: str) -> Bind:
        from pathlib import Path

        how = (self.read_only, self.propagation, self.recursive, self.make_source, self.mapped or self.kind == "volume")
        return Bind(Path(source), self.target, *how)

    def tmpfs(self) -> Tmpfs:
        return Tmpfs(self.target, self.options)


def parse_volume(text: str) -> Wanted:
    """`[SOURCE:]TARGET[:OPTION,...]`. Raises InvalidInput in docker's words."""
    parts = text.split(":")
    if len(parts) == 1:
        parts = ["", *parts]
    source, target, options = parts[0], parts[1], parts[2:]
    if len(parts) > 3 or not target or (text.count(":") and not source):
        raise InvalidInput(f"invalid volume specification: '{text}'")
    kind: Kind = "bind" if source.startswith("/") else "volume"
    if kind == "volume" and source and not NAME.match(source):
        raise InvalidInput(
            f'"{source}" includes invalid characters for a local volume name, only "[a-zA-Z0-9][a-zA-Z0-9_.-]" are '
            "allowed. If you intended to pass a host directory, use absolute path"
        )
    read_only, propagation, copy, mapped = False, "", True, False
    for word in options[0].split(",") if options else ():
        if word in ("ro", "readonly"):
            read_only = True
        elif word in PROPAGATIONS:
            propagation = word
        elif word == "nocopy":
            copy = False
        elif word == "idmap":
            mapped = True
        elif word not in ("rw", *_IGNORED):
            raise InvalidInput(f"invalid volume specification: '{text}': invalid mode: {options[0]}")
    if propagation and kind == "volume":
        raise InvalidInput(f"invalid volume specification: '{text}': a volume has no propagation")
    where = container_path(target, "the volume's target")
    made = kind == "bind"
    return Wanted(kind, where, source, read_only, propagation, make_source=made, copy=copy, mapped=mapped)


def _flag(key: str, value: str) -> bool:
    if value.lower() not in (*_TRUE, *_FALSE):
        raise InvalidInput(f"invalid value for {key}: {value}")
    return value.lower() in _TRUE


_KEYS: Final[Mapping[str, str]] = {
    **dict.fromkeys(("source", "src"), "source"),
    **dict.fromkeys(("target", "dst", "destination"), "target"),
    **dict.fromkeys(("readonly", "ro"), "readonly"),
    **{key: key for key in ("type", "bind-propagation", "bind-nonrecursive", "bind-recursive", "volume-nocopy")},
    **{key: key for key in ("volume-subpath", "volume-driver", "tmpfs-size", "tmpfs-mode", "consistency", "idmap")},
}


def parse_mount(text: str) -> Wanted:
    """`type=...,source=...,target=...[,...]`. Raises InvalidInput in docker's words."""
    import csv

    values: dict[str, str] = {}
    for field in next(csv.reader([text]), []):
        key, equals, value = field.partition("=")
        name = _KEYS.get(key.lower())
        if name is None:
            raise InvalidInput(f"unexpected key '{key}' in '{field}'")
        if not equals and name not in ("readonly", "bind-nonrecursive", "volume-nocopy", "idmap"):
            raise InvalidInput(f"invalid field '{field}' must be a key=value pair")
        values[name] = value
    kind = values.get("type", "volume")
    if kind not in ("bind", "volume", "tmpfs"):
        raise InvalidInput(f"invalid mount type: {kind}")
    if not values.get("target"):
        raise InvalidInput("target is required")
    for name in values:
        if name.partition("-")[0] in ("bind", "volume", "tmpfs") and "-" in name and not name.startswith(f"{kind}-"):
            raise InvalidInput(f"cannot mix '{name.partition('-')[0]}-*' options with mount type '{kind}'")
    return _checked(kind, values)


def _checked(kind: str, values: Mapping[str, str]) -> Wanted:
    source, propagation = values.get("source", ""), values.get("bind-propagation", "")
    target = container_path(values["target"], "the mount's target")
    if kind == "tmpfs":
        if source:
            raise InvalidInput("tmpfs mounts cannot have a source")
        return Wanted("tmpfs", target, options=_tmpfs_options(values))
    if kind == "bind" and not os.path.isabs(source):  # noqa: PTH117
        raise InvalidInput(f"invalid mount path: '{source}' mount path must be absolute")
    if kind == "volume" and source and not NAME.match(source):
        raise InvalidInput(f'"{source}" includes invalid characters for a local volume name')
    if propagation and propagation not in PROPAGATIONS:
        raise InvalidInput(f"invalid propagation mode: {propagation}")
    if values.get("volume-driver", "local") != "local":
        raise InvalidInput(f"error looking up volume plugin {values['volume-driver']}: plugin not found")
    subpath = values.get("volume-subpath", "")
    if subpath.startswith("/") or ".." in subpath.split("/"):
        raise InvalidInput(f"invalid volume subpath: {subpath}")
    flat = _flag("bind-nonrecursive", values["bind-nonrecursive"]) if "bind-nonrecursive" in values else False
    return Wanted(
        "bind" if kind == "bind" else "volume",
        target,
        source,
        read_only=_flag("readonly", values["readonly"]) if "readonly" in values else False,
        propagation=propagation,
        recursive=not flat and values.get("bind-recursive") != "disabled",
        copy=not (_flag("volume-nocopy", values["volume-nocopy"]) if "volume-nocopy" in values else False),
        subpath=subpath,
        mapped=_flag("idmap", values["idmap"]) if "idmap" in values else False,
    )


def _tmpfs_options(values: Mapping[str, str]) -> tuple[str, ...]:
    options = [f"size={parse_size(values['tmpfs-size'])}"] if "tmpfs-size" in values else []
    if mode := values.get("tmpfs-mode"):
        if not re.fullmatch("[0-7]{1,5}", mode):
            raise InvalidInput(f"invalid value for tmpfs-mode: {mode}")
        options.append(f"mode={mode}")
    if "readonly" in values and _flag("readonly", values["readonly"]):
        options.append("ro")
    return tuple(options)
