"""What a RUN is, as plain data: what the engine runs, and what its cache key is made of."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal, Protocol

from layerfs._record import dataclass, field
from layerfs.build.cachekeys import step_key
from layerfs.build.config import State
from layerfs.digest import DiffID
from layerfs.errors import LayerfsError
from layerfs.oci import ImageConfig, Platform
from layerfs.store.leases import Lease

MountKind = Literal["bind", "cache", "tmpfs", "secret", "ssh"]
Sharing = Literal["shared", "private", "locked"]
OnOutput = Callable[[int, bytes], object]


@dataclass(frozen=True, slots=True)
class StepMount:
    """One `--mount`. bind: `source` of the tree of these `layers`, or of a context, of which only the `digest` is known
    at first. cache: the directory named `id`, at first with what is there in `layers`. secret: `data` as a file, or as
    the variable `env`; ssh: the agent's `socket`."""

    kind: MountKind
    target: bytes
    layers: tuple[DiffID, ...] = ()
    source: bytes = b"/"
    writable: bool = False
    id: str = ""
    sharing: Sharing = "shared"
    size: int | None = None
    data: bytes = field(default=b"", repr=False)
    env: str = ""
    socket: str = ""
    mode: int | None = None
    uid: int = 0
    gid: int = 0
    is_context: bool = False
    context: str = ""
    digest: str = ""

    def key(self) -> tuple[bytes | str, ...]:
        """Contents of secrets and caches do not count, nor where an agent is."""
        shown = [layer.hex for layer in self.layers]
        rest = (self.sharing, self.size, self.env, self.mode, self.uid, self.gid, self.writable)
        return (self.kind, self.target, ",".join(shown), self.source, self.id, self.digest, repr(rest))


@dataclass(frozen=True, slots=True)
class RunStep:
    """A program on a stack of layers. `proxies` are variables that do not count for the cache."""

    layers: tuple[DiffID, ...]
    argv: tuple[str, ...]
    env: tuple[str, ...] = ()
    proxies: tuple[str, ...] = ()
    user: str = ""
    workdir: str = "/"
    network: str = "default"
    privileged: bool = False
    mounts: tuple[StepMount, ...] = ()
    files: tuple[tuple[bytes, bytes], ...] = ()  # scripts of heredocs: name below /dev/pipes, text
    hosts: tuple[str, ...] = ()  # NAME:ADDRESS, for /etc/hosts

    def key(self, platform: Platform, extra: str = "") -> bytes:
        mounts = [part for mount in self.mounts for part in mount.key()]
        files = [part for file in self.files for part in file]
        return step_key(
            "run",
            self.layers,
            str(platform),
            extra,
            self.argv,
            sorted(self.env),
            self.user,
            self.workdir,
            self.network,
            "privileged" if self.privileged else "",
            *mounts,
            "files",
            *files,
            *(["hosts", *self.hosts] if self.hosts else []),
        )


class StepFailed(LayerfsError):
    """A program of a RUN ended badly. `returncode` is its own; `layer` what it had changed by then, on `state`, with
    the variables `env`; with debugging there is an `image` of it."""

    state: State | None = None
    env: tuple[str, ...] = ()
    image: str = ""

    def __init__(self, command: str, returncode: int, layer: DiffID | None = None, reason: str = "") -> None:
        text = f'process "{command}" did not complete successfully: exit code: {returncode}'
        super().__init__(f"{text}: {reason}" if reason else text)
        self.command, self.returncode, self.layer = command, returncode, layer

    def __reduce__(self) -> tuple[object, ...]:
        return type(self), (self.command, self.returncode, self.layer)


class World(Protocol):
    """What the builder needs of the engine."""

    def run(
        self, step: RunStep, *, lease: Lease, latest_ns: int | None, output: OnOutput, keep_failed: bool
    ) -> DiffID | None:
        """The layer of what it changed; None when that is nothing. Raises StepFailed, and what mounting raises."""
        ...

    def image(self, name: str, platform: Platform, *, pull: bool) -> ImageConfig:
        """An image of the store, or one that is pulled when it is not there or, with `pull`, when there is a newer one.
        Its layers stay as long as the build. Raises ImageNotFound."""
        ...

    def stop(self) -> None:
        """Ends all programs that run, and those that are about to."""
        ...
