"""One registry as it is spoken to: which address answers, who we are there, and what its refusals mean."""

from __future__ import annotations

import contextlib
import math
import threading
import time
from collections.abc import Callable, Collection, Mapping
from urllib.parse import urljoin, urlsplit

from layerfs._lazy import TYPE_CHECKING
from layerfs._record import dataclass
from layerfs.errors import RegistryError, RegistryUnreachable
from layerfs.registry.auth import Authorizer
from layerfs.registry.credentials import Credential
from layerfs.registry.failures import action, refused
from layerfs.registry.transport import Body, Exchange, Response, Transport, origin, retry_after
from layerfs.registry.turns import finished

if TYPE_CHECKING:
    from typing import Any, ClassVar

_PUZZLING = frozenset({400, 408, 429, 500, 502, 503, 504})  # 400 is what TLS servers say to plain HTTP
_REMEMBERED = 300.0  # seconds for which it is taken that a registry still answers as it did


@dataclass(frozen=True, slots=True)
class _Greeting:
    """Which address of a registry answered: what the next session need not find out again."""

    base: str
    plain: bool  # without TLS
    until: float  # by the monotonic clock


class Session:
    """Requests to one registry, with tokens got and renewed on the way. Safe from threads.

    The first session of a process finds out which address answers; later ones believe it until a request fails, as do
    those of other processes that are told (`findings`, `believe`).

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
        self._believed = False  # the base is an earlier session's, and nothing has come from it yet

    _greetings: ClassVar[dict[tuple[str, ...], _Greeting]] = {}

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
                self._base = self._remembered() or self._find()
        return self._base

    def _remembered(self) -> str:
        greeting = self._greetings.get(self._addresses)
        if greeting is None or greeting.until < time.monotonic():
            return ""
        if greeting.plain:
            self._auth.allow_plain()
        self._believed = True
        return greeting.base

    @property
    def is_known(self) -> bool:
        """Whether a session of this process has found out which address answers."""
        return self._addresses in self._greetings

    def believe(self, findings: object) -> None:
        """What another process found out a moment ago; nothing that is old, or is none of our addresses now."""
        if not isinstance(findings, dict) or (age := _age(findings)) >= _REMEMBERED:
            return
        base, plain = findings.get("base"), findings.get("plain")
        if base in self._addresses and (plain is False or (plain is True and base.startswith("http:"))):
            greeting = _Greeting(base, plain, time.monotonic() + _REMEMBERED - age)
            self._greetings.setdefault(self._addresses, greeting)

    def findings(self, known: object) -> dict[str, Any] | None:
        """Which address answers, for other processes; None when that is what they know, and is not old."""
        greeting = self._greetings.get(self._addresses)
        if greeting is None:
            return None
        before = known if isinstance(known, dict) else {}
        same = (before.get("base"), before.get("plain")) == (greeting.base, greeting.plain)
        if same and _age(before) < _REMEMBERED / 2:
            return None
        return {"base": greeting.base, "plain": greeting.plain, "found": time.time_ns()}

    def _doubt(self, base: str) -> None:
        """After a request that failed: finds out anew, where the address was only believed."""
        with self._lock:
            if self._believed and self._base == base:
                self._believed, self._base = False, ""
                self._auth.allow_plain(False)
                self._greetings.pop(self._addresses, None)

    def _find(self) -> str:
        last: RegistryUnreachable | None = None
        for address in self._addresses:
            alone = address == self._addresses[-1]
            try:
                answer = self.transport.request("GET", address + "/v2/", attempts=None if alone else 1)
            except RegistryUnreachable as error:
                last = error
                continue
            plain = origin(answer.url)[0] == "http" and address.startswith("http:")
            if plain:
                self._auth.allow_plain()
            if answer.status in (200, 401):
                self._greetings[self._addresses] = _Greeting(address, plain, time.monotonic() + _REMEMBERED)
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
        base = self.base
        if path.startswith("/v2/") and base.count("/") == 2:  # which needs no joining
            return base + path
        return path if path.startswith(f"{base}/v2/") else urljoin(base, path)

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
        return finished(self.exchange(method, path, scopes=scopes, headers=headers, body=body, attempts=attempts))

    def exchange(
        self,
        method: str,
        path: str,
        *,
        scopes: Collection[str] = (),
        headers: Mapping[str, str] | None = None,
        body: bytes | Body | None = None,
        attempts: int | None = None,
    ) -> Exchange:
        """`request`, which yields whenever something is sent and an answer would be waited for."""
        base = self.base
        if self._believed:
            with contextlib.suppress(RegistryUnreachable):
                answer = yield from self._exchange(method, path, scopes, headers, body, 1)
                if answer.status not in _PUZZLING:
                    self._believed = False
                    return answer
                answer.discard()
            self._doubt(base)
            path = path.removeprefix(base)  # a URL that was made of it
        return (yield from self._exchange(method, path, scopes, headers, body, attempts))

    def _exchange(
        self,
        method: str,
        path: str,
        scopes: Collection[str],
        headers: Mapping[str, str] | None,
        body: bytes | Body | None,
        attempts: int | None,
    ) -> Exchange:
        url, wanted = self.url(path), frozenset(scopes)
        own = origin(url) == origin(self.base)
        sent = self._auth.header(wanted) if own else None
        answer = yield from self._send(method, url, headers, body, attempts, sent)
        if answer.status != 401 or not own or origin(answer.url) != origin(url):
            return answer
        try:
            if not self._auth.renew(answer, wanted, sent):
                return answer
        except BaseException:
            answer.close()
            raise
        answer.discard()
        return (yield from self._send(method, url, headers, body, attempts, self._auth.header(wanted)))

    def _send(
        self,
        method: str,
        url: str,
        headers: Mapping[str, str] | None,
        body: bytes | Body | None,
        attempts: int | None,
        who: str | None,
    ) -> Exchange:
        headers = {**(headers or {}), **({"Authorization": who} if who else {})}
        return self.transport.exchange(method, url, headers=headers, body=body, attempts=attempts)

    def location(self, answer: Response) -> str:
        """The absolute address in `Location`. A registry behind a proxy may not know that it is reached by https.

        Raises:
            RegistryError: none, or one that is not HTTP, or elsewhere without TLS.
        """
        text: str = answer.headers.get("Location", "")
        what = action(answer.method, answer.url)
        if not text:
            raise RegistryError(f"{what}: the answer has no Location")
        try:
            target = text if text.startswith(("http://", "https://")) else urljoin(answer.url, text)
            parts, here = urlsplit(target), urlsplit(answer.url)
            if here.scheme == "https" and parts.scheme == "http" and parts.hostname == here.hostname:
                parts = here._replace(path=parts.path, query=parts.query, fragment="")
                target = parts.geturl()
            scheme = parts.scheme
        except ValueError:
            scheme = ""
        if scheme not in ("http", "https") or (scheme == "http" and here.scheme == "https"):
            raise RegistryError(f"{what}: refused to go on at {text[:200]!r}")
        return target

    def failure(self, answer: Response, what: str = "") -> RegistryError:
        """The error for an answer that was not hoped for; `what` is the repository or what is missing."""
        error = refused(answer.status, answer.beginning(), what or action(answer.method, answer.url))
        error.retry_after = retry_after(answer)
        return error

    def close(self) -> None:
        self.transport.close()


def _age(findings: Mapping[str, object]) -> float:
    """Seconds; of what has no time, or one that is yet to come, more than any."""
    found = findings.get("found")
    age = time.time_ns() // 10**9 - found // 10**9 if isinstance(found, int) else -1
    return age if age >= 0 else math.inf
