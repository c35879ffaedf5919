"""Values of docker's flags that are more than a word: ulimits, sysctls, devices, hosts, resolvers, id maps."""

from __future__ import annotations

import contextlib
import ipaddress
import os
import re
import resource
import stat
from collections.abc import Iterable, Iterator
from pathlib import Path

from layerfs._lazy import TYPE_CHECKING, pattern
from layerfs._record import dataclass
from layerfs.errors import InvalidInput, RunError
from layerfs.runtime.resources import DeviceRule
from layerfs.runtime.spec import Limit

if TYPE_CHECKING:
    from typing import Final

_ULIMITS: Final = {
    name: getattr(resource, f"RLIMIT_{name.upper()}")
    for name in (
        *("as", "core", "cpu", "data", "fsize", "memlock", "msgqueue", "nice", "nofile", "nproc", "rss", "rtprio"),
        *("rttime", "sigpending", "stack"),
    )
    if hasattr(resource, f"RLIMIT_{name.upper()}")
} | {"locks": 10}
_NAMESPACED = pattern(r"(net\.|fs\.mqueue\.|kernel\.(shm|msg|sem)|kernel\.(domainname|hostname)\Z)")


def parse_ulimit(text: str) -> Limit:
    """`NAME=SOFT[:HARD]`; -1 is unlimited. Raises InvalidInput in docker's words."""
    name, equals, value = text.partition("=")
    if not equals:
        raise InvalidInput(f"invalid ulimit argument: {text}")
    if name not in _ULIMITS:
        raise InvalidInput(f"invalid ulimit type: {name}")
    parts = value.split(":")
    if len(parts) > 2:
        raise InvalidInput(f"too many limit value arguments - {value}, can only have up to two, `soft[:hard]`")
    if not all(re.fullmatch(r"-1|\d{1,19}", part, re.ASCII) for part in parts):
        raise InvalidInput(f"invalid ulimit argument: {text}")
    soft, hard = int(parts[0]), int(parts[-1])
    if hard != -1 and (soft > hard or soft == -1):
        raise InvalidInput(f"ulimit soft limit must be less than or equal to hard limit: {soft} > {hard}")
    return Limit(_ULIMITS[name], soft, hard)


def parse_sysctl(text: str) -> tuple[str, str]:
    """`NAME=VALUE`."""
    name, equals, value = text.partition("=")
    if not equals or not name:
        raise InvalidInput(f"sysctl '{text}' is not NAME=VALUE")
    return name.strip(), value


def check_sysctl(name: str, *, host_network: bool) -> None:
    """Only what a container has of its own. Raises InvalidInput."""
    if not _NAMESPACED.match(name) or (name.startswith("net.") and host_network):
        raise InvalidInput(f"sysctl '{name}' is not allowed: it is not separate in this container's namespaces")


@dataclass(frozen=True, slots=True)
class Device:
    """A device node of the host (or all below a directory of it) at `target`; `access` some of r, w, m."""

    source: str
    target: str
    access: str = "rwm"

    @classmethod
    def parse(cls, text: str) -> Device:
        """`SOURCE[:TARGET][:ACCESS]`."""
        parts = text.split(":")
        if len(parts) > 3 or not parts[0]:
            raise InvalidInput(f"invalid device specification: {text}")
        access = parts.pop() if len(parts) > 1 and re.fullmatch("[rwm]{1,3}", parts[-1]) else "rwm"
        if len(parts) > 2:
            raise InvalidInput(f"invalid device mode: {parts[2]}")
        source, target = parts[0], parts[-1]
        if not source.startswith("/") or not target.startswith("/"):
            raise InvalidInput(f"invalid device specification: {text}: paths are absolute")
        return cls(source, os.path.normpath(target), access)

    def nodes(self) -> Iterator[tuple[str, str, os.stat_result]]:
        """(place on the host, place in the container, node) of each. Raises RunError when there is none."""
        try:
            real = Path(self.source).resolve(strict=True)
            info = real.stat()
        except OSError as error:
            reason = (error.strerror or str(error)).lower()
            raise RunError(
                f'error gathering device information while adding custom device "{self.source}": {reason}'
            ) from None
        if stat.S_ISDIR(info.st_mode):
            for place in sorted(Path(top, name) for top, _, names in os.walk(real) for name in names):
                with contextlib.suppress(FileNotFoundError):  # unplugged meanwhile
                    if _is_device(found := place.lstat()):
                        yield str(place), os.path.join(self.target, place.relative_to(real)), found  # noqa: PTH118
        elif _is_device(info):
            yield str(real), self.target, info
        else:
            raise RunError(
                f'error gathering device information while adding custom device "{self.source}": not a device node'
            )

    def rules(self) -> list[DeviceRule]:
        """What a device cgroup must allow for it."""
        kinds = ((("b" if stat.S_ISBLK(info.st_mode) else "c"), info.st_rdev) for _, _, info in self.nodes())
        return [DeviceRule(kind, os.major(number), os.minor(number), self.access) for kind, number in kinds]


def _is_device(info: os.stat_result) -> bool:
    return stat.S_ISCHR(info.st_mode) or stat.S_ISBLK(info.st_mode)


def parse_host(text: str) -> tuple[str, str]:
    """`NAME:ADDRESS` or `NAME=ADDRESS`; `host-gateway` stands for the bridge's own address."""
    name, _, address = text.partition("=") if "=" in text else text.partition(":")
    plain = address.strip("[]")
    if not name or any(c.isspace() for c in name) or not (plain == "host-gateway" or _is_address(plain)):
        raise InvalidInput(
            f'bad format for add-host: "{text}"' if not address else f'invalid IP address in add-host: "{plain}"'
        )
    return name, plain


def _is_address(text: str) -> bool:
    try:
        ipaddress.ip_address(text)
    except ValueError:
        return False
    return True


@dataclass(frozen=True, slots=True)
class Resolver:
    """What `--dns`, `--dns-search` and `--dns-option` put in the place of the host's."""

    servers: tuple[str, ...] = ()
    search: tuple[str, ...] = ()
    options: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        for server in self.servers:
            if not _is_address(server):
                raise InvalidInput(f"{server} is not an ip address")
        for word in (*self.search, *self.options):
            if not re.fullmatch(r"[\w.:-]{1,255}", word):
                raise InvalidInput(f"{word} is not a valid domain or option")

    def __bool__(self) -> bool:
        return bool(self.servers or self.search or self.options)

    def text(self, host: bytes) -> bytes:
        """`host` is the resolv.conf to start from."""
        kept = [line for line in host.splitlines() if not self._replaces(line)]
        lines = [*kept, *(f"nameserver {server}".encode() for server in self.servers)]
        search = [word for word in self.search if word != "."]
        lines += [f"search {' '.join(search)}".encode()] if search else []
        lines += [f"options {' '.join(self.options)}".encode()] if self.options else []
        return b"".join(line + b"\n" for line in lines)

    def _replaces(self, line: bytes) -> bool:
        word = line.split(None, 1)[0] if line.split() else b""
        return (
            (word == b"nameserver" and bool(self.servers))
            or (word in (b"search", b"domain") and bool(self.search))
            or (word == b"options" and bool(self.options))
        )


@dataclass(frozen=True, slots=True)
class IdMap:
    """`size` ids from `inside` are those from `outside` of the host."""

    inside: int
    outside: int
    size: int


def unique(words: Iterable[str]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(words))


def parse_clock(text: str) -> tuple[int, int]:
    """`monotonic=SECONDS` or `boottime=SECONDS`: how far that clock is off in the container."""
    name, _, seconds = text.partition("=")
    if name not in _CLOCKS or not re.fullmatch(r"-?\d{1,10}", seconds, re.ASCII):
        raise InvalidInput(f"invalid time offset: '{text}' is not monotonic=SECONDS or boottime=SECONDS")
    return _CLOCKS[name], int(seconds)


_CLOCKS: Final = {"monotonic": 1, "boottime": 7}
