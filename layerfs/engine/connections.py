"""Connecting a container: its network namespace, interfaces, addresses, published ports, and the names by which the
containers of a network find each other (lines in their /etc/hosts, written again whenever somebody comes or goes).
"""

from __future__ import annotations

import contextlib
import fcntl
import ipaddress
import os
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from layerfs._lazy import TYPE_CHECKING
from layerfs._record import replace
from layerfs.engine.attachments import Attachment, attachment_of, changed
from layerfs.engine.networks import DEFAULT, Endpoint, Network, Networks, free_address
from layerfs.engine.userns import maps_of
from layerfs.errors import InUse, InvalidInput, LayerfsError, NotFound, RunError
from layerfs.native import sha256
from layerfs.runtime import firewall, netns
from layerfs.runtime.firewall import Published
from layerfs.runtime.ports import Publish, allocate, parse_expose, parse_publish
from layerfs.runtime.rtnetlink import Netlink

if TYPE_CHECKING:
    from layerfs.engine.container import Container
    from layerfs.engine.settings import Settings

_BEGIN, _END = b"# layerfs: others on the network\n", b"# layerfs: end\n"
_LOOPBACK = 1  # its index in every network namespace
_HOST_LOCK = "/run/layerfs-networks.lock"
_EPHEMERAL = Path("/proc/sys/net/ipv4/ip_local_port_range")


def networks_of(settings: Settings) -> tuple[str, ...]:
    return (settings.network, *(name for name in settings.networks if name != settings.network))


def connect_all(box: Container, settings: Settings) -> list[tuple[Network, Endpoint]]:
    """Everything its settings ask for; what is there already stays (another run of it made it). Raises NotFound,
    RunError, Unsupported; nothing is left then."""
    networks = Networks(box.store)
    with networks.lock():
        place = networks.namespace(box.id)
        if netns.is_kept(place):
            return networks.of(box.id)
        try:
            place.unlink(missing_ok=True)
            for number, name in enumerate(networks_of(settings)):
                ports = published(box, settings) if number == 0 else []
                _connect(networks, box, settings, name, number, ports)
            if settings.networks:
                _choose_way_out(networks, box)
        except BaseException as error:
            _disconnect_all(networks, box)
            _take_down_unused(networks, networks_of(settings))
            if isinstance(error, OSError) and not isinstance(error, LayerfsError):
                raise _cannot(settings, error) from None
            raise
        return networks.of(box.id)


def _cannot(settings: Settings, error: OSError) -> RunError:
    why = (error.strerror or str(error)).lower()
    return RunError(
        f"the container cannot be connected to network {settings.network}: {why} (none and host always work)"
    )


def _take_down_unused(networks: Networks, names: Iterable[str]) -> None:
    for name in names:
        with contextlib.suppress(OSError):
            network = networks.get(name)
            if not network.special and not networks.endpoints(network):
                networks.take_down(network)


def published(box: Container, settings: Settings) -> list[Publish]:
    """What `-p` and `-P` ask for."""
    wanted = [port for text in settings.publish for port in parse_publish(text)]
    if settings.publish_all:
        config = box.image.config.config
        exposed = {port for text in (*config.exposed_ports, *settings.expose) for port in parse_expose(text)}
        given = {(port.port, port.protocol) for port in wanted}
        wanted += [Publish(*port) for port in sorted(exposed - given)]
    return wanted


def _connect(
    networks: Networks, box: Container, settings: Settings, name: str, number: int, ports: Sequence[Publish]
) -> None:
    network = networks.default() if name in (DEFAULT, "default") else networks.get(name)
    if network.special:
        raise InvalidInput(f"container cannot be connected to network {network.name}")
    others = networks.endpoints(network)
    with _up(networks, network, fresh=not others) as network:
        wanted = attachment_of(settings, name)
        if not netns.is_kept(place := networks.namespace(box.id)):
            netns.create(place, maps_of(settings))
        address = free_address(network, [other.address for other in others], wanted.ip)
        endpoint = Endpoint(
            container=box.id,
            name=box.name,
            address=str(address),
            mac=wanted.mac_address or _mac_for(address),
            interface=f"eth{number}",
            link=f"veth{box.id[:7]}{number}",
            aliases=(*wanted.aliases, box.id[:12], *([settings.hostname] if settings.hostname else [])),
            ports=_ports(networks, network, ports),
            links=wanted.links,
            priority=wanted.priority,
        )
        networks.write_endpoint(network, endpoint)
        _plug_in(network, endpoint, place, default_route=number == 0)
    _publish(networks, network, endpoint, add=True)
    _tell_names(networks, network)


def _mac_for(address: ipaddress.IPv4Address) -> str:
    return "02:42:" + ":".join(f"{byte:02x}" for byte in address.packed)


def linked(box: Container, settings: Settings) -> list[tuple[str, str]]:
    """(names, address) of the containers of `--link`. Raises ContainerNotFound, RunError in docker's words."""
    networks, found = Networks(box.store), []
    mine = {network.id for network, _ in networks.of(box.id)}
    for text in settings.links:
        name, _, alias = text.partition(":")
        other = box.store.container(name)
        ends = [end for network, end in networks.of(other.id) if network.id in mine]
        if not other.state.running:
            raise RunError(
                f"Cannot link to a non running container: /{other.name} AS /{box.name}/{alias or other.name}"
            )
        if not ends:
            raise RunError(f"Cannot link to {other.name}: it is on none of the container's networks")
        names = dict.fromkeys((alias or other.name, other.id[:12], other.name))
        found.append((" ".join(names), ends[0].address))
    return found


def _ports(networks: Networks, network: Network, wanted: Sequence[Publish]) -> tuple[tuple[str, str, int, int], ...]:
    if not wanted:
        return ()
    taken = [
        Published(*port)
        for other in networks.all()
        if not other.special and other.subnet
        for endpoint in networks.endpoints(other)
        for port in endpoint.ports
    ]
    low, high = (int(word) for word in _EPHEMERAL.read_text().split())
    wanted = [replace(port, host_ip=port.host_ip or network.host_binding) for port in wanted]
    found = allocate(wanted, taken, (low, high))
    return tuple((port.protocol, port.host_ip, port.host_port, port.port) for port in found)


@contextlib.contextmanager
def _up(networks: Networks, network: Network, *, fresh: bool) -> Iterator[Network]:
    """The network with its bridge, for a block in which somebody is connected; its rules are in force at the end, and
    made meanwhile."""
    with Netlink() as host:
        link = host.find(network.bridge)
        if link is not None and fresh:  # left by a killed process; its rules may be half made
            host.delete_bridge(link, network.group)
            link = None
        if link is None:
            with _alone_on_the_host():
                network = networks.fresh_subnet(network)
                _add_bridge(host, network)
    rules = _rules(network) if link is None and firewall.available() else None
    try:
        yield network
    finally:
        if rules is not None:
            rules.finish()


def _add_bridge(host: Netlink, network: Network) -> None:
    gateway = ipaddress.IPv4Address(network.gateway)
    host.add_bridge(network.bridge, _mac_for(gateway), network.group)
    link = host.find(network.bridge)
    if link is None:
        raise RunError(f"the bridge {network.bridge} has vanished")
    host.add_address(link.index, gateway, ipaddress.IPv4Network(network.subnet).prefixlen)
    host.set_up(link.index)


def _rules(network: Network) -> firewall.Rules:
    subnet = ipaddress.IPv4Network(network.subnet)
    _sysctl(f"net/ipv4/conf/{network.bridge}/route_localnet", "1")
    if not network.internal:
        _sysctl("net/ipv4/ip_forward", "1")
    return firewall.Rules(
        firewall.table_text(
            network.table, network.bridge, subnet, internal=network.internal, masquerade=network.masquerades
        )
    )


@contextlib.contextmanager
def _alone_on_the_host() -> Iterator[None]:
    """Two stores that look for a free subnet at once would find the same one."""
    try:
        fd = os.open(_HOST_LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    except OSError:  # nobody else has it, either
        yield
        return
    try:
        fcntl.flock(fd, fcntl.LOCK_EX)
        yield
    finally:
        os.close(fd)


def _sysctl(name: str, value: str) -> None:
    try:
        Path("/proc/sys", name).write_text(value)
    except OSError as error:
        raise RunError(f"setting {name.replace('/', '.')}: {(error.strerror or '').lower()}") from None


def _plug_in(network: Network, endpoint: Endpoint, namespace: Path, *, default_route: bool) -> None:
    kept = os.open(namespace, os.O_RDONLY | os.O_CLOEXEC)
    try:
        with Netlink() as host:
            if stale := host.find(endpoint.link):
                host.delete(stale.index)
            bridge = host.find(network.bridge)
            if bridge is None:
                raise RunError(f"the bridge {network.bridge} has vanished")
            host.add_veth(endpoint.link, endpoint.interface, endpoint.mac, kept, network.mtu, bridge)
        with Netlink(netns.route_socket(namespace)) as inner:
            mine = inner.find(endpoint.interface)
            if mine is None:
                raise RunError(f"the interface {endpoint.interface} has vanished")
            prefix = ipaddress.IPv4Network(network.subnet).prefixlen
            inner.add_address(mine.index, ipaddress.IPv4Address(endpoint.address), prefix)
            for index in (_LOOPBACK, mine.index):
                inner.set_up(index)
            if default_route and not network.internal:
                inner.set_default_route(mine.index, ipaddress.IPv4Address(network.gateway))
    finally:
        os.close(kept)


def _choose_way_out(networks: Networks, box: Container) -> None:
    """The default route, when there is a choice, or one has gone."""
    ends = [(network, end) for network, end in networks.of(box.id) if not network.internal]
    if not ends:
        return
    network, end = max(ends, key=lambda pair: pair[1].priority)
    with Netlink(netns.route_socket(networks.namespace(box.id))) as inner:
        if mine := inner.find(end.interface):
            inner.set_default_route(mine.index, ipaddress.IPv4Address(network.gateway))


def _publish(networks: Networks, network: Network, endpoint: Endpoint, *, add: bool) -> None:
    ports = [Published(*port) for port in endpoint.ports]
    if ports and firewall.available():
        firewall.apply(firewall.port_text(network.table, endpoint.address, ports, add=add))
    elif ports:
        from layerfs.runtime import proxy

        place = networks.namespace(endpoint.container).with_name("proxy")
        if add:
            proxy.start(place, endpoint.address, ports)
        else:
            proxy.stop(place)


# the end


def disconnect_all(box: Container) -> None:
    """By who is alone with the container."""
    networks = Networks(box.store)
    if not networks.namespace(box.id).exists() and not networks.of(box.id):
        return
    with networks.lock():
        _disconnect_all(networks, box)


def _disconnect_all(networks: Networks, box: Container) -> None:
    for network, endpoint in networks.of(box.id):
        _unplug(networks, network, endpoint)
    netns.remove(networks.namespace(box.id))


def _unplug(networks: Networks, network: Network, endpoint: Endpoint) -> None:
    networks.drop_endpoint(network, endpoint.container)
    others = networks.endpoints(network)
    if others or not firewall.available():  # else its rules go with all of the network
        with contextlib.suppress(RunError):  # they went with somebody's flush
            _publish(networks, network, endpoint, add=False)
    if not others:
        networks.take_down(network)
        return
    with Netlink() as host, contextlib.suppress(OSError):
        if link := host.find(endpoint.link):
            host.delete(link.index)
    _tell_names(networks, network)


# network connect and disconnect


def connect(box: Container, wanted: Attachment) -> None:
    """One more network, for what runs now and from the next start on."""
    networks = Networks(box.store)
    settings, name = box.settings, wanted.network
    if not settings.has_interfaces:
        raise InvalidInput(f"container cannot be connected to networks: it has the network {settings.network}")
    with networks.lock():
        network = networks.get(name)
        if network.name in networks_of(settings):
            raise InUse(f"endpoint with name {box.name} already exists in network {network.name}")
        if wanted.links and network.name == DEFAULT:
            raise InvalidInput("links are only supported for user-defined networks")
        wanted = replace(wanted, network=network.name)
        if wanted.ip:
            free_address(network, (), wanted.ip)
        texts = changed(settings.attachments, network.name, wanted)
        if netns.is_kept(networks.namespace(box.id)):
            taken = [int(endpoint.interface.removeprefix("eth")) for _, endpoint in networks.of(box.id)]
            mine = replace(settings, network_aliases=(), attachments=tuple(texts))
            _connect(networks, box, mine, network.name, max(taken, default=-1) + 1, [])
            _choose_way_out(networks, box)
    _remember(box, list(dict.fromkeys((*networks_of(settings), network.name))), texts)


def disconnect(box: Container, name: str) -> None:
    networks = Networks(box.store)
    settings = box.settings
    with networks.lock():
        network = networks.get(name)
        if network.name not in networks_of(settings):
            raise NotFound(f"container {box.name} is not connected to network {network.name}")
        for mine, endpoint in networks.of(box.id):
            if mine.id == network.id:
                _unplug(networks, network, endpoint)
        _choose_way_out(networks, box)
    left = [each for each in networks_of(settings) if each != network.name]
    _remember(box, left, changed(settings.attachments, network.name, None))


def _remember(box: Container, names: Sequence[str], attachments: Sequence[str]) -> None:
    now = {"network": names[0] if names else "none", "networks": list(names[1:]), "attachments": list(attachments)}
    box.store.container_table.update(box.id, lambda record: replace(record, config={**record.config, **now}))


# names


def tell_new_name(box: Container) -> None:
    """To those who are on its networks."""
    networks = Networks(box.store)
    with networks.lock():
        for network, endpoint in networks.of(box.id):
            networks.write_endpoint(network, replace(endpoint, name=box.name))
            _tell_names(networks, network)


def names_for(networks: Networks, container: str) -> list[tuple[str, str]]:
    """(address, names) of the others on the named networks of a container."""
    found = []
    for network, mine in networks.of(container):
        if network.name != DEFAULT:
            others = [other for other in networks.endpoints(network) if other.container != mine.container]
            found += [(other.address, " ".join(_names_of(other, mine.links))) for other in others]
    return found


def _names_of(other: Endpoint, links: Iterable[str]) -> Iterable[str]:
    """By which somebody with these links finds another container."""
    pairs = (text.partition(":") for text in links)
    mine = [alias or name for name, _, alias in pairs if name == other.name or other.container.startswith(name)]
    return dict.fromkeys((*mine, other.name, *other.aliases))


def _tell_names(networks: Networks, network: Network) -> None:
    if network.name == DEFAULT:
        return
    for endpoint in networks.endpoints(network):
        block = names_block(names_for(networks, endpoint.container))
        for hosts in run_files(networks.namespace(endpoint.container).parent, "hosts"):
            with contextlib.suppress(OSError):
                _rewrite(hosts, block)


def run_files(home: Path, name: str) -> list[Path]:
    """The files of that name that the runs of a container have, in `containers/<id>/run`: runs end meanwhile."""
    try:
        tokens = sorted(os.listdir(home))  # noqa: PTH208 (a glob raises for a directory that goes)
    except FileNotFoundError:
        return []
    return [path for token in tokens if (path := home / token / name).exists()]


def names_block(names: Iterable[tuple[str, str]]) -> bytes:
    lines = b"".join(f"{address}\t{text}\n".encode() for address, text in names)
    return _BEGIN + lines + _END if lines else b""


def _rewrite(hosts: Path, block: bytes) -> None:
    """In its place, since it is mounted; what the container itself wrote into it stays."""
    with open(hosts, "r+b", buffering=0) as file:  # noqa: PTH123 (unbuffered)
        text = file.read()
        before, found, after = text.partition(_BEGIN)
        rest = after.partition(_END)[2] if found else b""
        new = before + block + rest
        if new != text:
            file.seek(0)
            file.write(new)
            file.truncate()


# what is shown


def bindings(box: Container) -> list[tuple[str, str, int]]:
    """(`80/tcp`, address, port on the host) of what is published now."""
    ports = [port for _, endpoint in Networks(box.store).of(box.id) for port in endpoint.ports]
    rows = [(f"{port[3]}/{port[0]}", port[1] or "0.0.0.0", port[2]) for port in ports]
    return sorted(rows, key=lambda row: (int(row[0].partition("/")[0]), row))


def network_settings(box: Container, settings: Settings) -> dict[str, object]:
    """docker's NetworkSettings."""
    connected = {network.name: (network, endpoint) for network, endpoint in Networks(box.store).of(box.id)}
    ports: dict[str, list[dict[str, str]]] = {}
    for port, address, number in bindings(box):
        ports.setdefault(port, []).append({"HostIp": address, "HostPort": str(number)})
    names = networks_of(settings)
    shown = {name: _endpoint_settings(box, settings, name, connected.get(name)) for name in names}
    first = next(iter(shown.values()), _NOWHERE)
    top = {name: first[name] for name in _NOWHERE if name not in ("NetworkID", "Aliases", "DriverOpts", "DNSNames")}
    return {
        "Bridge": "",
        "SandboxID": "",
        "SandboxKey": str(Networks(box.store).namespace(box.id)),
        "Ports": ports,
        "HairpinMode": False,
        "LinkLocalIPv6Address": "",
        "LinkLocalIPv6PrefixLen": 0,
        "SecondaryIPAddresses": None,
        "SecondaryIPv6Addresses": None,
        **top,
        "Networks": shown,
    }


_NOWHERE: dict[str, object] = {  # of a network that it is not connected to
    "Aliases": None,
    "MacAddress": "",
    "DriverOpts": None,
    "NetworkID": "",
    "EndpointID": "",
    "Gateway": "",
    "IPAddress": "",
    "IPPrefixLen": 0,
    "IPv6Gateway": "",
    "GlobalIPv6Address": "",
    "GlobalIPv6PrefixLen": 0,
    "DNSNames": None,
}


def _endpoint_settings(
    box: Container, settings: Settings, name: str, pair: tuple[Network, Endpoint] | None
) -> dict[str, object]:
    wanted = attachment_of(settings, name)
    common: dict[str, object] = {
        "IPAMConfig": {"IPv4Address": wanted.ip} if wanted.ip else None,
        "Links": [*settings.links, *wanted.links] or None,
        "GwPriority": wanted.priority,
        **_NOWHERE,
    }
    if pair is None:
        return common
    network, endpoint = pair
    return common | {
        "NetworkID": network.id,
        "EndpointID": sha256(f"{network.id} {box.id}".encode()).hex(),
        "Gateway": network.gateway,
        "IPAddress": endpoint.address,
        "IPPrefixLen": ipaddress.IPv4Network(network.subnet).prefixlen,
        "MacAddress": endpoint.mac,
        "Aliases": list(endpoint.aliases),
        "DNSNames": None if network.name == DEFAULT else list(dict.fromkeys((box.name, *endpoint.aliases))),
    }
