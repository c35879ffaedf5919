"""network and port."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import click

from layerfs.cli.inspecting import inspect_all
from layerfs.cli.options import (
    container_argument,
    filter_option,
    format_option,
    no_trunc_option,
    prune_filter_option,
    quiet_option,
)
from layerfs.cli.output import fail, for_each, out
from layerfs.cli.session import Session
from layerfs.cli.table import render
from layerfs.cli.verbs import verb
from layerfs.errors import InvalidInput, NotFound

if TYPE_CHECKING:
    from layerfs.engine.networks import Network, Networks

_COLUMNS = {"NETWORK ID": "ID", "NAME": "Name", "DRIVER": "Driver", "SCOPE": "Scope"}


def _pairs(values: tuple[str, ...]) -> dict[str, str]:
    return dict(value.partition("=")[::2] for value in values)


@verb("create")
@click.argument("name")
@click.option("-d", "--driver", default="bridge", help="bridge, the only one.")
@click.option("--subnet", metavar="CIDR", help="Its addresses (10.5.0.0/24).")
@click.option("--gateway", metavar="ADDRESS", help="The host's address in it.")
@click.option("--ip-range", metavar="CIDR", help="The part of them that containers get.")
@click.option("--aux-address", "reserved", multiple=True, metavar="NAME=ADDRESS", help="One that no container gets.")
@click.option("--internal", is_flag=True, help="No way out of it.")
@click.option("--attachable", is_flag=True, help="All are; for docker's sake.")
@click.option("--ipam-driver", default="default", metavar="NAME", help="There is default only.")
@click.option("--ipv4/--no-ipv4", default=True, hidden=True)
@click.option("--scope", default="local", hidden=True)
@click.option("--label", "labels", multiple=True, metavar="NAME[=VALUE]", help="Set a label.")
@click.option("-o", "--opt", "options", multiple=True, metavar="NAME=VALUE", help="com.docker.network.driver.mtu=N.")
@click.pass_obj
def network_create_command(
    session: Session,
    /,
    name: str,
    driver: str,
    subnet: str | None,
    gateway: str | None,
    ip_range: str | None,
    reserved: tuple[str, ...],
    internal: bool,
    attachable: bool,
    ipam_driver: str,
    ipv4: bool,
    scope: str,
    labels: tuple[str, ...],
    options: tuple[str, ...],
) -> None:
    """Make a network."""
    if ipam_driver != "default":
        raise InvalidInput(f"invalid ipam driver: {ipam_driver}: there is default only")
    if not ipv4:
        raise InvalidInput("networks have IPv4 only, so it cannot be switched off")
    if scope != "local":
        raise InvalidInput(f"invalid scope: {scope}: networks are local")
    made = session.store.networks.create(
        name,
        driver=driver,
        subnet=subnet,
        gateway=gateway,
        internal=internal,
        labels=_pairs(labels),
        options=_pairs(options),
        ip_range=ip_range,
        reserved=_pairs(reserved),
        attachable=attachable,
    )
    out(made.id)


@verb("ls")
@quiet_option()
@no_trunc_option()
@filter_option("driver, id, label, name, type")
@format_option()
@click.pass_obj
def network_ls_command(
    session: Session, quiet: bool, no_trunc: bool, filters: dict[str, list[str]], format_: str | None
) -> None:
    """List networks."""
    found = [_row(network, no_trunc) for network in session.store.networks.all() if _matches(network, filters)]
    render(found, _COLUMNS, format=format_, quiet="ID" if quiet else None)


def _matches(network: Network, filters: dict[str, list[str]]) -> bool:
    labels = [text for name, value in network.labels.items() for text in (name, f"{name}={value}")]
    custom = "builtin" if network.name in ("bridge", "host", "none") else "custom"
    tests: dict[str, Callable[[str], bool]] = {
        "driver": lambda value: value == network.driver,
        "id": lambda value: network.id.startswith(value),
        "label": lambda value: value in labels,
        "name": lambda value: value in network.name,
        "type": lambda value: value == custom,
    }
    for name, values in filters.items():
        if name not in tests:
            raise InvalidInput(f"invalid filter '{name}'")
        if not any(tests[name](value) for value in values):
            return False
    return True


def _row(network: Network, no_trunc: bool) -> dict[str, Any]:
    return {
        "ID": network.id if no_trunc else network.id[:12],
        "Name": network.name,
        "Driver": network.driver,
        "Scope": "local",
        "IPv6": "false",
        "Internal": str(network.internal).lower(),
        "Labels": ",".join(f"{name}={value}" for name, value in network.labels.items()),
        "CreatedAt": network.created,
    }


@verb("inspect")
@click.argument("names", nargs=-1, required=True, metavar="NETWORK...")
@click.option("-f", "--format", "format_", metavar="FORMAT", help="json or a Go template.")
@click.option("-v", "--verbose", is_flag=True, help="All is shown anyway; for docker's sake.")
@click.pass_obj
def network_inspect_command(session: Session, names: tuple[str, ...], format_: str | None, verbose: bool) -> int:
    """All about networks, as JSON."""
    return inspect_all(names, format_, lambda name: inspected(session, name))


def inspected(session: Session, name: str) -> dict[str, Any]:
    """Raises NotFound."""
    networks = session.store.networks
    return _document(networks, networks.get(name))


def _document(networks: Networks, network: Network) -> dict[str, Any]:
    place: dict[str, Any] = {"Subnet": network.subnet, "Gateway": network.gateway} if network.subnet else {}
    place |= {"IPRange": network.ip_range} if network.ip_range else {}
    place |= {"AuxiliaryAddresses": dict(network.reserved)} if network.reserved else {}
    with networks.lock():
        ends = [] if network.special else networks.endpoints(network)
    return {
        "Name": network.name,
        "Id": network.id,
        "Created": network.created,
        "Scope": "local",
        "Driver": network.driver,
        "EnableIPv4": True,
        "EnableIPv6": False,
        "IPAM": {"Driver": "default", "Options": {}, "Config": [place] if place else []},
        "Internal": network.internal,
        "Attachable": network.attachable,
        "Ingress": False,
        "ConfigFrom": {"Network": ""},
        "ConfigOnly": False,
        "Containers": {
            end.container: {
                "Name": end.name,
                "MacAddress": end.mac,
                "IPv4Address": f"{end.address}/{network.subnet.partition('/')[2]}",
                "IPv6Address": "",
            }
            for end in ends
        },
        "Options": dict(network.options) | {"layerfs.bridge": network.bridge},
        "Labels": dict(network.labels),
    }


@verb("rm")
@click.argument("names", nargs=-1, required=True, metavar="NETWORK...")
@click.option("-f", "--force", is_flag=True, help="No error for one that is not there.")
@click.pass_obj
def network_rm_command(session: Session, names: tuple[str, ...], force: bool) -> int:
    """Remove networks."""

    def remove(name: str) -> None:
        try:
            session.store.networks.remove(name)
        except NotFound:
            if not force:
                raise
        else:
            out(name)

    return for_each(names, remove)


@verb("prune")
@click.option("-f", "--force", is_flag=True, help="Do not ask.")
@prune_filter_option()
@click.pass_obj
def network_prune_command(session: Session, force: bool, filters: dict[str, list[str]]) -> None:
    """Remove networks that no container uses."""
    from layerfs.cli.upkeep import confirm
    from layerfs.engine.pruning import PruneFilter

    confirm(force, "all custom networks not used by at least one container")
    gone = session.store.networks.prune(session.store.containers(), PruneFilter(filters))
    if gone:
        out("Deleted Networks:\n" + "\n".join(gone) + "\n")


@verb("connect")
@click.argument("network")
@container_argument()
@click.option("--alias", "aliases", multiple=True, help="Another name there.")
@click.option("--ip", metavar="ADDRESS", help="Its address there.")
@click.option("--mac-address", metavar="MAC", help="Its Ethernet address there.")
@click.option("--link", "links", multiple=True, metavar="CONTAINER[:ALIAS]", help="A name of its own for another.")
@click.option("--gw-priority", "priority", type=int, default=0, metavar="N", help="The highest is the way out.")
@click.pass_obj
def network_connect_command(session: Session, /, network: str, container: str, **how: Any) -> None:
    """Connect a container to one more network."""
    session.store.container(container).connect(network, **how)


@verb("disconnect")
@click.argument("network")
@container_argument()
@click.option("-f", "--force", is_flag=True, help="Taken, as docker has it.")
@click.pass_obj
def network_disconnect_command(session: Session, network: str, container: str, force: bool) -> None:
    """Disconnect a container from a network."""
    session.store.container(container).disconnect(network)


@verb("port")
@container_argument()
@click.argument("port", required=False, metavar="[PORT[/PROTOCOL]]")
@click.pass_obj
def port_command(session: Session, container: str, port: str | None) -> int:
    """Ports of a container, and where on the host they are."""
    found = session.store.container(container).ports()
    if port is None:
        for inner, address, number in found:
            out(f"{inner} -> {address}:{number}")
        return 0
    wanted = port if "/" in port else f"{port}/tcp"
    mine = [f"{address}:{number}" for inner, address, number in found if inner == wanted]
    for text in mine:
        out(text)
    return 0 if mine else fail(f"no public port '{wanted}' published for {container}")
