"""The command line against registries: docker's words, and no tracebacks."""

from __future__ import annotations

import base64
import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

import layerfs
from layerfs.oci import media
from layerfs.registry.connect import Registries
from layerfs.registry.copy import copy
from layerfs.registry.places import Place
from tests.looking import free_port
from tests.registry import hostile
from tests.registry.servers import PASSWORD, USER, Answer, Registry, Request, scripted

LAYERFS = [sys.executable, "-c", "import sys; from layerfs.cli import main; sys.exit(main())"]
Run = Callable[..., "subprocess.CompletedProcess[str]"]


@pytest.fixture
def run(tmp_path: Path, store: layerfs.Store) -> Run:
    """run("push", name): the finished process, at a home of its own; an error is one line."""
    home = tmp_path / "home"
    home.mkdir()
    passed = {name: os.environ[name] for name in ("PATH", "PYTHONPATH") if name in os.environ}
    environ = passed | {"HOME": str(home), "LAYERFS_STORE": str(store.path)}

    def run(*arguments: str, code: int = 0, input: str = "") -> subprocess.CompletedProcess[str]:
        done = subprocess.run(
            [*LAYERFS, *arguments], env=environ, input=input, capture_output=True, text=True, timeout=120
        )
        assert (done.returncode, "Traceback" in done.stderr) == (code, False), done.stderr
        return done

    return run


@pytest.fixture
def trusted(tmp_path: Path, guarded: Registry, run: Run) -> Registry:
    """The registry with TLS, whose CA the home knows."""
    place = tmp_path / "home/.config/containers/certs.d" / guarded.host
    place.mkdir(parents=True)
    assert guarded.ca is not None
    (place / "ca.crt").write_bytes(guarded.ca.read_bytes())
    return guarded


def test_what_refers_to_an_image_is_listed(
    plain: Registry, repository: str, index_layout: Path, registries: Registries, run: Run
) -> None:
    name = f"{plain.host}/{repository}:all"
    source, target = Place.parse(f"oci:{index_layout}:all"), Place.parse(f"docker://{name}")
    copy(source, target, registries, everything=True, referrers=True)
    (found,) = [
        entry
        for reference in (name, *(f"{plain.host}/{repository}@{entry['digest']}" for entry in index_of(run, name)))
        for entry in json.loads(run("manifest", "referrers", reference).stdout)["manifests"]
    ]
    assert found["mediaType"].endswith("manifest.v1+json")
    assert json.loads(run("manifest", "referrers", "--artifact-type", "x/y", name).stdout)["manifests"] == []


def index_of(run: Run, name: str) -> list[dict[str, str]]:
    entries: list[dict[str, str]] = json.loads(run("manifest", "inspect", name).stdout)["manifests"]
    return entries


def test_push_says_what_docker_says(
    plain: Registry, repository: str, make_image: Callable[..., layerfs.Image], run: Run
) -> None:
    name = f"{plain.host}/{repository}"
    image = make_image(name, motd=repository)
    layer = image.layers[0].diff_id.short
    first, second = run("push", name).stdout.splitlines(), run("push", name).stdout.splitlines()
    assert first[:3] == ["Using default tag: latest", f"The push refers to repository [{name}]", f"{layer}: Pushed"]
    assert second[2] == f"{layer}: Layer already exists"
    assert first[3] == second[3]
    assert first[3].startswith("latest: digest: sha256:")
    assert run("push", "-q", name).stdout == f"{name}:latest\n"


def test_a_push_loads_no_more_than_it_needs(
    plain: Registry, repository: str, make_image: Callable[..., layerfs.Image], store: layerfs.Store
) -> None:
    """What is loaded takes longer than the push of a small change."""
    name = f"{plain.host}/{repository}"
    make_image(name)
    heavy = {"click", "concurrent", "dataclasses", "inspect", "logging", "rich", "subprocess", "urllib3"}
    for verb in ("push", "pull"):
        line = ["--store", str(store.path), verb, "-q", name]
        code = f"import sys; sys.argv[1:] = {line!r}; from layerfs.cli import main; code = main(); "
        code += f"print(code, *sorted({heavy!r} & set(sys.modules)))"
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
        assert done.stdout.splitlines()[-1] == "0", done


def test_the_next_push_of_a_plain_registry_tries_no_tls(
    plain: Registry, repository: str, make_image: Callable[..., layerfs.Image], store: layerfs.Store
) -> None:
    for tag in ("1", "2"):
        make_image(f"{plain.host}/{repository}:{tag}")
        line = ["--store", str(store.path), "push", "-q", f"{plain.host}/{repository}:{tag}"]
        code = f"import sys; sys.argv[1:] = {line!r}; from layerfs.cli import main; code = main(); "
        code += "print(code, 'ssl' in sys.modules, 'http.client' in sys.modules)"
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
        assert done.stdout.splitlines()[-1] == f"0 {tag == '1'} False", done


def test_login_lets_us_in_and_logout_forgets(
    trusted: Registry, repository: str, make_image: Callable[..., layerfs.Image], run: Run, tmp_path: Path
) -> None:
    name = f"{trusted.host}/{repository}:1"
    make_image(name)
    assert "unauthorized: authentication required" in run("push", name, code=1).stderr
    done = run("login", "-u", USER, "--password-stdin", trusted.host, input=PASSWORD + "\n")
    assert done.stdout == "Login Succeeded\n"
    assert "stored unencrypted" in done.stderr
    assert PASSWORD not in (tmp_path / "home/.docker/config.json").read_text()
    run("push", name)
    assert run("tags", f"{trusted.host}/{repository}").stdout == "1\n"
    document = {"Repository": f"{trusted.host}/{repository}", "Tag": "1"}
    assert json.loads(run("tags", "--format", "json", f"{trusted.host}/{repository}").stdout) == document
    shown = run("search", f"{trusted.host}/{repository}").stdout.splitlines()
    assert shown[0].split() == ["NAME", "DESCRIPTION", "STARS", "OFFICIAL"]
    assert shown[1].split() == [f"{trusted.host}/{repository}", "0"]
    assert run("logout", trusted.host).stdout == f"Removing login credentials for {trusted.host}\n"
    assert run("logout", trusted.host).stdout == f"Not logged in to {trusted.host}\n"
    run("push", name, code=1)


def test_a_login_tries_what_is_kept_first(trusted: Registry, run: Run, tmp_path: Path) -> None:
    run("login", "-u", USER, "--password-stdin", trusted.host, input=PASSWORD + "\n")
    told = "Authenticating with existing credentials...\n"
    assert run("login", trusted.host).stdout == f"{told}Login Succeeded\n"
    kept = tmp_path / "home/.docker/config.json"
    wrong = base64.b64encode(f"{USER}:other".encode()).decode()
    kept.write_text(json.dumps({"auths": {trusted.host: {"auth": wrong}}}))
    done = run("login", trusted.host, code=1)
    assert done.stdout == told
    assert "Login did not succeed, error: " in done.stderr
    assert "Cannot perform an interactive login from a non TTY device" in done.stderr


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("-u", USER, "-p", "wrong"), "unauthorized: authentication required"),
        (("--password-stdin",), "Must provide --username with --password-stdin"),
        (("-u", USER, "-p", "x", "--password-stdin"), "--password and --password-stdin are mutually exclusive"),
        ((), "Cannot perform an interactive login from a non TTY device"),
    ],
)
def test_logins_that_fail_say_why(
    trusted: Registry, run: Run, arguments: tuple[str, ...], words: str, tmp_path: Path
) -> None:
    assert words in run("login", *arguments, trusted.host, code=1).stderr
    assert not (tmp_path / "home/.docker").exists()


def test_an_unknown_ca_is_said(guarded: Registry, run: Run, tmp_path: Path) -> None:
    (tmp_path / "home/.config/layerfs").mkdir(parents=True)
    (tmp_path / "home/.config/layerfs/registries.toml").write_text(f'[registry."{guarded.host}"]\ninsecure = false\n')
    done = run("tags", f"{guarded.host}/a", code=1)
    assert done.stderr == (
        f'layerfs: Get "https://{guarded.host}/v2/": tls: failed to verify certificate: '
        "x509: certificate signed by unknown authority\n"
    )


def test_nobody_there_is_said(run: Run) -> None:
    host = f"127.0.0.1:{free_port()}"
    done = run("tags", f"{host}/a", code=1)
    assert done.stderr == f'layerfs: Get "http://{host}/v2/": dial tcp {host}: connect: connection refused\n'


def test_an_image_is_inspected_where_it_is(
    plain: Registry, repository: str, make_image: Callable[..., layerfs.Image], run: Run
) -> None:
    name = f"{plain.host}/{repository}:1"
    image = make_image(name)
    run("push", name)
    (found,) = json.loads(run("inspect", "--remote", name).stdout)
    assert (found["Id"], found["RepoTags"]) == (image.id, [name])
    assert run("inspect", "--remote", "-f", "{{.Architecture}}", name).stdout.strip() == found["Architecture"]
    raw = json.loads(run("manifest", "inspect", name).stdout)
    assert raw["config"]["digest"] == image.id
    missing = run("inspect", "--remote", f"{plain.host}/{repository}:2", code=1)
    assert f"manifest for {plain.host}/{repository}:2 not found: manifest unknown" in missing.stderr


def test_tags_do_nothing_to_a_terminal(run: Run) -> None:
    with hostile.Registry() as registry:
        registry.manifests["app", "1"] = registry.manifests["app", "2\x1b[31m\n"] = (media.OCI_MANIFEST, b"{}")
        assert run("tags", f"{registry.host}/app").stdout == "1\n2\\x1b[31m\n"


def test_an_artifact_is_not_inspected_as_an_image(run: Run) -> None:
    with hostile.Registry() as registry:
        registry.manifest("app:1", {"config": registry.put(b"{}", media.OCI_EMPTY), "layers": []})
        said = run("inspect", "--remote", f"{registry.host}/app:1", code=1).stderr
    assert said == f"layerfs: {registry.host}/app:1: not an image: its config is '{media.OCI_EMPTY}'\n"


def test_manifests_are_removed_where_they_are(
    plain: Registry, repository: str, make_image: Callable[..., layerfs.Image], run: Run
) -> None:
    name = f"{plain.host}/{repository}:1"
    make_image(name)
    digest = run("push", name).stdout.split("digest: ")[1].split()[0]
    run("manifest", "rm", f"{plain.host}/{repository}@{digest}")
    for gone in (f"{plain.host}/{repository}@{digest}", name):
        assert "manifest unknown" in run("manifest", "rm", gone, code=1).stderr


def test_copies_print_the_digest(
    plain: Registry, repository: str, make_image: Callable[..., layerfs.Image], run: Run, tmp_path: Path
) -> None:
    name = f"{plain.host}/{repository}:1"
    make_image(name)
    digest = run("push", name).stdout.split("digest: ")[1].split()[0]
    assert run("copy", f"docker://{name}", f"oci:{tmp_path}/layout:1").stdout == f"{digest}\n"
    assert "want docker://NAME" in run("copy", name, f"oci:{tmp_path}/x", code=1).stderr
    assert "mutually exclusive" in run("copy", "--all", "--platform=linux", f"docker://{name}", "oci:x", code=1).stderr


def test_an_interrupted_push_ends_at_once(
    repository: str, make_image: Callable[..., layerfs.Image], store: layerfs.Store, tmp_path: Path
) -> None:
    arrived, done = threading.Event(), threading.Event()

    def slow(request: Request) -> Answer:
        if request.path == "/v2/":
            return Answer(200)
        arrived.set()
        done.wait(90)
        return Answer(500)

    with scripted(slow) as (host, _):
        make_image(f"{host}/{repository}")
        reset = ["env", "--default-signal=INT"]  # whoever runs the tests may ignore it
        command = [*reset, *LAYERFS, "--store", str(store.path), "push", f"{host}/{repository}"]
        environ = {**os.environ, "HOME": str(tmp_path)}
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=environ)
        assert arrived.wait(60)
        process.send_signal(signal.SIGINT)
        _, errors = process.communicate(timeout=60)
        done.set()
    assert (process.returncode, errors) == (130, b"")


def test_search_as_docker_hub_has_it(run: Run) -> None:
    rows = [
        {"name": "redis", "description": "Redis is a\x1b[2J key-value store of many words\n", "star_count": 70},
        {"name": "x/redis", "description": None, "star_count": 3, "is_official": True},
    ]

    def answer(request: Request) -> Answer:
        if request.path.startswith("/v1/search?q=redis&n="):
            return Answer(200, json.dumps({"results": rows}).encode())
        return Answer(200 if request.path == "/v2/" else 404, b"{}")

    with scripted(answer) as (host, seen):
        term = f"{host}/redis"
        first, second = (line.split() for line in run("search", term).stdout.splitlines()[1:])
        assert first == [
            f"{host}/redis",
            *["Redis", "is", "a", "[2J", "key-value", "store", "of", "many", "words", "70"],
        ]
        assert second == [f"{host}/x/redis", "3", "[OK]"]
        form = "{{.Name}} {{.StarCount}} {{.IsOfficial}}"
        assert run("search", "--format", form, "-f", "stars=10", term).stdout == f"{host}/redis 70 \n"
        assert run("search", "--format", form, "-f", "is-official=true", term).stdout == f"{host}/x/redis 3 [OK]\n"
        assert len(run("search", "--limit", "1", "--no-trunc", "--format", "json", term).stdout.splitlines()) == 1
        assert seen[-1].path.endswith("n=1")
        assert "invalid filter 'size=1'" in run("search", "-f", "size=1", term, code=1).stderr
    with scripted(lambda request: Answer(200 if request.path == "/v2/" else 404, b"{}")) as (host, _):
        assert "404 Not Found" in run("search", f"{host}/redis", code=1).stderr
