"""Clients of registries, opened when they are first asked for and shared by all threads of one command."""

from __future__ import annotations

import os
import threading
from types import TracebackType

from layerfs.registry.client import Client
from layerfs.registry.config import Settings
from layerfs.registry.credentials import AuthFiles, Credential
from layerfs.registry.names import api_host, domain_of
from layerfs.registry.session import Session
from layerfs.registry.transport import Transport
from layerfs.registry.watched import Watched
from layerfs.registry.wire import Idle


class Kept:
    """What outlives a command for the next one: the user's settings, and connections, for the same settings. Safe from
    threads, without a lock, which a fork's child might find taken: of two that begin at once one's connections end
    with its command.
    """

    def __init__(self) -> None:
        self._last: tuple[Settings, Idle] | None = None
        self._read: tuple[object, Watched, Settings] | None = None

    def settings(self) -> Settings:
        """What files and variables of this user say: read again when one of them has changed. Raises as
        `Settings.load`.
        """
        who, read = (dict(os.environ), os.getuid()), self._read
        if read is None or read[0] != who or not read[1].is_unchanged():
            watched = Watched()
            read = self._read = who, watched, Settings.load(os.environ, watched=watched)
        return read[2]

    def idle(self, settings: Settings) -> Idle:
        """Those of other settings, who may trust somebody else, are closed."""
        last = self._last
        if last is None or (last[0] is not settings and last[0] != settings):
            self.close()
            last = self._last = settings, Idle()
        return last[1]

    def close(self) -> None:
        """Idempotent."""
        last, self._last = self._last, None
        if last is not None:
            last[1].close()


class Registries:
    """A context manager. Safe from threads.

    Args:
        stop: set it to cancel: waits end, and no new request begins.
        kept: where connections wait for the next of these.
    """

    def __init__(self, settings: Settings, stop: threading.Event | None = None, *, kept: Kept | None = None) -> None:
        self.settings, self._idle = settings, kept.idle(settings) if kept else None
        self.stop = stop or threading.Event()
        self._lock = threading.Lock()
        self._clients: dict[tuple[str, str], Client] = {}

    def client(self, domain: str, repository: str = "") -> Client:
        """The client for a reference's domain. `repository`: for credentials that are for a part of a registry only."""
        return self._client(domain, api_host(domain), repository)

    def readers(self, domain: str, repository: str = "") -> list[Client]:
        """What to read from: the mirrors of a domain, then the registry itself."""
        mirrors = [text.rstrip("/") for text in self.settings.mirrors.get(domain, ())]
        return [*(self._client(mirror, mirror, repository) for mirror in mirrors), self.client(domain, repository)]

    def _client(self, domain: str, address: str, repository: str) -> Client:
        key = (address, repository if self.settings.auth else "")
        with self._lock:
            client = self._clients.get(key)
            if client is None:
                client = self._clients[key] = open_client(
                    self.settings, domain, address, repository, self.stop, idle=self._idle
                )
        return client

    def cancel(self) -> None:
        """Ends everything that goes on, in whatever thread, with an error."""
        self.stop.set()
        with self._lock:
            clients = list(self._clients.values())
        for client in clients:
            client.session.transport.cancel()

    def close(self) -> None:
        with self._lock:
            clients, self._clients = self._clients, {}
        for client in clients.values():
            client.close()

    def __enter__(self) -> Registries:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def open_client(
    settings: Settings,
    domain: str,
    address: str | None = None,
    repository: str = "",
    stop: threading.Event | None = None,
    credential: Credential | None = None,
    idle: Idle | None = None,
) -> Client:
    """A client of its own; nothing is sent yet.

    Args:
        address: a host, or a URL when it is reached in this way only; the domain's own API when None.
        credential: instead of what the files say.
        idle: where connections wait that outlive it.
    """
    address = address or api_host(domain)
    addresses = (address,) if "://" in address else settings.addresses(address)
    name = domain_of(domain) if "://" in domain else domain
    transport = Transport(settings.context, settings.proxy, settings.limits, stop, idle)

    def lookup() -> Credential | None:
        files: AuthFiles | None = settings.auth
        return credential or (files.find(name, repository) if files else None)

    return Client(Session(name, addresses, transport, lookup))
