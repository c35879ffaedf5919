"""Servers of the tests, on loopback: Debian's docker-registry, a token server, and one that says what it is told to."""

from __future__ import annotations

import base64
import contextlib
import json
import shutil
import socket
import subprocess
import threading
import time
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

from layerfs.oci import media
from layerfs.registry.transport import Limits
from tests.looking import free_port

QUICK = Limits(connect=60, read=60, attempts=4, delay=0.01, delay_max=0.05, patience=2)
USER, PASSWORD = "ann", "secret"
HTPASSWD = "ann:$2b$05$geizgZ.u9oQVHxHdKbVi5Ou.BedMQgsMqYVyyrRYPj1b/38Gw/aBm\n"  # bcrypt of PASSWORD
PROGRAM = shutil.which("docker-registry")


@dataclass(frozen=True)
class Registry:
    """A running docker-registry."""

    host: str
    root: Path
    ca: Path | None = None

    def blob_files(self) -> set[str]:
        """The digests of the blobs that it holds."""
        return {path.name for path in (self.root / "docker/registry/v2/blobs/sha256").glob("*/*")}


@contextlib.contextmanager
def docker_registry(
    place: Path,
    *,
    tls: Certificates | None = None,
    auth: dict[str, Any] | None = None,
    client_ca: Path | None = None,
    host: str = "",
) -> Iterator[Registry]:
    """Debian's docker-registry at `host`, or on a free port; with `tls` it answers https alone."""
    assert PROGRAM is not None
    place.mkdir(parents=True, exist_ok=True)
    host = host or f"127.0.0.1:{free_port()}"
    config: dict[str, Any] = {
        "version": "0.1",
        "log": {"level": "error", "accesslog": {"disabled": True}},
        "storage": {"filesystem": {"rootdirectory": str(place / "data")}, "delete": {"enabled": True}},
        "http": {"addr": host},
    }
    if tls is not None:
        config["http"]["tls"] = {"certificate": str(tls.certificate), "key": str(tls.key)}
        config["http"]["tls"] |= {"clientcas": [str(client_ca)]} if client_ca else {}
    if auth is not None:
        config["auth"] = auth
    (place / "config.yml").write_text(json.dumps(config))  # JSON is YAML
    with (place / "log").open("wb") as log:
        process = subprocess.Popen([PROGRAM, "serve", place / "config.yml"], stdout=log, stderr=log)
    try:
        _until_it_listens(host, process, place / "log")
        yield Registry(host, place / "data", tls.ca if tls else None)
    finally:
        process.kill()
        process.wait()


def _until_it_listens(host: str, process: subprocess.Popen[bytes], log: Path) -> None:
    name, _, port = host.partition(":")
    deadline = time.monotonic() + 30
    while True:
        try:
            socket.create_connection((name, int(port)), timeout=1).close()
            return
        except OSError:
            if process.poll() is not None or time.monotonic() > deadline:
                raise AssertionError(f"docker-registry does not start: {log.read_text()}") from None
            time.sleep(0.05)


@dataclass(frozen=True)
class Certificates:
    """A certificate authority of our own, and a certificate of 127.0.0.1 by it."""

    ca: Path
    certificate: Path
    key: Path

    @classmethod
    def make(cls, place: Path) -> Certificates:
        place.mkdir(parents=True, exist_ok=True)
        made = cls(place / "ca.crt", place / "server.crt", place / "server.key")
        ca_key, request, extra = place / "ca.key", place / "server.csr", place / "names"
        extra.write_text("subjectAltName=IP:127.0.0.1,DNS:localhost\n")
        curve = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes")
        _openssl("req", "-x509", *curve, "-keyout", ca_key, "-out", made.ca, "-days", "2", "-subj", "/CN=test CA")
        _openssl("req", *curve, "-keyout", made.key, "-out", request, "-subj", "/CN=127.0.0.1")
        signing = ("-CA", made.ca, "-CAkey", ca_key, "-CAcreateserial", "-days", "2", "-extfile", extra)
        _openssl("x509", "-req", "-in", request, "-out", made.certificate, *signing)
        return made


def _openssl(*arguments: str | Path, data: bytes | None = None) -> bytes:
    return subprocess.run(["openssl", *arguments], input=data, capture_output=True, check=True).stdout


def _base64(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


@dataclass
class TokenServer:
    """What registries send their clients to: gives tokens that docker-registry takes, to USER and PASSWORD alone.

    `asked` are the scopes of every request; `lifetime` is how long tokens are good (seconds).
    """

    place: Path
    service: str = "tests"
    issuer: str = "tests issuer"
    lifetime: int = 300
    address: str = ""
    asked: list[list[str]] = field(default_factory=list)
    forms: list[dict[str, list[str]]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.place.mkdir(parents=True, exist_ok=True)
        key = ("-newkey", "rsa:2048", "-nodes", "-keyout", self.place / "token.key")
        _openssl("req", "-x509", *key, "-out", self.place / "token.crt", "-days", "2", "-subj", "/CN=tokens")

    def auth(self) -> dict[str, Any]:
        """For docker-registry's configuration."""
        return {
            "token": {
                "realm": f"http://{self.address}/token",
                "service": self.service,
                "issuer": self.issuer,
                "rootcertbundle": str(self.place / "token.crt"),
            }
        }

    def token(self, scopes: list[str]) -> str:
        access = []
        for scope in " ".join(scopes).split():
            kind, name, actions = scope.split(":")
            access.append({"type": kind, "name": name, "actions": actions.split(",")})
        now = int(time.time())
        claims = {"iss": self.issuer, "sub": USER, "aud": self.service, "exp": now + self.lifetime, "nbf": now - 10}
        claims |= {"iat": now, "jti": str(time.monotonic_ns()), "access": access}
        der = _openssl("x509", "-in", self.place / "token.crt", "-outform", "DER")
        header = {"typ": "JWT", "alg": "RS256", "x5c": [base64.b64encode(der).decode()]}
        signed = ".".join(_base64(json.dumps(part).encode()) for part in (header, claims))
        signature = _openssl("dgst", "-sha256", "-sign", self.place / "token.key", data=signed.encode())
        return f"{signed}.{_base64(signature)}"

    def answer(self, request: Request) -> Answer:
        values = parse_qs(request.body.decode()) if request.method == "POST" else parse_qs(urlsplit(request.path).query)
        scopes = values.get("scope", [])
        if request.method == "POST":
            self.forms.append(values)
            known = values.get("refresh_token") == ["refresh me"]
        else:
            who = base64.b64encode(f"{USER}:{PASSWORD}".encode()).decode()
            known = request.headers.get("Authorization") == f"Basic {who}"
        self.asked.append(scopes)
        if not known:
            details = {"code": "UNAUTHORIZED", "message": "incorrect username or password"}
            return Answer(401, json.dumps({"errors": [details]}).encode())
        return Answer(200, json.dumps({"token": self.token(scopes), "expires_in": self.lifetime}).encode())


@dataclass(frozen=True)
class Request:
    method: str
    path: str
    headers: Any
    body: bytes
    peer: Any = None  # the address of the client's end


@dataclass(frozen=True)
class Answer:
    status: int
    body: bytes = b""
    headers: dict[str, str] = field(default_factory=dict)
    cut: int | None = None  # close the connection after so many bytes of the body


@contextlib.contextmanager
def scripted(answer: Callable[[Request], Answer]) -> Iterator[tuple[str, list[Request]]]:
    """A server whose answers a function gives (status 0: the connection breaks); its `host:port`, and what it was
    asked.
    """
    seen: list[Request] = []

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def _any(self) -> None:
            count = int(self.headers.get("Content-Length") or 0)
            request = Request(self.command, self.path, self.headers, self.rfile.read(count), self.client_address)
            seen.append(request)
            reply = answer(request)
            if not reply.status:
                self.close_connection = True
                return
            self.send_response(reply.status)
            for name, value in {"Content-Length": str(len(reply.body)), **reply.headers}.items():
                self.send_header(name, value)
            self.end_headers()
            if self.command != "HEAD":
                with contextlib.suppress(OSError):  # a client that has enough
                    self.wfile.write(reply.body if reply.cut is None else reply.body[: reply.cut])
            if reply.cut is not None:
                self.close_connection = True

        do_GET = do_HEAD = do_POST = do_PUT = do_PATCH = do_DELETE = _any

        def log_message(self, *_: object) -> None:
            pass

        def handle(self) -> None:
            with contextlib.suppress(OSError):  # a client that has gone
                super().handle()

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True)
    thread.start()
    try:
        yield f"127.0.0.1:{server.server_address[1]}", seen
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def get(host: str, path: str, accept: str = media.OCI_MANIFEST) -> bytes:
    """What a plain registry answers to somebody else."""
    request = urllib.request.Request(f"http://{host}{path}", headers={"Accept": accept})
    with urllib.request.urlopen(request, timeout=60) as answer:
        data: bytes = answer.read()
        return data
