"""A registry that answers at random: everything ends, and with an error of ours or a result."""

from __future__ import annotations

import io
import os
import random
import re
from collections.abc import Callable
from dataclasses import replace
from urllib.parse import unquote

import pytest

import layerfs
from layerfs.digest import Digest
from layerfs.errors import LayerfsError
from layerfs.oci import Descriptor, Platform, build_manifest, media
from layerfs.registry.client import Client, read_blob
from layerfs.registry.config import Settings
from layerfs.registry.connect import open_client
from layerfs.registry.credentials import Credential
from layerfs.registry.upload import Uploads
from tests.registry.servers import QUICK, Answer, Request, scripted

STEPS = int(os.environ.get("LAYERFS_STEPS", "80"))
DATA = b"data" * 1000
BLOB = Descriptor(media.OCI_LAYER, Digest.of(DATA), len(DATA))
MANIFEST = build_manifest(BLOB, (BLOB,))
OPERATIONS: list[Callable[[Client], object]] = [
    lambda client: client.manifest("a", "1"),
    lambda client: client.manifest("a", BLOB.digest),
    lambda client: client.choose("a", "1", Platform.host()),
    lambda client: client.head_manifest("a", "1"),
    lambda client: client.has_blob("a", BLOB.digest),
    lambda client: read_blob(client, "a", BLOB, limit=1 << 20),
    lambda client: client.blob("a", BLOB.digest, 7).close(),
    lambda client: list(client.tags("a")),
    lambda client: list(client.catalog()),
    lambda client: client.referrers("a", BLOB.digest),
    lambda client: client.delete_manifest("a", "1"),
    lambda client: client.check(),
    lambda client: Uploads(client, chunk=1000).blob("a", BLOB, lambda: io.BytesIO(DATA), mounts=["b"]),
    lambda client: Uploads(client).manifest("a", "1", MANIFEST),
]
STATUSES = [200, 200, 200, 201, 202, 204, 206, 301, 307, 400, 401, 401, 403, 404, 416, 418, 429, 500, 999, 0]
BODIES = [
    *(b"", b"{}", b"[]", b"null", b'{"errors":[{"code":1,"message":[]},3]}', b'{"errors":{}}', b"<html>", b"\xff\xfe"),
    *(b'{"token":"t"}', b'{"token":7,"expires_in":"x"}', b"[" * 100_000, MANIFEST.raw, DATA, b'{"tags":[1]}'),
    b'{"tags":["a"]}',
    b'{"manifests":[{}]}',
    b'{"schemaVersion":2,"manifests":[{"mediaType":"application/vnd.oci.image.index.v1+json","size":1}]}',
]
HEADERS = {
    "Location": ["", "/x", "//", "http://[", "file:///x", "http://127.0.0.1:1/", "?a=b", "\x7f", "http://a b/"],
    "WWW-Authenticate": [
        "Basic",
        "Bearer",
        'Bearer realm="/x"',
        'Bearer realm="http://{host}/t",scope=","',
        "=,=",
        '"',
    ],
    "Range": ["0-0", "0-999", "0-99999999", "bytes=0-3", "x", "5-1", "0-" + "9" * 40],
    "Content-Range": ["bytes 7-3999/4000", "bytes 0-1/*", "x", "bytes 9-1/0"],
    "Content-Type": [
        "",
        "application/json",
        media.OCI_INDEX,
        media.DOCKER_MANIFEST,
        "x/y; charset=z",
        next(iter(media.SCHEMA_1)),
    ],
    "Content-Length": ["0", "5", "-1", "x", "99999999999999999999"],
    "Docker-Content-Digest": ["", "sha256:x", str(BLOB.digest), "sha512:00"],
    "Link": ['</v2/a/tags/list>; rel="next"', "<>; rel=next", "<http://[>; rel=next", "<file:///x>; rel=next"],
    "Retry-After": ["0", "-1", "x", "Wed, 21 Oct 2015 07:28:00 GMT", "9" * 400],
    "Transfer-Encoding": ["chunked"],
    "OCI-Chunk-Min-Length": ["1", "x", "9" * 30],
}


def nonsense(chance: random.Random, address: str) -> Answer:
    names = chance.sample(sorted(HEADERS), chance.randrange(4))
    headers = {name: chance.choice(HEADERS[name]).replace("{host}", address) for name in names}
    cut = chance.choice([None, None, None, 0, 3])
    return Answer(chance.choice(STATUSES), chance.choice(BODIES), headers, cut)


@pytest.mark.parametrize("seed", range(4))
def test_nonsense_is_survived(settings: Settings, seed: int) -> None:
    chance = random.Random(seed)
    address = ""

    def answer(request: Request) -> Answer:
        return nonsense(chance, address)

    few = replace(settings, limits=replace(QUICK, read=0.3, attempts=2, delay=0.001, patience=0))
    with scripted(answer) as (host, _):
        address = host
        for _ in range(STEPS // 4):
            with open_client(few, host, credential=Credential("ann", "pw")) as client:
                try:
                    chance.choice(OPERATIONS)(client)
                except LayerfsError as error:
                    assert str(error)


@pytest.mark.parametrize("seed", range(2))
def test_a_push_to_a_registry_that_is_mad_at_times(
    settings: Settings, store: layerfs.Store, make_image: Callable[..., layerfs.Image], seed: int
) -> None:
    """What is there at the end is whole, and what is noted here is what was accepted."""
    chance, blobs, manifests, sane = random.Random(seed), dict[str, bytes](), dict[str, bytes](), False

    def answer(request: Request) -> Answer:
        if not sane and chance.random() < 0.2:
            return nonsense(chance, host)
        path, _, query = request.path.partition("?")
        name = path.rpartition("/")[2]
        if request.method == "PUT" and "/manifests/" in path:
            lacks = [blob for blob in re.findall(r"sha256:[0-9a-f]{64}", request.body.decode()) if blob not in blobs]
            manifests[name] = manifests.get(name, b"") if lacks else request.body
            return Answer(400 if lacks else 201)
        if request.method == "PUT":
            digest = unquote(query.partition("digest=")[2])
            if Digest.of(request.body) != digest:
                return Answer(400)
            blobs[digest] = request.body
            return Answer(201)
        if request.method == "POST":
            return Answer(202, headers={"Location": "/v2/a/blobs/uploads/1"})
        return Answer(200 if request.method == "GET" or name in blobs else 404)

    few = replace(settings, limits=replace(QUICK, read=0.3, attempts=2, delay=0.001, patience=0))
    with scripted(answer) as (host, _):
        box = store.create(make_image(f"{host}/a:0"))
        for turn in range(STEPS // 8):
            with box.mount() as root:
                (root / "new").write_text(f"{seed} {turn}")
            box.commit(f"{host}/a:{turn}")
            if chance.random() < 0.3 and blobs:
                del blobs[chance.choice(sorted(blobs))]
            try:
                (pushed,) = store.push(f"{host}/a:{turn}", settings=few)
            except LayerfsError as error:
                assert str(error)
                assert store.image(f"{host}/a:{turn}").digest is None
        sane = True
        (pushed,) = store.push(f"{host}/a:{turn}", settings=settings)
        assert manifests[str(turn)] == pushed.document.raw
        assert {str(layer.descriptor.digest) for layer in pushed.layers} <= blobs.keys()
    assert store.fsck() == []
