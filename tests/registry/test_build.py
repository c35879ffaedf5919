"""Builds with a registry: newer base images, and caches."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pytest

import layerfs
from layerfs.cli.app import run
from layerfs.errors import RegistryError
from tests.build.conftest import Events, write_files
from tests.registry.servers import Registry

Make = Callable[..., layerfs.Image]


def test_pull_takes_the_newer_base_image(
    store: layerfs.Store, make_image: Make, plain: Registry, repository: str, tmp_path: Path
) -> None:
    name = f"{plain.host}/{repository}:1"
    newer, older = make_image(name, motd="newer"), None
    store.push(name)
    older = make_image(name, motd="older")
    context = write_files(tmp_path / "c", {"Dockerfile": f"FROM {name}\nENV A=1\n"})
    assert store.build(context).record.diff_ids == older.record.diff_ids
    assert store.build(context, pull=True).record.diff_ids == newer.record.diff_ids
    assert store.image(name) == newer


def test_pull_without_the_registry_is_an_error(
    store: layerfs.Store, make_image: Make, plain: Registry, repository: str, tmp_path: Path
) -> None:
    name = f"{plain.host}/{repository}:1"
    make_image(name)
    context = write_files(tmp_path / "c", {"Dockerfile": f"FROM {name}\nENV A=1\n"})
    with pytest.raises(RegistryError, match=r"Dockerfile:1: .*" + repository):
        store.build(context, pull=True)
    assert store.build(context).config.config.env[-1] == "A=1"


TEXT = "FROM scratch AS made\nCOPY f /in-between\nFROM scratch\nCOPY --from=made /in-between /copied\n"


@pytest.fixture
def other(tmp_path: Path) -> Iterator[layerfs.Store]:
    with layerfs.Store(tmp_path / "other") as store:
        yield store


def cached(store: layerfs.Store, context: Path, **how: Sequence[str]) -> list[str]:
    events = Events()
    store.build(context, progress=events, **how)
    assert [event.text for event in events if event.kind == "warning"] == []
    return events.kinds("cached")


def test_a_registry_keeps_a_cache(
    store: layerfs.Store, other: layerfs.Store, plain: Registry, repository: str, tmp_path: Path
) -> None:
    context = write_files(tmp_path / "c", {"Dockerfile": TEXT, "f": repository})
    place = f"type=registry,ref={plain.host}/{repository}:cache"
    assert cached(store, context, cache_to=[f"{place},mode=max"]) == []
    blobs = plain.blob_files()
    assert cached(store, context, cache_to=[f"{place},mode=max"]) != []
    assert plain.blob_files() == blobs
    assert cached(other, context, cache_from=[place]) == ["COPY f /in-between", "COPY --from=made /in-between /copied"]


def test_an_image_is_its_own_cache(
    store: layerfs.Store, other: layerfs.Store, plain: Registry, repository: str, tmp_path: Path
) -> None:
    context = write_files(tmp_path / "c", {"Dockerfile": TEXT, "f": repository})
    name = f"{plain.host}/{repository}:1"
    image = store.build(context, tag=name, build_args={"BUILDKIT_INLINE_CACHE": "1"})
    assert store.build(context, cache_to=["type=inline"]) == image
    store.push(name)
    assert cached(other, context, cache_from=[name]) == ["COPY --from=made /in-between /copied"]
    assert other.images()[0].record.diff_ids == image.record.diff_ids


def test_a_registry_without_the_cache_is_a_warning(
    store: layerfs.Store, plain: Registry, repository: str, tmp_path: Path
) -> None:
    context = write_files(tmp_path / "c", {"Dockerfile": TEXT, "f": repository})
    events = Events()
    store.build(context, progress=events, cache_from=[f"{plain.host}/{repository}:none"])
    (warning,) = [event.text for event in events if event.kind == "warning"]
    assert f"{repository}:none is not used: " in warning


def test_an_image_is_pushed_under_its_names(
    store: layerfs.Store, plain: Registry, repository: str, tmp_path: Path
) -> None:
    context = write_files(tmp_path / "c", {"Dockerfile": TEXT, "f": repository})
    names = [f"{plain.host}/{repository}:{tag}" for tag in ("1", "2")]
    command = ["--store", str(store.path), "build", "-q", "-t", names[0]]
    assert run([*command, "--push", str(context)]) == 0
    assert run([*command, "-o", f"type=registry,name={names[1]}", str(context)]) == 0
    assert [store.pull(name).id for name in names] == [store.image(names[0]).id] * 2
