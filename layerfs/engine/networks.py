"""Networks of a store: records in `networks/<id>/network.json`, and who is connected in `endpoints/<container>.json`.

An endpoint counts as long as its container's network namespace is kept (`containers/<id>/run/net`), so an address that
a killed run held is free again. Interfaces, bridge and rules of a network are on the host only while somebody is
connected; `docs/architecture.md` tells the rest. All changes are made under the store's lock `networks`.
"""

from __future__ import annotations

import contextlib
import fcntl
import ipaddress
import json
import os
import re
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path

from layerfs._lazy import TYPE_CHECKING, pattern
from layerfs._record import asdict, dataclass, field, replace
from layerfs.engine.attachments import check_address
from layerfs.errors import AlreadyExists, InUse, InvalidInput, NotFound, RunError
from layerfs.native import sha256
from layerfs.runtime import netns
from layerfs.runtime.rtnetlink import Netlink
from layerfs.store.durable import replacing

if TYPE_CHECKING:
    from typing import Any

    from layerfs.engine.container import Container
    from layerfs.engine.pruning import PruneFilter
    from layerfs.engine.store import Store

DEFAULT = "bridge"
_SPECIAL = ("host", "none")
_CAPABILITIES = (12, 21)  # CAP_NET_ADMIN, CAP_SYS_ADMIN
_NS_GET_USERNS = 0xB701
_NAME = pattern(r"[a-zA-Z0-9][a-zA-Z0-9_.-]*\Z", re.ASCII)
_POOL = [ipaddress.IPv4Network(f"172.{n}.0.0/16") for n in range(17, 32)]
_POOL += [ipaddress.IPv4Network(f"192.168.{n}.0/20") for n in range(0, 256, 16)]


def default_name() -> str:
    """The network of a container whose creator names none, on the command line: docker's `bridge`; `none` for who may
    make no interfaces here."""
    status = Path("/proc/self/status").read_text()
    mask = int(status.partition("CapEff:")[2].split()[0], 16)
    return DEFAULT if all(mask >> bit & 1 for bit in _CAPABILITIES) and _owns_network() else "none"


def _owns_network() -> bool:
    """Root of a user namespace has capabilities, but not over the host's interfaces."""
    try:
        network = os.open("/proc/self/ns/net", os.O_RDONLY | os.O_CLOEXEC)
        try:
            owner = fcntl.ioctl(network, _NS_GET_USERNS)
        finally:
            os.close(network)
        try:
            return os.fstat(owner).st_ino == Path("/proc/self/ns/user").stat().st_ino
        finally:
            os.close(owner)
    except OSError:
        return False


@dataclass(frozen=True, slots=True)
class Endpoint:
    """One container's place in a network. `ports`: protocol, host address, host port, container port."""

    container: str
    name: str
    address: str
    mac: str
    interface: str
    link: str
    aliases: tuple[str, ...] = ()
    ports: tuple[tuple[str, str, int, int], ...] = ()
    links: tuple[str, ...] = ()
    priority: int = 0

    @classmethod
    def of(cls, row: Mapping[str, Any]) -> Endpoint:
        known = {name: value for name, value in row.items() if name in cls.__slots__}
        for several in ("aliases", "links"):
            known[several] = tuple(known.get(several, ()))
        known["ports"] = tuple((p[0], p[1], p[2], p[3]) for p in known.get("ports", ()))
        return cls(**known)


@dataclass(frozen=True, slots=True)
class Network:
    """`chosen`: its subnet was picked by us and may be picked anew when nobody is connected. `ip_range`: the part of it
    that containers get addresses of; `reserved`: addresses by name that none gets."""

    id: str
    name: str
    subnet: str
    gateway: str
    driver: str = "bridge"
    internal: bool = False
    chosen: bool = True
    labels: Mapping[str, str] = field(default_factory=dict)
    options: Mapping[str, str] = field(default_factory=dict)
    created_ns: int = 0
    ip_range: str = ""
    reserved: Mapping[str, str] = field(default_factory=dict)
    attachable: bool = False

    @property
    def bridge(self) -> str:
        """The interface on the host."""
        return f"lfs{self.id[:10]}"

    @property
    def group(self) -> int:
        """Of interfaces: the bridge and its ports are one, so they go at once. Administrators use small numbers."""
        return 1 << 31 | int(self.id[:8], 16)

    @property
    def table(self) -> str:
        return f"layerfs_{self.id[:10]}"

    @property
    def created(self) -> str:
        """As docker shows it."""
        from layerfs.oci.fields import format_time

        return format_time(self.created_ns)

    @property
    def special(self) -> bool:
        return self.driver != "bridge"

    @property
    def mtu(self) -> int:
        return int(self.options.get(f"{_DRIVER}mtu", 0))

    @property
    def masquerades(self) -> bool:
        """Whether what goes out of it has the host's address."""
        return not self.internal and self.options.get(f"{_BRIDGE}enable_ip_masquerade", "true") == "true"

    @property
    def host_binding(self) -> str:
        """Where ports are published when nobody says; "" is every address of the host."""
        return self.options.get(f"{_BRIDGE}host_binding_ipv4", "").replace("0.0.0.0", "")


class Networks:
    """Those of one store."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._path = store.path / "networks"

    def lock(self) -> contextlib.AbstractContextManager[None]:
        return self._store.root.lock("networks")

    def all(self) -> list[Network]:
        """By name; the three that are always there, too."""
        here = self._identity(DEFAULT)  # another one is of a place where the store was before
        stored = (network for network in self._stored() if network.name != DEFAULT or network.id == here)
        return sorted([*self._special(), *stored], key=lambda network: network.name)

    def _special(self) -> Iterator[Network]:
        for name in (DEFAULT, *_SPECIAL):
            if name != DEFAULT or not self._record(self._identity(name)):
                driver = "bridge" if name == DEFAULT else "null" if name == "none" else "host"
                yield Network(self._identity(name), name, "", "", driver)

    def _identity(self, name: str) -> str:
        """The same whatever name the store is opened by (a link to it), another one for a copy of it elsewhere."""
        return sha256(name.encode() + b"\0" + os.fsencode(os.path.realpath(self._store.path))).hex()

    def _record(self, identity: str) -> Network | None:
        try:
            row = json.loads((self._path / identity / "network.json").read_text())
        except (OSError, ValueError):
            return None
        return Network(**{name: value for name, value in row.items() if name in Network.__slots__})

    def _stored(self) -> Iterator[Network]:
        with contextlib.suppress(OSError):
            for identity in sorted(os.listdir(self._path)):  # noqa: PTH208
                if record := self._record(identity):
                    yield record

    def get(self, name: str) -> Network:
        """By name, ID or a start of one. Raises NotFound in docker's words."""
        found = [n for n in self.all() if name in (n.name, n.id)]
        found = found or [n for n in self.all() if name and n.id.startswith(name)]
        if len(found) != 1:
            raise NotFound(f"network {name} not found" if not found else f"network {name} is ambiguous")
        return found[0]

    def create(
        self,
        name: str,
        *,
        driver: str = "bridge",
        subnet: str | None = None,
        gateway: str | None = None,
        internal: bool = False,
        labels: Mapping[str, str] | None = None,
        options: Mapping[str, str] | None = None,
        ip_range: str | None = None,
        reserved: Mapping[str, str] | None = None,
        attachable: bool = False,
    ) -> Network:
        """Makes a bridge that containers can be on.

        Args:
            subnet: `10.5.0.0/24`, from /8 to /29; None picks one that the host has no way to.
            gateway: the host's address in it; None is the first one.
            internal: no way out of it.
            options: `com.docker.network.driver.mtu` (bytes), `com.docker.network.bridge.enable_ip_masquerade`
                (`true`, `false`), `com.docker.network.bridge.host_binding_ipv4` (an address).
            ip_range: the part of the subnet (a subnet itself) that containers get their addresses of.
            reserved: addresses by name that no container gets.
            attachable: shown by `inspect`; any container may connect anyway.

        Raises:
            AlreadyExists, InvalidInput: in docker's words.
        """
        if driver != "bridge":
            raise InvalidInput(f"could not find plugin {driver} in v1 plugin registry: plugin not found")
        if not _NAME.match(name):
            raise InvalidInput(f"invalid network name: '{name}'")
        _check_options(options or {})
        if (ip_range or reserved) and not subnet:
            raise InvalidInput("an IP range or reserved addresses need a subnet")
        with self.lock():
            if any(name == network.name for network in self.all()):
                raise AlreadyExists(f"network with name {name} already exists")
            identity = os.urandom(32).hex()
            network = self._placed(identity, name, subnet, gateway)
            network = replace(network, internal=internal, labels=labels or {}, options=options or {})
            network = replace(network, reserved=dict(reserved or {}), attachable=attachable)
            network = replace(network, ip_range=_part(ip_range, network) if ip_range else "")
            for address in network.reserved.values():
                _address(address, ipaddress.IPv4Network(network.subnet))
            self._write(network)
        return network

    def default(self) -> Network:
        """The network `bridge`, made when it is first used. Under the lock."""
        identity = self._identity(DEFAULT)
        network = self._record(identity)
        if network is None:
            network = self._placed(identity, DEFAULT, None, None)
            self._write(network)
        return network

    def _placed(self, identity: str, name: str, subnet: str | None, gateway: str | None) -> Network:
        others = [ipaddress.IPv4Network(n.subnet) for n in self._stored()]
        wanted = _subnet(subnet) if subnet else free_subnet(others)
        if any(wanted.overlaps(other) for other in others):
            raise InvalidInput("Pool overlaps with other one on this address space")
        first = _address(gateway, wanted) if gateway else wanted.network_address + 1
        return Network(identity, name, str(wanted), str(first), chosen=not subnet, created_ns=time.time_ns())

    def fresh_subnet(self, network: Network) -> Network:
        """With a subnet that the host has no other way to: chosen anew where we chose it. Under the lock, while nobody
        is connected. Raises RunError."""
        mine = ipaddress.IPv4Network(network.subnet)
        with Netlink() as host:
            routes = host.routes()
        if not any(mine.overlaps(route) for route in routes if route.prefixlen):
            return network
        if not network.chosen:
            raise RunError(f"the subnet {network.subnet} of network {network.name} is in use on this host")
        others = [ipaddress.IPv4Network(n.subnet) for n in self._stored() if n.id != network.id]
        placed = free_subnet([*others, *routes])
        network = replace(network, subnet=str(placed), gateway=str(placed.network_address + 1))
        self._write(network)
        return network

    def _write(self, network: Network) -> None:
        place = self._path / network.id
        (place / "endpoints").mkdir(mode=0o700, parents=True, exist_ok=True)
        _replace(place / "network.json", asdict(network))

    def remove(self, name: str) -> Network:
        """Raises InUse, NotFound."""
        import shutil

        with self.lock():
            network = self.get(name)
            if network.name in (DEFAULT, *_SPECIAL):
                raise InvalidInput(f"{network.name} is a pre-defined network and cannot be removed")
            if self.endpoints(network):
                raise InUse(f"error while removing network: network {network.name} has active endpoints")
            self.take_down(network)
            shutil.rmtree(self._path / network.id)
        return network

    def prune(self, boxes: Iterable[Container], wanted: PruneFilter | None = None) -> list[str]:
        """Removes those that no settings of these containers name and nobody is connected to; their names."""
        used = {name for box in boxes for name in (box.settings.network, *box.settings.networks)}
        gone = []
        for network in self._stored():
            if wanted and not wanted.allows(network.labels, network.created_ns):
                continue
            if network.name not in (DEFAULT, *used) and network.id not in used:
                with contextlib.suppress(InUse, NotFound):
                    gone.append(self.remove(network.id).name)
        return gone

    # endpoints

    def endpoints(self, network: Network) -> list[Endpoint]:
        """Of containers whose network is up; what others left is taken away (under the lock)."""
        place = self._path / network.id / "endpoints"
        found = []
        with contextlib.suppress(FileNotFoundError):
            for file in sorted(place.iterdir()):
                endpoint = _endpoint(file)
                if endpoint is None or not netns.is_kept(self.namespace(endpoint.container)):
                    with contextlib.suppress(OSError):
                        file.unlink()
                else:
                    found.append(endpoint)
        return found

    def namespace(self, container: str) -> Path:
        """Where a container's network namespace is kept."""
        return self._store.container_table.path(container) / "run" / "net"

    def write_endpoint(self, network: Network, endpoint: Endpoint) -> None:
        _replace(self._path / network.id / "endpoints" / f"{endpoint.container}.json", asdict(endpoint))

    def drop_endpoint(self, network: Network, container: str) -> None:
        (self._path / network.id / "endpoints" / f"{container}.json").unlink(missing_ok=True)

    def of(self, container: str) -> list[tuple[Network, Endpoint]]:
        """Where a container is connected, in the order of its interfaces; also when it has ended badly."""
        found = []
        for network in self._stored():
            endpoint = _endpoint(self._path / network.id / "endpoints" / f"{container}.json")
            if endpoint is not None:
                found.append((network, endpoint))
        return sorted(found, key=lambda pair: pair[1].interface)

    def take_down(self, network: Network) -> None:
        """Bridge and rules, when nobody is connected any more. Under the lock."""
        from layerfs._threads import begin
        from layerfs.runtime import firewall

        with Netlink() as host:
            link = host.find(network.bridge)
            if link is None:
                return
            rules = begin(lambda: firewall.delete(network.table))
            try:
                host.delete_bridge(link, network.group)
            finally:
                with contextlib.suppress(OSError):  # a kernel without nftables
                    rules()


def _endpoint(file: Path) -> Endpoint | None:
    try:
        return Endpoint.of(json.loads(file.read_text()))
    except (OSError, ValueError, TypeError, LookupError):
        return None


def _replace(file: Path, row: Mapping[str, Any]) -> None:
    with replacing(file) as new:
        new.write(json.dumps(row, sort_keys=True).encode())


def _subnet(text: str) -> ipaddress.IPv4Network:
    try:
        wanted = ipaddress.IPv4Network(text)
    except ValueError:
        raise InvalidInput(f"invalid subnet {text}: it is no IPv4 network like 10.1.0.0/24") from None
    if wanted.prefixlen > 29 or wanted.prefixlen < 8:
        raise InvalidInput(f"invalid subnet {text}: from /8 to /29")
    return wanted


def _part(text: str, network: Network) -> str:
    """An IP range of a network's. Raises InvalidInput."""
    try:
        wanted = ipaddress.IPv4Network(text, strict=False)
    except ValueError:
        raise InvalidInput(f"invalid ip-range {text}: it is no IPv4 network like 10.1.0.0/25") from None
    if not wanted.subnet_of(ipaddress.IPv4Network(network.subnet)):
        raise InvalidInput(f"no matching subnet for range {text}")
    return str(wanted)


_DRIVER, _BRIDGE = "com.docker.network.driver.", "com.docker.network.bridge."
_REFUSED = {
    f"{_BRIDGE}name": "bridges here are named lfs and a part of the network's ID",
    f"{_BRIDGE}enable_icc": "containers of one bridge reach each other; make a network for each",
    f"{_BRIDGE}inhibit_ipv4": "the gateway is the host's address",
    "com.docker.network.enable_ipv6": "networks have IPv4 only",
}


def _check_options(options: Mapping[str, str]) -> None:
    """Raises InvalidInput for one that would be without effect."""
    for name, value in options.items():
        if name in _REFUSED and not (name.endswith("enable_icc") and value == "true"):
            raise InvalidInput(f"network option {name} is not supported: {_REFUSED[name]}")
    mtu = options.get(f"{_DRIVER}mtu", "0")
    if not (mtu.isascii() and mtu.isdigit() and (int(mtu) == 0 or 68 <= int(mtu) <= 65535)):
        raise InvalidInput(f"invalid MTU: {mtu}")
    if (masquerade := options.get(f"{_BRIDGE}enable_ip_masquerade", "true")) not in ("true", "false"):
        raise InvalidInput(f"invalid value for {_BRIDGE}enable_ip_masquerade: {masquerade}")
    if binding := options.get(f"{_BRIDGE}host_binding_ipv4"):
        check_address(binding)


def _address(text: str, subnet: ipaddress.IPv4Network) -> ipaddress.IPv4Address:
    try:
        address = ipaddress.IPv4Address(text)
    except ValueError:
        raise InvalidInput(f"invalid address: {text}") from None
    if address not in subnet or address in (subnet.network_address, subnet.broadcast_address):
        raise InvalidInput(f"no configured subnet contains {text}")
    return address


def free_subnet(taken: Sequence[ipaddress.IPv4Network]) -> ipaddress.IPv4Network:
    """The first of docker's pool that overlaps none of `taken`. Raises RunError."""
    for candidate in _POOL:
        if not any(candidate.overlaps(other) for other in taken if other.prefixlen):
            return candidate
    raise RunError("all predefined address pools have been fully subnetted")


def free_address(network: Network, taken: Sequence[str], wanted: str | None = None) -> ipaddress.IPv4Address:
    """The lowest that nobody has. Raises InvalidInput, RunError."""
    subnet = ipaddress.IPv4Network(network.subnet)
    used = {network.gateway, *network.reserved.values(), *taken}
    if wanted:
        address = _address(wanted, subnet)
        if str(address) in used:
            raise RunError("Address already in use")
        return address
    for host in ipaddress.IPv4Network(network.ip_range or network.subnet):
        if str(host) not in used and host not in (subnet.network_address, subnet.broadcast_address):
            return host
    raise RunError(f"no available IPv4 addresses on this network's address pools: {network.name}")
