"""HTTP/1.1 to a server that is reached directly: the standard library's connections, kept and used again.

What goes through a proxy is urllib3's (`proxied`), which takes longer to load than a small push to do.
"""

from __future__ import annotations

import contextlib
import errno
import http.client
import io
import select
import socket
import threading
import weakref
from collections.abc import Generator, Mapping
from typing import TYPE_CHECKING, Any, BinaryIO, Protocol
from urllib.parse import quote, urlsplit

from layerfs.errors import LayerfsError
from layerfs.registry.pace import PacedReader

if TYPE_CHECKING:
    import ssl

BLOCK = 1 << 18
_IDLE_MAX = 8
_TRAILERS_MAX = 100
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


class Headers:
    """An answer's headers; names in any case."""

    def __init__(self, pairs: list[tuple[str, str]]) -> None:
        self._values: dict[str, list[str]] = {}
        for name, value in pairs:
            self._values.setdefault(name.lower(), []).append(value)

    def get(self, name: str, default: Any = None) -> Any:
        """The value; several are one, with commas."""
        values = self._values.get(name.lower())
        return ", ".join(values) if values else default

    def getlist(self, name: str) -> list[str]:
        return self._values.get(name.lower(), [])


class Answer(Protocol):
    """A response whose body may still come. End it by `release` when that was read, else by `close`."""

    @property
    def status(self) -> int: ...

    @property
    def headers(self) -> Headers: ...

    def read1(self, count: int) -> bytes: ...

    def shutdown(self) -> None: ...

    def release(self) -> None: ...

    def close(self) -> None: ...


class PacedAnswer(http.client.HTTPResponse):
    """An answer that is given up like a silent server's when its header, or 16 KiB of its body, take as long."""

    def __init__(self, sock: socket.socket, *arguments: Any, **named: Any) -> None:
        super().__init__(sock, *arguments, **named)
        self.fp.close()
        self._pace = PacedReader(sock)
        self.fp = io.BufferedReader(self._pace)

    def begin(self) -> None:
        super().begin()
        self._pace.body()

    def _read_and_discard_trailer(self) -> None:
        for _ in range(_TRAILERS_MAX):
            if self.fp.readline(1 << 16) in (b"\r\n", b"\n", b""):
                return
        raise http.client.HTTPException(f"more than {_TRAILERS_MAX} trailers")


class _Connection(http.client.HTTPConnection):
    """Plain or, with a context, TLS. The seconds to connect in are the constructor's `timeout`."""

    response_class = PacedAnswer

    def __init__(
        self, host: str, port: int, context: ssl.SSLContext | None, connect: float, read: float, sockets: Sockets
    ) -> None:
        super().__init__(host, port, timeout=connect, blocksize=BLOCK)
        self.default_port = _PORTS["https" if context else "http"]
        self._context, self._connect, self._read, self._sockets = context, connect, read, sockets
        self._unsent: OSError | None = None

    def connect(self) -> None:
        name: Any = self.host
        with contextlib.suppress(UnicodeEncodeError):
            name = self.host.encode("ascii")  # as bytes it needs no codec for other alphabets
        try:
            self.sock = socket.create_connection((name, self.port), self._connect)
        except TimeoutError as error:
            raise ConnectTimeout(str(error)) from error
        except UnicodeError as error:
            raise BadAddress(str(error)) from error
        except OSError as error:
            raise ConnectFailed(str(error)) from error
        self.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._sockets.note(self.sock)
        if self._context is not None:
            self.sock = self._context.wrap_socket(self.sock, server_hostname=name, do_handshake_on_connect=False)
            self._sockets.note(self.sock)  # the handshake may be what hangs
            self.sock.do_handshake()
        self.sock.settimeout(self._read)

    def ask(self, method: str, target: str, body: bytes | BinaryIO | None, headers: Mapping[str, str]) -> None:
        """A server that ends it meanwhile may have said why."""
        try:
            self.request(method, target, body, dict(headers))
        except LayerfsError:  # of what reads the body
            raise
        except OSError as error:
            if error.errno not in (errno.EPIPE, errno.ECONNRESET):
                raise
            self._unsent = error

    def answer(self) -> Any:
        """The answer's beginning."""
        if self._unsent is None:
            return self.getresponse()
        with contextlib.suppress(OSError, http.client.HTTPException):
            answer = self.getresponse()
            answer.will_close = True
            return answer
        raise self._unsent

    def is_dropped(self) -> bool:
        """Whether the server has ended what was idle (or says something that nobody asked for)."""
        if self.sock is None:
            return True
        poll = select.poll()
        poll.register(self.sock, select.POLLIN)
        return bool(poll.poll(0))


class _Answer:
    def __init__(self, wire: Wire, connection: _Connection, sock: socket.socket, raw: http.client.HTTPResponse) -> None:
        self._wire, self._connection, self._sock, self._raw = wire, connection, sock, raw
        self.status = raw.status
        self.headers = Headers(raw.getheaders())
        self._over = False

    def read1(self, count: int) -> bytes:
        data = self._raw.read1(count)
        if not data and count and self._raw.length:
            raise http.client.IncompleteRead(b"", self._raw.length)
        return data

    def shutdown(self) -> None:
        socket.socket.shutdown(self._sock, socket.SHUT_RDWR)

    def release(self) -> None:
        """The body was read: the connection is good for another request."""
        if self._over:
            return
        self._over = True
        self._raw.close()
        if self._raw.will_close or self._connection.sock is None:
            self._connection.close()
        else:
            self._wire.keep(self._connection)

    def close(self) -> None:
        if not self._over:
            self._over = True
            self._raw.close()
            self._connection.close()

    __del__ = close


class Wire:
    """The connections to one origin. Safe from threads.

    Args:
        context: TLS, or None for plain HTTP.
        connect, read: seconds.
    """

    def __init__(self, url: str, context: ssl.SSLContext | None, connect: float, read: float, sockets: Sockets) -> None:
        parts = urlsplit(url)
        try:
            self._host, port = parts.hostname or "", parts.port
        except ValueError as error:
            raise BadAddress(str(error)) from None
        self._port = port or _PORTS[parts.scheme]
        self._how = (context, connect, read, sockets)
        self._lock = threading.Lock()
        self._idle: list[_Connection] = []
        weakref.finalize(self, _close_all, self._idle)  # for who does not clear it

    def send(
        self, method: str, url: str, body: bytes | BinaryIO | None, headers: Mapping[str, str]
    ) -> Generator[int | None, None, Answer]:
        """Yields when the request is sent (what the answer comes by), and returns the answer.

        Raises:
            OSError, http.client.HTTPException, BadAddress; and what reading the body raises.
        """
        connection = self._taken() or _Connection(self._host, self._port, *self._how)
        try:
            if connection.sock is None:
                connection.connect()
            sock = connection.sock
            connection.ask(method, _target(url), body, headers)
            yield sock.fileno()
            raw = connection.answer()
        except BaseException:
            connection.close()
            raise
        return _Answer(self, connection, sock, raw)

    def _taken(self) -> _Connection | None:
        while True:
            with self._lock:
                connection = self._idle.pop() if self._idle else None
            if connection is None or not connection.is_dropped():
                return connection
            connection.close()

    def keep(self, connection: _Connection) -> None:
        with self._lock:
            if len(self._idle) < _IDLE_MAX:
                self._idle.append(connection)
                return
        connection.close()

    def clear(self) -> None:
        with self._lock:
            _close_all(self._idle)


def _close_all(connections: list[_Connection]) -> None:
    while connections:
        connections.pop().close()


def _target(url: str) -> str:
    """Path and query as they are asked for; what may not stand in a request line is escaped."""
    parts = urlsplit(url)
    target = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
    return quote(target, safe=_PLAIN)
