"""What the caller asks for, beside what the image's config says; the names are those of `docker run`."""

from __future__ import annotations

import os
import posixpath
from collections.abc import Mapping, Sequence
from pathlib import Path

from layerfs._lazy import TYPE_CHECKING
from layerfs._record import dataclass, field
from layerfs.errors import InvalidInput
from layerfs.runtime.command import Word
from layerfs.runtime.flags import Device, Resolver
from layerfs.runtime.spec import Limit

if TYPE_CHECKING:
    from typing import Final, Literal

    from layerfs.runtime.idmaps import IdMaps

    Network = Literal["none", "host", "bridge", "container"]
    Shared = Literal["network", "ipc", "pid", "uts", "cgroup"]

NETWORKS: Final = ("none", "host", "bridge", "container")


def network_kind(name: str) -> Network:
    """Of docker's `--network`: what is no other word names a bridge."""
    if name in ("none", "host"):
        return "host" if name == "host" else "none"
    return "container" if name.startswith("container:") else "bridge"


def container_path(path: str | bytes, what: str) -> bytes:
    """An absolute path inside the container, cleaned; InvalidInput otherwise."""
    raw = os.fsencode(path)
    if not raw.startswith(b"/") or b"\0" in raw:
        raise InvalidInput(f"{what} must be an absolute path: {os.fsdecode(path)!r}")
    return b"/" + posixpath.normpath(raw).lstrip(b"/")


@dataclass(frozen=True, slots=True)
class Bind:
    """A file or directory of the host (absolute) shown at `target`, with what is mounted below it."""

    source: Path
    target: bytes
    read_only: bool = False
    propagation: str = ""  # docker's word; "" is rprivate
    recursive: bool = True
    make_source: bool = False  # a directory that is missing is made
    mapped: bool = False  # shown with the ids of the container's user namespace

    @classmethod
    def parse(cls, text: str) -> Bind:
        """`SOURCE:TARGET[:OPTION,...]`, as `-v` takes it for host paths."""
        from layerfs.runtime.mountflags import parse_volume

        wanted = parse_volume(text)
        if wanted.kind != "bind":
            raise InvalidInput(f"invalid volume specification: '{text}'")
        return wanted.bind(wanted.source)


@dataclass(frozen=True, slots=True)
class Tmpfs:
    """An empty file system in memory at `target`; `options` are tmpfs's (size=64m, mode=1777) and ro/exec/dev/suid."""

    target: bytes
    options: tuple[str, ...] = ()

    @classmethod
    def parse(cls, text: str) -> Tmpfs:
        """`TARGET[:OPTION,...]`, as `--tmpfs` takes it."""
        target, _, options = text.partition(":")
        return cls(container_path(target, "the tmpfs's target"), tuple(filter(None, options.split(","))))


@dataclass(frozen=True, slots=True)
class RunOptions:
    """Options of one run; every default is docker's (but no network: bridges are made by who calls)."""

    command: Sequence[Word] | None = None  # replaces CMD
    entrypoint: Sequence[Word] | None = None  # replaces ENTRYPOINT, drops the image's CMD
    env: Sequence[Word] = ()  # NAME=VALUE; NAME alone takes an image's variable away
    user: str | bytes | None = None
    workdir: str | bytes | None = None
    hostname: str | bytes | None = (
        None  # default: the first 12 digits of container_id, with the host's network its name
    )
    domainname: str = ""
    annotations: Sequence[tuple[str, str]] = ()  # for other runtimes
    container_id: str | None = None  # 64 hex digits; a random one when absent
    network: Network = "none"
    read_only: bool = False
    no_new_privileges: bool = False
    privileged: bool = False
    unmasked: bool = False  # /proc and /sys without masked and read-only paths
    cap_add: Sequence[str] = ()
    cap_drop: Sequence[str] = ()
    binds: Sequence[Bind] = ()
    tmpfs: Sequence[Tmpfs] = ()
    shm_size: int = 64 << 20  # bytes; 0: no /dev/shm
    extra_hosts: Sequence[tuple[str, str]] = ()  # (name, address)
    sysctls: Sequence[tuple[str, str]] = ()
    limits: Sequence[Limit] = ()
    cgroup_procs: Sequence[Path] = ()  # cgroup.procs files of cgroups that exist; joined before the program starts
    device_cgroup: bool = False  # the joined cgroups allow docker's devices only; else the mounts see to that
    shared: Mapping[Shared, str | None] = field(default_factory=dict)  # not of its own: a file, or the host's
    time_offsets: Sequence[tuple[int, int]] = ()  # clock of clock_gettime(2), seconds
    addresses: Sequence[str] = ()  # of its own, for /etc/hosts
    others: bytes = b""  # lines about its neighbours there
    devices: Sequence[Device] = ()
    group_add: Sequence[str] = ()  # names or numbers of supplementary groups
    resolver: Resolver = Resolver()
    oom_score_adj: int = 0
    seccomp: bytes = b""  # a compiled filter
    id_maps: IdMaps | None = None  # a user namespace of its own
    stop_signal: str | int | None = None
    init: bool = False  # PID 1 passes signals on and reaps
    terminal: tuple[int, int] | None = None  # rows and columns (0 where unknown): the streams are a terminal
