"""The image config: how to run, which layers, which history (image-spec config.md, with docker's extras)."""

from __future__ import annotations

from layerfs._lazy import TYPE_CHECKING
from layerfs._record import dataclass
from layerfs.digest import DiffID, Digest
from layerfs.errors import InvalidArchive
from layerfs.oci.descriptor import Platform
from layerfs.oci.fields import Fields, dump, format_time, load_object

if TYPE_CHECKING:
    from typing import Any

CONFIG_MAX = 16 << 20  # 20 000 history entries fit; nothing real comes near
_INT_FIELDS = ("Interval", "Timeout", "StartPeriod", "StartInterval", "Retries")


@dataclass(frozen=True, slots=True)
class Healthcheck:
    """Durations are integer nanoseconds; 0 means the default (reference facts 1.3)."""

    test: tuple[str, ...] = ()
    interval: int = 0
    timeout: int = 0
    start_period: int = 0
    start_interval: int = 0
    retries: int = 0

    @classmethod
    def read(cls, fields: Fields) -> Healthcheck:
        return cls(fields.texts("Test") or (), *(fields.integer(name) for name in _INT_FIELDS))

    def document(self) -> dict[str, Any]:
        numbers = (self.interval, self.timeout, self.start_period, self.start_interval, self.retries)
        values: dict[str, Any] = {"Test": list(self.test)} if self.test else {}
        return values | {name: number for name, number in zip(_INT_FIELDS, numbers, strict=True) if number}


@dataclass(frozen=True, slots=True)
class ContainerConfig:
    """The `config` object. `cmd` and `entrypoint` are None when absent, which differs from empty."""

    user: str = ""
    exposed_ports: tuple[str, ...] = ()
    env: tuple[str, ...] = ()
    cmd: tuple[str, ...] | None = None
    healthcheck: Healthcheck | None = None
    args_escaped: bool = False
    volumes: tuple[str, ...] = ()
    working_dir: str = ""
    entrypoint: tuple[str, ...] | None = None
    on_build: tuple[str, ...] = ()
    labels: tuple[tuple[str, str], ...] = ()
    stop_signal: str = ""
    shell: tuple[str, ...] = ()

    @classmethod
    def read(cls, fields: Fields) -> ContainerConfig:
        health = fields.child("Healthcheck")
        return cls(
            user=fields.text("User"),
            exposed_ports=fields.keys("ExposedPorts"),
            env=fields.texts("Env") or (),
            cmd=fields.texts("Cmd"),
            healthcheck=Healthcheck.read(health) if health else None,
            args_escaped=fields.flag("ArgsEscaped"),
            volumes=fields.keys("Volumes"),
            working_dir=fields.text("WorkingDir"),
            entrypoint=fields.texts("Entrypoint"),
            on_build=fields.texts("OnBuild") or (),
            labels=fields.pairs("Labels"),
            stop_signal=fields.text("StopSignal"),
            shell=fields.texts("Shell") or (),
        )

    def document(self) -> dict[str, Any]:
        """The JSON object in docker's key order; maps sorted, empty fields left out."""
        values: dict[str, Any] = {
            "User": self.user or None,
            "ExposedPorts": {port: {} for port in sorted(self.exposed_ports)} or None,
            "Env": list(self.env) or None,
            "Cmd": _list(self.cmd),
            "Healthcheck": self.healthcheck.document() if self.healthcheck else None,
            "ArgsEscaped": self.args_escaped or None,
            "Volumes": {path: {} for path in sorted(self.volumes)} or None,
            "WorkingDir": self.working_dir or None,
            "Entrypoint": _list(self.entrypoint),
            "OnBuild": list(self.on_build) or None,
            "Labels": dict(sorted(self.labels)) or None,
            "StopSignal": self.stop_signal or None,
            "Shell": list(self.shell) or None,
        }
        return {key: value for key, value in values.items() if value is not None}


@dataclass(frozen=True, slots=True)
class History:
    """One instruction. `created_ns` is None when the entry has no time."""

    created_ns: int | None = None
    created_by: str = ""
    author: str = ""
    comment: str = ""
    empty_layer: bool = False

    @classmethod
    def read(cls, fields: Fields) -> History:
        return cls(
            fields.time_ns("created"),
            fields.text("created_by"),
            fields.text("author"),
            fields.text("comment"),
            fields.flag("empty_layer"),
        )

    def document(self) -> dict[str, Any]:
        values: dict[str, Any] = {
            "created": None if self.created_ns is None else format_time(self.created_ns),
            "created_by": self.created_by or None,
            "author": self.author or None,
            "comment": self.comment or None,
            "empty_layer": self.empty_layer or None,
        }
        return {key: value for key, value in values.items() if value is not None}


@dataclass(frozen=True, slots=True)
class ImageConfig:
    """A parsed config beside its raw bytes; the image ID is the digest of the bytes."""

    raw: bytes
    platform: Platform
    config: ContainerConfig
    diff_ids: tuple[DiffID, ...]
    history: tuple[History, ...] = ()
    created_ns: int | None = None
    author: str = ""

    @property
    def id(self) -> Digest:
        return Digest.of(self.raw)

    @classmethod
    def parse(cls, raw: bytes, *, what: str = "config") -> ImageConfig:
        """Parse a config.

        Raises:
            InvalidArchive: wrong types, or a history with more layers than `rootfs.diff_ids` has. One with fewer is
                accepted, as dockerd does: tools that squash or append leave such configs behind.
        """
        fields = load_object(raw, what, limit=CONFIG_MAX)
        rootfs, inner = fields.child("rootfs"), fields.child("config")
        if rootfs is None:
            raise InvalidArchive(f"{what}.rootfs is missing")
        if rootfs.text("type", "layers") != "layers":
            raise InvalidArchive(f"{what}.rootfs.type is {rootfs.text('type')!r}, not 'layers'")
        parsed = cls(
            raw,
            Platform.read(fields),
            ContainerConfig.read(inner) if inner else ContainerConfig(),
            tuple(map(DiffID, rootfs.digests("diff_ids"))),
            tuple(map(History.read, fields.children("history"))),
            fields.time_ns("created"),
            fields.text("author"),
        )
        filled = sum(not entry.empty_layer for entry in parsed.history)
        if filled > len(parsed.diff_ids):
            counts = f"{filled}, but {len(parsed.diff_ids)} diff_ids"
            raise InvalidArchive(f"too many non-empty layers in History section: {what} has {counts}")
        return parsed


def build_config(
    *,
    platform: Platform,
    config: ContainerConfig,
    diff_ids: tuple[DiffID, ...],
    history: tuple[History, ...],
    created_ns: int,
    author: str = "",
) -> ImageConfig:
    """A new config: OCI fields only, top-level keys in alphabetical order as docker writes them.

    Equal arguments give equal bytes, so an equal ID.
    """
    document: dict[str, Any] = {
        **platform.document(),
        "config": config.document(),
        "created": format_time(created_ns),
        "history": [entry.document() for entry in history],
        "rootfs": {"type": "layers", "diff_ids": [str(diff_id) for diff_id in diff_ids]},
    }
    if author:
        document["author"] = author
    raw = dump(dict(sorted(document.items())))
    return ImageConfig(raw, platform, config, diff_ids, history, created_ns, author)


def _list(values: tuple[str, ...] | None) -> list[str] | None:
    return None if values is None else list(values)
