"""Registries of the session, and stores whose settings know nothing of this machine."""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest

import layerfs
from layerfs.digest import Digest
from layerfs.oci import Descriptor, Platform, build_index, layout, media, parse_document
from layerfs.registry.config import Settings
from layerfs.registry.connect import Registries
from layerfs.registry.credentials import AuthFiles
from layerfs.registry.session import Session
from tests.registry import servers
from tests.registry.servers import QUICK, Certificates, Registry, TokenServer

_numbers = itertools.count()
_SERVED = {"plain", "guarded", "tokened"}


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    if servers.PROGRAM is None:
        for item in items:
            if _SERVED & set(getattr(item, "fixturenames", ())):
                item.add_marker(pytest.mark.skip(reason="needs docker-registry (tools/system.sh installs it)"))


@pytest.fixture(autouse=True)
def nobody_has_greeted(monkeypatch: pytest.MonkeyPatch) -> None:
    """What a process remembers of registries is of those of other tests, one of which may have had the same port."""
    monkeypatch.setattr(Session, "_greetings", {})


@pytest.fixture(scope="session")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Registry]:
    """A registry without TLS that lets everybody do everything."""
    with servers.docker_registry(tmp_path_factory.mktemp("plain")) as registry:
        yield registry


@pytest.fixture(scope="session")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Certificates:
    return Certificates.make(tmp_path_factory.mktemp("certificates"))


@pytest.fixture(scope="session")
def guarded(tmp_path_factory: pytest.TempPathFactory, certificates: Certificates) -> Iterator[Registry]:
    """A registry with TLS by our own CA, and users by htpasswd."""
    place = tmp_path_factory.mktemp("guarded")
    (place / "htpasswd").write_text(servers.HTPASSWD)
    auth = {"htpasswd": {"realm": "tests", "path": str(place / "htpasswd")}}
    with servers.docker_registry(place, tls=certificates, auth=auth) as registry:
        yield registry


@pytest.fixture(scope="session")
def tokens(tmp_path_factory: pytest.TempPathFactory) -> Iterator[TokenServer]:
    server = TokenServer(tmp_path_factory.mktemp("tokens"))
    with servers.scripted(server.answer) as (address, _):
        server.address = address
        yield server


@pytest.fixture(scope="session")
def tokened(tmp_path_factory: pytest.TempPathFactory, tokens: TokenServer) -> Iterator[Registry]:
    """A registry that wants tokens of the token server."""
    with servers.docker_registry(tmp_path_factory.mktemp("tokened"), auth=tokens.auth()) as registry:
        yield registry


@pytest.fixture
def auth_files(tmp_path: Path) -> AuthFiles:
    path = tmp_path / "home/.docker/config.json"
    return AuthFiles((path,), path)


@pytest.fixture
def settings(auth_files: AuthFiles) -> Settings:
    return Settings(limits=QUICK, auth=auth_files)


@pytest.fixture
def registries(settings: Settings) -> Iterator[Registries]:
    with Registries(settings) as registries:
        yield registries


@pytest.fixture
def repository() -> str:
    """A repository that no other test uses."""
    return f"team/app{next(_numbers)}"


@pytest.fixture
def store(tmp_path: Path) -> Iterator[layerfs.Store]:
    with layerfs.Store(tmp_path / "store") as store:
        yield store


@pytest.fixture
def make_image(store: layerfs.Store, tmp_path: Path) -> Callable[..., layerfs.Image]:
    """make_image("name:tag", file=text): an image of one layer."""

    def make(name: str, **files: str) -> layerfs.Image:
        top = tmp_path / f"tree{next(_numbers)}"
        top.mkdir()
        for file, text in (files or {"motd": "hello\n"}).items():
            (top / file).write_text(text)
        return store.import_archive(top, tag=name, created_ns=0)

    return make


@pytest.fixture
def image_layout(
    make_image: Callable[..., layerfs.Image], store: layerfs.Store, tmp_path: Path, repository: str
) -> Path:
    """An OCI layout of one image, with the tag `1`."""
    make_image("app:1", motd=repository)
    store.save(["app:1"], tmp_path / "layout", format="oci-dir", compression="gzip")
    return tmp_path / "layout"


@pytest.fixture
def index_layout(image_layout: Path) -> Path:
    """The layout with an index of two platforms and an attestation, tag `all`, and a signature that refers to it."""
    (one,) = parse_document((image_layout / "index.json").read_bytes(), media.OCI_INDEX).manifests  # type: ignore[union-attr]
    plain = Descriptor(one.media_type, one.digest, one.size)

    def put(raw: bytes, media_type: str) -> Descriptor:
        (image_layout / layout.blob_path(Digest.of(raw))).write_bytes(raw)
        return Descriptor(media_type, Digest.of(raw), len(raw))

    empty = put(b"{}", media.OCI_EMPTY).document()
    attestation = {"schemaVersion": 2, "mediaType": media.OCI_MANIFEST, "config": empty, "layers": [empty]}
    proof = put(json.dumps(attestation).encode(), media.OCI_MANIFEST)
    index = build_index(
        (
            replace(plain, platform=Platform.host()),
            replace(plain, platform=Platform("linux", "s390x")),
            replace(proof, platform=Platform("unknown", "unknown")),
        )
    )
    top = put(index.raw, media.OCI_INDEX)
    signature = attestation | {"subject": top.document(), "artifactType": "application/x-signature"}
    signed = put(json.dumps(signature).encode(), media.OCI_MANIFEST)
    named = replace(top, annotations=(("org.opencontainers.image.ref.name", "all"),))
    (image_layout / "index.json").write_bytes(build_index((one, named, signed)).raw)
    return image_layout
