"""Bytes of blobs from a registry: gone on with where a connection broke off, counted while they come, never too slow.

`pieces` gives a blob's bytes; `Download` puts them into a partial file and lets another thread read them meanwhile.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Generator, Iterator, Sequence
from http import HTTPStatus
from typing import TYPE_CHECKING, TypeVar

from layerfs.errors import Corrupt, RegistryError, RegistryNotFound, RegistryUnreachable
from layerfs.oci import Descriptor, media
from layerfs.registry.client import BlobStream, Client
from layerfs.store.partial import Partial

if TYPE_CHECKING:
    from layerfs.registry.connect import Registries

MOMENT = 0.2  # seconds that are waited before something else is done
_CUTS = 1000  # connections that may break off with some bytes each, and one more for each _CUT bytes
_CUT = 16 << 10
_NO_RANGES = frozenset({HTTPStatus.BAD_REQUEST, HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE, HTTPStatus.NOT_IMPLEMENTED})

T = TypeVar("T")


class Cancelled(RegistryError):
    """Somebody else's error, or the user, has ended the work."""


class Upstream:
    """One repository: its mirrors, then the registry itself. Safe from threads.

    A mirror that cannot be reached is not asked again.
    """

    def __init__(self, clients: Sequence[Client], repository: str, stop: threading.Event) -> None:
        self.clients, self.repository, self.stop = list(clients), repository, stop
        self._open: set[BlobStream] = set()
        self._lock = threading.Lock()

    @property
    def place(self) -> str:
        return self.clients[-1].place(self.repository)

    def own(self) -> Upstream:
        """Without the mirrors."""
        return Upstream(self.clients[-1:], self.repository, self.stop)

    def ask(self, question: Callable[[Client], T]) -> T:
        """The first answer. Raises what the registry itself raises."""
        *mirrors, own = self.clients
        for mirror in mirrors:
            try:
                return question(mirror)
            except RegistryUnreachable:
                with contextlib.suppress(ValueError):
                    self.clients.remove(mirror)
            except OSError:  # it is not there, or not what it should be
                continue
        return question(own)

    def open(self, descriptor: Descriptor, offset: int) -> BlobStream:
        """The bytes of a blob from an offset on; a foreign layer's also from where its descriptor says."""
        try:
            return self.ask(lambda client: client.blob(self.repository, descriptor.digest, offset, descriptor.size))
        except RegistryNotFound as missing:
            for url in descriptor.urls if media.is_foreign(descriptor.media_type) else ():
                with contextlib.suppress(RegistryError):
                    return self.clients[-1].external(url, offset)
            raise missing

    @contextlib.contextmanager
    def watched(self, stream: BlobStream) -> Iterator[BlobStream]:
        """Closes the stream at the end; `cancel` ends it at once."""
        with self._lock:
            self._open.add(stream)
        try:
            with stream:
                if self.stop.is_set():
                    raise Cancelled("cancelled")
                yield stream
        finally:
            with self._lock:
                self._open.discard(stream)

    def cancel(self) -> None:
        """Wakes who waits for bytes; nothing is begun after it."""
        self.stop.set()
        with self._lock:
            streams = list(self._open)
        for stream in streams:
            stream.shutdown()


def upstream_of(registries: Registries, place: str) -> Upstream:
    """Of `host/repository`."""
    domain, _, repository = place.partition("/")
    return Upstream(registries.readers(domain, repository), repository, registries.stop)


def pieces(upstream: Upstream, descriptor: Descriptor, start: int = 0) -> Generator[bytes, None, None]:
    """A blob's bytes from `start` on, over as many connections as it takes. Only their number is verified.

    Raises:
        Corrupt: more or fewer bytes than promised. RegistryUnreachable: it breaks off again and again.
        RegistryNotFound, RegistryDenied, RegistryError.
    """
    at, patience = start, _Patience(upstream, descriptor.size)
    while at < descriptor.size:
        began = at
        try:
            for data in _connection(upstream, descriptor, at):
                at += len(data)
                yield data
            if at < descriptor.size:
                raise RegistryUnreachable(
                    f"{_named(upstream, descriptor)}: ended after {at} of {descriptor.size} bytes"
                )
        except RegistryUnreachable as error:
            patience.failed(at - began, error)


def _connection(upstream: Upstream, descriptor: Descriptor, at: int) -> Iterator[bytes]:
    """What one connection gives."""
    size = descriptor.size
    try:
        opened = upstream.open(descriptor, at)
    except RegistryError as error:
        if not at or error.status not in _NO_RANGES:
            raise
        opened = upstream.open(descriptor, 0)  # which also tells whether it is as long as it should be
    with upstream.watched(opened) as stream:
        if stream.size is not None and stream.size != size:
            raise _wrong_size(upstream, descriptor, f"{stream.size} bytes")
        skip = at - stream.offset
        while data := stream.read():
            if skip:  # it began anew: what we have comes once more
                skip, data = max(0, skip - len(data)), data[skip:]
            at += len(data)
            if at > size:
                raise _wrong_size(upstream, descriptor, "more")
            if data:
                yield data


def _named(upstream: Upstream, descriptor: Descriptor) -> str:
    return f"{upstream.place}: blob {descriptor.digest}"


def _wrong_size(upstream: Upstream, descriptor: Descriptor, found: str) -> Corrupt:
    return Corrupt(f"{_named(upstream, descriptor)}: size mismatch: got {found}, expected {descriptor.size} bytes")


class _Patience:
    """How often a connection may break off: without a byte as often as any request; with some very often."""

    def __init__(self, upstream: Upstream, size: int) -> None:
        self._stop, self._limits = upstream.stop, upstream.clients[-1].session.transport.limits
        self._idle, self._left = 0, _CUTS + size // _CUT

    def failed(self, progress: int, error: RegistryUnreachable) -> None:
        """Waits before the next attempt, or raises the error."""
        self._left -= 1
        self._idle = 0 if progress else self._idle + 1
        if self._stop.is_set() or not error.again or self._idle >= self._limits.attempts or self._left <= 0:
            raise error
        if self._idle:
            self._stop.wait(min(self._limits.delay * 2 ** (self._idle - 1), self._limits.delay_max))


class PiecesStream:
    """A readable stream of byte pieces."""

    def __init__(self, coming: Iterator[bytes]) -> None:
        self._coming, self._held = coming, b""

    def read(self, count: int = -1, /) -> bytes:
        if count < 0:
            return self._held + b"".join(self._coming)
        if not self._held:
            self._held = next(self._coming, b"")
        data, self._held = self._held[:count], self._held[count:]
        return data

    def close(self) -> None:
        close = getattr(self._coming, "close", None)
        if close is not None:
            close()


class Download:
    """One blob on its way into a partial file. `run` fetches; `read`, in another thread, gives its bytes from the first
    on and waits for those that are still to come.
    """

    def __init__(
        self,
        partial: Partial,
        upstream: Upstream,
        descriptor: Descriptor,
        report: Callable[[int], object],
        idle: Callable[[], object],
    ) -> None:
        """idle: what `read` calls when it has to wait for more than a moment."""
        if partial.size > descriptor.size:
            partial.restart()
        self.partial, self.began = partial, partial.size
        self._upstream, self._descriptor, self._report, self._idle = upstream, descriptor, report, idle
        self._changed = threading.Condition()
        self._have, self._at, self._over = partial.size, 0, False
        self._error: BaseException | None = None

    def run(self) -> None:
        """Fetches what is missing; what goes wrong is raised by `read`."""
        error: BaseException | None = None
        try:
            with contextlib.closing(pieces(self._upstream, self._descriptor, self.began)) as coming:
                for data in coming:
                    self._take(data)
                    self._report(self._have)
        except BaseException as raised:
            error = raised
        self.end(error)

    def _take(self, data: bytes) -> None:
        """Under the lock: after `end` nothing is written, as the file may be somebody else's."""
        with self._changed:
            if self._over:
                raise Cancelled("cancelled")
            self.partial.write(data)
            self._have += len(data)
            self._changed.notify_all()

    @property
    def whole(self) -> bool:
        return self._have == self._descriptor.size

    def end(self, error: BaseException | None) -> None:
        """Nothing more comes; the first error counts."""
        with self._changed:
            self._over = True
            self._error = self._error or error
            self._changed.notify_all()

    def read(self, count: int = 1 << 18, /) -> bytes:
        if not self._wait(MOMENT):
            self._idle()
            self._wait(None)
        with self._changed:
            if self._at >= self._have:
                if self._error is not None:
                    raise self._error
                return b""
            count = min(count, self._have - self._at)
        data = self.partial.read(count, self._at)
        if len(data) < count:
            raise Corrupt("a partial blob became shorter", path=str(self.partial.path))
        self._at += count
        return data

    def _wait(self, seconds: float | None) -> bool:
        """Until there are bytes that were not read, or none will come any more."""
        with self._changed:
            return self._changed.wait_for(lambda: self._at < self._have or self._over, seconds)
