"""What can be asked of a registry, beside Debian's docker-registry."""

from __future__ import annotations

import io
import json
import math
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import pytest

from layerfs.digest import Digest
from layerfs.errors import Corrupt, InvalidArchive, RegistryDenied, RegistryError, RegistryNotFound
from layerfs.oci import Descriptor, Manifest, Platform, build_index, build_manifest, media
from layerfs.registry.client import Client, read_blob, referrers_tag
from layerfs.registry.config import Settings
from layerfs.registry.connect import Registries, open_client
from layerfs.registry.credentials import Credential
from layerfs.registry.session import Session, _Greeting
from layerfs.registry.upload import Uploads
from tests.registry.servers import PASSWORD, USER, Answer, Registry, Request, get, scripted

DATA = bytes(range(256)) * 1000


def describe(data: bytes, media_type: str = media.OCI_LAYER) -> Descriptor:
    return Descriptor(media_type, Digest.of(data), len(data))


@pytest.fixture
def client(plain: Registry, registries: Registries) -> Client:
    return registries.client(plain.host)


@pytest.fixture
def put(client: Client, repository: str) -> Callable[..., Descriptor]:
    """put(bytes): a blob in the repository."""

    def upload(data: bytes, *, into: str = repository, **how: object) -> Descriptor:
        sent = Uploads(client, **how).blob(into, describe(data), lambda: io.BytesIO(data))  # type: ignore[arg-type]
        assert sent.how == "sent"
        return describe(data)

    return upload


@pytest.fixture
def put_image(client: Client, repository: str, put: Callable[..., Descriptor]) -> Callable[..., Manifest]:
    """put_image("tag", data): a manifest of one blob, which is its config and its layer."""

    def push(tag: str, data: bytes = DATA) -> Manifest:
        blob = put(data)
        manifest = build_manifest(replace(blob, media_type=media.OCI_CONFIG), (blob,))
        Uploads(client).manifest(repository, tag, manifest)
        return manifest

    return push


def test_the_second_session_does_not_ask_which_address_answers(settings: Settings) -> None:
    with scripted(lambda request: Answer(200, b'{"tags": ["1"]}')) as (host, seen):
        for _ in range(2):
            with Registries(settings) as registries:
                assert list(registries.client(host).tags("app")) == ["1"]
    assert [request.path.partition("?")[0] for request in seen] == ["/v2/", "/v2/app/tags/list", "/v2/app/tags/list"]


@pytest.fixture
def told() -> Iterator[None]:
    """What this process has found out is forgotten, as another has not."""
    yield
    Session._greetings.clear()


@pytest.mark.usefixtures("told")
def test_another_process_is_told_which_address_answers(settings: Settings) -> None:
    with scripted(lambda request: Answer(200, b'{"tags": ["1"]}')) as (host, seen):
        findings: object = None
        for _ in range(2):
            Session._greetings.clear()
            with open_client(settings, host) as client:
                client.session.believe(findings)
                assert list(client.tags("app")) == ["1"]
                findings = findings or client.session.findings(None)
                assert client.session.findings(findings) is None
    assert [request.path.partition("?")[0] for request in seen] == ["/v2/", "/v2/app/tags/list", "/v2/app/tags/list"]


@pytest.mark.usefixtures("told")
@pytest.mark.parametrize(
    "change",
    [
        {"base": "http://elsewhere:1"},
        {"base": ["http://127.0.0.1:1"]},
        {"base": "https://127.0.0.1:1"},  # which is not plain
        {"plain": 1},
        {"found": 0},
        {"found": "now"},
        {"found": 10**30},
    ],
)
def test_findings_that_are_old_or_of_other_settings_are_not_believed(
    settings: Settings, change: dict[str, Any]
) -> None:
    good = {"base": "http://127.0.0.1:1", "plain": True, "found": time.time_ns()}
    with open_client(settings, "127.0.0.1:1") as client:
        for findings in (None, [], {}, good | change):
            client.session.believe(findings)
            assert not client.session.is_known
        client.session.believe(good)
        assert client.session.base == good["base"]


@pytest.mark.parametrize("kind", ["plain", "guarded"])
def test_an_address_that_answers_no_more_is_found_anew(
    kind: str, settings: Settings, request: pytest.FixtureRequest
) -> None:
    """What spoke TLS (or did not) a moment ago, and now does not (or does)."""
    host = request.getfixturevalue(kind).host
    right, wrong = (f"http://{host}", f"https://{host}") if kind == "plain" else (f"https://{host}", f"http://{host}")
    Session._greetings[(f"https://{host}", f"http://{host}")] = _Greeting(wrong, wrong.startswith("http:"), math.inf)
    client = open_client(settings, host, credential=Credential(USER, PASSWORD))
    with client, pytest.raises(RegistryNotFound):
        list(client.tags("nothing"))
    assert client.session.base == right


def test_blobs_come_back(client: Client, repository: str, put: Callable[..., Descriptor]) -> None:
    blob = put(DATA)
    assert client.has_blob(repository, blob.digest) == len(DATA)
    assert read_blob(client, repository, blob, limit=len(DATA)) == DATA


@pytest.mark.parametrize("chunk", [1000, 100_000, 256_000, 1 << 20])
def test_blobs_go_in_chunks_of_any_size(
    client: Client, repository: str, put: Callable[..., Descriptor], chunk: int
) -> None:
    data = DATA[: 40 * chunk] + str(chunk).encode()
    assert read_blob(client, repository, put(data, chunk=chunk), limit=1 << 20) == data


def test_an_empty_blob_goes_too(client: Client, repository: str, put: Callable[..., Descriptor]) -> None:
    assert client.has_blob(repository, put(b"").digest) == 0


def test_what_is_there_is_not_sent(client: Client, repository: str, put: Callable[..., Descriptor]) -> None:
    blob = put(DATA)

    def no_reading() -> io.BytesIO:
        raise AssertionError("read again")

    assert Uploads(client).blob(repository, blob, no_reading).how == "there"


def test_blobs_are_mounted_from_other_repositories(
    client: Client, repository: str, put: Callable[..., Descriptor]
) -> None:
    blob = put(b"mounted" + DATA, into=repository + "/first")

    def no_reading() -> io.BytesIO:
        raise AssertionError("read again")

    sent = Uploads(client).blob(repository, blob, no_reading, mounts=["no/such", repository + "/first"])
    assert (sent.how, sent.source) == ("mounted", repository + "/first")
    assert client.has_blob(repository, blob.digest) == blob.size


def test_bytes_that_are_not_what_was_promised_are_refused(client: Client, repository: str) -> None:
    blob = describe(b"promised")
    with pytest.raises(RegistryError, match="digest invalid"):
        Uploads(client).blob(repository, blob, lambda: io.BytesIO(b"givennnn"))
    assert client.has_blob(repository, blob.digest) is None


def test_a_source_that_ends_early_is_an_error(client: Client, repository: str) -> None:
    with pytest.raises(Corrupt, match="has 3 bytes instead of 8"):
        Uploads(client).blob(repository, describe(b"promised"), lambda: io.BytesIO(b"pro"))


@pytest.mark.parametrize("offset", [1, 1000, len(DATA) - 1])
def test_blobs_are_read_from_an_offset_on(
    client: Client, repository: str, put: Callable[..., Descriptor], offset: int
) -> None:
    blob = put(DATA)
    with client.blob(repository, blob.digest, offset) as stream:
        assert (stream.offset, stream.size) == (offset, len(DATA))
        assert b"".join(iter(stream.read, b"")) == DATA[offset:]


def test_manifests_come_back_byte_for_byte(
    client: Client, repository: str, put_image: Callable[..., Manifest], plain: Registry
) -> None:
    manifest = put_image("1")
    for reference in ("1", manifest.digest):
        assert client.manifest(repository, reference).raw == manifest.raw
    assert client.head_manifest(repository, "1") == manifest.digest
    assert json.loads(get(plain.host, f"/v2/{repository}/tags/list"))["tags"] == ["1"]


def test_a_missing_manifest_is_said_in_dockers_words(client: Client, repository: str) -> None:
    with pytest.raises(RegistryNotFound) as caught:
        client.manifest(repository, "none")
    name = f"{client.name}/{repository}:none"
    assert str(caught.value) == f"manifest for {name} not found: manifest unknown: manifest unknown"


def test_a_platform_is_chosen_from_an_index(
    client: Client, repository: str, put_image: Callable[..., Manifest]
) -> None:
    manifests = [put_image(name, name.encode()) for name in ("amd64", "arm64")]
    entries = [
        replace(describe(m.raw, m.media_type), platform=Platform("linux", name))
        for m, name in zip(manifests, ("amd64", "arm64"), strict=True)
    ]
    index = build_index(tuple(entries))
    Uploads(client).manifest(repository, "all", index)
    chosen, top = client.choose(repository, "all", Platform("linux", "arm64"))
    assert (chosen.digest, top and top.digest) == (manifests[1].digest, index.digest)
    with pytest.raises(RegistryNotFound, match="no matching manifest for linux/s390x in the manifest list entries"):
        client.choose(repository, "all", Platform("linux", "s390x"))


def test_tags_come_page_by_page(client: Client, repository: str, put_image: Callable[..., Manifest]) -> None:
    for number in range(3):
        put_image(f"v{number}", str(number).encode())
    assert sorted(client.tags(repository)) == ["v0", "v1", "v2"]
    with pytest.raises(RegistryNotFound, match="name unknown"):
        list(client.tags("no/such"))


def test_the_catalog_names_repositories(client: Client, repository: str, put_image: Callable[..., Manifest]) -> None:
    put_image("1")
    assert repository in client.catalog()


def test_pages_are_followed_by_their_links(settings: Settings) -> None:
    def answer(request: Request) -> Answer:
        page = int(request.path.rpartition("last=")[2]) if "last=" in request.path else 0
        link = {} if page == 2 else {"Link": f'</v2/a/tags/list?n=1&last={page + 1}>; rel="next"'}
        return Answer(200, json.dumps({"name": "a", "tags": [f"t{page}"]}).encode(), link)

    with scripted(answer) as (host, _), open_client(settings, host) as client:
        assert list(client.tags("a")) == ["t0", "t1", "t2"]


@pytest.mark.parametrize(
    "link",
    [
        '</v2/a/tags/list?n=1000>; rel="next"',
        '<http://127.0.0.2/x>; rel="next"',
        '<http://127.0.0.1:99999/x>; rel="next"',
        '<http://[::1>; rel="next"',
    ],
)
def test_links_in_circles_and_to_others_are_not_followed(settings: Settings, link: str) -> None:
    with (
        scripted(lambda request: Answer(200, b'{"tags":["t"]}', {"Link": link})) as (host, seen),
        open_client(settings, host) as client,
    ):
        try:
            assert list(client.tags("a")) == ["t"]
        except RegistryError as error:
            assert "on another host" in str(error) or "bad address" in str(error)
    assert len(seen) <= 3


def test_referrers_are_found_by_their_tag_where_there_is_no_api(
    client: Client, repository: str, put: Callable[..., Descriptor], put_image: Callable[..., Manifest]
) -> None:
    """docker-registry 2.8 does not know referrers."""
    subject = put_image("1")
    assert client.referrers(repository, subject.digest) == ()
    document = {
        "schemaVersion": 2,
        "mediaType": media.OCI_MANIFEST,
        "artifactType": "application/x-signature",
        "config": put(b"{}").document() | {"mediaType": media.OCI_EMPTY},
        "layers": [],
        "subject": describe(subject.raw, subject.media_type).document(),
    }
    signature = Manifest.parse(json.dumps(document).encode())
    for _ in range(2):
        Uploads(client).manifest(repository, signature.digest, signature)
    (found,) = client.referrers(repository, subject.digest, "application/x-signature")
    assert (found.digest, found.artifact_type) == (signature.digest, "application/x-signature")
    assert client.head_manifest(repository, referrers_tag(subject.digest)) is not None
    assert client.referrers(repository, subject.digest, "application/other") == ()


def test_manifests_are_removed_by_digest(client: Client, repository: str, put_image: Callable[..., Manifest]) -> None:
    manifest = put_image("1")
    client.delete_manifest(repository, manifest.digest)
    assert client.head_manifest(repository, "1") is None
    with pytest.raises(RegistryNotFound, match="manifest unknown"):
        client.delete_manifest(repository, manifest.digest)


def test_where_no_tag_is_removed_its_digest_is_told(
    client: Client, repository: str, put_image: Callable[..., Manifest]
) -> None:
    manifest = put_image("1")
    with pytest.raises(RegistryError, match=f"removes no single tag; with all its tags goes {manifest.digest}"):
        client.delete_manifest(repository, "1")
    assert client.head_manifest(repository, "1") == manifest.digest


def test_refusals_name_the_repository(settings: Settings) -> None:
    body = b'{"errors":[{"code":"DENIED","message":"requested access to the resource is denied"}]}'

    def answer(request: Request) -> Answer:
        return Answer(200) if request.path == "/v2/" else Answer(404 if request.method == "HEAD" else 403, body)

    with scripted(answer) as (host, _), open_client(settings, host) as client, pytest.raises(RegistryDenied) as caught:
        Uploads(client).blob("team/app", describe(b"x"), lambda: io.BytesIO(b"x"))
    assert str(caught.value) == f"{host}/team/app: denied: requested access to the resource is denied"


@pytest.mark.parametrize(
    ("body", "kind", "words"),
    [
        (b"{", InvalidArchive, "not valid JSON"),
        (b"[]", InvalidArchive, "not a JSON object"),
        (b'{"schemaVersion": 1}', InvalidArchive, "schema 1"),
        (b" " * (5 << 20), InvalidArchive, "more than the 4194304 allowed"),
        (b'{"config": {"digest": "sha512:00"}}', InvalidArchive, "invalid digest"),
    ],
)
def test_bad_manifests_are_refused(settings: Settings, body: bytes, kind: type[Exception], words: str) -> None:
    with (
        scripted(lambda request: Answer(200, body)) as (host, _),
        open_client(settings, host) as client,
        pytest.raises(kind, match=words),
    ):
        client.manifest("a", "1")


def test_a_manifest_by_digest_is_verified(settings: Settings) -> None:
    with (
        scripted(lambda request: Answer(200, b'{"schemaVersion":2}')) as (host, _),
        open_client(settings, host) as client,
        pytest.raises(Corrupt, match="digest mismatch"),
    ):
        client.manifest("a", Digest.of(b"other"))


def test_a_registry_that_ignores_ranges_starts_again(settings: Settings) -> None:
    with (
        scripted(lambda request: Answer(200, DATA)) as (host, _),
        open_client(settings, host) as client,
        client.blob("a", Digest.of(DATA), 500) as stream,
    ):
        assert (stream.offset, stream.size) == (0, len(DATA))


def test_a_wrong_part_of_a_blob_is_refused(settings: Settings) -> None:
    part = Answer(206, DATA, {"Content-Range": f"bytes 0-{len(DATA) - 1}/{len(DATA)}"})
    with (
        scripted(lambda request: part) as (host, _),
        open_client(settings, host) as client,
        pytest.raises(RegistryError, match="asked for bytes from 500 on"),
    ):
        client.blob("a", Digest.of(DATA), 500)


def test_nothing_is_read_of_foreign_layers_but_by_http(settings: Settings) -> None:
    with open_client(settings, "registry.invalid") as client, pytest.raises(RegistryError, match="refused to fetch"):
        client.external("file:///etc/passwd")


class _Flaky:
    """An upload end that twice breaks the connection after it took what was sent; it knows how far it is."""

    def __init__(self, data: bytes) -> None:
        self.data, self.got, self.breaks = data, b"", 2

    def __call__(self, request: Request) -> Answer:
        place = {"Location": "/v2/a/blobs/uploads/one?state=x"}
        told = place | {"Range": f"0-{max(0, len(self.got) - 1)}"}
        if request.method == "GET":
            return Answer(200) if request.path == "/v2/" else Answer(204, headers=told)
        if request.method == "PATCH":
            assert request.headers["Content-Range"].startswith(f"{len(self.got)}-")
            self.got += request.body
            self.breaks -= 1
            if self.breaks >= 0:
                return Answer(0)
            return Answer(202, headers=place | {"Range": f"0-{len(self.got) - 1}"})
        status = {"HEAD": 404, "POST": 202, "PUT": 201 if self.got == self.data else 400}[request.method]
        return Answer(status, headers=place)


def test_an_upload_goes_on_where_it_broke_off(settings: Settings) -> None:
    server = _Flaky(DATA)
    with scripted(server) as (host, seen), open_client(settings, host) as client:
        sent = Uploads(client, chunk=100_000).blob("a", describe(DATA), lambda: io.BytesIO(DATA))
    assert sent.how == "sent"
    assert sum(len(request.body) for request in seen if request.method == "PATCH") == len(DATA)


def test_an_upload_goes_on_where_a_busy_registry_refused_it(settings: Settings) -> None:
    """And one that is gone for a while."""
    server = _Flaky(DATA)
    server.breaks = 0
    refusals = [Answer(503), Answer(0), Answer(429, headers={"Retry-After": "0"})]

    def answer(request: Request) -> Answer:
        busy = server.got and request.method in ("PATCH", "GET") and refusals
        return refusals.pop() if busy else server(request)

    with scripted(answer) as (host, seen), open_client(settings, host) as client:
        Uploads(client, chunk=100_000).blob("a", describe(DATA), lambda: io.BytesIO(DATA))
    assert [request.method for request in seen].count("POST") == 1


@pytest.mark.parametrize(
    "refusal",
    [
        Answer(416),
        Answer(405),
        Answer(413),
        Answer(202, headers={"Range": "0-0"}),
        Answer(202, headers={"Range": "0-9999999"}),
    ],
)
def test_where_chunks_do_not_work_blobs_go_in_one(settings: Settings, refusal: Answer) -> None:
    """GitHub's registry takes none over 4 MiB (416), Amazon's tells a range that stays behind."""
    got: list[bytes] = []

    def answer(request: Request) -> Answer:
        place = {"Location": "/v2/a/blobs/uploads/one"}
        if request.method == "PUT":
            got.append(request.body)
        refused = replace(refusal, headers=place | refusal.headers)
        status = {"HEAD": 404, "POST": 202, "PUT": 201, "GET": 200 if request.path == "/v2/" else 405}
        return refused if request.method == "PATCH" else Answer(status.get(request.method, 204), headers=place)

    with scripted(answer) as (host, seen), open_client(settings, host) as client:
        uploads = Uploads(client, chunk=100_000)
        for _ in range(2):
            uploads.blob("a", describe(DATA), lambda: io.BytesIO(DATA))
    assert got == [DATA, DATA]
    assert [request.method for request in seen].count("PATCH") == 1  # it is learnt once


def test_a_refused_upload_obeys_retry_after(settings: Settings) -> None:
    place = {"Location": "/v2/a/blobs/uploads/one"}

    def answer(request: Request) -> Answer:
        later = {"Retry-After": "3600"}
        return {"HEAD": Answer(404), "POST": Answer(202, headers=place), "PUT": Answer(429, headers=later)}.get(
            request.method, Answer(200)
        )

    with (
        scripted(answer) as (host, seen),
        open_client(settings, host) as client,
        pytest.raises(RegistryError) as caught,
    ):
        Uploads(client).blob("a", describe(DATA), lambda: io.BytesIO(DATA))
    assert caught.value.retry_after == 3600
    assert [request.method for request in seen].count("PUT") == 1
