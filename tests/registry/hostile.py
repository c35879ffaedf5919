"""A registry in memory on loopback that behaves well until it is told otherwise. For tests of clients.

    with Registry() as registry:
        registry.image("team/app:1", [tar({"f": b"x"})])
        registry.tricks.append(lambda ask: ask.cut(1000) if ask.is_blob else False)

A trick sees every request first and returns True when it has answered. `registry.log` has what was asked,
`registry.sent` the bytes of blobs that were sent.
"""

from __future__ import annotations

import contextlib
import gzip
import json
import re
import socket
import struct
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import zstandard

from tests.unit.image.make import CONFIG, LAYER, MANIFEST, config, digest

INDEX = "application/vnd.oci.image.index.v1+json"
DOCKER_MANIFEST = "application/vnd.docker.distribution.manifest.v2+json"
DOCKER_CONFIG = "application/vnd.docker.container.image.v1+json"
DOCKER_LAYER = "application/vnd.docker.image.rootfs.diff.tar.gzip"
_PATH = re.compile(r"/v2/(.+)/(manifests|blobs)/([^/]+)\Z")
Trick = Callable[["Ask"], bool]


class Ask(BaseHTTPRequestHandler):
    """One request, and ways to answer it."""

    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    server: Any
    registry: Registry

    def log_message(self, format: str, *args: Any) -> None:
        pass

    def do_GET(self) -> None:
        registry = self.registry
        match = _PATH.match(self.path)
        self.repository, self.kind, self.reference = match.groups() if match else ("", "", "")
        with registry.lock:
            registry.log.append((self.command, self.path))
        with contextlib.suppress(ConnectionError):
            if not any(trick(self) for trick in list(registry.tricks)):
                self.well()

    do_HEAD = do_GET

    @property
    def is_blob(self) -> bool:
        return self.command == "GET" and self.kind == "blobs"

    @property
    def is_layer(self) -> bool:
        return self.is_blob and self.reference not in self.registry.configs

    @property
    def is_manifest(self) -> bool:
        return self.kind == "manifests"

    @property
    def start(self) -> int:
        """The first byte that is asked for."""
        return int(re.findall(r"\d+", self.headers.get("Range", "0"))[0])

    def well(self) -> None:
        """The right answer."""
        registry = self.registry
        if self.path == "/v2/":
            return self.answer(b"{}", "application/json")
        if self.path.endswith("/tags/list") or "/tags/list?" in self.path:
            name = self.path[4:].partition("/tags/list")[0]
            tags = sorted(ref for repo, ref in registry.manifests if repo == name and ":" not in ref)
            return self.answer(json.dumps({"name": name, "tags": tags}).encode(), "application/json")
        if self.kind == "manifests" and (found := registry.manifests.get((self.repository, self.reference))):
            return self.answer(found[1], found[0], digest=digest(found[1]))
        if self.kind == "blobs" and self.reference in registry.blobs:
            return self.blob(registry.blobs[self.reference])
        return self.refuse(404, "MANIFEST_UNKNOWN" if self.kind == "manifests" else "BLOB_UNKNOWN")

    def blob(self, data: bytes, *, stop: int | None = None) -> None:
        """A blob, from where it is asked for; `stop`: the promised bytes from there on are not sent."""
        start = self.start
        if start >= len(data) > 0:
            return self.refuse(416, "RANGE_INVALID")
        self.send_response(206 if start else 200)
        self.send_header("Content-Length", str(len(data) - start))
        if start:
            self.send_header("Content-Range", f"bytes {start}-{len(data) - 1}/{len(data)}")
        self.end_headers()
        if self.command == "GET":
            self.send(data[start:stop])
        return None

    def send(self, data: bytes) -> None:
        for at in range(0, len(data), 1 << 16):
            piece = data[at : at + (1 << 16)]
            with self.registry.lock:
                self.registry.sent += len(piece)
            self.wfile.write(piece)

    def answer(self, body: bytes, kind: str, status: int = 200, **headers: str) -> None:
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body)))
        for name, value in headers.items():
            self.send_header({"digest": "Docker-Content-Digest"}.get(name, name.replace("_", "-")), value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def refuse(self, status: int, code: str, **headers: str) -> None:
        words = code.lower().replace("_", " ")
        body = json.dumps({"errors": [{"code": code, "message": words}]}).encode()
        self.answer(body, "application/json", status, **headers)

    # misbehaving; all return True, as tricks do

    def other(self, body: bytes, kind: str = "application/octet-stream", status: int = 200, **headers: str) -> bool:
        self.answer(body, kind, status, **headers)
        return True

    def cut(self, at: int, *, reset: bool = False) -> bool:
        """Sends a blob up to an offset and breaks off, with a FIN or a RST."""
        self.blob(self.registry.blobs[self.reference], stop=max(at, self.start))
        self.drop(reset=reset)
        return True

    def drop(self, *, reset: bool = False) -> bool:
        self.close_connection = True
        with contextlib.suppress(OSError):
            self.wfile.flush()
            if reset:
                self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                self.connection.close()
            else:
                self.connection.shutdown(socket.SHUT_RDWR)
        return True

    def endless(self, length: int | None = None) -> bool:
        """A body without an end, in chunks or under a promised length."""
        self.send_response(200)
        if length is None:
            self.send_header("Transfer-Encoding", "chunked")
        else:
            self.send_header("Content-Length", str(length))
        self.end_headers()
        piece = bytes(1 << 16)
        while not self.registry.closing.is_set():
            with self.registry.lock:
                self.registry.sent += len(piece)
            self.wfile.write(piece if length is not None else b"10000\r\n" + piece + b"\r\n")
        return True

    def drip(self, data: bytes, seconds: float) -> bool:
        """A byte now and then."""
        self.send_response(200)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        for number in range(len(data)):
            self.wfile.write(data[number : number + 1])
            self.wfile.flush()
            if self.registry.closing.wait(seconds):
                break
        return self.drop()

    def raw(self, pieces: Iterable[bytes], seconds: float = 0) -> bool:
        """Bytes that need not be HTTP, a piece now and then."""
        for piece in pieces:
            self.wfile.write(piece)
            self.wfile.flush()
            if self.registry.closing.wait(seconds) if seconds else self.registry.closing.is_set():
                break
        return self.drop()

    def redirect(self, location: str, status: int = 307) -> bool:
        self.answer(b"", "text/plain", status, Location=location)
        return True


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 128

    def handle_error(self, request: Any, client_address: Any) -> None:
        pass  # clients break off, as the tests want it


class Registry:
    """See the module."""

    def __init__(self) -> None:
        self.blobs: dict[str, bytes] = {}
        self.configs: set[str] = set()
        self.manifests: dict[tuple[str, str], tuple[str, bytes]] = {}
        self.tricks: list[Trick] = []
        self.log: list[tuple[str, str]] = []
        self.sent = 0
        self.lock = threading.Lock()
        self.closing = threading.Event()
        handler = type("Handler", (Ask,), {"registry": self})
        self._server = _Server(("127.0.0.1", 0), handler)
        self.host = f"127.0.0.1:{self._server.server_address[1]}"
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True)

    def __enter__(self) -> Registry:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.closing.set()
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    # what it has

    def put(self, data: bytes, kind: str) -> dict[str, Any]:
        self.blobs[digest(data)] = data
        return {"mediaType": kind, "digest": digest(data), "size": len(data)}

    def manifest(self, name: str, document: dict[str, Any], kind: str = MANIFEST) -> dict[str, Any]:
        """A manifest under its digest, and under a tag when the name has one."""
        repository, _, tag = name.partition(":")
        raw = json.dumps({"schemaVersion": 2, "mediaType": kind, **document}).encode()
        for reference in filter(None, (tag, digest(raw))):
            self.manifests[repository, reference] = (kind, raw)
        return {"mediaType": kind, "digest": digest(raw), "size": len(raw)}

    def image(
        self, name: str, layers: Sequence[bytes], *, form: str = "gzip", docker: bool = False, **more: Any
    ) -> dict[str, Any]:
        """An image of these tars; its manifest's descriptor."""
        raw = config(layers, **more)
        self.configs.add(digest(raw))
        pack = {"gzip": lambda d: gzip.compress(d, 6, mtime=0), "zstd": zstandard.compress, "plain": bytes}[form]
        kind = DOCKER_LAYER if docker else LAYER + {"gzip": "+gzip", "zstd": "+zstd", "plain": ""}[form]
        document = {
            "config": self.put(raw, DOCKER_CONFIG if docker else CONFIG),
            "layers": [self.put(pack(layer), kind) for layer in layers],
        }
        return self.manifest(name, document, DOCKER_MANIFEST if docker else MANIFEST)

    def index(self, name: str, entries: Sequence[dict[str, Any]]) -> dict[str, Any]:
        return self.manifest(name, {"manifests": list(entries)}, INDEX)

    # what was asked

    def fetched(self) -> list[str]:
        """Digests of the blobs that were asked for, in order."""
        with self.lock:
            return [path.rpartition("/")[2] for method, path in self.log if method == "GET" and "/blobs/" in path]

    def forget(self) -> None:
        with self.lock:
            self.log.clear()
            self.sent = 0


def wait_for(condition: Callable[[], bool], seconds: float = 60) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it did not happen"
        time.sleep(0.01)
