"""One registry as it is spoken to: which address answers, who we are there, and what its refusals mean."""

from __future__ import annotations

import threading
from collections.abc import Callable, Collection, Mapping
from urllib.parse import urljoin, urlsplit

from layerfs.errors import RegistryError, RegistryUnreachable
from layerfs.registry.auth import Authorizer
from layerfs.registry.credentials import Credential
from layerfs.registry.failures import action, refused
from layerfs.registry.transport import Body, Response, Transport, origin


class Session:
    """Requests to one registry, with tokens got and renewed on the way. Safe from threads.

    Args:
        name: what users call it.
        addresses: `https://host`, and `http://host` after it where that is allowed.
    """

    def __init__(
        self,
        name: str,
        addresses: Collection[str],
        transport: Transport,
        credential: Callable[[], Credential | None] = lambda: None,
    ) -> None:
        self.name, self.transport = name, transport
        self._addresses = tuple(addresses)
        self._auth = Authorizer(name, transport, credential)
        self._lock = threading.Lock()
        self._base = ""

    @property
    def credential(self) -> Credential | None:
        return self._auth.credential

    @property
    def base(self) -> str:
        """`scheme://host` that answers; found by the first request: `GET /v2/`, which also says how to be let in.

        Raises:
            RegistryUnreachable: none does.
        """
        with self._lock:
            if not self._base:
                self._base = self._find()
        return self._base

    def _find(self) -> str:
        last: RegistryUnreachable | None = None
        for address in self._addresses:
            alone = address == self._addresses[-1]
            try:
                answer = self.transport.request("GET", address + "/v2/", attempts=None if alone else 1)
            except RegistryUnreachable as error:
                last = error
                continue
            if origin(answer.url)[0] == "http" and address.startswith("http:"):
                self._auth.allow_plain()
            self._greet(address, answer)
            return address
        assert last is not None
        raise last

    def _greet(self, address: str, answer: Response) -> None:
        """A 401 says how tokens are had; they are got when scopes are known."""
        if answer.status == 401 and origin(answer.url) == origin(address):
            self._auth.learn(answer)
        answer.discard()

    def url(self, path: str) -> str:
        return urljoin(self.base, path)

    def request(
        self,
        method: str,
        path: str,
        *,
        scopes: Collection[str] = (),
        headers: Mapping[str, str] | None = None,
        body: bytes | Body | None = None,
        attempts: int | None = None,
    ) -> Response:
        """The answer to a request for a path or for a URL that the registry gave, whatever its status.

        Who we are is told to the registry itself alone.
        """
        url, wanted = self.url(path), frozenset(scopes)
        own = origin(url) == origin(self.base)
        sent = self._auth.header(wanted) if own else None
        answer = self._send(method, url, headers, body, attempts, sent)
        if answer.status != 401 or not own or origin(answer.url) != origin(url):
            return answer
        try:
            if not self._auth.renew(answer, wanted, sent):
                return answer
        except BaseException:
            answer.close()
            raise
        answer.discard()
        return self._send(method, url, headers, body, attempts, self._auth.header(wanted))

    def _send(
        self,
        method: str,
        url: str,
        headers: Mapping[str, str] | None,
        body: bytes | Body | None,
        attempts: int | None,
        who: str | None,
    ) -> Response:
        headers = {**(headers or {}), **({"Authorization": who} if who else {})}
        return self.transport.request(method, url, headers=headers, body=body, attempts=attempts)

    def location(self, answer: Response) -> str:
        """The absolute address in `Location`. A registry behind a proxy may not know that it is reached by https.

        Raises:
            RegistryError: none, or one that is not HTTP, or elsewhere without TLS.
        """
        text = answer.headers.get("Location")
        what = action(answer.method, answer.url)
        if not text:
            raise RegistryError(f"{what}: the answer has no Location")
        try:
            target = urljoin(answer.url, text)
            parts, here = urlsplit(target), urlsplit(answer.url)
            if here.scheme == "https" and parts.scheme == "http" and parts.hostname == here.hostname:
                target = here._replace(path=parts.path, query=parts.query, fragment="").geturl()
            scheme = urlsplit(target).scheme
        except ValueError:
            scheme = ""
        if scheme not in ("http", "https") or (scheme == "http" and here.scheme == "https"):
            raise RegistryError(f"{what}: refused to go on at {text[:200]!r}")
        return target

    def failure(self, answer: Response, what: str = "") -> RegistryError:
        """The error for an answer that was not hoped for; `what` is the repository or what is missing."""
        return refused(answer.status, answer.beginning(), what or action(answer.method, answer.url))

    def close(self) -> None:
        self.transport.close()
