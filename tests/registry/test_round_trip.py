"""Pulling from Debian's docker-registry, also with TLS and a user; through mirrors; until a signal comes."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest

import layerfs
from layerfs.digest import Digest
from layerfs.engine import registries
from layerfs.engine.pulling import pull
from layerfs.errors import RegistryDenied, RegistryNotFound
from layerfs.registry.config import Settings
from layerfs.registry.credentials import Credential
from tests.registry import hostile
from tests.registry.hostile import wait_for
from tests.registry.servers import PASSWORD, USER, Registry
from tests.registry.test_pull import many
from tests.unit.image.make import tar

Make = Callable[..., layerfs.Image]


@pytest.fixture
def other(tmp_path: Path) -> Iterator[layerfs.Store]:
    with layerfs.Store(tmp_path / "other") as opened:
        yield opened


@pytest.mark.parametrize("compression", ["gzip", "zstd", "none"])
def test_what_was_pushed_comes_back(
    plain: Registry,
    repository: str,
    make_image: Make,
    store: layerfs.Store,
    other: layerfs.Store,
    settings: Settings,
    compression: str,
) -> None:
    name = f"{plain.host}/{repository}:1"
    image = make_image(name, motd="x" * 10_000, more="y")
    (pushed,) = store.push(name, settings=settings, compression=compression)
    pulled = pull(other, name, settings=settings)
    assert (pulled.image.id, pulled.digest) == (image.record.id, pushed.digest)
    assert other.image(name).layers[0].tar_size == image.layers[0].tar_size
    assert other.fsck() == []
    (again,) = other.push(f"{plain.host}/{repository}:1", settings=settings)
    assert again.digest == pushed.digest


def test_an_index_goes_on_as_it_came(
    plain: Registry, far: hostile.Registry, repository: str, other: layerfs.Store, settings: Settings
) -> None:
    entry = many(far)
    other.pull(f"{far.host}/app:1", all_platforms=True, settings=settings)
    there = f"{plain.host}/{repository}:1"
    other.tag(f"{far.host}/app:1", there)
    (pushed,) = other.push(there, all_platforms=True, settings=settings)
    assert pushed.digest == entry["digest"]
    with layerfs.Store(other.path.parent / "third") as third:
        assert pull(third, there, settings=settings).digest == entry["digest"]


def test_with_tls_and_a_user(
    guarded: Registry, repository: str, make_image: Make, store: layerfs.Store, other: layerfs.Store, settings: Settings
) -> None:
    name = f"{guarded.host}/{repository}:1"
    image = make_image(name)
    settings = replace(settings, authorities={guarded.host: str(guarded.ca)})
    with pytest.raises(RegistryDenied, match="pull access denied"):
        other.pull(name, settings=settings)
    assert settings.auth is not None
    settings.auth.store(guarded.host, Credential(USER, PASSWORD))
    store.push(name, settings=settings)
    assert other.pull(name, settings=settings).id == image.id


def test_what_is_missing_is_said_in_dockers_words(plain: Registry, other: layerfs.Store, settings: Settings) -> None:
    with pytest.raises(RegistryNotFound) as caught:
        other.pull(f"{plain.host}/none:1", settings=settings)
    assert str(caught.value) == f"manifest for {plain.host}/none:1 not found: manifest unknown: manifest unknown"


@pytest.fixture
def near() -> Iterator[hostile.Registry]:
    """A mirror of the registry `far`."""
    with hostile.Registry() as opened:
        yield opened


@pytest.fixture
def far() -> Iterator[hostile.Registry]:
    with hostile.Registry() as opened:
        opened.image("app:1", [tar({"f": b"x" * 50_000})])
        yield opened


def mirrored(settings: Settings, near: hostile.Registry, far: hostile.Registry) -> Settings:
    return replace(settings, mirrors={far.host: (f"http://{near.host}",)})


def test_a_mirror_is_asked_first(
    near: hostile.Registry, far: hostile.Registry, other: layerfs.Store, settings: Settings
) -> None:
    near.image("app:1", [tar({"f": b"x" * 50_000})])
    image = other.pull(f"{far.host}/app:1", settings=mirrored(settings, near, far))
    assert image.tags == (f"{far.host}/app:1",)
    assert len(near.fetched()) == 2
    assert far.log == []


def test_what_a_mirror_lacks_comes_from_the_registry(
    near: hostile.Registry, far: hostile.Registry, other: layerfs.Store, settings: Settings
) -> None:
    other.pull(f"{far.host}/app:1", settings=mirrored(settings, near, far))
    assert len(far.fetched()) == 2


def test_what_a_mirror_has_wrong_comes_from_the_registry(
    near: hostile.Registry, far: hostile.Registry, other: layerfs.Store, settings: Settings
) -> None:
    near.image("app:1", [tar({"f": b"x" * 50_000})])
    near.tricks.append(lambda ask: ask.is_layer and ask.other(bytes(len(near.blobs[ask.reference]))))
    other.pull(f"{far.host}/app:1", settings=mirrored(settings, near, far))
    assert other.fsck() == []
    assert len(far.fetched()) == 1


def test_all_that_reads_asks_a_mirror_first(
    near: hostile.Registry, far: hostile.Registry, settings: Settings, tmp_path: Path
) -> None:
    near.image("app:1", [tar({"f": b"x" * 50_000})])
    name, told = f"{far.host}/app", mirrored(settings, near, far)
    raw = registries.manifest(f"{name}:1", settings=told)
    assert registries.tags(name, settings=told) == ["1"]
    assert registries.inspect_remote(f"{name}:1", settings=told)["Digest"] == str(Digest.of(raw))
    assert registries.copy(f"docker://{name}:1", f"oci:{tmp_path / 'out'}", settings=told).digest == Digest.of(raw)
    assert far.log == []
    near.manifests.clear()
    assert registries.inspect_remote(f"{name}:1", settings=told)["Digest"] == str(Digest.of(raw))


def test_a_mirror_that_is_down_is_asked_once(
    near: hostile.Registry, far: hostile.Registry, other: layerfs.Store, settings: Settings
) -> None:
    quick = replace(mirrored(settings, near, far), limits=replace(settings.limits, attempts=1))
    near.tricks.append(lambda ask: ask.drop(reset=True))
    other.pull(f"{far.host}/app:1", settings=quick)
    assert len(far.fetched()) == 2
    assert len(near.log) <= 2


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_a_pull_that_waits(far: hostile.Registry, tmp_path: Path, number: int) -> None:
    """Also one that hangs in a connection; what has come is kept for the next."""
    far.tricks.append(
        lambda ask: ask.is_layer and (ask.blob(far.blobs[ask.reference], stop=60) or far.closing.wait(90))
    )
    place = tmp_path / "store"
    command = [Path(sys.executable).parent / "layerfs", "--store", place, "pull", f"{far.host}/app:1"]
    environment = os.environ | {"HOME": str(tmp_path)}
    with subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        try:
            wait_for(lambda: any(file.stat().st_size == 60 for file in (place / "partial").glob("*")))
            process.send_signal(number)
            _, err = process.communicate(timeout=60)  # before the far end gives up
        finally:
            process.kill()
    assert process.returncode == 128 + number
    assert err == b""
    with layerfs.Store(place) as store:
        assert store.root.leases.records() == []
        assert store.images() == []
        far.tricks.clear()
        far.forget()
        store.pull(f"{far.host}/app:1")
