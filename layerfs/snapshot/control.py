"""The control sockets of native mounts: `control/<mount id>` in the store, for root and the owner of the server.

A request is one packet (`ping`, `stats`, `quota`, `stop`, `pause` and then `resume`), its answer one with JSON.
"""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Iterator
from pathlib import Path

from layerfs._lazy import TYPE_CHECKING
from layerfs.errors import InUse, InvalidInput, MountError, NotFound
from layerfs.store.root import StoreRoot

if TYPE_CHECKING:
    import socket
    from typing import Any

__all__ = ["forget", "listen", "new_socket", "paused", "request", "sockets"]

_SECONDS = 10
_ANSWER_MAX = 1 << 20


@contextlib.contextmanager
def _folder(root: StoreRoot, *, make: bool = False) -> Iterator[str]:
    """A name of the directory that is short enough for a socket's address."""
    path, flags = f"{root.path}/control", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC
    try:
        fd = os.open(path, flags)
    except FileNotFoundError:
        if not make:
            raise
        Path(path).mkdir(0o700, exist_ok=True)
        fd = os.open(path, flags)
    try:
        yield f"/proc/self/fd/{fd}"
    finally:
        os.close(fd)


def new_socket() -> socket.socket:
    """For a server, of a mount that is to come (`listen`)."""
    import socket  # which those who only look at mounts are without

    return socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)


def listen(root: StoreRoot, id: str, made: socket.socket) -> None:
    """The socket is the one of the mount with this id from now on."""
    with _folder(root, make=True) as folder:
        made.bind(f"{folder}/{id}")
    made.listen(64)


def sockets(root: StoreRoot) -> list[str]:
    """The ids of mounts that have one."""
    with contextlib.suppress(FileNotFoundError):
        return [path.name for path in (root.path / "control").iterdir()]
    return []


def forget(root: StoreRoot, id: str) -> None:
    """Takes the socket's name away."""
    with contextlib.suppress(OSError):
        os.unlink(f"{root.path}/control/{id}")  # noqa: PTH108


def request(root: StoreRoot, id: str, word: str) -> dict[str, Any]:
    """Asks the server of a mount.

    Raises:
        NotFound: the mount has no server that listens. MountError: it did not answer. InvalidInput: it does not know
        the request.
    """
    with _connected(root, id) as asked:
        return _ask(asked, id, word)


@contextlib.contextmanager
def paused(root: StoreRoot, id: str) -> Iterator[None]:
    """For the body the server of a mount answers no request of the kernel. Be quick: five seconds.

    Raises:
        NotFound, MountError, InvalidInput: as `request`; InUse: the body took too long, so it was not so all the time.
    """
    with _connected(root, id) as asked:
        _ask(asked, id, "pause")
        yield
        try:
            _ask(asked, id, "resume")
        except MountError as error:
            raise InUse("there is too much to do while the container is paused") from error


@contextlib.contextmanager
def _connected(root: StoreRoot, id: str) -> Iterator[socket.socket]:
    import socket
    import struct

    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as asked:
        for limit in (socket.SO_SNDTIMEO, socket.SO_RCVTIMEO):  # settimeout() would not wait for room in its queue
            asked.setsockopt(socket.SOL_SOCKET, limit, struct.pack("@ll", _SECONDS, 0))
        try:
            with _folder(root) as folder:
                asked.connect(f"{folder}/{id}")
        except OSError as error:
            raise NotFound(f"no server listens for mount {id[:12]} ({error.strerror or error})") from error
        yield asked


def _ask(asked: socket.socket, id: str, word: str) -> dict[str, Any]:
    try:
        asked.send(word.encode())
        data = asked.recv(_ANSWER_MAX)
    except OSError as error:
        raise MountError(f"the server of mount {id[:12]} does not answer: {error}") from error
    if not data:
        raise MountError(f"the server of mount {id[:12]} does not talk to us")
    answer: dict[str, Any] = json.loads(data)
    if "error" in answer:
        raise InvalidInput(f"the server of mount {id[:12]} said: {answer['error']}")
    return answer
