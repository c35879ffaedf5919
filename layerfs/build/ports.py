"""Words of EXPOSE: `80`, `80/udp`, `8000-8010/tcp`; an address or host port is read and left out (BuildKit's way)."""

from __future__ import annotations

import ipaddress
import re

from layerfs._record import dataclass
from layerfs.build.problems import problem, quote

_PROTOCOLS = ("tcp", "udp", "sctp")
_PORT_MAX = 65535
_NUMBER = re.compile(r"\+?[0-9]{1,18}\Z")


@dataclass(frozen=True, slots=True)
class Exposed:
    """`ports` as `80/tcp`; `odd_protocol`: not in lower case; `mapped`: with an address or a host's port."""

    ports: tuple[str, ...]
    odd_protocol: bool = False
    mapped: bool = False


def expose(word: str) -> Exposed:
    """Read one word.

    Raises:
        InvalidDockerfile: no port, a protocol nobody knows, ranges that do not fit each other.
    """
    *host, container = word.split(":")
    address, host_port = ":".join(host[:-1]), host[-1] if host else ""
    numbers, _, protocol = container.partition("/")
    if not numbers:
        raise problem(f"invalid port: {quote(word)}: no port specified", word=word)
    protocol = protocol or "tcp"
    if protocol.lower() not in _PROTOCOLS:
        raise problem(f"invalid port: {quote(word)}: invalid proto: {protocol}", word=word)
    _check_address(address, word)
    first, last = _range(numbers, "containerPort", word)
    if host_port:
        host_first, host_last = _range(host_port, "hostPort", word)
        if last - first != host_last - host_first and last != first:
            reason = f"invalid ranges specified for container and host Ports: {numbers} and {host_port}"
            raise problem(reason, word=word)
    ports = tuple(f"{port}/{protocol.lower()}" for port in range(first, last + 1))
    return Exposed(ports, protocol != protocol.lower(), bool(address or host_port))


def _check_address(address: str, word: str) -> None:
    if not address:
        return
    bare = address[1:-1] if address.startswith("[") and address.endswith("]") else address
    try:
        ipaddress.ip_address(bare)
    except ValueError:
        raise problem(f"invalid IP address: {bare}", word=word) from None


def _range(text: str, what: str, word: str) -> tuple[int, int]:
    first, dash, last = text.partition("-")
    numbers = [int(part) for part in ((first, last) if dash else (first,)) if _NUMBER.match(part)]
    if len(numbers) != 1 + bool(dash) or max(numbers) > _PORT_MAX or numbers[-1] < numbers[0]:
        raise problem(f"invalid {what}: {text}", word=word)
    return numbers[0], numbers[-1]
