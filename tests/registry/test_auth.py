"""Who we are to a registry: htpasswd and tokens."""

from __future__ import annotations

import io
import json
import shutil
import subprocess
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import ClassVar

import pytest

from layerfs.digest import Digest
from layerfs.errors import RegistryDenied, RegistryError, RegistryUnreachable
from layerfs.oci import Descriptor
from layerfs.registry.auth import parse_challenges
from layerfs.registry.client import Client
from layerfs.registry.config import Settings
from layerfs.registry.connect import open_client
from layerfs.registry.credentials import AuthFiles, Credential
from layerfs.registry.session import Session
from layerfs.registry.transport import Transport
from layerfs.registry.upload import Uploads
from tests.registry.servers import (
    PASSWORD,
    USER,
    Answer,
    Certificates,
    Registry,
    Request,
    TokenServer,
    docker_registry,
    scripted,
)

ANN = Credential(USER, PASSWORD)
NOTHING = Digest.of(b"nothing")
Open = Callable[..., Client]


@pytest.fixture
def opened(settings: Settings) -> Iterator[Open]:
    """opened(host, credential): a client."""
    clients = []

    def open_one(host: str, credential: Credential | None = None, **changes: object) -> Client:
        clients.append(open_client(replace(settings, **changes), host, credential=credential))  # type: ignore[arg-type]
        return clients[-1]

    yield open_one
    for client in clients:
        client.close()


def _trusting(settings: Settings, registry: Registry, place: Path) -> tuple[Path, ...]:
    """certs.d with the registry's CA."""
    (place / "certs.d" / registry.host).mkdir(parents=True)
    assert registry.ca is not None
    (place / "certs.d" / registry.host / "ca.crt").write_bytes(registry.ca.read_bytes())
    return (place / "certs.d",)


def test_challenges_are_read_whatever_their_form() -> None:
    headers = ['Basic realm="a, \\"b\\"", Bearer realm="https://t/",service=reg , scope="repository:x:pull,push"']
    basic, bearer = parse_challenges(headers)
    assert (basic.scheme, basic.parameters["realm"]) == ("basic", 'a, "b"')
    assert bearer.parameters == {"realm": "https://t/", "service": "reg", "scope": "repository:x:pull,push"}


@pytest.mark.parametrize("text", ["", ",,,", '"', "Bearer realm=", "=", "a" * 70000, 'Bearer realm="x' + "\\" * 60000])
def test_malformed_challenges_are_none_or_harmless(text: str) -> None:
    assert all(not challenge.parameters.get("realm") for challenge in parse_challenges([text]))


def test_htpasswd_over_our_own_ca(guarded: Registry, settings: Settings, opened: Open, tmp_path: Path) -> None:
    client = opened(guarded.host, ANN, certificates=_trusting(settings, guarded, tmp_path))
    client.check()
    assert client.session.base == f"https://{guarded.host}"


def test_a_certificate_of_ours_lets_us_in(
    certificates: Certificates, settings: Settings, opened: Open, tmp_path: Path
) -> None:
    with docker_registry(tmp_path / "registry", tls=certificates, client_ca=certificates.ca) as registry:
        places = _trusting(settings, registry, tmp_path)
        with pytest.raises(RegistryUnreachable, match="tls"):
            opened(registry.host, certificates=places).check()
        for name, file in (("client.cert", certificates.certificate), ("client.key", certificates.key)):
            (places[0] / registry.host / name).write_bytes(file.read_bytes())
        opened(registry.host, certificates=places).check()


def test_a_ca_by_configuration(guarded: Registry, opened: Open) -> None:
    opened(guarded.host, ANN, authorities={guarded.host: str(guarded.ca)}).check()


def test_a_registry_that_is_to_be_verified_is(guarded: Registry, opened: Open) -> None:
    with pytest.raises(RegistryUnreachable, match="x509: certificate signed by unknown authority"):
        opened(guarded.host, ANN, secure=(guarded.host,)).check()


@pytest.mark.parametrize("who", [None, Credential(USER, "wrong"), Credential("nobody", PASSWORD)])
def test_a_wrong_password_is_said(guarded: Registry, opened: Open, who: Credential | None) -> None:
    with pytest.raises(RegistryDenied, match="unauthorized: authentication required"):
        opened(guarded.host, who).check()


def test_a_pull_without_login_says_what_docker_says(guarded: Registry, opened: Open) -> None:
    with pytest.raises(RegistryDenied) as caught:
        opened(guarded.host).manifest("a/b", "1")
    assert str(caught.value) == (
        f"pull access denied for {guarded.host}/a/b, repository does not exist or may require 'layerfs login': "
        "unauthorized: authentication required"
    )


def test_tokens_are_asked_for_once_for_each_scope(tokened: Registry, tokens: TokenServer, opened: Open) -> None:
    client = opened(tokened.host, ANN)
    tokens.asked.clear()
    for _ in range(3):
        assert client.head_manifest("team/tokens", "none") is None
    client.has_blob("team/tokens", NOTHING, push=True)
    assert tokens.asked == [["repository:team/tokens:pull"], ["repository:team/tokens:pull,push"]]


def test_a_token_for_a_wrong_user_is_refused_in_the_servers_words(tokened: Registry, opened: Open) -> None:
    with pytest.raises(RegistryDenied, match="unauthorized: incorrect username or password"):
        opened(tokened.host, Credential(USER, "wrong")).check()


def test_a_token_server_that_refuses_does_not_hide_what_was_asked_for(tokened: Registry, opened: Open) -> None:
    client, refusal = opened(tokened.host), r'Get "http://.*/token": unauthorized: incorrect username or password'
    with pytest.raises(RegistryDenied, match=rf"^pull access denied for {tokened.host}/team/x, .*login': {refusal}$"):
        client.manifest("team/x", "1")
    for ask in (lambda: list(client.tags("team/x")), lambda: client.has_blob("team/x", NOTHING, push=True)):
        with pytest.raises(RegistryDenied, match=rf"^{tokened.host}/team/x: {refusal}$"):
            ask()


def test_an_identity_token_is_shown_by_post(tokened: Registry, tokens: TokenServer, opened: Open) -> None:
    tokens.forms.clear()
    assert opened(tokened.host, Credential("", "", "refresh me")).head_manifest("team/x", "none") is None
    assert tokens.forms[0]["grant_type"] == ["refresh_token"]
    assert tokens.forms[0]["scope"] == ["repository:team/x:pull"]


class _TokenRegistry:
    """A registry that takes only its newest token, and gives a token that is soon none any more."""

    def __init__(self) -> None:
        self.given = 0
        self.address = ""
        self.basic = False  # as Harbor says to a token that it does not take

    def __call__(self, request: Request) -> Answer:
        if request.path.startswith("/token"):
            self.given += 1
            return Answer(200, json.dumps({"access_token": f"t{self.given}", "expires_in": 3600}).encode())
        if request.headers.get("Authorization") != f"Bearer t{self.given}":
            challenge = f'Bearer realm="http://{self.address}/token",service="s"'
            if self.basic and "Authorization" in request.headers:
                challenge = 'Basic realm="harbor"'
            return Answer(401, headers={"WWW-Authenticate": challenge})
        return Answer(404)


@pytest.mark.parametrize("basic", [False, True])
def test_a_token_that_is_taken_no_more_is_replaced(opened: Open, basic: bool) -> None:
    registry = _TokenRegistry()
    registry.basic = basic
    with scripted(registry) as (host, seen):
        registry.address = host
        client = opened(host)
        assert client.head_manifest("a", "1") is None
        registry.given += 1  # the old one is void
        assert client.head_manifest("a", "1") is None
    assert [request.path.partition("?")[0] for request in seen].count("/token") == 2


def test_a_registry_that_never_lets_us_in_is_not_asked_for_ever(opened: Open) -> None:
    challenge = {"WWW-Authenticate": 'Basic realm="x"'}
    with scripted(lambda request: Answer(401, headers=challenge)) as (host, seen), pytest.raises(RegistryDenied):
        opened(host, ANN).check()
    assert len(seen) == 2


@pytest.mark.parametrize("realm", ["file:///etc/passwd", "ftp://x/", "http://me:pw@host/", "", "http://[", "//x"])
def test_token_servers_are_reached_by_http_alone(opened: Open, realm: str) -> None:
    with (
        scripted(lambda request: Answer(401, headers={"WWW-Authenticate": f'Bearer realm="{realm}"'})) as (host, _),
        pytest.raises(RegistryError),
    ):
        opened(host, ANN).check()


@pytest.mark.parametrize(
    "body", [b"", b"[]", b"{}", b'{"token": 1}', b'{"token": "a\\r\\nb: c"}', b'{"token":"x","expires_in":"soon"}']
)
def test_answers_without_a_token_are_errors(opened: Open, body: bytes) -> None:
    def answer(request: Request) -> Answer:
        if request.path.startswith("/token"):
            return Answer(200, body)
        return Answer(401, headers={"WWW-Authenticate": f'Bearer realm="http://{request.headers["Host"]}/token"'})

    with scripted(answer) as (host, _), pytest.raises(RegistryDenied, match="did not include a token"):
        opened(host, ANN).check()


def test_an_upload_elsewhere_is_not_told_who_we_are(opened: Open) -> None:
    with scripted(lambda request: Answer(201)) as (other, told):

        def answer(request: Request) -> Answer:
            if request.headers.get("Authorization") is None:
                return Answer(401, headers={"WWW-Authenticate": 'Basic realm="x"'})
            if request.method == "POST":
                return Answer(202, headers={"Location": f"http://{other}/store?signature=s"})
            return Answer(404 if request.method == "HEAD" else 200)

        with scripted(answer) as (host, _):
            blob = Descriptor("", NOTHING, 7)
            assert Uploads(opened(host, ANN)).blob("a", blob, lambda: io.BytesIO(b"nothing")).how == "sent"
    (put,) = told
    assert (put.path, put.body) == (f"/store?signature=s&digest=sha256%3A{NOTHING.hex}", b"nothing")
    assert put.headers["Authorization"] is None


def test_a_registry_behind_a_proxy_may_not_know_of_its_tls(settings: Settings) -> None:
    session = Session("r", ["https://r.example"], Transport(settings.context))

    class Told:
        url, method = "https://r.example/v2/a/blobs/uploads/", "POST"
        headers: ClassVar[dict[str, str]] = {}

    Told.headers["Location"] = "http://r.example/v2/a/blobs/uploads/1?state=x"
    assert session.location(Told()) == "https://r.example/v2/a/blobs/uploads/1?state=x"  # type: ignore[arg-type]
    for location in ("http://other.example/x", "file:///etc/passwd", "http://[", ""):
        Told.headers["Location"] = location
        with pytest.raises(RegistryError):
            session.location(Told())  # type: ignore[arg-type]


@pytest.mark.skipif(shutil.which("podman") is None, reason="needs podman")
def test_podmans_login_is_ours_too(guarded: Registry, opened: Open, tmp_path: Path) -> None:
    path = tmp_path / "auth.json"
    login = ["podman", "login", "--authfile", path, "--tls-verify=false", "-u", USER, "-p", PASSWORD, guarded.host]
    subprocess.run(login, check=True, capture_output=True)
    opened(guarded.host, None, auth=AuthFiles((path,), path)).check()


def test_a_401_from_where_we_were_sent_is_told_nothing(opened: Open) -> None:
    challenge = {"WWW-Authenticate": 'Basic realm="give me"'}
    with scripted(lambda request: Answer(401, headers=challenge)) as (other, told):

        def answer(request: Request) -> Answer:
            if request.path == "/v2/":
                return Answer(200)
            return Answer(307, headers={"Location": f"http://{other}/x"})

        with scripted(answer) as (host, _), pytest.raises(RegistryDenied):
            opened(host, ANN).blob("a", NOTHING)
    assert [request.headers["Authorization"] for request in told] == [None]
