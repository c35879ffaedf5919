"""What is known of registries before one is asked."""

from __future__ import annotations

import re
import ssl
from pathlib import Path

import pytest

from layerfs.errors import InvalidInput, LayerfsError
from layerfs.registry import config, containersconf
from layerfs.registry.config import Settings
from layerfs.registry.connect import Registries
from layerfs.registry.names import api_host, credential_key, domain_of, is_loopback

TOML = """
insecure-registries = ["r.example:5000", "10.0.0.0/8"]
registry-mirrors = ["https://mirror.example"]
timeout = 7
attempts = 2
[registry."near.example"]
mirrors = ["http://127.0.0.1:1"]
insecure = true
[registry."127.0.0.1:9"]
insecure = false
"""


@pytest.fixture
def load(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):  # type: ignore[no-untyped-def]
    """load("toml", **environment): settings of a home of our own."""
    monkeypatch.setattr(config, "_SYSTEM", tmp_path / "none")
    monkeypatch.setattr(config, "_DAEMON", tmp_path / "daemon.json")
    monkeypatch.setattr(containersconf, "SYSTEM", tmp_path / "etc/registries.conf")
    monkeypatch.setattr(config, "_CERTS", (tmp_path / "certs.d",))

    def load(toml: str = "", **environ: str) -> Settings:
        place = tmp_path / ".config/layerfs"
        place.mkdir(parents=True, exist_ok=True)
        (place / "registries.toml").write_text(toml)
        return Settings.load(environ, home=tmp_path)

    return load


def test_the_file_says_what_docker_says_and_more(load) -> None:  # type: ignore[no-untyped-def]
    settings = load(TOML)
    assert settings.mirrors == {"docker.io": ("https://mirror.example",), "near.example": ("http://127.0.0.1:1",)}
    assert (settings.limits.read, settings.limits.attempts) == (7.0, 2)
    insecure = {
        "r.example:5000",
        "10.1.2.3:80",
        "10.1.2.3",
        "near.example",
        "localhost:5000",
        "127.0.0.2",
        "[::1]:5000",
    }
    secure = {"r.example", "11.0.0.1", "127.0.0.1:9", "docker.io"}
    assert {host for host in insecure | secure if settings.is_insecure(host)} == insecure


def test_dockers_daemon_json_is_understood(load, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    (tmp_path / "daemon.json").write_text('{"insecure-registries": ["a.example"], "registry-mirrors": ["https://m"]}')
    settings = load()
    assert settings.is_insecure("a.example")
    assert settings.mirrors["docker.io"] == ("https://m",)


UNKNOWN = (
    ('insecure-registry = ["a"]', "unknown key 'insecure-registry' (did you mean insecure-registries?)"),
    ("insecure = true", """unknown key 'insecure' (it belongs below [registry."HOST"])"""),
    ('[registry."a"]\ninsecur = true', "unknown key 'insecur' (did you mean insecure?)"),
    ('[registry."a"]\ntimeout = 3', "unknown key 'timeout' (it belongs at the top, before [registry...])"),
    ("zz = 1", "unknown key 'zz' (known are insecure-registries, registry-mirrors, timeout, "),
)


@pytest.mark.parametrize(("text", "words"), UNKNOWN)
def test_a_key_that_nobody_reads_is_an_error_with_a_suggestion(load, text: str, words: str) -> None:  # type: ignore[no-untyped-def]
    with pytest.raises(InvalidInput, match=re.escape(words)):
        load(text)


def test_dockers_other_keys_are_not_ours_to_judge(load, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    (tmp_path / "daemon.json").write_text('{"log-driver": "json-file", "insecure-registries": ["a.example"]}')
    assert load().is_insecure("a.example")


BAD = (
    "x",
    "a = [",
    'insecure-registries = "a"',
    "[registry]\nx = 3",
    "timeout = 'x'",
    "timeout = 0",
    'keep-blobs = "x"',
    'insecure-registries = ["a b"]',
    'insecure-registries = ["10.0.0.0/99"]',
    'insecure-registries = ["a.example/path"]',
    'insecure-registries = ["a.example:99999"]',
    'registry-mirrors = ["ftp://a"]',
    'registry-mirrors = [""]',
    'registry-mirrors = ["http://a:99999"]',
    'registry-mirrors = ["http://[::1"]',
    'registry-mirrors = ["http://ann:secret@a"]',
    '[registry."a"]\nmirrors = ["https://"]',
)


@pytest.mark.parametrize("text", BAD)
def test_bad_files_are_said_with_their_name(load, text: str) -> None:  # type: ignore[no-untyped-def]
    with pytest.raises(InvalidInput, match=r"registries\.toml"):
        load(text)


def test_a_file_that_was_asked_for_has_to_be_there(load) -> None:  # type: ignore[no-untyped-def]
    with pytest.raises(InvalidInput, match="no such file"):
        load(LAYERFS_REGISTRIES="/no/such.toml")


def test_only_insecure_registries_are_tried_without_tls(load) -> None:  # type: ignore[no-untyped-def]
    settings = load()
    assert settings.addresses("r.example") == ("https://r.example",)
    assert settings.addresses("localhost:5000") == ("https://localhost:5000", "http://localhost:5000")


def test_certificates_of_a_host_make_it_verified(load, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    (tmp_path / "certs.d/127.0.0.1:5000").mkdir(parents=True)
    settings = load()
    assert settings.addresses("127.0.0.1:5000") == ("https://127.0.0.1:5000",)
    assert settings.context("127.0.0.1:5000").verify_mode == ssl.CERT_REQUIRED
    (tmp_path / "certs.d/127.0.0.1:5000/ca.crt").write_text("no certificate")
    with pytest.raises(InvalidInput, match=r"cannot use the certificates.*ca\.crt"):
        settings.context("127.0.0.1:5000")


def test_a_client_certificate_needs_its_key(load, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    (tmp_path / "certs.d/r.example").mkdir(parents=True)
    (tmp_path / "certs.d/r.example/client.cert").write_text("")
    with pytest.raises(InvalidInput, match=r"missing key client\.key for client certificate client\.cert"):
        load().context("r.example")


def test_proxies_are_those_of_the_environment(load) -> None:  # type: ignore[no-untyped-def]
    settings = load(HTTPS_PROXY="proxy.example:3128", http_proxy="http://p:1", no_proxy="near.example,.inner")
    assert settings.proxy("https://r.example/v2/") == "http://proxy.example:3128"
    assert settings.proxy("http://r.example/v2/") == "http://p:1"
    for direct in ("https://near.example/", "https://a.inner/", "http://127.0.0.1:5000/", "http://localhost/"):
        assert settings.proxy(direct) is None


NO_PROXY = "near.example, .inner,*.wild, 10.0.0.0/8,fd00::/8,r.example:5000,[fe80::1],tls.example:443,dot.example."


@pytest.mark.parametrize(
    "host",
    [
        *("near.example", "a.near.example:9", "b.wild", "10.1.2.3:80", "[fd00::1]:5", "[fe80::1]:5", "r.example:5000"),
        *("tls.example", "NEAR.example", "dot.example", "near.example."),
    ],
)
def test_hosts_that_are_reached_without_a_proxy(load, host: str) -> None:  # type: ignore[no-untyped-def]
    assert load(https_proxy="p:1", no_proxy=NO_PROXY).proxy(f"https://{host}/") is None
    assert load(https_proxy="p:1", no_proxy="*").proxy(f"https://{host}/") is None
    assert load(https_proxy="p:1").proxy(f"https://{host}/") == "http://p:1"


@pytest.mark.parametrize("host", ["example", "notnear.example", "r.example", "11.0.0.1", "[fe00::1]", "[fe80::2]"])
def test_hosts_that_are_not(load, host: str) -> None:  # type: ignore[no-untyped-def]
    assert load(https_proxy="p:1", no_proxy=NO_PROXY).proxy(f"https://{host}/") == "http://p:1"


PODMAN = """
unqualified-search-registries = ["docker.io"]
[[registry]]
prefix = "a.example"
insecure = true
[[registry.mirror]]
location = "near.example:5000"
insecure = true
[[registry.mirror]]
location = "part.example/of/it"
[[registry.mirror]]
location = "digests.example"
pull-from-mirror = "digest-only"
[[registry]]
location = "b.example/part"
insecure = true
[[registry]]
prefix = "c.example"
location = "d.example"
insecure = true
[[registry]]
prefix = "*.e.example"
insecure = true
"""


def test_podmans_registries_are_known(load, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    (tmp_path / "etc/registries.conf.d").mkdir(parents=True)
    (tmp_path / "etc/registries.conf").write_text(PODMAN)
    settings = load()
    assert settings.mirrors == {"a.example": ("near.example:5000",)}
    assert settings.insecure == ("a.example", "near.example:5000")
    assert load('[registry."a.example"]\nmirrors = []\ninsecure = false').addresses("a.example") == (
        "https://a.example",
    )
    (tmp_path / "etc/registries.conf.d/x.conf").write_text('[[registry]]\nlocation = "a.example"')
    assert (load().insecure, load().mirrors) == ((), {})
    (tmp_path / "old.conf").write_text('[registries.insecure]\nregistries = ["f.example:5000"]')
    assert load(CONTAINERS_REGISTRIES_CONF=str(tmp_path / "old.conf")).insecure == ("f.example:5000",)
    (tmp_path / ".config/containers").mkdir(parents=True)
    for wrong in ("[[registry", "[registry]\n[[registry.x]]", '[[registry]]\nprefix = "a b"'):
        (tmp_path / ".config/containers/registries.conf").write_text(wrong)
        with pytest.raises(LayerfsError, match=r"registries\.conf"):
            load()


def test_an_empty_proxy_is_none_and_a_client_of_a_web_server_sets_none(load) -> None:  # type: ignore[no-untyped-def]
    assert load(HTTPS_PROXY="p:1", https_proxy="").proxy("https://r.example/") is None
    assert load(HTTP_PROXY="p:1", REQUEST_METHOD="GET").proxy("http://r.example/") is None


def test_mirrors_are_read_first() -> None:
    settings = Settings(mirrors={"docker.io": ("https://mirror.example/",)})
    with Registries(settings) as registries:
        clients = registries.readers("docker.io")
        assert [client.name for client in clients] == ["mirror.example", "docker.io"]
        assert [client.session._addresses for client in clients] == [
            ("https://mirror.example",),
            ("https://registry-1.docker.io",),
        ]


def test_names_of_docker_io() -> None:
    assert (api_host("docker.io"), api_host("a:1")) == ("registry-1.docker.io", "a:1")
    assert credential_key("docker.io") == "https://index.docker.io/v1/"
    servers = ["", "docker.io", "https://index.docker.io/v1/", "registry-1.docker.io"]
    assert {domain_of(server) for server in servers} == {"docker.io"}
    assert domain_of("https://r.example:5000/v2/") == "r.example:5000"


@pytest.mark.parametrize("server", ["https://", "/", "a b", "me:pw@host", "http://?x"])
def test_servers_without_a_host_are_refused(server: str) -> None:
    with pytest.raises(InvalidInput, match="invalid registry"):
        domain_of(server)


def test_this_machine_is_known_by_name_and_address() -> None:
    here = ["localhost", "localhost:5000", "127.0.0.1:1", "127.9.9.9", "[::1]:5000", "x.localhost"]
    assert all(map(is_loopback, here))
    assert not any(map(is_loopback, ["local", "10.0.0.1", "example.com", "[::2]", "127.0.0.1.example.com"]))
