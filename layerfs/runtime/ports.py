"""`-p` and EXPOSE: docker's syntax of ports, ranges and addresses. Pure, but for looking whether a port is free."""

from __future__ import annotations

import contextlib
import errno
import ipaddress
import re
import socket
from collections.abc import Iterable

from layerfs._lazy import pattern
from layerfs._record import dataclass
from layerfs.errors import InvalidInput, RunError
from layerfs.runtime.firewall import Published

_RANGE = pattern(r"(\d{1,5})(?:-(\d{1,5}))?\Z", re.ASCII)
_TYPES = {"tcp": socket.SOCK_STREAM, "udp": socket.SOCK_DGRAM}


@dataclass(frozen=True, slots=True)
class Publish:
    """A port of the container, and where on the host it is wanted: one of `host_first`..`host_last`, 0 for any."""

    port: int
    protocol: str = "tcp"
    host_ip: str = ""
    host_first: int = 0
    host_last: int = 0


def _range(text: str, what: str) -> tuple[int, int]:
    match = _RANGE.match(text)
    if not match:
        raise InvalidInput(f"invalid {what}: {text}")
    first, last = int(match[1]), int(match[2] or match[1])
    if not 0 < first <= last <= 65535:
        raise InvalidInput(f"invalid {what}: {text}")
    return first, last


def _protocol(text: str) -> tuple[str, str]:
    port, slash, protocol = text.partition("/")
    protocol = protocol.lower() if slash else "tcp"
    if protocol not in _TYPES:
        raise InvalidInput(f"invalid proto: {protocol}")
    return port, protocol


def parse_expose(text: str) -> list[tuple[int, str]]:
    """`80`, `80/udp`, `80-90/tcp`."""
    ports, protocol = _protocol(text)
    first, last = _range(ports, "containerPort")
    return [(port, protocol) for port in range(first, last + 1)]


def parse_publish(text: str) -> list[Publish]:
    """`[[IP:][HOST[-HOST]]:]PORT[-PORT][/PROTOCOL]`, and docker's long form `target=80,published=8080,...`."""
    if "=" in text:
        return _long(text)
    rest, protocol = _protocol(text)
    head, _, inner = rest.rpartition(":")
    address, host = _host(head)
    return _pairs(text, inner, host, address, protocol)


def _host(head: str) -> tuple[str, str]:
    """(address, ports) of what stands before the container's port."""
    if head.startswith("["):
        address, bracket, ports = head[1:].partition("]")
        if not bracket:
            raise InvalidInput(f"invalid IP address: {head}")
        return _address(address), ports.removeprefix(":")
    if head.count(":") > 1:
        raise InvalidInput(f"invalid publish format: {head}")
    address, colon, ports = head.rpartition(":")
    if not colon and "." in ports:
        return _address(ports), ""
    return _address(address), ports


def _address(text: str) -> str:
    """ "" for every address of the host."""
    if not text:
        return ""
    try:
        found = ipaddress.ip_address(text)
    except ValueError:
        raise InvalidInput(f"invalid IP address: {text}") from None
    if found.version == 6 and not found.is_unspecified:
        raise InvalidInput(f"publishing on the IPv6 address {text} is not supported")
    return "" if found.is_unspecified else str(found)


def _pairs(text: str, inner: str, host: str, address: str, protocol: str) -> list[Publish]:
    first, last = _range(inner, "containerPort")
    if not host:
        return [Publish(port, protocol, address) for port in range(first, last + 1)]
    host_first, host_last = _range(host, "hostPort")
    if first == last:
        return [Publish(first, protocol, address, host_first, host_last)]
    if last - first != host_last - host_first:
        raise InvalidInput(f"invalid ranges specified for container and host Ports: {inner} and {host}")
    return [Publish(first + n, protocol, address, host_first + n, host_first + n) for n in range(last - first + 1)]


def _long(text: str) -> list[Publish]:
    values = dict(part.partition("=")[::2] for part in text.split(","))
    if unknown := set(values) - {"target", "published", "protocol", "mode", "host_ip", "app_protocol", "name"}:
        raise InvalidInput(f"invalid field key: {min(unknown)}")
    _, protocol = _protocol(f"1/{values.get('protocol', 'tcp')}")
    return _pairs(
        text, values.get("target", ""), values.get("published", ""), _address(values.get("host_ip", "")), protocol
    )


def is_free(port: Published) -> bool:
    """Whether nothing on the host listens there."""
    with contextlib.closing(socket.socket(socket.AF_INET, _TYPES[port.protocol])) as sock:
        if port.protocol == "tcp":
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            sock.bind((port.host_ip, port.host_port))
            if port.protocol == "tcp":
                sock.listen(1)
        except OSError as error:
            if error.errno == errno.EADDRNOTAVAIL:
                raise RunError(f"cannot assign requested address: {port.host_ip}") from None
            if error.errno in (errno.EADDRINUSE, errno.EACCES):
                return False
            raise
    return True


def _clashes(one: Published, others: Iterable[Published]) -> bool:
    return any(
        (one.protocol, one.host_port) == (other.protocol, other.host_port)
        and (not one.host_ip or not other.host_ip or one.host_ip == other.host_ip)
        for other in others
    )


def allocate(wanted: Iterable[Publish], taken: Iterable[Published], ephemeral: tuple[int, int]) -> list[Published]:
    """Ports of the host for all of `wanted`; `taken` are those of other containers.

    Raises:
        RunError: docker's words when there is none.
    """
    used, found = list(taken), []
    for each in sorted(wanted, key=lambda publish: not publish.host_first):
        first, last = (each.host_first, each.host_last) if each.host_first else ephemeral
        for number in range(first, last + 1):
            port = Published(each.protocol, each.host_ip, number, each.port)
            if not _clashes(port, used) and is_free(port):
                break
        else:
            raise RunError(f"Bind for {each.host_ip or '0.0.0.0'}:{first} failed: port is already allocated")
        used.append(port)
        found.append(port)
    return found


__all__ = ["Publish", "allocate", "is_free", "parse_expose", "parse_publish"]
