"""HTTP/1.1 to a server that is reached directly: connections, kept and used again.

What goes through a proxy is urllib3's (`proxied`), which takes longer to load than a small push to do.
"""

from __future__ import annotations

import contextlib
import errno
import os
import select
import socket
import threading
import time
import weakref
from collections.abc import Generator, Iterator, Mapping
from urllib.parse import quote, urlsplit

from layerfs._lazy import TYPE_CHECKING, Protocol
from layerfs.errors import LayerfsError
from layerfs.registry.http1 import Headers, Message

if TYPE_CHECKING:
    import ssl
    from typing import Any, BinaryIO

BLOCK = 1 << 18
_IDLE_MAX = 16
_IDLE_SECONDS = 30.0
Origin = tuple[str, str, int]  # scheme, host, port
_PORTS = {"http": 80, "https": 443}
_PLAIN = "/:?&=%~+!$,;'@()*[]"  # in a path and a query as they are; signed ones must not change


class ConnectFailed(OSError):
    """There is nobody there, or no such host."""


class ConnectTimeout(TimeoutError):
    """The server's machine does not answer."""


class ProxyFailed(OSError):
    """The proxy is not to be reached, or does not want to."""


class BadAddress(ValueError):
    """A URL that no request can be made for."""


class Sockets(Protocol):
    """Who wants to know of every connection that is opened, to be able to end it."""

    def note(self, one: socket.socket) -> None: ...

    def forget(self, one: socket.socket) -> None: ...


class Answer(Protocol):
    """A response whose body may still come. End it by `release` when that was read, else by `close`."""

    @property
    def status(self) -> int: ...

    @property
    def headers(self) -> Headers: ...

    @property
    def is_empty(self) -> bool:
        """It has no body, for certain."""

    def read1(self, count: int) -> bytes: ...

    def shutdown(self) -> None: ...

    def release(self) -> None: ...

    def close(self) -> None: ...


class _Connection:
    """Plain or, with a context, TLS. Requests are written here, a small one in one piece; `http1` reads answers."""

    def __init__(self, host: str, port: int, context: ssl.SSLContext | None, seconds: float) -> None:
        self._host, self._port, self._context, self._seconds = host, port, context, seconds
        self.sock: socket.socket | None = None
        self._method = ""
        self._unsent: OSError | None = None  # why a request is not sent wholly, which makes it the last one

    def open(self, read: float, sockets: Sockets) -> socket.socket:
        """Connects, where that is not done yet. read: seconds."""
        sock = self.sock
        if sock is None:
            sock = self._connect(sockets)
        else:
            sockets.note(sock)
        if sock.gettimeout() != read:
            sock.settimeout(read)
        return sock

    def leave(self, sockets: Sockets) -> None:
        if self.sock is not None:
            sockets.forget(self.sock)

    def _connect(self, sockets: Sockets) -> socket.socket:
        name: Any = self._host
        with contextlib.suppress(UnicodeEncodeError):
            name = self._host.encode("ascii")  # as bytes it needs no codec for other alphabets
        try:
            sock = self.sock = socket.create_connection((name, self._port), self._seconds)
        except TimeoutError as error:
            raise ConnectTimeout(str(error)) from error
        except UnicodeError as error:
            raise BadAddress(str(error)) from error
        except OSError as error:
            raise ConnectFailed(str(error)) from error
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        sockets.note(sock)
        if self._context is not None:
            secure = self._context.wrap_socket(sock, server_hostname=name, do_handshake_on_connect=False)
            sock = self.sock = secure
            sockets.note(secure)  # the handshake may be what hangs
            secure.do_handshake()
        return sock

    def ask(self, method: str, target: str, body: bytes | BinaryIO | None, headers: Mapping[str, str]) -> None:
        """A server that ends it meanwhile may have said why."""
        self._method, data = method, self._head(method, target, headers)
        try:
            for piece in _pieces(body):
                if len(data) + len(piece) > BLOCK:
                    self._write(data)
                    data = piece
                else:
                    data += piece
            self._write(data)
        except LayerfsError:  # of what reads the body
            raise
        except OSError as error:
            if error.errno not in (errno.EPIPE, errno.ECONNRESET):
                raise
            self._unsent = error

    def _write(self, data: bytes) -> None:
        assert self.sock is not None
        self.sock.sendall(data)

    def _head(self, method: str, target: str, headers: Mapping[str, str]) -> bytes:
        """Raises ValueError: something in it would end a line."""
        lines = [f"{method} {target} HTTP/1.1", f"Host: {self._authority()}", "Accept-Encoding: identity"]
        lines += [f"{name}: {value}" for name, value in headers.items()]
        text = "\r\n".join(lines)
        if text.count("\n") != len(lines) - 1 or text.count("\r") != len(lines) - 1:
            raise ValueError("a header of several lines")
        return f"{text}\r\n\r\n".encode("latin-1")

    def _authority(self) -> str:
        host = self._host if self._host.isascii() else self._host.encode("idna").decode()
        host = f"[{host}]" if ":" in host else host
        return host if self._port == _PORTS["https" if self._context else "http"] else f"{host}:{self._port}"

    def answer(self) -> Message:
        """The answer's beginning."""
        assert self.sock is not None
        if self._unsent is None:
            return Message(self.sock, self._method)
        with contextlib.suppress(OSError):
            return Message(self.sock, self._method)
        raise self._unsent

    def close(self) -> None:
        """Idempotent."""
        sock, self.sock = self.sock, None
        if sock is not None:
            sock.close()

    @property
    def is_reusable(self) -> bool:
        return self._unsent is None

    def is_dropped(self) -> bool:
        """Whether the server has ended what was idle (or says something that nobody asked for)."""
        if self.sock is None:
            return True
        poll = select.poll()
        poll.register(self.sock, select.POLLIN)
        decrypted = self.sock.pending() if self._context is not None else 0  # type: ignore[attr-defined]
        return bool(decrypted or poll.poll(0))


class _Answer:
    def __init__(self, wire: Wire, connection: _Connection, sock: socket.socket, raw: Message) -> None:
        self._wire, self._connection, self._sock, self._raw = wire, connection, sock, raw
        self.status, self.headers = raw.status, raw.headers
        self.is_empty, self.read1 = raw.is_empty, raw.read1
        self._over = False

    def shutdown(self) -> None:
        socket.socket.shutdown(self._sock, socket.SHUT_RDWR)

    def release(self) -> None:
        """The body was read: the connection is good for another request."""
        if self._over:
            return
        self._over = True
        if self._connection.is_reusable and self._raw.is_reusable:
            self._wire.keep(self._connection)
        else:
            self._connection.close()

    def close(self) -> None:
        if not self._over:
            self._over = True
            self._connection.close()

    __del__ = close


def _pieces(body: bytes | BinaryIO | None) -> Iterator[bytes]:
    if isinstance(body, bytes):
        yield body
    elif body is not None:
        while piece := body.read(BLOCK):
            yield piece


class Idle:
    """Connections that wait for their next request, by where they lead. Safe from threads; a fork's child has none.

    Those that have waited long are closed when it is used again, or closed: servers, and what is on the way to them,
    forget such without a word.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._waiting: list[tuple[Origin, float, _Connection]] = []  # the last to come is the first to go
        self._closed = False
        weakref.finalize(self, _close_all, self._waiting)  # for who does not close it
        _idles.add(self)

    def take(self, origin: Origin) -> _Connection | None:
        """One that the server has not ended either."""
        while True:
            with self._lock:
                self._drop_old()
                at = next((n for n in reversed(range(len(self._waiting))) if self._waiting[n][0] == origin), None)
                connection = None if at is None else self._waiting.pop(at)[2]
            if connection is None or not connection.is_dropped():
                return connection
            connection.close()

    def give(self, origin: Origin, connection: _Connection) -> None:
        with self._lock:
            self._drop_old()
            if not self._closed and len(self._waiting) < _IDLE_MAX:
                self._waiting.append((origin, _now(), connection))
                return
        connection.close()

    def _drop_old(self) -> None:
        while self._waiting and self._waiting[0][1] + _IDLE_SECONDS < _now():
            self._waiting.pop(0)[2].close()

    def close(self) -> None:
        """Idempotent; what is given from now on is closed."""
        with self._lock:
            self._closed = True
            _close_all(self._waiting)

    def forget(self) -> None:
        """In a forked child: they are the parent's."""
        self._lock = threading.Lock()
        _close_all(self._waiting)


_idles: weakref.WeakSet[Idle] = weakref.WeakSet()


def _after_in_child() -> None:
    for idle in list(_idles):
        idle.forget()


os.register_at_fork(after_in_child=_after_in_child)


def _now() -> float:
    """A clock that goes on while the machine sleeps."""
    return time.clock_gettime(time.CLOCK_BOOTTIME)


class Wire:
    """The connections to one origin. Safe from threads.

    Args:
        context: TLS, or None for plain HTTP.
        connect, read: seconds.
        idle: where they wait.
    """

    def __init__(
        self, url: str, context: ssl.SSLContext | None, connect: float, read: float, sockets: Sockets, idle: Idle
    ) -> None:
        parts = urlsplit(url)
        try:
            self._origin = (parts.scheme, parts.hostname or "", parts.port or _PORTS[parts.scheme])
        except ValueError as error:
            raise BadAddress(str(error)) from None
        self._how, self._read, self._sockets, self._idle = (context, connect), read, sockets, idle

    def send(
        self, method: str, url: str, body: bytes | BinaryIO | None, headers: Mapping[str, str]
    ) -> Generator[int | None, None, Answer]:
        """Yields when the request is sent (what the answer comes by), and returns the answer.

        Raises:
            OSError, BadAddress; and what reading the body raises.
        """
        connection = self._idle.take(self._origin) or _Connection(*self._origin[1:], *self._how)
        try:
            sock = connection.open(self._read, self._sockets)
            connection.ask(method, _target(url), body, headers)
            yield sock.fileno()
            raw = connection.answer()
        except BaseException:
            connection.close()
            raise
        return _Answer(self, connection, sock, raw)

    def keep(self, connection: _Connection) -> None:
        connection.leave(self._sockets)
        self._idle.give(self._origin, connection)


def _close_all(waiting: list[tuple[Origin, float, _Connection]]) -> None:
    while waiting:
        waiting.pop()[2].close()


def _target(url: str) -> str:
    """Path and query as they are asked for; what may not stand in a request line is escaped."""
    parts = urlsplit(url)
    target = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
    return quote(target, safe=_PLAIN)
