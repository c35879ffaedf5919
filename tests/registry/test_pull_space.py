"""A disk that becomes full during a pull: one clear error, what came is given back, and later it works."""

from __future__ import annotations

import random
from collections.abc import Iterator
from pathlib import Path

import pytest

from layerfs import Store
from layerfs.errors import NoSpace
from tests.disks import filled, free, small_disk
from tests.registry.hostile import Registry
from tests.unit.image.make import docker_archive, tar

pytestmark = pytest.mark.root
MIB = 1 << 20
CHANCE = random.Random(5)
LARGE = tar({f"f{number}": CHANCE.randbytes(100_000) for number in range(60)})


@pytest.fixture
def registry() -> Iterator[Registry]:
    with Registry() as opened:
        opened.image("app:1", [LARGE])
        yield opened


@pytest.mark.parametrize("leave", [3 * MIB, 9 * MIB], ids=["for no layer", "for no files"])
def test_a_full_disk(registry: Registry, tmp_path: Path, leave: int) -> None:
    with small_disk("tmpfs", tmp_path, size=32 * MIB) as disk, Store(disk / "store") as store:
        with filled(disk, leave):
            before = free(disk)
            with pytest.raises(NoSpace):
                store.pull(f"{registry.host}/app:1")
            assert store.images() == []
            assert not list((store.path / "partial").glob("*"))
            store.gc()
            assert free(disk) > before - MIB
        store.pull(f"{registry.host}/app:1")
        assert store.fsck() == []


@pytest.mark.parametrize("how", ["pull", "load"])
def test_a_disk_that_is_full_after_some_of_many_layers(tmp_path: Path, how: str) -> None:
    layers = [tar({f"f{number}": CHANCE.randbytes(60_000)}) for number in range(50)]
    (tmp_path / "many.tar").write_bytes(docker_archive([(layers, ["many:1"])]))
    with Registry() as registry, small_disk("tmpfs", tmp_path, size=32 * MIB) as disk, Store(disk / "store") as store:
        registry.image("many:1", layers)

        def work() -> None:
            store.pull(f"{registry.host}/many:1") if how == "pull" else store.load(tmp_path / "many.tar")

        with filled(disk, 3 * MIB):
            before = free(disk)
            with pytest.raises(NoSpace):
                work()
            assert store.images() == []
            assert not list((store.path / "tmp").iterdir())
            store.gc()
            assert free(disk) > before - MIB
        work()
        assert store.fsck() == []
