"""HTTP to a registry and to where it sends us: pooled connections, timeouts, retries, redirects.

Nothing here knows of tokens or manifests. A redirect keeps `Authorization` only on the same scheme, host and port;
it leads to nothing but HTTP, and never from https to http.
"""

from __future__ import annotations

import contextlib
import functools
import socket
import sys
import threading
import time
import weakref
from collections.abc import Callable, Generator, Mapping
from types import TracebackType
from urllib.parse import SplitResult, urljoin, urlsplit

from layerfs._lazy import TYPE_CHECKING
from layerfs._record import dataclass
from layerfs._version import __version__
from layerfs.errors import LayerfsError, RegistryError, RegistryUnreachable
from layerfs.registry.failures import action, chain, connection_failure, place
from layerfs.registry.turns import finished
from layerfs.registry.wire import BLOCK, Answer, ConnectFailed, Idle, Origin, Wire

if TYPE_CHECKING:
    import ssl
    from typing import BinaryIO

    from layerfs.registry.proxied import Proxied

REDIRECTS_MAX = 10
_REDIRECTS = frozenset({301, 302, 303, 307, 308})
AGAIN = frozenset({408, 429, 500, 502, 503, 504})  # a server that is busy, or just restarts
_DRAIN = 1 << 16
_PORTS = {"http": 80, "https": 443}


@dataclass(frozen=True, slots=True)
class Limits:
    """How long we wait (seconds) and how often we try."""

    connect: float = 15.0
    read: float = 60.0  # without a byte
    attempts: int = 5
    delay: float = 0.5  # before the second attempt; twice as long before each further one
    delay_max: float = 30.0
    patience: float = 120.0  # the longest Retry-After that is waited for


LIMITS = Limits()


@dataclass(frozen=True, slots=True)
class Body:
    """What is sent, and can be sent again."""

    size: int
    open: Callable[[], BinaryIO]


def origin(url: str) -> Origin:
    """Scheme, host and port: what credentials belong to. Raises RegistryError: a port or an address that is none."""
    try:
        return _origin(*urlsplit(url)[:2])
    except ValueError as error:
        raise RegistryError(f"bad address {url[:200]!r}: {str(error)[:200]}") from None


@functools.lru_cache(maxsize=64)
def _origin(scheme: str, place: str) -> Origin:
    parts = SplitResult(scheme, place, "", "", "")
    return scheme, (parts.hostname or "").rstrip("."), parts.port or _PORTS.get(scheme, 0)


def redirected(method: str, url: str, location: str) -> str:
    """Where a redirect leads. Raises RegistryError when we do not go there."""
    try:
        target = urljoin(url, location)
        scheme, host, _ = origin(target)
        user = urlsplit(target).username
    except (ValueError, RegistryError):
        raise RegistryError(f"{action(method, url)}: redirected to a bad address") from None
    if scheme not in ("http", "https") or not host or user is not None:
        raise RegistryError(f"{action(method, url)}: refused to follow a redirect to {place(target)[:300]}")
    if scheme == "http" and url.startswith("https:"):
        raise RegistryError(f"{action(method, url)}: refused to follow a redirect from https to {place(target)[:300]}")
    return target


class Response:
    """An answer. `url` is where it came from in the end. Read its body or close it."""

    def __init__(self, raw: Answer, method: str, url: str) -> None:
        self._raw, self.method, self.url = raw, method, url
        self.status, self.headers = raw.status, raw.headers
        self._ended = False

    def read(self, count: int = BLOCK) -> bytes:
        """The next bytes that have come; empty at the end. Raises RegistryUnreachable when it breaks off before."""
        try:
            data = self._raw.read1(count)
            self._ended = self._ended or not data
            return data
        except (OSError, ValueError) as error:
            self.close()
            raise connection_failure(self.method, self.url, error) from error

    def body(self, limit: int) -> bytes:
        """All of it. Raises RegistryError when it is longer than `limit` bytes."""
        pieces, size = [], 0
        with self:
            while data := self.read():
                size += len(data)
                if size > limit:
                    raise RegistryError(f"{action(self.method, self.url)}: the answer is longer than {limit} bytes")
                pieces.append(data)
        return b"".join(pieces)

    def beginning(self, limit: int = _DRAIN) -> bytes:
        """At most so much of it, whatever happens; then it is closed. For errors."""
        data = b""
        try:
            while len(data) < limit and (piece := self.read(limit - len(data))):
                data += piece
        except RegistryError:
            pass
        self.close()
        return data

    @property
    def length(self) -> int | None:
        text = self.headers.get("Content-Length", "")
        return int(text) if text.isascii() and text.isdigit() else None

    def discard(self) -> None:
        """Ends it so that the connection can be used again, when little is left."""
        if self._raw.is_empty:
            self._ended = True
        elif self.method == "HEAD" or (self.length or 0) <= _DRAIN:
            self.beginning()
        self.close()

    def shutdown(self) -> None:
        """Wakes another thread that waits in `read`: nothing more comes."""
        with contextlib.suppress(ValueError, RuntimeError, OSError):  # it is over already
            self._raw.shutdown()

    def close(self) -> None:
        """Idempotent; a connection with bytes left on it is not used again."""
        self._raw.release() if self._ended else self._raw.close()

    def __enter__(self) -> Response:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


Exchange = Generator[int | None, None, Response]


class _Sockets:
    """The open sockets of a transport. Once `stop` is set, one that is noted ends at once: between a request's look at
    `stop` and its connection there is time for a cancel.
    """

    def __init__(self, stop: threading.Event) -> None:
        self._stop, self._lock = stop, threading.Lock()
        self._all: weakref.WeakSet[socket.socket] = weakref.WeakSet()

    def note(self, one: socket.socket) -> None:
        with self._lock:
            self._all.add(one)
        if self._stop.is_set():
            _end(one)

    def forget(self, one: socket.socket) -> None:
        with self._lock:
            self._all.discard(one)

    def end(self) -> None:
        for one in self.all():
            _end(one)

    def all(self) -> list[socket.socket]:
        with self._lock:
            return list(self._all)


def _end(one: socket.socket) -> None:
    with contextlib.suppress(OSError):
        socket.socket.shutdown(one, socket.SHUT_RDWR)  # not TLS's own, which talks to the other end


class Transport:
    """Requests with retries and redirects; safe from threads.

    Args:
        trust: the TLS context for a host (`host[:port]`).
        proxy: the proxy's URL for a URL, or None.
        stop: set it and waits end, and no new request begins.
        idle: where connections wait that outlive it; only for transports with the same `trust`.
    """

    def __init__(
        self,
        trust: Callable[[str], ssl.SSLContext],
        proxy: Callable[[str], str | None] = lambda url: None,
        limits: Limits = LIMITS,
        stop: threading.Event | None = None,
        idle: Idle | None = None,
    ) -> None:
        self._idle, self._is_own = idle or Idle(), idle is None
        self._trust, self._proxy, self.limits = trust, proxy, limits
        self.stop = stop or threading.Event()
        self._lock = threading.Lock()
        self._wires: dict[Origin, Wire | Proxied] = {}
        self._met: set[Origin] = set()
        self._sockets = _Sockets(self.stop)

    def request(
        self,
        method: str,
        url: str,
        *,
        headers: Mapping[str, str] | None = None,
        body: bytes | Body | None = None,
        attempts: int | None = None,
    ) -> Response:
        """The answer, whatever its status: after redirects, and after more attempts on 408, 429 and most of 5xx.

        Raises:
            RegistryUnreachable: no answer came. RegistryError: it redirects to where we do not go, or for ever.
        """
        return finished(self.exchange(method, url, headers=headers, body=body, attempts=attempts))

    def exchange(
        self,
        method: str,
        url: str,
        *,
        headers: Mapping[str, str] | None = None,
        body: bytes | Body | None = None,
        attempts: int | None = None,
    ) -> Exchange:
        """`request`, which yields whenever something is sent and an answer would be waited for."""
        send = functools.partial(self._follow, method, url, dict(headers or {}), body)
        attempts = self.limits.attempts if attempts is None else attempts
        for attempt in range(1, attempts + 1):
            try:
                response = yield from send()
            except RegistryUnreachable as error:
                if attempt == attempts or not error.again:
                    raise
                self._wait(self._delay(attempt), method, url)
                continue
            if response.status not in AGAIN or attempt == attempts:
                return response
            asked = retry_after(response)
            if asked is not None and asked > self.limits.patience:
                return response
            response.discard()
            self._wait(self._delay(attempt) if asked is None else asked, method, url)
        raise AssertionError("no attempt was made")

    def pause(self, attempt: int, method: str, url: str, asked: float | None = None) -> None:
        """The wait after a failed attempt, for those that count for themselves: as long as was asked for."""
        self._wait(self._delay(attempt) if asked is None else asked, method, url)

    def _delay(self, attempt: int) -> float:
        """Twice as long each time, and a little different for everybody."""
        import random

        longest = min(self.limits.delay * 2 ** (attempt - 1), self.limits.delay_max)
        return float(longest * random.uniform(0.75, 1))

    def _wait(self, seconds: float, method: str, url: str) -> None:
        if self.stop.wait(seconds):
            raise RegistryError(f"{action(method, url)}: cancelled")

    def _follow(self, method: str, url: str, headers: dict[str, str], body: bytes | Body | None) -> Exchange:
        for _ in range(REDIRECTS_MAX + 1):
            response = yield from self._once(method, url, headers, body)
            location = response.headers.get("Location")
            if response.status not in _REDIRECTS or location is None:
                return response
            if method not in ("GET", "HEAD") and response.status not in (307, 308):
                return response
            response.discard()
            target = redirected(method, url, location)
            if origin(target) != origin(url):
                headers = {name: value for name, value in headers.items() if name.lower() != "authorization"}
            url = target
        raise RegistryError(f"{action(method, url)}: stopped after {REDIRECTS_MAX} redirects")

    def _once(self, method: str, url: str, headers: dict[str, str], body: bytes | Body | None) -> Exchange:
        if self.stop.is_set():
            raise RegistryError(f"{action(method, url)}: cancelled")
        headers = {"User-Agent": f"layerfs/{__version__}", **headers}
        there, handled = origin(url), sys.exception()
        if there[0] not in _PORTS:
            raise RegistryError(f'{action(method, url)}: unsupported protocol scheme "{there[0]}"')
        source: bytes | BinaryIO | None = body.open() if isinstance(body, Body) else body
        if body is not None:
            headers["Content-Length"] = str(body.size if isinstance(body, Body) else len(body))
        try:
            raw = yield from self._wire(there, url).send(method, url, source, headers)
        except (OSError, ValueError) as error:
            for each in chain(error):
                if each.__context__ is handled:
                    each.__context__ = None  # what the caller was handling is no cause of it
            raise self._failure(method, url, error) from error
        finally:
            if isinstance(body, Body):
                source.close()  # type: ignore[union-attr]
        self._met.add(there)
        return Response(raw, method, url)

    def _failure(self, method: str, url: str, error: Exception) -> Exception:
        """Whose fault it is: what reading the body raised stays what it was. One that has answered may come back."""
        own = next((e for e in chain(error) if isinstance(e, LayerfsError)), None)
        if own is not None:
            return own
        failure = connection_failure(method, url, error)
        if isinstance(error, ConnectFailed) and origin(url) in self._met:
            failure.again = True
        return failure

    def _wire(self, key: Origin, url: str) -> Wire | Proxied:
        """The connections to an origin, which is a URL's."""
        with self._lock:
            wire = self._wires.get(key)
            if wire is None:
                wire = self._wires[key] = self._new_wire(url)
        return wire

    def _new_wire(self, url: str) -> Wire | Proxied:
        host = urlsplit(url).netloc.rpartition("@")[2]
        context = self._trust(host) if url.startswith("https:") else None
        proxy = self._proxy(url)
        if proxy is None:
            return Wire(url, context, self.limits.connect, self.limits.read, self._sockets, self._idle)
        from layerfs.registry.proxied import Proxied

        return Proxied(proxy, context, self.limits.connect, self.limits.read, self._sockets)

    def cancel(self) -> None:
        """Ends all requests, in whatever thread, with an error."""
        self.stop.set()
        self._sockets.end()

    def close(self) -> None:
        with self._lock:
            wires, self._wires = self._wires, {}
        for wire in wires.values():
            if not isinstance(wire, Wire):
                wire.clear()
        if self._is_own:
            self._idle.close()
        for one in self._sockets.all():  # of answers that nobody read to the end
            one.close()


def retry_after(response: Response) -> float | None:
    """Seconds that the registry asks us to wait; None when it does not say."""
    text = response.headers.get("Retry-After", "").strip()
    if text.isascii() and text.isdigit():
        return float(text[:9])
    if not text:
        return None
    import email.utils

    try:
        moment = email.utils.parsedate_to_datetime(text)
        return max(0.0, moment.timestamp() - time.time())
    except (ValueError, TypeError, OverflowError):
        return None
