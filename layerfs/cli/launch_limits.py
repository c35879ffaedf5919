"""The options of create, run and update that limit a container."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from layerfs._lazy import TYPE_CHECKING
from layerfs.cli.flags import Flag, option
from layerfs.cli.output import fail

if TYPE_CHECKING:
    from typing import Any

LIMITS: list[Flag] = [  # of update, too
    option("-m", "--memory", metavar="BYTES", help="Memory it may use (64m, 1.5g)."),
    option("--memory-swap", metavar="BYTES", help="Memory and swap together; -1: any amount of swap."),
    option("--memory-reservation", metavar="BYTES", help="What it is left when memory is short."),
    option("--cpus", metavar="NUMBER", help="Processors it may use (0.5)."),
    option("-c", "--cpu-shares", type=int, metavar="N", help="Weight beside others (1024)."),
    option("--cpu-period", type=int, metavar="US", help="Length of a period of the CFS scheduler."),
    option("--cpu-quota", type=int, metavar="US", help="Time in each period."),
    option("--cpuset-cpus", metavar="LIST", help="Processors it runs on (0-3, 0,1)."),
    option("--cpuset-mems", metavar="LIST", help="Memory nodes it uses."),
    option("--pids-limit", type=int, metavar="N", help="Processes it may have; -1: any number."),
    option("--blkio-weight", type=int, metavar="N", help="Weight for disks, 10 to 1000."),
]

_RATES = ("device-read-bps", "device-write-bps", "device-read-iops", "device-write-iops")

CONFINEMENT: list[Flag] = [
    *LIMITS,
    option("--memory-swappiness", type=int, metavar="N", help="How readily it is swapped out, 0 to 100."),
    option("--oom-kill-disable", is_flag=True, help="At its limit it waits instead of being killed."),
    option("--oom-score-adj", type=int, metavar="N", help="-1000 to 1000."),
    option("--blkio-weight-device", multiple=True, metavar="DEVICE:N", help="Weight for one disk."),
    *(option(f"--{name}", multiple=True, metavar="DEVICE:RATE", help="Limit for one disk.") for name in _RATES),
    option("--cgroup-parent", metavar="NAME", help="Where its control groups are made (layerfs)."),
    option("--device", "devices", multiple=True, metavar="HOST[:PLACE][:rwm]", help="A device of the host."),
    option("--device-cgroup-rule", "device_cgroup_rules", multiple=True, metavar="RULE", help="'c 1:3 rwm'."),
    option("--ulimit", "ulimits", multiple=True, metavar="NAME=SOFT[:HARD]", help="Set a resource limit."),
    option("--sysctl", "sysctls", multiple=True, metavar="NAME=VALUE", help="A kernel parameter of its own."),
    option("--shm-size", metavar="BYTES", help="Size of /dev/shm (64m)."),
    option("--ipc", metavar="MODE", help="private, shareable, none, host, container:NAME."),
    option("--pid", metavar="MODE", help="host, container:NAME."),
    option("--uts", metavar="MODE", help="host."),
    option("--userns", metavar="MODE", help="host, private, auto[:size=N]: a user namespace of its own."),
    option("--uidmap", multiple=True, metavar="ID:HOST[:N]", help="Its users as these of the host."),
    option("--gidmap", multiple=True, metavar="ID:HOST[:N]", help="Its groups as these of the host."),
    option("--subuidname", metavar="NAME", help="Whose range of /etc/subuid it gets."),
    option("--subgidname", metavar="NAME", help="Whose range of /etc/subgid it gets."),
    option("--cgroupns", metavar="MODE", help="private, host."),
    option("--time-offset", "time_offsets", multiple=True, metavar="CLOCK=SECONDS", help="Of a clock."),
    option("-p", "--publish", multiple=True, metavar="[[IP:]HOST:]PORT[/udp]", help="A port of the host's."),
    option("-P", "--publish-all", is_flag=True, help="Ports of the host's for all that are exposed."),
    option("--expose", multiple=True, metavar="PORT", help="One more port for -P."),
    option("--network-alias", "--net-alias", "network_aliases", multiple=True, help="Another name there."),
    option("--mac-address", metavar="MAC", help="Its Ethernet address there."),
    option("--link", "links", multiple=True, metavar="CONTAINER[:ALIAS]", help="A running container in /etc/hosts."),
    option("--annotation", "annotations", multiple=True, metavar="NAME=VALUE", help="For another OCI runtime."),
    option("--ip", metavar="ADDRESS", help="Its address on its network."),
    option("--group-add", multiple=True, metavar="GROUP", help="One more group of the user's."),
    option("--add-host", "extra_hosts", multiple=True, metavar="NAME:IP", help="A line for /etc/hosts."),
    option("--dns", multiple=True, metavar="IP", help="A name server."),
    option("--dns-search", multiple=True, metavar="DOMAIN", help="Where short names are looked up."),
    option("--dns-option", "--dns-opt", "dns_options", multiple=True, metavar="OPTION", help="For resolv.conf."),
]


def given(options: dict[str, Any]) -> dict[str, Any]:
    """Without the options that nobody gave."""
    return {name: list(value) if isinstance(value, tuple) else value for name, value in options.items() if value}


def take(options: dict[str, Any], flags: Iterable[Flag]) -> dict[str, Any]:
    """Takes the values of `flags` out of `options`; those that were given."""
    return given({flag.name: options.pop(flag.name) for flag in flags if flag.name in options})


def network_settings(names: Sequence[str], limits: dict[str, Any]) -> dict[str, Any]:
    """Of `--network`, given once or several times; docker's default, `bridge`, when not (and where that is possible:
    what has ports to publish is told when it starts)."""
    found = list(names)
    if not found:
        needs = ("publish", "publish_all", "network_aliases", "ip", "mac_address", "links")
        found = ["bridge" if any(name in limits for name in needs) else _default_network()]
    return {"network": found[0], "networks": found[1:]}


def _default_network() -> str:
    from layerfs.engine.networks import default_name

    chosen = default_name()
    if chosen == "none":
        fail("the container has no network, since bridges take root here; --network none or host says what is wanted")
    return chosen
