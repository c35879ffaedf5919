"""How a container runs: what its creator asked for, beside what the image says. Plain data, kept in the container's
row.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields, replace
from typing import TYPE_CHECKING, Any

from layerfs.oci import ContainerConfig

if TYPE_CHECKING:
    from layerfs.runtime import RunOptions


def _frozen(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value


@dataclass(frozen=True, slots=True)
class Settings:
    """The options of `create` and `run`; every default is docker's (with `network` none: bridges come later)."""

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

    @classmethod
    def of(cls, values: Mapping[str, Any]) -> Settings:
        """From keyword arguments or a row; lists become tuples, unknown names of newer rows are passed over."""
        known = {f.name for f in fields(cls)}
        chosen: dict[str, Any] = {k: _frozen(v) for k, v in values.items() if k in known}
        return cls(**chosen)

    def row(self) -> dict[str, Any]:
        return {name: list(v) if isinstance(v, tuple) else v for name, v in asdict(self).items()}

    def changed(self, values: Mapping[str, Any]) -> Settings:
        """With other values for one run."""
        chosen: dict[str, Any] = {k: _frozen(v) for k, v in values.items()}
        return replace(self, **chosen)

    def config(self, image: ContainerConfig) -> ContainerConfig:
        """The image's config with these settings over it, as docker merges them (reference 8.6)."""
        names = {pair.partition("=")[0] for pair in self.env}
        env = tuple(pair for pair in image.env if pair.partition("=")[0] not in names) + tuple(
            pair for pair in self.env if "=" in pair
        )
        cmd = self.command if self.command or self.entrypoint is not None else image.cmd
        return replace(
            image,
            user=self.user if self.user is not None else image.user,
            env=env,
            cmd=cmd,
            entrypoint=image.entrypoint if self.entrypoint is None else self.entrypoint,
            working_dir=self.workdir if self.workdir is not None else image.working_dir,
            labels=tuple(sorted((dict(image.labels) | dict(self.labels)).items())),
            stop_signal=self.stop_signal if self.stop_signal is not None else image.stop_signal,
        )

    def run_options(self, container_id: str, cgroups: Sequence[Any] = ()) -> RunOptions:
        """For the runtime. Raises InvalidInput for a volume or tmpfs that is none."""
        from layerfs.runtime import Bind, RunOptions, Tmpfs

        return RunOptions(
            command=self.command,
            entrypoint=self.entrypoint,
            env=self.env,
            user=self.user,
            workdir=self.workdir,
            hostname=self.hostname,
            container_id=container_id,
            network="host" if self.network == "host" else "none",
            read_only=self.read_only,
            no_new_privileges=self.no_new_privileges,
            privileged=self.privileged,
            cap_add=self.cap_add,
            cap_drop=self.cap_drop,
            binds=tuple(map(Bind.parse, self.volumes)),
            tmpfs=tuple(map(Tmpfs.parse, self.tmpfs)),
            cgroup_procs=cgroups,
            stop_signal=self.stop_signal,
        )
