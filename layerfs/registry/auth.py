"""Who we are to a registry: Basic, or Bearer tokens by docker's token flow. Tokens live in memory only."""

from __future__ import annotations

import base64
import json
import re
import threading
import time
from collections.abc import Callable, Iterable, Mapping
from urllib.parse import urlencode, urlsplit

from layerfs._lazy import pattern
from layerfs._record import dataclass
from layerfs.errors import RegistryDenied, RegistryError
from layerfs.registry.credentials import Credential
from layerfs.registry.failures import action, refused
from layerfs.registry.names import is_loopback
from layerfs.registry.transport import Response, Transport

CLIENT_ID = "layerfs"
_DOCUMENT_MAX = 1 << 20
_LEAST_SECONDS = 60  # what a token is good for when nothing, or less, is said (token specification)
_SCHEME = pattern(r"[\s,]*([A-Za-z][A-Za-z0-9_-]*)(?=\s|,|\Z)(?!\s*=)\s*")
_PARAMETER = pattern(r'[\s,]*([A-Za-z0-9_-]+)\s*=\s*(?:"((?:[^"\\]|\\.)*)"|([^\s,"]+))')
_TOKEN = pattern(r"[\x21-\x7e]+\Z")


@dataclass(frozen=True, slots=True)
class Challenge:
    """One of the ways in that `WWW-Authenticate` offers."""

    scheme: str  # in lower case
    parameters: Mapping[str, str]


def parse_challenges(headers: Iterable[str]) -> list[Challenge]:
    """All challenges of all `WWW-Authenticate` headers, in their order; what is malformed ends a header."""
    found = []
    for text in headers:
        at = 0
        while match := _SCHEME.match(text, at):
            at = match.end()
            parameters: dict[str, str] = {}
            while parameter := _PARAMETER.match(text, at):
                at = parameter.end()
                name, quoted, plain = parameter.groups()
                parameters[name.lower()] = plain if quoted is None else re.sub(r"\\(.)", r"\1", quoted)
            found.append(Challenge(match[1].lower(), parameters))
    return found


def basic(user: str, secret: str) -> str:
    return "Basic " + base64.b64encode(f"{user}:{secret}".encode()).decode()


@dataclass(frozen=True, slots=True)
class _Token:
    text: str
    expires: float  # by the monotonic clock


class Authorizer:
    """What goes into `Authorization` for one registry. Safe from threads: what one asks for, others wait for.

    Args:
        name: of the registry, for errors.
        credential: looks up what we have for it; asked once, when it is needed.
    """

    def __init__(
        self,
        name: str,
        transport: Transport,
        credential: Callable[[], Credential | None],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._name, self._transport, self._lookup, self._clock = name, transport, credential, clock
        self._lock = threading.RLock()
        self._challenge: Challenge | None = None
        self._credential: Credential | None = None
        self._looked_up = False
        self._tokens: dict[frozenset[str], _Token] = {}
        self._refresh = ""

    @property
    def credential(self) -> Credential | None:
        with self._lock:
            if not self._looked_up:
                self._credential, self._looked_up = self._lookup(), True
            return self._credential

    def header(self, scopes: frozenset[str]) -> str | None:
        """For a request that needs these scopes; None while the registry has not asked who we are."""
        with self._lock:
            challenge = self._challenge
            if challenge is None:
                return None
            if challenge.scheme == "basic":
                found = self.credential
                return basic(found.user, found.secret) if found and found.user else None
            token = self._tokens.get(scopes)
            if token is None or token.expires <= self._clock():
                token = self._tokens[scopes] = self._fetch(challenge, scopes)
            return f"Bearer {token.text}"

    def learn(self, answer: Response, sent: str | None = None) -> Challenge | None:
        """Remembers how a 401 says that one is let in. To a token that is none any more some say Basic (Harbor)."""
        challenges = parse_challenges(answer.headers.getlist("WWW-Authenticate"))
        wanted = next((c for c in challenges if c.scheme == "bearer" and c.parameters.get("realm")), None)
        with self._lock:
            if wanted is None and sent is not None and sent.startswith("Bearer "):
                wanted = self._challenge
            wanted = wanted or next((c for c in challenges if c.scheme == "basic"), None)
            if wanted is not None:
                self._challenge = wanted
        return wanted

    def renew(self, answer: Response, scopes: frozenset[str], sent: str | None) -> bool:
        """After a 401 to `sent`: whether there is something else to send now; `header` gives it."""
        wanted = self.learn(answer, sent)
        if wanted is None:
            return False
        with self._lock:
            if wanted.scheme == "basic":
                return sent is None and self.credential is not None
            token = self._tokens.get(scopes)
            if token is None or sent == f"Bearer {token.text}":  # else another thread has renewed it
                asked = frozenset(wanted.parameters.get("scope", "").split())
                self._tokens[scopes] = self._fetch(wanted, _united(scopes | asked))
            return True

    def _fetch(self, challenge: Challenge, scopes: frozenset[str]) -> _Token:
        """A new token. Raises RegistryDenied, RegistryError."""
        realm = challenge.parameters["realm"]
        self._check(realm)
        service = challenge.parameters.get("service", "")
        found = self.credential
        if found is not None and (found.identity or self._refresh):
            answer = self._post(realm, service, scopes, self._refresh or found.identity)
        else:
            answer = self._get(realm, service, scopes, found)
        return self._read(realm, answer, scopes)

    def _check(self, realm: str) -> None:
        try:
            parts = urlsplit(realm)
            host = parts.hostname
        except ValueError:
            host = None
        if host is None or parts.scheme not in ("http", "https") or parts.username is not None:
            raise RegistryError(f"{self._name}: its token server {realm[:200]!r} has no usable address")
        if parts.scheme == "http" and self._secure and not is_loopback(parts.netloc):
            raise RegistryError(f"{self._name}: refused to ask for a token without TLS at {host}")

    _secure = True

    def allow_plain(self, allowed: bool = True) -> None:
        """The registry itself is spoken to without TLS; its token server may be too."""
        self._secure = not allowed

    def _get(self, realm: str, service: str, scopes: frozenset[str], found: Credential | None) -> Response:
        query = [("service", service)] if service else []
        query += [("scope", scope) for scope in sorted(scopes)]
        headers = {}
        if found is not None and found.user:
            query.append(("account", found.user))
            headers["Authorization"] = basic(found.user, found.secret)
        joint = "&" if urlsplit(realm).query else "?"
        return self._transport.request("GET", realm + joint + urlencode(query), headers=headers)

    def _post(self, realm: str, service: str, scopes: frozenset[str], refresh: str) -> Response:
        form = {
            "grant_type": "refresh_token",
            "service": service,
            "client_id": CLIENT_ID,
            "scope": " ".join(sorted(scopes)),
            "refresh_token": refresh,
        }
        headers = {"Content-Type": "application/x-www-form-urlencoded"}
        return self._transport.request("POST", realm, headers=headers, body=urlencode(form).encode())

    def _read(self, realm: str, answer: Response, scopes: frozenset[str]) -> _Token:
        if answer.status != 200:
            where = "/".join([self._name, *_repositories(scopes)[:1]])
            raise refused(answer.status, answer.beginning(), f"{where}: {action(answer.method, realm)}")
        raw = answer.body(_DOCUMENT_MAX)
        try:
            document = json.loads(raw)
            text = document.get("token") or document.get("access_token")
            seconds = float(document.get("expires_in") or _LEAST_SECONDS)
            refresh = document.get("refresh_token")
        except (ValueError, AttributeError, TypeError, RecursionError):
            text = None
        if not isinstance(text, str) or not _TOKEN.match(text):
            raise RegistryDenied(f"{self._name}: authorization server did not include a token in the response")
        if isinstance(refresh, str) and self.credential is not None and self.credential.identity:
            self._refresh = refresh
        return _Token(text, self._clock() + max(seconds, _LEAST_SECONDS) * 0.9)


def _repositories(scopes: frozenset[str]) -> list[str]:
    """What scopes are for; of a mount first the repository that is written to."""
    parts = [scope.split(":") for scope in scopes if scope.startswith("repository:")]
    return [":".join(names) for _, *names, _ in sorted(parts, key=lambda part: ("push" not in part[-1], part))]


def _united(scopes: frozenset[str]) -> frozenset[str]:
    """One scope for each resource: registries name the same actions in any order."""
    actions: dict[str, set[str]] = {}
    for scope in scopes:
        resource, colon, names = scope.rpartition(":")
        actions.setdefault(resource + colon, set()).update(names.split(","))
    return frozenset(resource + ",".join(sorted(names)) for resource, names in actions.items())
