"""The nftables rules of a bridge: outgoing traffic hides behind the host's address, published ports lead to containers,
networks do not see each other. One table for each network, so that it goes as a whole; `nft` does the work.
"""

from __future__ import annotations

import ipaddress
import shutil
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass

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
    return shutil.which("nft", path=_PATH) is not None


_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


def table_text(table: str, bridge: str, subnet: ipaddress.IPv4Network, *, internal: bool) -> str:
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
    hide = "" if internal else f'    ip saddr {subnet} oifname != "{bridge}" masquerade\n'
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


def apply(script: str) -> None:
    """All of it or nothing. Raises RunError."""
    if not script:
        return
    try:
        done = subprocess.run(
            ["nft", "-f", "-"],
            input=script.encode(),
            capture_output=True,
            timeout=_SECONDS,
            env={"PATH": _PATH, "LC_ALL": "C"},
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise RunError(f"nft cannot be used: {error}") from None
    if done.returncode:
        lines = done.stderr.decode(errors="replace").strip().splitlines() or ["nft failed"]
        raise RunError(f"nft refused the network's rules: {lines[0]}")


def delete_text(table: str) -> str:
    """Also where there is none."""
    return f"table inet {table}\ndelete table inet {table}\n"
