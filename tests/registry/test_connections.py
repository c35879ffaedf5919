"""Connections that wait for the next push or pull of a store."""

from __future__ import annotations

import os
import socket
import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest

import layerfs
from layerfs.registry import watched, wire
from layerfs.registry.config import Settings
from layerfs.registry.connect import Kept, Registries, open_client
from tests.looking import free_port
from tests.registry.servers import Answer, Registry, Request, docker_registry, scripted


@pytest.fixture
def kept() -> Iterator[Kept]:
    kept = Kept()
    yield kept
    kept.close()


@pytest.fixture
def ask(settings: Settings, kept: Kept) -> Callable[..., None]:
    """One request by a command of its own."""

    def ask(host: str, **changes: object) -> None:
        with Registries(replace(settings, **changes), kept=kept) as registries:
            registries.client(host).check()

    return ask


def peers(seen: list[Request]) -> int:
    return len({request.peer for request in seen})


def test_the_next_command_uses_the_connection_again(ask: Callable[..., None]) -> None:
    with scripted(lambda request: Answer(200)) as (host, seen):
        for _ in range(3):
            ask(host)
    assert (len(seen) >= 3, peers(seen)) == (True, 1)


def test_other_settings_have_connections_of_their_own(ask: Callable[..., None]) -> None:
    with scripted(lambda request: Answer(200)) as (host, seen):
        ask(host)
        ask(host, insecure=("elsewhere",))
    assert peers(seen) == 2


def test_nothing_is_kept_that_has_waited_long(ask: Callable[..., None], monkeypatch: pytest.MonkeyPatch) -> None:
    with scripted(lambda request: Answer(200)) as (host, seen):
        ask(host)
        monkeypatch.setattr(wire, "_IDLE_SECONDS", -1.0)
        ask(host)
    assert peers(seen) == 2


def test_closing_ends_what_waits(ask: Callable[..., None], kept: Kept, settings: Settings) -> None:
    with scripted(lambda request: Answer(200)) as (host, seen):
        ask(host)
        (waiting,) = kept.idle(settings)._waiting
        assert waiting[2].sock is not None
        kept.close()
        assert waiting[2].sock is None
        ask(host)
    assert peers(seen) == 2


def test_a_command_that_was_cancelled_leaves_nothing(kept: Kept, settings: Settings) -> None:
    with scripted(lambda request: Answer(200)) as (host, _):
        with Registries(settings, kept=kept) as registries:
            client = registries.client(host)
            answer = client.session.request("GET", "/v2/")
            registries.cancel()
            answer.discard()
        assert kept.idle(settings).take(("http", "127.0.0.1", int(host.partition(":")[2]))) is None


def test_a_server_that_ends_it_as_it_is_used_again_is_asked_once_more(kept: Kept, settings: Settings) -> None:
    """Too late to be seen before the request is sent."""
    answered: list[int] = []

    def serve() -> None:
        for count in (2, 100):
            one, _ = listener.accept()
            with one:
                while one.recv(1000) and count:
                    answered.append(count)  # before it is sent: whoever reads the answer reads this too
                    one.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")
                    count -= 1

    with socket.create_server(("127.0.0.1", 0)) as listener:
        threading.Thread(target=serve, daemon=True).start()
        host = f"127.0.0.1:{listener.getsockname()[1]}"
        for _ in range(2):
            with open_client(settings, host, f"http://{host}", idle=kept.idle(settings)) as client:
                client.check()
    assert answered == [2, 1, 100, 99]  # each time it is asked whether it is there


def changed(store: layerfs.Store, image: layerfs.Image, name: str, text: str) -> str:
    """A name that means the image with a file more."""
    box = store.create(image)
    with box.mount() as root:
        (root / "new").write_text(text)
    box.commit(name)
    return name


def test_a_registry_that_was_restarted_between_two_pushes(
    store: layerfs.Store, settings: Settings, make_image: Callable[..., layerfs.Image], tmp_path: Path
) -> None:
    host = f"127.0.0.1:{free_port()}"
    image = make_image("app:1")
    for number in range(2):
        with docker_registry(tmp_path / "registry", host=host):
            store.push(changed(store, image, f"{host}/app:{number}", str(number)), settings=settings)
            assert store.pull(f"{host}/app:{number}", settings=settings).id


def test_a_fork_between_two_pushes(
    plain: Registry,
    repository: str,
    store: layerfs.Store,
    settings: Settings,
    make_image: Callable[..., layerfs.Image],
) -> None:
    """Both sides push; none takes the other's answers."""
    image = make_image("app:1")
    names = [changed(store, image, f"{plain.host}/{repository}:{number}", str(number)) for number in range(3)]
    store.push(names[0], settings=settings)
    child = os.fork()
    if not child:
        code = 1
        try:
            store.push(names[1], settings=settings)
            code = 0
        finally:
            os._exit(code)
    store.push(names[2], settings=settings)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    for name in names[1:]:
        assert store.pull(name, settings=settings).id


def test_a_closed_store_has_no_connections(
    plain: Registry, repository: str, settings: Settings, make_image: Callable[..., layerfs.Image], tmp_path: Path
) -> None:
    name = f"{plain.host}/{repository}:1"
    make_image(name)
    with layerfs.Store(tmp_path / "store") as store:
        store.push(name, settings=settings)
        (*_, last) = (connection for *_, connection in store.connections.idle(settings)._waiting)
        assert last.sock is not None
    assert last.sock is None


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The files of a user, who changed none of them lately."""
    for name in [name for name in os.environ if name.startswith(("XDG_", "CONTAINERS_", "LAYERFS_REG"))]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("HOME", str(tmp_path))
    for folder in ("layerfs", "containers/registries.conf.d"):
        (tmp_path / ".config" / folder).mkdir(parents=True)
    monkeypatch.setattr(watched, "_TICK", -(10**12))
    return tmp_path / ".config"


def test_settings_are_read_again_when_a_file_has_changed(kept: Kept, home: Path) -> None:
    """One that was not there, one in a directory, one of the same length in another's place, one that is gone."""
    first = kept.settings()
    assert kept.settings() is first
    insecure = 'insecure-registries = ["{}.example"]'
    file = home / "layerfs/registries.toml"
    file.write_text(insecure.format("a"))
    assert kept.settings().insecure == (*first.insecure, "a.example")
    file.with_name("new").write_text(insecure.format("b"))
    file.with_name("new").replace(file)
    assert kept.settings().insecure == (*first.insecure, "b.example")
    part = home / "containers/registries.conf.d/one.conf"
    part.write_text('[[registry]]\nlocation = "c.example"\ninsecure = true\n')
    assert kept.settings().insecure == (*first.insecure, "c.example", "b.example")
    part.write_text('[[registry]]\nlocation = "d.example"\ninsecure = true\n')
    assert kept.settings().insecure == (*first.insecure, "d.example", "b.example")
    part.unlink()
    file.unlink()
    assert kept.settings() == first


def test_settings_are_read_again_for_other_variables(kept: Kept, home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = kept.settings()
    monkeypatch.setenv("https_proxy", "http://proxy.example")
    assert kept.settings().proxies["https"] == "http://proxy.example"
    monkeypatch.delenv("https_proxy")
    assert kept.settings() == first


def test_files_that_have_just_changed_are_read_each_time(
    kept: Kept, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Their next change may have the same time."""
    monkeypatch.undo()
    monkeypatch.setenv("HOME", str(home.parent))
    (home / "layerfs/registries.toml").write_text("timeout = 7")
    first = kept.settings()
    second = kept.settings()
    assert (first, first is second) == (second, False)


def test_settings_that_cannot_be_read_are_an_error_each_time(kept: Kept, home: Path) -> None:
    (home / "layerfs/registries.toml").write_text("timeout =")
    for _ in range(2):
        with pytest.raises(layerfs.LayerfsError, match="not valid TOML"):
            kept.settings()
