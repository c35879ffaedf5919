"""What registries are called: by users, by their API, and in files of credentials."""

from __future__ import annotations

import contextlib
import functools
import socket
from urllib.parse import urlsplit

from layerfs.errors import InvalidInput
from layerfs.reference import DEFAULT_DOMAIN

HUB_API = "registry-1.docker.io"
HUB_KEY = "https://index.docker.io/v1/"  # docker.io in docker's config.json, since the first version of its API
_HUB = frozenset({DEFAULT_DOMAIN, "index.docker.io", HUB_API})
_LOOPBACK = ((socket.AF_INET, b"\x7f"), (socket.AF_INET6, bytes(15) + b"\1"))  # and how addresses begin there


def api_host(domain: str) -> str:
    """Where the API of a reference's domain answers."""
    return HUB_API if domain in _HUB else domain


def credential_key(domain: str) -> str:
    """What docker's config.json and credential helpers call a domain."""
    return HUB_KEY if domain in _HUB else domain


def domain_of(server: str) -> str:
    """The domain that a user, or a file of credentials, means: a host, a URL, or nothing for docker.io.

    Raises:
        InvalidInput: no host in it.
    """
    text = server.strip()
    host = text.split("://", 1)[-1].split("/", 1)[0]
    if text and (not host or any(c.isspace() or c in "@?#\\" for c in host)):
        raise InvalidInput(f"invalid registry {server!r}: want HOST[:PORT]")
    return DEFAULT_DOMAIN if host in _HUB or not host else host


def host_name(host: str) -> str:
    """A host without its port, and an IPv6 address without brackets."""
    try:
        return urlsplit(f"//{host}").hostname or host
    except ValueError:
        return host


@functools.lru_cache(maxsize=64)
def is_loopback(host: str) -> bool:
    """Whether a host is this machine by its name or address; nothing is resolved."""
    name = host_name(host)
    if name == "localhost" or name.endswith(".localhost"):
        return True
    for family, beginning in _LOOPBACK:
        with contextlib.suppress(OSError, ValueError):
            return socket.inet_pton(family, name.partition("%")[0]).startswith(beginning)
    return False
