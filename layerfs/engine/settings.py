"""How a container runs: what its creator asked for, beside what the image says. Plain data, kept in the container's
row.
"""

from __future__ import annotations

import os
from collections.abc import Mapping

from layerfs._lazy import TYPE_CHECKING
from layerfs._record import dataclass, field, fields, replace
from layerfs.engine import confinement
from layerfs.engine.attachments import taken_apart
from layerfs.engine.confinement import Confinement
from layerfs.errors import InvalidInput
from layerfs.runtime.resources import Resources

if TYPE_CHECKING:
    from typing import Any

    from layerfs.oci import ContainerConfig
    from layerfs.oci.config import Healthcheck
    from layerfs.runtime import RunOptions
    from layerfs.runtime.spec import Restart
    from layerfs.snapshot.options import MountOptions


@dataclass(frozen=True, slots=True)
class Settings(Confinement):
    """The options of `create` and `run`; every default is docker's, but for `network`: the command line says
    `bridge`, and Python has to."""

    command: tuple[str, ...] | None = None
    entrypoint: tuple[str, ...] | None = None
    env: tuple[str, ...] = ()
    user: str | None = None
    workdir: str | None = None
    hostname: str | None = None
    network: str = "none"
    labels: Mapping[str, str] = field(default_factory=dict)
    volumes: tuple[str, ...] = ()
    tmpfs: tuple[str, ...] = ()
    read_only: bool = False
    privileged: bool = False
    no_new_privileges: bool = False
    cap_add: tuple[str, ...] = ()
    cap_drop: tuple[str, ...] = ()
    stop_signal: str | None = None
    storage_opt: tuple[str, ...] = ()
    stop_timeout: int | None = None
    tty: bool = False
    interactive: bool = False
    stdin_once: bool = False
    detached: bool = False  # nobody was attached when it was made
    auto_remove: bool = False
    init: bool = False
    restart: str = "no"
    log_driver: str = "json-file"
    log_opts: Mapping[str, str] = field(default_factory=dict)
    no_healthcheck: bool = False
    health_cmd: str | None = None
    health_interval: float | None = None
    health_timeout: float | None = None
    health_start_period: float | None = None
    health_start_interval: float | None = None
    health_retries: int | None = None
    runtime: str | None = None

    @classmethod
    def of(cls, row: Mapping[str, Any]) -> Settings:
        """From a container's row; unknown names of newer rows are passed over."""
        chosen: dict[str, Any] = {name: _frozen(row[name]) for name in _NAMES if name in row}
        if "resources" in chosen:
            chosen["resources"] = Resources.of(chosen["resources"])
        return cls(**chosen)

    def row(self) -> dict[str, Any]:
        values = ((name, getattr(self, name)) for name in _NAMES)
        return {name: _plain(value) for name, value in values} | {"resources": self.resources.row()}

    def changed(self, values: Mapping[str, Any]) -> Settings:
        """With a caller's values, checked.

        Raises:
            InvalidInput: an unknown name, a value that cannot be.
        """
        if values.keys() <= _FREE and not self.runtime:
            return replace(self, **{name: _checked(name, value) for name, value in values.items()})
        resources, rest = confinement.with_resources(self, taken_apart(values))
        chosen = {name: _checked(name, value) for name, value in rest.items()}
        settings = replace(self, resources=resources, **chosen)
        settings.run_options("0" * 64)  # bad volumes, capabilities and the like are told now
        settings.restart_policy()
        settings.log_limits()
        settings._healthcheck(None)
        settings.check_runtime()
        return settings

    def restart_policy(self) -> tuple[Restart, int]:
        """Kind and maximum, of `no`, `on-failure[:N]`, `always` or `unless-stopped`. Raises InvalidInput."""
        from layerfs.engine.lifesettings import parse_restart

        kind, most = parse_restart(self.restart)
        if kind and self.auto_remove:
            raise InvalidInput("conflicting options: cannot specify both --restart and --rm")
        return kind, most

    def log_limits(self) -> tuple[int, int]:
        """Bytes of a log file (0: no end), and how many files. Raises InvalidInput."""
        from layerfs.engine.lifesettings import parse_log

        return parse_log(self.log_driver, self.log_opts)

    def check_runtime(self) -> None:
        """Raises InvalidInput: no such program, or what does not go with another runtime."""
        if self.runtime:
            from layerfs.engine.oci import check_runtime

            check_runtime(self)

    @property
    def mount_options(self) -> MountOptions:
        """Of every writable mount of the container."""
        from layerfs.snapshot.options import MountOptions

        return MountOptions.parse(self.storage_opt)

    def config(self, image: ContainerConfig) -> ContainerConfig:
        """The image's config with these settings over it, as docker merges them (reference 8.6)."""
        names = {pair.partition("=")[0] for pair in self.env}
        env = (
            *(pair for pair in self.env if "=" in pair),
            *(pair for pair in image.env if pair.partition("=")[0] not in names),
        )
        cmd = self.command if self.command or self.entrypoint is not None else image.cmd
        entrypoint = image.entrypoint if self.entrypoint is None else self.entrypoint
        return replace(
            image,
            user=self.user if self.user is not None else image.user,
            env=env,
            cmd=cmd,
            entrypoint=None if entrypoint == ("",) else entrypoint,
            working_dir=self.workdir if self.workdir is not None else image.working_dir,
            labels=tuple(self.labels_over(image).items()),
            stop_signal=self.stop_signal if self.stop_signal is not None else image.stop_signal,
            healthcheck=self._healthcheck(image.healthcheck),
        )

    def labels_over(self, image: ContainerConfig) -> dict[str, str]:
        return dict(sorted((dict(image.labels) | dict(self.labels)).items()))

    @property
    def has_interfaces(self) -> bool:
        """Whether it has interfaces of its own beside the loopback."""
        return self.network not in ("none", "host") and not self.network.startswith("container:")

    def _healthcheck(self, image: Healthcheck | None) -> Healthcheck | None:
        from layerfs.engine.lifesettings import merge_health

        return merge_health(self, image)

    def run_options(self, container_id: str, terminal: tuple[int, int] | None = None) -> RunOptions:
        """For the runtime; `terminal`: rows and columns of the one the program gets. Raises InvalidInput for a value
        that is none."""
        from layerfs.engine.volumes import wanted_of
        from layerfs.runtime import RunOptions, Tmpfs
        from layerfs.runtime.options import network_kind

        wanted = wanted_of(self)
        options = RunOptions(
            command=self.command,
            entrypoint=self.entrypoint,
            env=self.env,
            user=self.user,
            workdir=self.workdir,
            hostname=self.hostname,
            container_id=container_id,
            network=network_kind(self.network),
            read_only=self.read_only,
            no_new_privileges=self.no_new_privileges,
            privileged=self.privileged,
            cap_add=self.cap_add,
            cap_drop=self.cap_drop,
            binds=[each.bind(each.source) for each in wanted if each.kind == "bind"],
            tmpfs=[*map(Tmpfs.parse, self.tmpfs), *(each.tmpfs() for each in wanted if each.kind == "tmpfs")],
            stop_signal=self.stop_signal,
            init=self.init,
            terminal=terminal,
        )
        return self.confined(options)


_NAMES = frozenset(f.name for f in fields(Settings))
_FLAGS = (
    frozenset({"read_only", "privileged", "no_new_privileges", "tty", "interactive", "stdin_once", "auto_remove"})
    | {"detached"}
    | {"init", "no_healthcheck"}
    | confinement.FLAGS
)
_FREE = frozenset({"command", "entrypoint", "env", "workdir"})  # what no other setting goes without, or excludes
_WHOLE = frozenset({"stop_timeout", "health_retries"})
_SECONDS = frozenset({"health_interval", "health_timeout", "health_start_period", "health_start_interval"})
_LISTS = (
    frozenset({"command", "entrypoint", "env", "volumes", "tmpfs", "cap_add", "cap_drop", "storage_opt"})
    | confinement.LISTS
)


def _plain(value: Any) -> Any:
    if value is None or isinstance(value, str | int):
        return value
    if isinstance(value, tuple):
        return list(value)
    return dict(value) if isinstance(value, Mapping) else value


def _frozen(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value


def _checked(name: str, value: Any) -> Any:
    """One value as the row has it: texts (bytes are taken as the file system does), tuples of texts, flags."""
    if name not in _NAMES - {"resources"}:
        raise InvalidInput(f"unknown setting {name!r}")
    if name in confinement.SIZES or name in confinement.NUMBERS:
        return confinement.checked_number(name, value)
    if name in _FLAGS:
        return bool(value)
    if name in _WHOLE | _SECONDS:
        return _number(name, value)
    if name in ("labels", "log_opts"):
        if not isinstance(value, Mapping):
            value = dict(_text(name, each).partition("=")[::2] for each in value)
        return {_text(name, key): _text(name, text) for key, text in value.items()}
    if value is None and name in ("restart", "network", "log_driver"):
        return getattr(Settings(), name)
    if value is None:
        return None if name not in _LISTS - {"command", "entrypoint"} else ()
    if name not in _LISTS:
        return _text(name, value)
    if name == "entrypoint" and isinstance(value, str | bytes):
        value = [value]
    if isinstance(value, Mapping):
        value = _pairs(name, value)
    if isinstance(value, str | bytes) or not hasattr(value, "__iter__"):
        raise InvalidInput(f"{name} must be a list of strings, not {value!r}")
    texts = tuple(_text(name, each) for each in value)
    if name == "env" and any(text[:1] in ("", "=") for text in texts):
        raise InvalidInput(f"invalid environment variable: {min(texts)}")
    if name == "storage_opt":
        from layerfs.snapshot.options import MountOptions

        MountOptions.parse(texts)
    return texts


_JOINED = dict.fromkeys(("env", "storage_opt", "sysctls", "ulimits", "annotations"), "=")
_JOINED |= dict.fromkeys(("volumes", "tmpfs", "extra_hosts", "links"), ":")


def _pairs(name: str, value: Mapping[Any, Any]) -> list[str]:
    """A mapping as the texts of docker's flag: `NAME=VALUE`, `SOURCE:PLACE`; None leaves a name alone. Raises
    InvalidInput for a setting that has no such pairs."""
    if name not in _JOINED:
        raise InvalidInput(f"{name} must be a list of strings, not {value!r}")
    texts = []
    for key, text in value.items():
        if isinstance(text, int | float) and not isinstance(text, bool):
            text = str(text)
        texts.append(_text(name, key) + ("" if text is None else _JOINED[name] + _text(name, text)))
    return texts


def _number(name: str, value: Any) -> int | float | None:
    if value is None or (isinstance(value, int | float) and not isinstance(value, bool)):
        return int(value) if name in _WHOLE and value is not None else value
    raise InvalidInput(f"{name} must be a number, not {value!r}")


def _text(name: str, value: Any) -> str:
    if not isinstance(value, str | bytes | os.PathLike):
        raise InvalidInput(f"{name}: {value!r} is not a string")
    text = os.fsdecode(value)
    if "\0" in text:
        raise InvalidInput(f"{name}: {text!r} holds a NUL")
    return text
