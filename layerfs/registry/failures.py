"""Errors of registries in one line that names the registry, the repository and the cause, in docker's words."""

from __future__ import annotations

import json
import socket
import sys
from collections.abc import Iterator
from http import HTTPStatus
from urllib.parse import urlsplit

from layerfs._lazy import TYPE_CHECKING
from layerfs.errors import RegistryDenied, RegistryError, RegistryNotFound, RegistryUnreachable
from layerfs.registry.http1 import CutOff, ProtocolError
from layerfs.registry.pace import HeadTooLong, TooSlow
from layerfs.registry.wire import BadAddress, ConnectFailed, ConnectTimeout, ProxyFailed

if TYPE_CHECKING:
    import ssl

_WORDS_MAX = 2000
_UNKNOWN_AUTHORITY = frozenset({18, 19, 20, 21})  # OpenSSL's: self-signed, no issuer
_NO_TLS = ("WRONG_VERSION_NUMBER", "HTTP_REQUEST", "UNKNOWN_PROTOCOL", "PACKET_LENGTH_TOO_LONG", "RECORD_LAYER_FAILURE")


def place(url: str) -> str:
    """A URL as errors show it: without its query, which may hold signatures, and without a user."""
    parts = urlsplit(url)
    return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path}"


def action(method: str, url: str) -> str:
    """`Get "https://host/v2/"`, as Go's client begins its errors."""
    return f'{method.capitalize()} "{place(url)}"'


def connection_failure(method: str, url: str, error: Exception) -> RegistryUnreachable:
    """What went wrong below HTTP."""
    words, again = _cause(error, urlsplit(url).netloc.rpartition("@")[2])
    failure = RegistryUnreachable(f"{action(method, url)}: {words}")
    failure.again = again
    failure.__cause__ = error
    return failure


def _cause(error: Exception, host: str) -> tuple[str, bool]:
    """The reason, and whether trying again may help."""
    if (tls := _of_tls(error, host)) is not None:
        return tls
    if isinstance(error, CutOff):
        return "unexpected EOF", True
    if isinstance(error, ProxyFailed):
        return f"proxyconnect: {error}", False
    causes = list(chain(error))
    if any(isinstance(e, socket.gaierror) for e in causes):
        return f"dial tcp: lookup {host.rpartition(':')[0] or host}: no such host", False
    if isinstance(error, ConnectTimeout):
        return f"dial tcp {host}: i/o timeout", True
    for own in causes:
        if isinstance(own, TooSlow | HeadTooLong):
            return str(own), isinstance(own, TooSlow)
    if isinstance(error, TimeoutError):
        return "i/o timeout (nothing came for too long)", True
    system = next((e for e in causes if isinstance(e, OSError) and e.strerror), None)
    if isinstance(error, ConnectFailed):
        return f"dial tcp {host}: connect: {str(system.strerror).lower() if system else error}", False
    if system is not None:
        return str(system.strerror or system).lower(), True
    if isinstance(error, BadAddress | UnicodeError):
        return f"bad address ({error})", False
    if isinstance(error, ProtocolError):
        return str(error), True
    return f"the connection broke off ({_innermost(error)})", True


def _of_tls(error: Exception, host: str) -> tuple[str, bool] | None:
    """As `_cause`, of an error that OpenSSL had."""
    if "ssl" not in sys.modules:
        return None
    import ssl

    tls = next((e for e in chain(error) if isinstance(e, ssl.SSLError)), None)
    if tls is None:
        return None
    if isinstance(tls, ssl.SSLCertVerificationError):
        return f"tls: failed to verify certificate: x509: {_certificate(tls, host)}", False
    if (getattr(tls, "reason", "") or "") in _NO_TLS:
        return "http: server gave HTTP response to HTTPS client", False
    if isinstance(tls, ssl.SSLEOFError):
        return "unexpected EOF", True
    return f"tls: {tls.reason or tls}".lower(), False


def chain(error: BaseException | None) -> Iterator[BaseException]:
    """An error and all that lies below it; urllib3 has some as arguments, some as causes."""
    seen: set[int] = set()
    waiting = [error]
    while waiting:
        one = waiting.pop()
        if one is None or id(one) in seen:
            continue
        seen.add(id(one))
        yield one
        waiting += [e for e in (*one.args, one.__cause__, one.__context__) if isinstance(e, BaseException)]


def _innermost(error: BaseException) -> str:
    last = error
    for arg in error.args:
        if isinstance(arg, BaseException):
            last = arg
    return " ".join(str(last).split())[:200] or type(last).__name__


def _certificate(error: ssl.SSLCertVerificationError, host: str) -> str:
    if error.verify_code in _UNKNOWN_AUTHORITY:
        return "certificate signed by unknown authority"
    if error.verify_code in (9, 10):
        return "certificate has expired or is not yet valid"
    if error.verify_code in (62, 64):
        return f"certificate is not valid for {host}"
    return error.verify_message or str(error)


def words(status: int, body: bytes) -> str:
    """What a registry says in the body of an error, as docker prints it: `manifest unknown: manifest unknown`."""
    told = [text for text in _listed(body) if text]
    if told:
        return " ".join("; ".join(told).split())[:_WORDS_MAX]
    if status == HTTPStatus.UNAUTHORIZED:
        return "unauthorized: authentication required"
    if status == HTTPStatus.FORBIDDEN:
        return "denied: requested access to the resource is denied"
    if status == HTTPStatus.TOO_MANY_REQUESTS:
        return "toomanyrequests: too many requests"
    return f"received unexpected HTTP status: {status_text(status)}"


def status_text(status: int) -> str:
    try:
        return f"{status} {HTTPStatus(status).phrase}"
    except ValueError:
        return str(status)


def codes(body: bytes) -> frozenset[str]:
    """The error codes in a body."""
    return frozenset(str(entry.get("code", "")).upper() for entry in _entries(body))


def _entries(body: bytes) -> list[dict[str, object]]:
    try:
        document = json.loads(body)
    except (ValueError, RecursionError):
        return []
    errors = document.get("errors") if isinstance(document, dict) else None
    return [entry for entry in errors if isinstance(entry, dict)] if isinstance(errors, list) else []


def _listed(body: bytes) -> Iterator[str]:
    for entry in _entries(body)[:10]:
        code = str(entry.get("code") or "unknown").lower().replace("_", " ")
        message = str(entry.get("message") or "")
        yield f"{code}: {message}" if message else code
    try:
        document = json.loads(body)
    except (ValueError, RecursionError):
        return
    if isinstance(document, dict) and isinstance(document.get("details"), str):  # token servers, old registries
        yield f"unauthorized: {document['details']}"


def refused(status: int, body: bytes, what: str) -> RegistryError:
    """The error for an answer that was not hoped for; `what` names registry and repository."""
    kind: type[RegistryError] = RegistryError
    if status in (HTTPStatus.UNAUTHORIZED, HTTPStatus.FORBIDDEN):
        kind = RegistryDenied
    elif status == HTTPStatus.NOT_FOUND:
        kind = RegistryNotFound
    error = kind(f"{what}: {words(status, body)}")
    error.status = status
    return error
