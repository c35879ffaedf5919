"""Builds with a registry: newer base images."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

import layerfs
from layerfs.errors import RegistryError
from tests.build.conftest import write_files
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
    assert store.build(context).config.config.env == ("A=1",)
