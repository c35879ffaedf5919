"""A registry that lies, breaks off or never ends: one clear error, nothing of the image stored, no other harm."""

from __future__ import annotations

import contextlib
import gzip
import json
import re
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from layerfs import Store
from layerfs.errors import LayerfsError, RegistryError, RegistryUnreachable
from layerfs.registry.config import Settings
from layerfs.registry.transport import Limits
from tests.registry.hostile import INDEX, Ask, Registry
from tests.unit.image.make import LAYER, MANIFEST, config, digest, tar

FILES = tar({"f": bytes(range(256)) * 2000, "g": b"small"})
QUICK = Settings(limits=Limits(connect=60, read=60, attempts=2, delay=0.01, delay_max=0.02, patience=2))
IMPATIENT = Settings(limits=Limits(connect=60, read=1, attempts=1))  # for what is too slow


@pytest.fixture
def registry() -> Iterator[Registry]:
    with Registry() as opened:
        opened.image("app:1", [FILES])
        yield opened


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    with Store(tmp_path / "store") as opened:
        yield opened


def refused(store: Store, registry: Registry, name: str = "app:1", settings: Settings = QUICK, **how: Any) -> str:
    """The error of a pull; what it left is looked at."""
    began = time.monotonic()
    with pytest.raises(LayerfsError) as caught:
        store.pull(f"{registry.host}/{name}", settings=settings, **how)
    assert time.monotonic() - began < 60
    assert store.images(all=True) == []
    assert store.root.leases.records() == []
    store.gc()
    kept = {path.relative_to(store.path).parts[0] for path in store.path.rglob("*") if path.is_file()}
    assert kept <= {"format", "index", "locks", "partial"}
    text = str(caught.value)
    assert "\n" not in text
    assert len(text) < 1000
    return text


def forgotten(store: Store) -> bool:
    """Whether not even the bytes that came are kept."""
    return not list((store.path / "partial").glob("*"))


def layer_of(registry: Registry, name: str = "app", tag: str = "1") -> dict[str, Any]:
    layer: dict[str, Any] = json.loads(registry.manifests[name, tag][1])["layers"][0]
    return layer


def changed(registry: Registry, change: Callable[[dict[str, Any]], Any], kind: str = MANIFEST) -> None:
    """The image's manifest with something else in it."""
    document = json.loads(registry.manifests["app", "1"][1])
    change(document)
    registry.manifest("app:1", document, kind)


def test_flipped_bytes(store: Store, registry: Registry) -> None:
    name = layer_of(registry)["digest"]
    data = bytearray(registry.blobs[name])
    data[len(data) // 2] ^= 1
    registry.blobs[name] = bytes(data)
    assert registry.host in refused(store, registry)
    assert forgotten(store)


def test_another_layer_of_the_same_size(store: Store, registry: Registry) -> None:
    name = layer_of(registry)["digest"]
    wrong = gzip.compress(tar({"f": b"evil"}), mtime=0)
    registry.blobs[name] = wrong + bytes(layer_of(registry)["size"] - len(wrong))
    assert "sha256:" in refused(store, registry)
    assert forgotten(store)


def test_a_layer_with_another_diff_id(store: Store, registry: Registry) -> None:
    other = registry.put(gzip.compress(tar({"evil": b"x"}), mtime=0), LAYER + "+gzip")
    changed(registry, lambda document: document.update(layers=[other]))
    assert "diff ID" in refused(store, registry)


@pytest.mark.parametrize("wrong", [1, 1 << 50, 0])
def test_a_size_that_is_not_so(store: Store, registry: Registry, wrong: int) -> None:
    changed(registry, lambda document: document["layers"][0].update(size=wrong))
    text = refused(store, registry)
    assert "size mismatch" in text or "bytes" in text or (wrong == 0 and "diff ID" in text)
    assert forgotten(store)


def test_negative_size(store: Store, registry: Registry) -> None:
    changed(registry, lambda document: document["layers"][0].update(size=-1))
    assert "size" in refused(store, registry)


@pytest.mark.parametrize("length", [None, 1 << 40])
def test_endless_bodies(store: Store, registry: Registry, length: int | None) -> None:
    registry.tricks.append(lambda ask: ask.is_layer and ask.endless(length))
    assert "size mismatch" in refused(store, registry)
    assert registry.sent < 64 << 20


@pytest.mark.parametrize("kind", ["manifests", "blobs"])
def test_an_endless_document(store: Store, registry: Registry, kind: str) -> None:
    registry.tricks.append(lambda ask: ask.kind == kind and ask.endless())
    refused(store, registry)
    assert registry.sent < 64 << 20


def test_a_huge_manifest(store: Store, registry: Registry) -> None:
    registry.tricks.append(lambda ask: ask.is_manifest and ask.other(b"{" + b" " * (5 << 20) + b"}", MANIFEST))
    assert "more than the" in refused(store, registry)


def test_a_promised_length_that_does_not_come(store: Store, registry: Registry) -> None:
    registry.tricks.append(lambda ask: ask.is_layer and ask.cut(1000))
    refused(store, registry)


@pytest.mark.parametrize(
    "to",
    [
        "file:///etc/passwd",
        "ftp://127.0.0.1/x",
        "http://user:secret@127.0.0.1/x",
        "//",
        "http://",
        "http://127.0.0.1:99999/",
        "http://[::1",
    ],
)
def test_redirects_that_nobody_follows(store: Store, registry: Registry, to: str) -> None:
    registry.tricks.append(lambda ask: ask.is_layer and ask.redirect(to))
    text = refused(store, registry)
    assert "secret" not in text


def test_redirects_in_a_circle(store: Store, registry: Registry) -> None:
    registry.tricks.append(lambda ask: ask.is_layer and ask.redirect(ask.path))
    assert "redirects" in refused(store, registry)


@pytest.mark.parametrize("field", ["config", "layers"])
def test_digests_of_another_algorithm(store: Store, registry: Registry, field: str) -> None:
    other = "sha512:" + "a" * 128
    changed(
        registry,
        lambda d: d["config"].update(digest=other) if field == "config" else d["layers"][0].update(digest=other),
    )
    assert "sha512" in refused(store, registry)


@pytest.mark.parametrize("bad", ["../../../etc/passwd", "sha256:../../../../tmp/x", "sha256:" + "A" * 64, 7, None])
def test_digests_that_are_none(store: Store, registry: Registry, bad: Any) -> None:
    changed(registry, lambda document: document["layers"][0].update(digest=bad))
    refused(store, registry)


def test_a_digest_header_that_lies(store: Store, registry: Registry) -> None:
    raw = registry.manifests["app", "1"][1]
    registry.tricks.append(lambda ask: ask.is_manifest and ask.other(raw, MANIFEST, digest="sha256:" + "0" * 64))
    assert "digest mismatch" in refused(store, registry)


def test_another_manifest_than_the_digest_asked_for(store: Store, registry: Registry) -> None:
    raw = registry.manifests["app", "1"][1]
    registry.tricks.append(lambda ask: ask.is_manifest and ask.other(raw, MANIFEST))
    assert "digest mismatch" in refused(store, registry, "app@sha256:" + "0" * 64)


@pytest.mark.parametrize("body", [b"", b"<html>", b"[]", b"null", b'{"schemaVersion":1}', b"[" * 100_000, b"\xff"])
def test_documents_that_are_none(store: Store, registry: Registry, body: bytes) -> None:
    registry.tricks.append(lambda ask: ask.is_manifest and ask.other(body, MANIFEST))
    refused(store, registry)


def test_a_wrong_content_type(store: Store, registry: Registry) -> None:
    raw = registry.manifests["app", "1"][1]
    registry.tricks.append(lambda ask: ask.is_manifest and ask.other(raw, INDEX))
    refused(store, registry)


def test_a_content_type_that_says_nothing_is_no_error(store: Store, registry: Registry) -> None:
    raw = registry.manifests["app", "1"][1]
    registry.tricks.append(lambda ask: ask.is_manifest and ask.other(raw, "text/html; charset=utf-8"))
    assert store.pull(f"{registry.host}/app:1").layers


def test_indexes_nested_without_end(store: Store, registry: Registry) -> None:
    entry = registry.image("app", [FILES])
    for _ in range(20):
        entry = registry.index("app:1", [entry | {"platform": {"os": "linux", "architecture": "amd64"}}])
    assert "nested" in refused(store, registry, platform="linux/amd64")
    assert "nested" in refused(store, registry, all_platforms=True)


def test_an_index_with_more_manifests_than_there_can_be(store: Store, registry: Registry) -> None:
    entries = [{"mediaType": MANIFEST, "digest": "sha256:" + f"{n:064x}", "size": 2} for n in range(5000)]
    registry.index("app:1", entries)
    refused(store, registry, all_platforms=True)
    assert len(registry.log) < 1100


def test_more_layers_than_the_config_has(store: Store, registry: Registry) -> None:
    changed(registry, lambda document: document["layers"].append(document["layers"][0]))
    assert "layers length mismatch" in refused(store, registry)


def test_one_blob_as_two_layers(store: Store, registry: Registry) -> None:
    raw = config([FILES, tar({"h": b"h"})])
    registry.configs.add(digest(raw))
    changed(registry, lambda d: d.update(config=registry.put(raw, d["config"]["mediaType"]), layers=d["layers"] * 2))
    assert "two different layers" in refused(store, registry)


def test_unknown_kinds_of_layers(store: Store, registry: Registry) -> None:
    changed(registry, lambda document: document["layers"][0].update(mediaType="text/html"))
    assert "unknown type" in refused(store, registry)


def test_a_foreign_layer_is_fetched_by_http_alone(store: Store, registry: Registry) -> None:
    layer = layer_of(registry)
    del registry.blobs[layer["digest"]]
    kind = "application/vnd.docker.image.rootfs.foreign.diff.tar.gzip"
    for url in ("file:///etc/passwd", "gopher://127.0.0.1/", "http://", "http://127.0.0.1:99999/", "http://[::1"):
        changed(registry, lambda d, url=url: d["layers"][0].update(mediaType=kind, urls=[url]))  # type: ignore[misc]
        refused(store, registry)


@pytest.mark.parametrize("host", ["127.0.0.1:99999", "[::1]:99999", "host:65536"])
def test_a_port_that_is_none(store: Store, host: str) -> None:
    with pytest.raises(RegistryError, match=f"bad address '.*{re.escape(host)}/v2/': Port out of range"):
        store.pull(f"{host}/app:1", settings=QUICK)


def test_too_many_requests(store: Store, registry: Registry) -> None:
    registry.tricks.append(lambda ask: ask.is_layer and ask.refuse(429, "TOOMANYREQUESTS", Retry_After="1") is None)
    began = time.monotonic()
    assert "toomanyrequests" in refused(store, registry)
    assert time.monotonic() - began >= 1


def test_a_retry_after_that_is_obeyed(store: Store, registry: Registry) -> None:
    left = iter([True])
    registry.tricks.append(
        lambda ask: ask.is_layer and next(left, False) and ask.refuse(429, "TOOMANYREQUESTS", Retry_After="1") is None
    )
    began = time.monotonic()
    assert store.pull(f"{registry.host}/app:1", settings=QUICK).layers
    assert time.monotonic() - began >= 1


@pytest.mark.parametrize("wait", ["99999999", "never", "-1", "Fri, 31 Dec 9999 23:59:59 GMT", "9" * 500])
def test_a_retry_after_that_nobody_waits_for(store: Store, registry: Registry, wait: str) -> None:
    registry.tricks.append(lambda ask: ask.is_layer and ask.refuse(503, "UNKNOWN", Retry_After=wait) is None)
    refused(store, registry)


@pytest.mark.parametrize("status", [400, 401, 403, 404, 500, 502])
def test_refusals_name_the_repository(store: Store, registry: Registry, status: int) -> None:
    registry.tricks.append(lambda ask: ask.is_layer and ask.refuse(status, "DENIED") is None)
    assert f"{registry.host}/app" in refused(store, registry)


def test_a_body_a_byte_at_a_time(store: Store, registry: Registry) -> None:
    size = layer_of(registry)["size"]
    registry.tricks.append(lambda ask: ask.is_layer and ask.drip(bytes(size), 0.02))
    assert "too slow" in refused(store, registry, settings=IMPATIENT)


@pytest.mark.parametrize(
    "beginning", [b"HTTP/1.1 200 OK\r\n", b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"]
)
def test_an_answer_a_byte_at_a_time(store: Store, registry: Registry, beginning: bytes) -> None:
    """In its header, in the line before a chunk."""
    drip = [beginning, *(b"0" for _ in range(1000))]
    registry.tricks.append(lambda ask: ask.is_manifest and ask.raw(drip, 0.02))
    assert "too slow" in refused(store, registry, settings=IMPATIENT)


def test_a_manifest_a_byte_at_a_time(store: Store, registry: Registry) -> None:
    registry.tricks.append(lambda ask: ask.is_manifest and ask.drip(bytes(1000), 0.02))
    assert "too slow" in refused(store, registry, settings=IMPATIENT)


@pytest.mark.parametrize("line", [b"HTTP/1.1 100 Continue\r\n\r\n", b"X: y\r\n", b"X" * 4096])
def test_a_header_without_an_end(store: Store, registry: Registry, line: bytes) -> None:
    begin = b"" if line.startswith(b"HTTP") else b"HTTP/1.1 200 OK\r\n"
    registry.tricks.append(lambda ask: ask.is_layer and ask.raw([begin, *[line * 1000] * 1000]))
    refused(store, registry)


def test_silence(store: Store, registry: Registry) -> None:
    registry.tricks.append(lambda ask: ask.is_layer and registry.closing.wait(60) is not None)
    assert "timeout" in refused(store, registry, settings=IMPATIENT)


def test_connections_that_are_dropped(store: Store, registry: Registry) -> None:
    registry.tricks.append(lambda ask: ask.is_layer and ask.drop(reset=True))
    refused(store, registry)


def test_a_range_that_was_not_asked_for(store: Store, registry: Registry) -> None:
    def lie(ask: Ask) -> bool:
        if not ask.is_layer:
            return False
        if not ask.start:
            return ask.cut(500)
        data = registry.blobs[ask.reference]
        return ask.other(data[10:], status=206, Content_Range=f"bytes 10-{len(data) - 1}/{len(data)}")

    registry.tricks.append(lie)
    assert "asked for bytes from 500 on" in refused(store, registry)


def test_a_token_server_that_says_nothing_of_use(store: Store, registry: Registry) -> None:
    realm = f'Bearer realm="http://{registry.host}/token",service="x"'
    for body in (b"", b"{}", b'{"token":7}', b'{"token":""}', b"[]", b'{"token":"' + b"x" * (9 << 20) + b'"}'):
        registry.tricks[:] = [
            lambda ask, body=body: ask.path.startswith("/token") and ask.other(body, "application/json"),  # type: ignore[misc]
            lambda ask: ask.refuse(401, "UNAUTHORIZED", WWW_Authenticate=realm) is None,
        ]
        refused(store, registry)


def test_a_token_server_elsewhere_than_http(store: Store, registry: Registry) -> None:
    for realm in ("file:///etc/passwd", "ftp://x/", "", "http://[", "http://127.0.0.1:99999/", "x" * 5000):
        challenge = f'Bearer realm="{realm}",service="x"'
        registry.tricks[:] = [
            lambda ask, challenge=challenge: ask.refuse(401, "UNAUTHORIZED", WWW_Authenticate=challenge) is None  # type: ignore[misc]
        ]
        refused(store, registry)


def test_a_bomb(store: Store, registry: Registry) -> None:
    """A layer that is small and becomes large is given up as soon as it is not what it should be."""
    bomb = gzip.compress(bytes(50 << 20), 9, mtime=0)
    layer = registry.put(bomb, LAYER + "+gzip")
    changed(registry, lambda document: document.update(layers=[layer]))
    refused(store, registry)


def test_names_that_climb_stay_inside(store: Store, registry: Registry, tmp_path: Path) -> None:
    evil = tar({"../../../../evil": b"x", "/abs": b"y", "link": "/etc", "ok": b"z"})
    registry.image("evil:1", [evil])
    with contextlib.suppress(LayerfsError):
        store.pull(f"{registry.host}/evil:1", settings=QUICK)
    assert not (tmp_path / "evil").exists()
    assert {path.name for path in tmp_path.iterdir()} == {"store"}


def test_a_failure_is_not_taken_for_what_was_handled_before(store: Store) -> None:
    try:
        store.image("nosuch")
    except LayerfsError:
        with pytest.raises(RegistryUnreachable, match="connection refused"):
            store.pull("127.0.0.1:1/app", settings=QUICK)


def test_the_next_pull_from_a_good_registry_works(store: Store, registry: Registry) -> None:
    registry.tricks.append(lambda ask: ask.is_layer and ask.cut(500))
    refused(store, registry)
    registry.tricks.clear()
    store.pull(f"{registry.host}/app:1", settings=replace(QUICK))
    assert store.fsck() == []
