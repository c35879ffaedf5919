"""From an image's config and the caller's options to a RunSpec. Reads the root's passwd and group; changes nothing."""

from __future__ import annotations

import os
import re
import signal
import socket
from collections.abc import Mapping
from pathlib import Path

from layerfs._lazy import TYPE_CHECKING
from layerfs._record import replace
from layerfs.errors import InvalidInput
from layerfs.runtime import capabilities, command, layout
from layerfs.runtime.files import ContainerFiles
from layerfs.runtime.flags import check_sysctl
from layerfs.runtime.options import NETWORKS, RunOptions, container_path
from layerfs.runtime.spec import Namespace, RunSpec
from layerfs.runtime.user import add_groups, resolve_user

if TYPE_CHECKING:
    from typing import Any, Final

    from layerfs.runtime.options import Shared

# docker's: any port and ping without a capability, in a network namespace of one's own
_NETWORK_SYSCTLS = (("net.ipv4.ip_unprivileged_port_start", "0"), ("net.ipv4.ping_group_range", "0 2147483647"))


def parse_signal(value: str | int) -> int:
    """`TERM`, `SIGTERM`, `RTMIN+3` or a number; InvalidInput for anything else."""
    text = str(value).strip().upper().removeprefix("SIG")
    if text.isdigit():
        number = int(text)
    elif match := re.fullmatch(r"RTM(IN|AX)([+-]\d+)?", text):
        number = (signal.SIGRTMIN if match[1] == "IN" else signal.SIGRTMAX) + int(match[2] or 0)
    else:
        number = getattr(signal, f"SIG{text}", 0) if text.isalnum() else 0
    if not 0 < number <= signal.SIGRTMAX:
        raise InvalidInput(f"Invalid signal: {value}")
    return int(number)


def default_hostname(options: RunOptions) -> bytes:
    """docker's: the first 12 digits of the ID; the host's own name with the host's network."""
    if options.hostname is not None:
        return os.fsencode(options.hostname)
    if options.network == "host" or "uts" in options.shared:
        return os.fsencode(socket.gethostname())
    return (options.container_id or os.urandom(32).hex())[:12].encode()


_KINDS: Final[Mapping[Shared, int]] = {
    "network": Namespace.NETWORK,
    "ipc": Namespace.IPC,
    "pid": Namespace.PID,
    "uts": Namespace.UTS,
    "cgroup": Namespace.CGROUP,
}


def _namespaces(options: RunOptions) -> int:
    if options.network not in NETWORKS:
        raise InvalidInput(f"network {options.network} not found")
    chosen = Namespace.MOUNT
    for kind, flag in _KINDS.items():
        own = kind not in options.shared and (kind != "network" or options.network == "none")
        if own and (kind != "cgroup" or layout.unified_cgroups()):
            chosen |= flag
    return chosen


def _entered(options: RunOptions) -> tuple[tuple[int, bytes], ...]:
    found = [(_KINDS[kind], os.fsencode(file)) for kind, file in options.shared.items() if file is not None]
    if options.id_maps and options.network == "bridge" and options.shared.get("network"):
        found.append((Namespace.USER, os.fsencode(str(options.shared["network"]))))  # its network was made with one
    return tuple(found)


def _sysctls(options: RunOptions) -> tuple[tuple[str, str], ...]:
    given = tuple(options.sysctls)
    for name, _ in given:
        check_sysctl(name, host_network=options.network == "host")
    defaults = dict(_NETWORK_SYSCTLS if options.network in ("none", "bridge") else ())
    if options.id_maps and defaults:  # only groups that it has
        defaults["net.ipv4.ping_group_range"] = f"0 {options.id_maps.last_gid}"
    if options.domainname:
        defaults["kernel.domainname"] = options.domainname
    return tuple((defaults | dict(given)).items())


def plan(
    rootfs: Path,
    config: Mapping[str, Any],
    options: RunOptions,
    files: ContainerFiles | None,
    hostname: bytes | None = None,
) -> RunSpec:
    """What to run in the mounted `rootfs`. `config` is the image's `config` object (Env, Cmd, Entrypoint, WorkingDir,
    User, StopSignal; absent or null keys are empty). RunError with docker's words where docker would not start it."""
    name = hostname if hostname is not None else default_hostname(options)
    user = options.user if options.user is not None else config.get("User") or ""
    identity = add_groups(rootfs, resolve_user(rootfs, os.fsencode(user)), options.group_add)
    workdir = options.workdir if options.workdir is not None else config.get("WorkingDir") or "/"
    tty = options.terminal is not None
    options = replace(options, sysctls=_sysctls(options))
    return RunSpec(
        rootfs=os.fsencode(rootfs.absolute()),
        argv=command.compose_argv(config, options.command, options.entrypoint),
        env=command.compose_env(config, options.env, hostname=name, home=identity.home, tty=tty),
        cwd=container_path(workdir or "/", "the working directory"),
        hostname=b"" if "uts" in options.shared else name,
        identity=identity,
        capabilities=capabilities.choose(options.cap_add, options.cap_drop, privileged=options.privileged),
        namespaces=_namespaces(options),
        steps=layout.steps_for(options, files),
        read_only=options.read_only,
        no_new_privileges=options.no_new_privileges,
        limits=tuple(options.limits),
        oom_score_adj=options.oom_score_adj,
        shared_pids="pid" in options.shared,
        entered=_entered(options),
        clocks=tuple(options.time_offsets),
        cgroup_procs=tuple(os.fsencode(path) for path in options.cgroup_procs),
        annotations=tuple(options.annotations),
        seccomp=options.seccomp,
        stop_signal=parse_signal(options.stop_signal or config.get("StopSignal") or signal.SIGTERM),
        init=options.init,
        terminal=options.terminal,
        id_maps=options.id_maps,
    )


_ALL: Final = Namespace.MOUNT | Namespace.CGROUP | Namespace.UTS | Namespace.IPC | Namespace.PID | Namespace.NETWORK


def plan_exec(
    pid: int, start: int, config: Mapping[str, Any], options: RunOptions, hostname: bytes, *, privileged: bool = False
) -> RunSpec:
    """What to run in the container whose PID 1 is `pid`, started at `start` (clock ticks since boot); `options` has the
    container's settings with those of the exec over them: `command`, `env`, `user`, `workdir`, `terminal`."""
    root = Path(f"/proc/{pid}/root")  # with the volumes, as the container sees it
    user = options.user if options.user is not None else config.get("User") or ""
    identity = add_groups(root, resolve_user(root, os.fsencode(user)), options.group_add)
    workdir = options.workdir if options.workdir is not None else config.get("WorkingDir") or "/"
    tty = options.terminal is not None
    everything = privileged or options.privileged
    return RunSpec(
        rootfs=b"",
        argv=command.words(options.command, "the command"),
        env=command.compose_env(config, options.env, hostname=hostname, home=identity.home, tty=tty),
        cwd=container_path(workdir or "/", "the working directory"),
        hostname=hostname,
        identity=identity,
        capabilities=capabilities.choose(options.cap_add, options.cap_drop, privileged=everything),
        namespaces=_ALL,
        steps=(),
        no_new_privileges=options.no_new_privileges,
        limits=tuple(options.limits),
        oom_score_adj=options.oom_score_adj,
        cgroup_procs=tuple(os.fsencode(path) for path in options.cgroup_procs),
        seccomp=b"" if privileged else options.seccomp,
        terminal=options.terminal,
        join=(pid, start),
    )
