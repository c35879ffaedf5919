"""The settings that say what a container is limited and connected by: docker's flags, kept as texts where docker has
texts, checked when they are given.
"""

from __future__ import annotations

from collections.abc import Mapping

from layerfs._lazy import TYPE_CHECKING, pattern
from layerfs._record import dataclass, field, replace
from layerfs.engine.attachments import Attachment
from layerfs.errors import InvalidInput
from layerfs.runtime.resources import NAMES as RESOURCE_NAMES
from layerfs.runtime.resources import Resources, parse_size

if TYPE_CHECKING:
    from typing import Any, Final

    from layerfs.runtime import RunOptions


@dataclass(frozen=True, slots=True)
class Confinement:
    """A part of `Settings`. Texts have the form of docker's flag of that name."""

    resources: Resources = field(default_factory=Resources)
    cgroup_parent: str | None = None
    unmasked: bool = False  # no masked and no read-only paths
    seccomp: str | None = None  # "unconfined" or a profile (JSON); None is the default one
    ulimits: tuple[str, ...] = ()
    sysctls: tuple[str, ...] = ()
    devices: tuple[str, ...] = ()
    group_add: tuple[str, ...] = ()
    extra_hosts: tuple[str, ...] = ()
    dns: tuple[str, ...] = ()
    dns_search: tuple[str, ...] = ()
    dns_options: tuple[str, ...] = ()
    shm_size: int | None = None
    oom_score_adj: int | None = None
    mounts: tuple[str, ...] = ()
    unnamed_volumes: tuple[str, ...] = ()  # names that we gave
    ipc: str | None = None  # none, private, shareable, host, container:NAME
    pid: str | None = None  # host, container:NAME
    uts: str | None = None  # host
    cgroupns: str | None = None  # private, host
    userns: str | None = None  # host, private, auto[:size=N]
    uidmap: tuple[str, ...] = ()
    gidmap: tuple[str, ...] = ()
    subuidname: str | None = None
    subgidname: str | None = None
    auto_ids: tuple[str, ...] = ()  # that we gave: uids, gids
    time_offsets: tuple[str, ...] = ()  # monotonic=SECONDS, boottime=SECONDS
    networks: tuple[str, ...] = ()  # beside `network`
    attachments: tuple[str, ...] = ()  # to single ones of them: name=N,alias=A,ip=I,…
    network_aliases: tuple[str, ...] = ()
    ip: str | None = None
    mac_address: str | None = None
    domainname: str | None = None
    annotations: tuple[str, ...] = ()  # for other runtimes
    links: tuple[str, ...] = ()  # CONTAINER[:ALIAS]
    publish: tuple[str, ...] = ()
    publish_all: bool = False
    expose: tuple[str, ...] = ()

    def _check_sharing(self) -> None:
        for name, words in _SHARING.items():
            value = getattr(self, name)
            named = name in ("ipc", "pid") and str(value).startswith("container:") and len(str(value)) > 10
            if value and value not in words and not named:
                raise InvalidInput(f"--{name}: invalid {name.upper()} mode: {value}")

    def _check_network(self, kind: str) -> None:
        """What asks for an interface where the container gets none. Raises InvalidInput."""
        if kind == "bridge":
            return
        if self.ip or self.attachments:
            raise InvalidInput("user specified IP address is supported on user defined networks only")
        if kind == "container" and (self.publish or self.publish_all):
            raise InvalidInput("conflicting options: port publishing and the container type network mode")
        if kind == "container" and self.links:
            raise InvalidInput("conflicting options: container type network can't be used with links")
        if self.links:
            raise InvalidInput("links are only supported for user-defined networks")

    def _check_rare(self, options: RunOptions) -> None:
        """What few containers have, by modules that they load."""
        if self.has_user_namespace:
            from layerfs.engine import userns

            userns.check(self, options)
        if self.publish or self.expose:
            from layerfs.runtime.ports import parse_expose, parse_publish

            for text in self.publish:
                parse_publish(text)
            for text in self.expose:
                parse_expose(text)
        if self.cgroup_parent:
            from layerfs.runtime.cgroup import parse_parent

            parse_parent(self.cgroup_parent)

    @property
    def has_user_namespace(self) -> bool:
        """Whether one was asked for, or so it may be."""
        return bool(self.userns or self.uidmap or self.gidmap or self.subuidname or self.subgidname)

    def confined(self, options: RunOptions) -> RunOptions:
        """`options` with what these settings say. Raises InvalidInput for a value that is none."""
        from layerfs.engine.filters import check_profile
        from layerfs.runtime.flags import (
            Device,
            Resolver,
            check_sysctl,
            parse_clock,
            parse_host,
            parse_sysctl,
            parse_ulimit,
        )

        check_profile(self.seccomp)
        self._check_sharing()
        self._check_rare(options)
        self._check_network(options.network)
        for mac in (self.mac_address, *(Attachment.parse(text).mac_address for text in self.attachments)):
            if mac and not _MAC.match(mac):
                raise InvalidInput(f"{mac} is not a valid mac address")
        for name in ("hostname", "domainname"):
            if self.uts == "host" and getattr(self, name, None):
                raise InvalidInput(f"conflicting options: {name} and the UTS mode")
        sysctls = tuple(map(parse_sysctl, self.sysctls))
        for name, _ in sysctls:
            check_sysctl(name, host_network=options.network == "host")
        return replace(
            options,
            limits=tuple({limit.resource: limit for limit in map(parse_ulimit, self.ulimits)}.values()),
            sysctls=sysctls,
            devices=tuple(map(Device.parse, self.devices)),
            group_add=self.group_add,
            extra_hosts=tuple(map(parse_host, self.extra_hosts)),
            resolver=Resolver(self.dns, self.dns_search, self.dns_options),
            time_offsets=tuple(map(parse_clock, self.time_offsets)),
            unmasked=self.unmasked,
            shm_size=0 if self.ipc == "none" else self.shm_size or options.shm_size,
            oom_score_adj=self.oom_score_adj or 0,
            domainname=self.domainname or "",
            annotations=tuple(text.partition("=")[::2] for text in self.annotations),
        )


_MAC: Final = pattern(r"[0-9a-fA-F]{2}(:[0-9a-fA-F]{2}){5}\Z")
_SHARING: Final = {
    "ipc": ("none", "private", "shareable", "host"),
    "pid": ("host",),
    "uts": ("host",),
    "cgroupns": ("private", "host"),
}


LISTS: Final = frozenset(
    {
        *("ulimits", "sysctls", "devices", "group_add", "extra_hosts", "dns", "dns_search", "dns_options"),
        *(
            "annotations",
            "links",
            "time_offsets",
            "networks",
            "attachments",
            "network_aliases",
            "publish",
            "expose",
            "mounts",
            "uidmap",
            "gidmap",
        ),
    }
)
FLAGS: Final = frozenset({"publish_all", "unmasked"})
SIZES: Final = frozenset({"shm_size"})
NUMBERS: Final = {"oom_score_adj": (-1000, 1000)}


def with_resources(settings: Any, values: Mapping[str, Any]) -> tuple[Resources, dict[str, Any]]:
    """The limits among `values`, over those of `settings`; and the other values."""
    limits = {name: value for name, value in values.items() if name in RESOURCE_NAMES}
    if len({"pids" if name == "pids_limit" else name for name in limits}) < len(limits):
        raise InvalidInput("pids and pids_limit are one and the same limit")
    rest = {name: value for name, value in values.items() if name not in limits}
    return settings.resources.changed(limits), rest


def checked_number(name: str, value: Any) -> int | None:
    """A size or a number, by its name."""
    if value is None:
        return None
    if name in SIZES:
        return parse_size(value)
    least, most = NUMBERS[name]
    try:
        number = int(value)
    except (TypeError, ValueError):
        raise InvalidInput(f"invalid value for {name}: {value!r}") from None
    if not least <= number <= most:
        raise InvalidInput(f"Invalid value {number}, range for {name.replace('_', ' ')} is [{least}, {most}]")
    return number


__all__ = ["FLAGS", "LISTS", "NUMBERS", "SIZES", "Confinement", "checked_number", "with_resources"]
