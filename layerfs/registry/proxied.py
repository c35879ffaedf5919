"""HTTP through a proxy, which is urllib3's work: CONNECT, and TLS to the proxy itself."""

from __future__ import annotations

import contextlib
import http.client
import io
import socket
import time
from collections.abc import Generator, Iterator, Mapping
from typing import TYPE_CHECKING, Any, BinaryIO, cast
from urllib.parse import unquote, urlsplit

import urllib3
import urllib3.connection
from urllib3 import exceptions

from layerfs.errors import InvalidInput
from layerfs.registry.failures import chain, place
from layerfs.registry.http1 import FIELDS_MAX, LINE_MAX, CutOff, Headers, ProtocolError
from layerfs.registry.names import host_name
from layerfs.registry.pace import Pace
from layerfs.registry.wire import BLOCK, Answer, BadAddress, ConnectFailed, ConnectTimeout, ProxyFailed, Sockets

if TYPE_CHECKING:
    import ssl


class _PacedReader(io.RawIOBase):
    """A socket's bytes, no slower than `pace` says."""

    def __init__(self, sock: socket.socket) -> None:
        self._raw = cast(io.RawIOBase, sock.makefile("rb", buffering=0))
        self.pace = Pace(sock.gettimeout())

    def makefile(self, mode: str) -> io.BufferedReader:
        """As sockets have it."""
        return io.BufferedReader(self)

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any, /) -> int | None:
        began = time.monotonic()
        count = self._raw.readinto(buffer)
        self.pace.count(count or 0, time.monotonic() - began)
        return count

    def close(self) -> None:
        if not self.closed:
            self._raw.close()
        super().close()


class _PacedAnswer(http.client.HTTPResponse):
    """An answer that is given up like a silent server's when its header, or 16 KiB of its body, take as long."""

    def __init__(self, sock: socket.socket, *arguments: Any, **named: Any) -> None:
        self._paced = _PacedReader(sock)
        super().__init__(cast(socket.socket, self._paced), *arguments, **named)  # which is asked for a file alone

    def begin(self) -> None:
        super().begin()
        self._paced.pace.body()

    def _read_and_discard_trailer(self) -> None:
        for _ in range(FIELDS_MAX):
            if self.fp.readline(LINE_MAX) in (b"\r\n", b"\n", b""):
                return
        raise http.client.HTTPException(f"more than {FIELDS_MAX} trailers")


class Proxied:
    """As `Wire`, for one origin behind a proxy."""

    def __init__(
        self, proxy: str, context: ssl.SSLContext | None, connect: float, read: float, sockets: Sockets
    ) -> None:
        try:
            user, at, self._host = urlsplit(proxy).netloc.rpartition("@")
        except ValueError as error:
            raise InvalidInput(f"bad proxy {proxy!r}: {error}") from None
        who = urllib3.make_headers(proxy_basic_auth=unquote(user)) if at else None
        try:
            self._manager = urllib3.ProxyManager(
                proxy, proxy_headers=who, maxsize=8, blocksize=BLOCK, ssl_context=context
            )
        except exceptions.HTTPError as error:
            raise InvalidInput(f"bad proxy {place(proxy)}: {error}") from None
        self._timeout = urllib3.Timeout(connect=connect, read=read)
        verified = context is None or context.check_hostname
        self._manager.pool_classes_by_scheme = _pools(sockets, verified)

    def send(
        self, method: str, url: str, body: bytes | BinaryIO | None, headers: Mapping[str, str]
    ) -> Generator[int | None, None, Answer]:
        yield None  # urllib3 sends and waits in one
        with _translated(self._host):
            raw = self._manager.urlopen(
                method,
                url,
                body=body,
                headers=dict(headers),
                redirect=False,
                retries=False,
                timeout=self._timeout,
                preload_content=False,
                decode_content=False,
            )
        return _Answer(raw)

    def clear(self) -> None:
        self._manager.clear()


class _Answer:
    def __init__(self, raw: urllib3.BaseHTTPResponse) -> None:
        self._raw, self.status, self.is_empty = raw, raw.status, False
        self.headers = Headers(list(raw.headers.iteritems()))

    def read1(self, count: int) -> bytes:
        with _translated():
            return self._raw.read1(count, decode_content=False)

    def shutdown(self) -> None:
        self._raw.shutdown()

    def release(self) -> None:
        self._raw.release_conn()

    def close(self) -> None:
        self._raw.close()
        self._raw.release_conn()


@contextlib.contextmanager
def _translated(proxy: str = "") -> Iterator[None]:
    """urllib3's errors as those of `wire`, with them as their causes."""
    try:
        yield
    except exceptions.IncompleteRead as error:
        raise CutOff(str(error)) from error
    except exceptions.ProxyError as error:
        raise ProxyFailed(_dialled(proxy, error.original_error)) from error
    except exceptions.NewConnectionError as error:  # ConnectTimeoutError's child
        raise ConnectFailed(str(error)) from error
    except exceptions.ConnectTimeoutError as error:
        raise ConnectTimeout(str(error)) from error
    except exceptions.ReadTimeoutError as error:
        raise TimeoutError(str(error)) from error
    except exceptions.LocationValueError as error:
        raise BadAddress(str(error)) from error
    except exceptions.HTTPError as error:
        raise ProtocolError(f"the connection broke off ({_innermost(error)})") from error
    except http.client.HTTPException as error:
        raise ProtocolError(f"the connection broke off ({error})") from error


def _dialled(proxy: str, error: BaseException) -> str:
    """Why a proxy could not be reached, in Go's words."""
    for each in chain(error):
        if isinstance(each, socket.gaierror):
            return f"dial tcp: lookup {host_name(proxy)}: no such host"
        if isinstance(each, OSError) and each.strerror:
            return f"dial tcp {proxy}: connect: {each.strerror.lower()}"
    return str(error)


def _innermost(error: BaseException) -> str:
    inner = [arg for arg in error.args if isinstance(arg, BaseException)]
    return str(inner[-1] if inner else error)


def _pools(sockets: Sockets, verified: bool) -> dict[str, Any]:
    """Pools for http and https whose connections note their sockets."""

    class Plain(urllib3.connection.HTTPConnection):
        response_class = _PacedAnswer

        def connect(self) -> None:
            super().connect()
            sockets.note(self.sock)

    class Secure(urllib3.connection.HTTPSConnection):
        response_class = _PacedAnswer

        def _new_conn(self) -> socket.socket:
            one = super()._new_conn()
            sockets.note(one)  # the handshake may be what hangs
            return one

        def connect(self) -> None:
            super().connect()
            sockets.note(self.sock)

    class PlainPool(urllib3.HTTPConnectionPool):
        ConnectionCls = Plain

    class SecurePool(urllib3.HTTPSConnectionPool):
        ConnectionCls = Secure

        def _validate_conn(self, conn: Any) -> None:
            """Of a registry that is configured to be insecure nobody is to be warned each time."""
            if verified:
                super()._validate_conn(conn)
            elif conn.is_closed:
                conn.connect()

    return {"http": PlainPool, "https": SecurePool}
