"""The options of create, run and update that limit a container."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import click

from layerfs.errors import InvalidInput

_NUMBER = click.INT

LIMITS: list[Callable[[Any], Any]] = [  # of update, too
    click.option("-m", "--memory", metavar="BYTES", help="Memory it may use (64m, 1.5g)."),
    click.option("--memory-swap", metavar="BYTES", help="Memory and swap together; -1: any amount of swap."),
    click.option("--memory-reservation", metavar="BYTES", help="What it is left when memory is short."),
    click.option("--cpus", metavar="NUMBER", help="Processors it may use (0.5)."),
    click.option("-c", "--cpu-shares", type=_NUMBER, metavar="N", help="Weight beside others (1024)."),
    click.option("--cpu-period", type=_NUMBER, metavar="US", help="Length of a period of the CFS scheduler."),
    click.option("--cpu-quota", type=_NUMBER, metavar="US", help="Time in each period."),
    click.option("--cpuset-cpus", metavar="LIST", help="Processors it runs on (0-3, 0,1)."),
    click.option("--cpuset-mems", metavar="LIST", help="Memory nodes it uses."),
    click.option("--pids-limit", type=_NUMBER, metavar="N", help="Processes it may have; -1: any number."),
    click.option("--blkio-weight", type=_NUMBER, metavar="N", help="Weight for disks, 10 to 1000."),
]

_RATES = ("device-read-bps", "device-write-bps", "device-read-iops", "device-write-iops")

CONFINEMENT: list[Callable[[Any], Any]] = [
    *LIMITS,
    click.option("--memory-swappiness", type=_NUMBER, metavar="N", help="How readily it is swapped out, 0 to 100."),
    click.option("--oom-kill-disable", is_flag=True, help="At its limit it waits instead of being killed."),
    click.option("--oom-score-adj", type=_NUMBER, metavar="N", help="-1000 to 1000."),
    click.option("--blkio-weight-device", multiple=True, metavar="DEVICE:N", help="Weight for one disk."),
    *(click.option(f"--{name}", multiple=True, metavar="DEVICE:RATE", help="Limit for one disk.") for name in _RATES),
    click.option("--cgroup-parent", metavar="NAME", help="Where its control groups are made (layerfs)."),
    click.option("--device", "devices", multiple=True, metavar="HOST[:PLACE][:rwm]", help="A device of the host."),
    click.option("--device-cgroup-rule", "device_cgroup_rules", multiple=True, metavar="RULE", help="'c 1:3 rwm'."),
    click.option("--ulimit", "ulimits", multiple=True, metavar="NAME=SOFT[:HARD]", help="Set a resource limit."),
    click.option("--sysctl", "sysctls", multiple=True, metavar="NAME=VALUE", help="A kernel parameter of its own."),
    click.option("--shm-size", metavar="BYTES", help="Size of /dev/shm (64m)."),
    click.option("--ipc", metavar="MODE", help="private, host, container:NAME."),
    click.option("--pid", metavar="MODE", help="host, container:NAME."),
    click.option("--uts", metavar="MODE", help="host."),
    click.option("--userns", metavar="MODE", help="host, private, auto[:size=N]: a user namespace of its own."),
    click.option("--uidmap", multiple=True, metavar="ID:HOST[:N]", help="Its users as these of the host."),
    click.option("--gidmap", multiple=True, metavar="ID:HOST[:N]", help="Its groups as these of the host."),
    click.option("--subuidname", metavar="NAME", help="Whose range of /etc/subuid it gets."),
    click.option("--subgidname", metavar="NAME", help="Whose range of /etc/subgid it gets."),
    click.option("--cgroupns", metavar="MODE", help="private, host."),
    click.option("--time-offset", "time_offsets", multiple=True, metavar="CLOCK=SECONDS", help="Of a clock."),
    click.option("-p", "--publish", multiple=True, metavar="[[IP:]HOST:]PORT[/udp]", help="A port of the host's."),
    click.option("-P", "--publish-all", is_flag=True, help="Ports of the host's for all that are exposed."),
    click.option("--expose", multiple=True, metavar="PORT", help="One more port for -P."),
    click.option("--network-alias", "--net-alias", "network_aliases", multiple=True, help="Another name there."),
    click.option("--ip", metavar="ADDRESS", help="Its address on its network."),
    click.option("--group-add", multiple=True, metavar="GROUP", help="One more group of the user's."),
    click.option("--add-host", "extra_hosts", multiple=True, metavar="NAME:IP", help="A line for /etc/hosts."),
    click.option("--dns", multiple=True, metavar="IP", help="A name server."),
    click.option("--dns-search", multiple=True, metavar="DOMAIN", help="Where short names are looked up."),
    click.option("--dns-option", "--dns-opt", "dns_options", multiple=True, metavar="OPTION", help="For resolv.conf."),
]


def given(options: dict[str, Any]) -> dict[str, Any]:
    """Without the options that nobody gave."""
    return {name: list(value) if isinstance(value, tuple) else value for name, value in options.items() if value}


def take(options: dict[str, Any], ours: list[Callable[[Any], Any]]) -> dict[str, Any]:
    """Takes the values of `ours` out of `options`; those that were given."""

    @click.command()
    def probe() -> None: ...

    for option in ours:
        probe = option(probe)
    return given({param.name: options.pop(param.name) for param in probe.params if param.name in options})


def network_settings(names: Sequence[str], limits: dict[str, Any]) -> dict[str, Any]:
    """Of `--network`, given once or several times, also as `name=N,alias=A,ip=I`. Who publishes ports and names none
    gets `bridge`. Raises InvalidInput."""
    found: list[str] = []
    extra: dict[str, Any] = {}
    for text in names:
        values = [part.partition("=")[::2] for part in text.split(",")] if "=" in text else [("name", text)]
        for key, value in values:
            if key == "name":
                found.append(value)
            elif key == "alias":
                extra.setdefault("network_aliases", list(limits.get("network_aliases", ()))).append(value)
            elif key == "ip":
                extra["ip"] = value
            else:
                raise InvalidInput(f"invalid field {key} in --network {text}")
    if not found:
        needs = ("publish", "publish_all", "network_aliases", "ip")
        found = ["bridge" if any(name in limits for name in needs) else "none"]
    return {"network": found[0], "networks": found[1:], **extra}
