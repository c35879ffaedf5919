"""The little of rtnetlink(7) that bridges need: links, addresses, routes. A socket speaks for the network namespace it
was made in, whatever namespace its user is in.
"""

from __future__ import annotations

import errno
import ipaddress
import os
import socket
import struct
from collections.abc import Iterator

from layerfs._lazy import TYPE_CHECKING
from layerfs._record import dataclass
from layerfs.errors import RunError

if TYPE_CHECKING:
    from typing import Final

_NEWLINK, _DELLINK, _GETLINK, _NEWADDR, _NEWROUTE, _GETROUTE = 16, 17, 18, 20, 24, 26
_ERROR, _DONE = 2, 3
_REQUEST, _ACK, _REPLACE, _EXCL, _CREATE, _DUMP = 0x1, 0x4, 0x100, 0x200, 0x400, 0x300
_ADDRESS, _IFNAME, _MTU, _MASTER, _LINKINFO, _GROUP, _NET_NS_FD = 1, 3, 4, 10, 18, 27, 28
_INFO_KIND, _INFO_DATA, _VETH_PEER = 1, 2, 1
_IFA_ADDRESS, _IFA_LOCAL = 1, 2
_RTA_DST, _RTA_OIF, _RTA_GATEWAY = 1, 4, 5
_NESTED: Final = 0x8000
_UP: Final = 1
NAME_MAX: Final = 15

Network = ipaddress.IPv4Network
Address = ipaddress.IPv4Address


@dataclass(frozen=True, slots=True)
class Link:
    index: int
    name: str
    master: int
    up: bool
    address: str
    group: int


def _attribute(kind: int, data: bytes) -> bytes:
    size = 4 + len(data)
    return struct.pack("<HH", size, kind) + data + bytes(-size % 4)


def _name(text: str) -> bytes:
    raw = text.encode()
    if not 0 < len(raw) <= NAME_MAX:
        raise RunError(f"invalid interface name: {text!r}")
    return _attribute(_IFNAME, raw + b"\0")


def _link_head(index: int = 0, flags: int = 0, change: int = 0) -> bytes:
    return struct.pack("<BxHiII", socket.AF_UNSPEC, 0, index, flags, change)


def _attributes(data: bytes) -> Iterator[tuple[int, bytes]]:
    while len(data) >= 4:
        size, kind = struct.unpack_from("<HH", data)
        if size < 4 or size > len(data):
            return
        yield kind & 0x3FFF, data[4:size]
        data = data[(size + 3) & ~3 :]


class Netlink:
    """Requests and their answers, one after the other; a context manager. Errors are OSErrors of the kernel's."""

    def __init__(self, sock: socket.socket | None = None) -> None:
        self._socket = sock or socket.socket(
            socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, socket.NETLINK_ROUTE
        )
        self._sequence = 0

    def __enter__(self) -> Netlink:
        return self

    def __exit__(self, *_: object) -> None:
        self._socket.close()

    def _ask(self, kind: int, flags: int, body: bytes) -> list[tuple[int, bytes]]:
        self._sequence += 1
        header = struct.pack("<IHHII", 16 + len(body), kind, _REQUEST | flags, self._sequence, 0)
        self._socket.send(header + body)
        answers: list[tuple[int, bytes]] = []
        while True:
            data = self._socket.recv(1 << 18)
            while len(data) >= 16:
                size, what, _, sequence, _ = struct.unpack_from("<IHHII", data)
                payload, data = data[16:size], data[(size + 3) & ~3 :]
                if sequence != self._sequence:
                    continue
                if what == _DONE:
                    return answers
                if what == _ERROR:
                    (number,) = struct.unpack_from("<i", payload)
                    if number:
                        raise OSError(-number, os.strerror(-number))
                    return answers
                answers.append((what, payload))

    def links(self) -> list[Link]:
        return [_link(payload) for what, payload in self._ask(_GETLINK, _DUMP, _link_head()) if what == _NEWLINK]

    def find(self, name: str) -> Link | None:
        try:
            answers = self._ask(_GETLINK, _ACK, _link_head() + _name(name))
        except OSError as error:
            if error.errno != errno.ENODEV:
                raise
            return None
        return next((_link(payload) for what, payload in answers if what == _NEWLINK), None)

    def routes(self) -> list[Network]:
        """Where this namespace has routes to, but for the default one."""
        found = []
        body = struct.pack("<BBBBBBBBI", socket.AF_INET, 0, 0, 0, 0, 0, 0, 0, 0)
        for what, payload in self._ask(_GETROUTE, _DUMP, body):
            values = dict(_attributes(payload[12:]))
            if what == _NEWROUTE and _RTA_DST in values:
                found.append(Network((values[_RTA_DST], payload[1]), strict=False))
        return found

    def add_bridge(self, name: str, address: str, group: int) -> None:
        info = _attribute(_LINKINFO | _NESTED, _attribute(_INFO_KIND, b"bridge"))
        self._ask(_NEWLINK, _ACK | _CREATE | _EXCL, _link_head() + _name(name) + _mac(address) + _group(group) + info)

    def add_veth(self, name: str, peer: str, peer_address: str, namespace: int, mtu: int, bridge: Link) -> None:
        """A pair: `name` here, up, a port of `bridge` and in its group; `peer` in the network namespace of the
        descriptor `namespace`, still down."""
        size = _attribute(_MTU, struct.pack("<I", mtu)) if mtu else b""
        other = _link_head() + _name(peer) + _mac(peer_address) + size
        other += _attribute(_NET_NS_FD, struct.pack("<I", namespace))
        data = _attribute(_INFO_DATA | _NESTED, _attribute(_VETH_PEER | _NESTED, other))
        info = _attribute(_LINKINFO | _NESTED, _attribute(_INFO_KIND, b"veth") + data)
        port = _attribute(_MASTER, struct.pack("<I", bridge.index)) + _group(bridge.group)
        self._ask(_NEWLINK, _ACK | _CREATE | _EXCL, _link_head(0, _UP, _UP) + _name(name) + size + port + info)

    def set_up(self, index: int) -> None:
        self._ask(_NEWLINK, _ACK, _link_head(index, _UP, _UP))

    def delete(self, index: int) -> None:
        self._ask(_DELLINK, _ACK, _link_head(index))

    def delete_bridge(self, bridge: Link, group: int) -> None:
        """With its ports, when they and nobody else are its group: the kernel waits some 10 ms each time that it is
        asked. Else the bridge alone."""
        members = [link for link in self.links() if link.group == group]
        if bridge in members and all(bridge.index in (link.index, link.master) for link in members):
            self._ask(_DELLINK, _ACK, _link_head() + _group(group))
        else:
            self.delete(bridge.index)

    def add_address(self, index: int, address: Address, prefix: int) -> None:
        head = struct.pack("<BBBBI", socket.AF_INET, prefix, 0, 0, index)
        raw = address.packed
        self._ask(_NEWADDR, _ACK | _CREATE | _EXCL, head + _attribute(_IFA_LOCAL, raw) + _attribute(_IFA_ADDRESS, raw))

    def set_default_route(self, index: int, gateway: Address) -> None:
        """Through `gateway`, in the place of one that is there."""
        head = struct.pack(
            "<BBBBBBBBI", socket.AF_INET, 0, 0, 0, 254, 4, 0, 1, 0
        )  # table main, boot, universe, unicast
        body = head + _attribute(_RTA_GATEWAY, gateway.packed) + _attribute(_RTA_OIF, struct.pack("<I", index))
        self._ask(_NEWROUTE, _ACK | _CREATE | _REPLACE, body)


def _link(payload: bytes) -> Link:
    _, _, index, flags, _ = struct.unpack_from("<BxHiII", payload)
    values = dict(_attributes(payload[16:]))
    master = struct.unpack("<I", values[_MASTER])[0] if _MASTER in values else 0
    name = values.get(_IFNAME, b"").rstrip(b"\0").decode(errors="replace")
    group = struct.unpack("<I", values[_GROUP])[0] if _GROUP in values else 0
    return Link(index, name, master, bool(flags & _UP), values.get(_ADDRESS, b"").hex(":"), group)


def _group(number: int) -> bytes:
    return _attribute(_GROUP, struct.pack("<I", number))


def _mac(text: str) -> bytes:
    return _attribute(_ADDRESS, bytes.fromhex(text.replace(":", ""))) if text else b""
