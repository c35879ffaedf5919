"""The three files docker lays over an image's /etc: resolv.conf, hostname and hosts."""

from __future__ import annotations

import contextlib
import os
import socket
from collections.abc import Iterable
from pathlib import Path

from layerfs._lazy import TYPE_CHECKING
from layerfs._record import dataclass

if TYPE_CHECKING:
    from layerfs.runtime.options import RunOptions

_HOSTS = (
    ("127.0.0.1", "localhost"),
    ("::1", "localhost ip6-localhost ip6-loopback"),
    ("fe00::", "ip6-localnet"),
    ("ff00::", "ip6-mcastprefix"),
    ("ff02::1", "ip6-allnodes"),
    ("ff02::2", "ip6-allrouters"),
)


@dataclass(frozen=True, slots=True)
class ContainerFiles:
    """Where they are on the host; each is bound over /etc/NAME."""

    resolv_conf: Path
    hostname: Path
    hosts: Path


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError:
        return b""


def _names(hostname: bytes, options: RunOptions) -> bytes:
    """For its own line: the full name first, as `hostname -f` takes it."""
    return hostname + b"." + os.fsencode(options.domainname) + b" " + hostname if options.domainname else hostname


def hosts_text(hostname: bytes, addresses: Iterable[str] = (), extra: Iterable[tuple[str, str]] = ()) -> bytes:
    """docker's /etc/hosts: its fixed lines, the container's `addresses`, then `extra` (name, address) pairs."""
    lines = [f"{address}\t{names}".encode() for address, names in _HOSTS]
    lines += [address.encode() + b"\t" + hostname for address in addresses]
    lines += [f"{address}\t{name}".encode() for name, address in extra]
    return b"\n".join(lines) + b"\n"


def _loopback(line: bytes) -> bool:
    fields = line.split()
    if len(fields) < 2 or fields[0] != b"nameserver":
        return False
    address = fields[1].decode("ascii", "replace").split("%")[0]
    for family in (socket.AF_INET, socket.AF_INET6):
        with contextlib.suppress(OSError, ValueError):
            packed = socket.inet_pton(family, address)
            return packed[0] == 127 if family == socket.AF_INET else packed == bytes(15) + b"\1"
    return False


def resolv_conf_text(host: bytes) -> bytes:
    """The host's resolver file without resolvers on a loopback, which the container cannot reach."""
    kept = [line for line in host.splitlines() if not _loopback(line)]
    return b"# Made by layerfs from the host's /etc/resolv.conf.\n" + b"".join(line + b"\n" for line in kept)


def write_files(directory: Path, hostname: bytes, options: RunOptions) -> ContainerFiles:
    """Writes the three into `directory`, which exists. With the host's network they are the host's own texts; the
    options' hosts and resolvers come over them."""
    files = ContainerFiles(directory / "resolv.conf", directory / "hostname", directory / "hosts")
    resolv, host_network = _read(Path("/etc/resolv.conf")), options.network == "host"
    hosts = _read(Path("/etc/hosts")) if host_network else b""
    extra = tuple(options.extra_hosts)
    added = b"".join(f"{address}\t{name}\n".encode() for name, address in extra)
    own = hosts + added if hosts else hosts_text(_names(hostname, options), options.addresses, extra)
    owner = options.id_maps.root if options.id_maps else None
    _write(files.resolv_conf, options.resolver.text(resolv if host_network else resolv_conf_text(resolv)), owner)
    _write(files.hostname, hostname + b"\n", owner)
    _write(files.hosts, own + options.others, owner)
    return files


def _write(path: Path, text: bytes, owner: tuple[int, int] | None) -> None:
    """For everybody to read, whatever the umask says."""
    with path.open("wb") as file:
        file.write(text)
        os.fchmod(file.fileno(), 0o644)
        if owner is not None:
            os.fchown(file.fileno(), *owner)
