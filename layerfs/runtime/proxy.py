"""Publishing ports without nftables: a process that listens on the host and passes bytes on. It ends with the network
namespace of its container."""

from __future__ import annotations

from collections.abc import Sequence

from layerfs.errors import Unsupported
from layerfs.runtime.firewall import Published


def start_proxies(address: str, ports: Sequence[Published]) -> None:
    raise Unsupported("publishing ports needs nftables (package nftables)")
