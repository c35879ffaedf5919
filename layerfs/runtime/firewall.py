"""The nftables rules of a bridge: outgoing traffic hides behind the host's address, published ports lead to containers,
networks do not see each other. One table for each network, so that it goes as a whole. `nft` makes it, beside its
caller; it goes by a message of our own to the kernel, which takes a hundredth of the time that `nft` needs.
"""

from __future__ import annotations

import errno
import ipaddress
import os
import socket
import struct
import subprocess
from collections.abc import Sequence

from layerfs._record import dataclass
from layerfs.errors import RunError

_SECONDS = 30
PROTOCOLS = ("tcp", "udp")


@dataclass(frozen=True, slots=True)
class Published:
    """`host_ip` "" is every address of the host."""

    protocol: str
    host_ip: str
    host_port: int
    port: int


def available() -> bool:
    return any(os.access(f"{place}/nft", os.X_OK) for place in _PATH.split(":"))


_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


def table_text(
    table: str, bridge: str, subnet: ipaddress.IPv4Network, *, internal: bool, masquerade: bool = True
) -> str:
    """The table, without any port yet. It replaces what a killed process left."""
    maps = "".join(
        f"  map {name}_any {{ type inet_service : ipv4_addr . inet_service; }}\n"
        f"  map {name}_ip {{ type ipv4_addr . inet_service : ipv4_addr . inet_service; }}\n"
        for name in PROTOCOLS
    )
    published = "".join(
        f"    dnat ip to ip daddr . {name} dport map @{name}_ip\n"
        f"    fib daddr type local dnat ip to {name} dport map @{name}_any\n"
        for name in PROTOCOLS
    )
    outside = (
        f'    iifname "{bridge}" oifname != "{bridge}" drop\n    oifname "{bridge}" iifname != "{bridge}" drop\n'
        if internal
        else f'    oifname "{bridge}" iifname "lfs*" iifname != "{bridge}" drop\n'
    )
    hide = "" if internal or not masquerade else f'    ip saddr {subnet} oifname != "{bridge}" masquerade\n'
    return (
        f"table inet {table}\ndelete table inet {table}\ntable inet {table} {{\n{maps}"
        f"  chain published {{\n{published}  }}\n"
        "  chain incoming {\n    type nat hook prerouting priority dstnat; policy accept;\n    jump published\n  }\n"
        "  chain own {\n    type nat hook output priority -100; policy accept;\n    jump published\n  }\n"
        "  chain outgoing {\n    type nat hook postrouting priority srcnat; policy accept;\n"
        f"{hide}"
        f'    ip saddr 127.0.0.0/8 oifname "{bridge}" masquerade\n'
        f'    ip saddr {subnet} oifname "{bridge}" ct status dnat masquerade\n  }}\n'
        "  chain loopback {\n    type filter hook prerouting priority raw; policy accept;\n"
        f'    iifname "{bridge}" ip daddr 127.0.0.0/8 drop\n  }}\n'  # route_localnet is for the host alone
        "  chain forward {\n    type filter hook forward priority filter; policy accept;\n"
        f'    oifname "{bridge}" ct state established,related accept\n'
        f'    oifname "{bridge}" ct status dnat accept\n{outside}  }}\n}}\n'
    )


def port_text(table: str, address: str, ports: Sequence[Published], *, add: bool) -> str:
    lines = []
    for port in ports:
        place, key = ("ip", f"{port.host_ip} . {port.host_port}") if port.host_ip else ("any", f"{port.host_port}")
        element = f"{key} : {address} . {port.port}" if add else key
        lines.append(f"{'add' if add else 'delete'} element inet {table} {port.protocol}_{place} {{ {element} }}\n")
    return "".join(lines)


class Rules:
    """A script that nft works on meanwhile."""

    def __init__(self, script: str) -> None:
        """Raises RunError."""
        self._said = os.memfd_create("layerfs-nft-said", os.MFD_CLOEXEC)
        try:
            with os.fdopen(os.memfd_create("layerfs-nft", os.MFD_CLOEXEC), "w+b") as file:
                file.write(script.encode())
                file.seek(0)
                self._nft = subprocess.Popen(
                    ["nft", "-f", "-"],
                    stdin=file,
                    stdout=subprocess.DEVNULL,
                    stderr=self._said,
                    env={"PATH": _PATH, "LC_ALL": "C"},
                )
        except OSError as error:
            os.close(self._said)
            raise RunError(f"nft cannot be used: {error}") from None

    def finish(self) -> None:
        """All of it is in force, or nothing. Raises RunError."""
        try:
            code = self._nft.wait(_SECONDS)
            lines = os.pread(self._said, 4096, 0).decode(errors="replace").strip().splitlines() or ["nft failed"]
        except subprocess.TimeoutExpired as error:
            raise RunError(f"nft cannot be used: {error}") from None
        finally:
            if self._nft.poll() is None:
                self._nft.kill()
                self._nft.wait()
            os.close(self._said)
        if code:
            raise RunError(f"nft refused the network's rules: {lines[0]}")


def apply(script: str) -> None:
    """All of it or nothing. Raises RunError."""
    if script:
        Rules(script).finish()


_NETFILTER = 12
_INET, _DELETE_TABLE, _TABLE_NAME = 1, 10 << 8 | 2, 1  # NFPROTO_INET, NFNL_SUBSYS_NFTABLES' NFT_MSG_DELTABLE, attribute
_BATCH_BEGIN, _BATCH_END, _REQUEST, _ACK, _ERROR = 0x10, 0x11, 1, 4, 2


def _message(kind: int, sequence: int, flags: int, family: int, resource: int, body: bytes = b"") -> bytes:
    head = struct.pack("<IHHII", 20 + len(body), kind, _REQUEST | flags, sequence, 0)
    return head + struct.pack("<BB", family, 0) + struct.pack(">H", resource) + body


def delete(table: str) -> None:
    """Also where there is none. Raises RunError."""
    name = table.encode() + b"\0"
    attribute = struct.pack("<HH", 4 + len(name), _TABLE_NAME) + name + bytes(-len(name) % 4)
    batch = _message(_BATCH_BEGIN, 1, 0, 0, 10) + _message(_DELETE_TABLE, 2, _ACK, _INET, 0, attribute)
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, _NETFILTER) as sock:
        sock.send(batch + _message(_BATCH_END, 3, 0, 0, 10))
        sock.settimeout(_SECONDS)
        number = _answer(sock.recv(1 << 16))
    if number not in (0, errno.ENOENT):
        raise RunError(f"the network's rules cannot be removed: {os.strerror(number).lower()}")


def _answer(data: bytes) -> int:
    """The errno of the first message; 0 for none."""
    _, kind, _, _, _ = struct.unpack_from("<IHHII", data)
    return -int(struct.unpack_from("<i", data, 16)[0]) if kind == _ERROR else 0
