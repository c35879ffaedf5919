"""Network namespaces kept by a file: made by a thread that steps into a new one; the process stays where it is."""

from __future__ import annotations

import os
import socket
from collections.abc import Callable
from pathlib import Path

from layerfs import mount
from layerfs._lazy import TYPE_CHECKING
from layerfs._threads import begin
from layerfs.errors import RunError
from layerfs.runtime.helper import holder_of_namespaces
from layerfs.runtime.idmaps import IdMaps

if TYPE_CHECKING:
    from typing import TypeVar

    Result = TypeVar("Result")

_NEWNET = 0x40000000


def _apart(action: Callable[[], Result]) -> Result:
    """`action` in a thread of its own, whose namespaces may change: they end with it."""
    return begin(action)()


def unshare() -> None:
    """The calling thread goes into a new network namespace, for good."""
    from layerfs import _native

    _native.unshare(_NEWNET)


def _route_socket() -> socket.socket:
    return socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, socket.NETLINK_ROUTE)


def create(place: Path, maps: IdMaps | None = None) -> None:
    """A new network namespace, kept at the file `place` until `remove`; with `maps` it belongs to a user namespace with
    them. Raises RunError."""

    def make() -> int:
        unshare()
        return os.open("/proc/thread-self/ns/net", os.O_RDONLY | os.O_CLOEXEC)

    try:
        kept = _apart(make) if maps is None else _make_mapped(maps)
    except OSError as error:
        raise RunError(f"making a network namespace: {(error.strerror or str(error)).lower()}") from None
    try:
        place.touch(mode=0o600)
        mount.bind(f"/proc/self/fd/{kept}", place)
    finally:
        os.close(kept)


def _make_mapped(maps: IdMaps) -> int:
    """By the helper: a process with threads cannot step into a user namespace."""
    with holder_of_namespaces(maps) as pid:
        return os.open(f"/proc/{pid}/ns/net", os.O_RDONLY | os.O_CLOEXEC)


def remove(place: Path) -> None:
    """With all interfaces in it, once nobody is in it any more."""
    while is_kept(place):
        mount.detach(place, lazy=True)
    place.unlink(missing_ok=True)


def is_kept(place: Path) -> bool:
    """Whether a namespace is there: not after the machine was started anew."""
    try:
        return place.stat().st_dev != place.parent.stat().st_dev
    except OSError:
        return False


def inside(place: Path | str, action: Callable[[], Result]) -> Result:
    """`action` in the namespace kept at `place` (or a process's `/proc/N/ns/net`)."""
    from layerfs import _native

    def body() -> Result:
        fd = os.open(place, os.O_RDONLY | os.O_CLOEXEC)
        try:
            _native.setns(fd, _NEWNET)
        finally:
            os.close(fd)
        return action()

    return _apart(body)


def route_socket(place: Path | str) -> socket.socket:
    """A netlink socket that speaks for that namespace."""
    return inside(place, _route_socket)


__all__ = ["create", "inside", "is_kept", "remove", "route_socket", "unshare"]
