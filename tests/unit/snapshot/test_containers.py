"""Containers as records."""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import pytest

from layerfs.engine.upkeep import upper_size
from layerfs.errors import AlreadyExists, Ambiguous, ContainerNotFound, InvalidInput
from layerfs.snapshot import Containers
from layerfs.store.root import StoreRoot

IMAGE = "ab" * 32


def test_create_get_list(store: StoreRoot) -> None:
    containers = Containers(store)
    first = containers.create(IMAGE, "first", {"Cmd": ["sh"]}, engine="kernel")
    second = containers.create(IMAGE)
    assert containers.get("first") == containers.get(first.id) == containers.get(first.id[:8]) == first
    assert containers.get("/first").config == {"Cmd": ["sh"]}
    assert [record.id for record in containers.list()] == [second.id, first.id]
    assert containers.upper(first.id).is_dir() and not containers.work(first.id).exists()
    assert containers.upper(first.id).stat().st_mode & 0o777 == 0o755


def test_a_taken_name_is_dockers_conflict_and_leaves_nothing(store: StoreRoot) -> None:
    containers = Containers(store)
    first = containers.create(IMAGE, "box")
    with pytest.raises(AlreadyExists) as caught:
        containers.create(IMAGE, "box")
    assert str(caught.value) == (
        f'Conflict. The container name "/box" is already in use by container "{first.id}". '
        "You have to remove (or rename) that container to be able to reuse that name."
    )
    assert os.listdir(store.path / "containers") == [first.id]


def test_what_is_not_found_or_not_unique(store: StoreRoot) -> None:
    containers = Containers(store)
    with pytest.raises(ContainerNotFound, match="No such container: nosuch"):
        containers.get("nosuch")
    for wrong in ("", "g" * 64, "ä", "x" * 5000):
        with pytest.raises(ContainerNotFound):
            containers.get(wrong)
    ids = [containers.create(IMAGE).id for _ in range(17)]
    letter = next(c for c in "0123456789abcdef" if sum(i.startswith(c) for i in ids) > 1)
    with pytest.raises(Ambiguous) as caught:
        containers.get(letter)
    assert set(caught.value.candidates) == {i for i in ids if i.startswith(letter)}


def test_a_name_goes_before_an_id_prefix(store: StoreRoot) -> None:
    containers = Containers(store)
    first = containers.create(IMAGE)
    second = containers.create(IMAGE, first.id[:12])
    assert containers.get(first.id[:12]) == second


def test_rename(store: StoreRoot) -> None:
    containers = Containers(store)
    record = containers.create(IMAGE, "old")
    containers.create(IMAGE, "other")
    assert containers.rename("old", "new").name == "new"
    assert containers.get("new").id == record.id
    with pytest.raises(ContainerNotFound):
        containers.get("old")
    with pytest.raises(AlreadyExists):
        containers.rename("new", "other")
    with pytest.raises(InvalidInput):
        containers.rename("new", "-")
    assert containers.get("new").id == record.id


def test_update_keeps_identity(store: StoreRoot) -> None:
    containers = Containers(store)
    record = containers.create(IMAGE, "box")
    changed = containers.update(record.id, lambda r: replace(r, name="forged", id="0" * 64, state={"pid": 1}))
    assert (changed.id, changed.name, changed.state) == (record.id, "box", {"pid": 1})
    assert containers.get("box").state == {"pid": 1}


def test_remove(store: StoreRoot) -> None:
    containers = Containers(store)
    record = containers.create(IMAGE, "box")
    (containers.upper(record.id) / "deep/er").mkdir(parents=True)
    containers.work(record.id).mkdir()
    (containers.work(record.id) / "work").mkdir(0o000)
    containers.remove("box")
    assert os.listdir(store.path / "containers") == []
    with pytest.raises(ContainerNotFound):
        containers.remove("box")
    containers.create(IMAGE, "box")


def test_one_name_goes_to_one_of_many(store: StoreRoot) -> None:
    containers = Containers(store)

    def attempt(_: int) -> str | None:
        try:
            return containers.create(IMAGE, "wanted").id
        except AlreadyExists:
            return None

    with ThreadPoolExecutor(8) as pool:
        made = [found for found in pool.map(attempt, range(16)) if found]
    assert len(made) == 1 == len(containers.list())


def test_directories_that_a_crash_left_are_removed(store: StoreRoot) -> None:
    containers = Containers(store)
    kept = containers.create(IMAGE)
    folder = store.path / "containers"
    newborn, old, removed = folder / ("1" * 64), folder / ("2" * 64), folder / f".removed-{'3' * 64}"
    for path in (newborn, old, removed):
        (path / "upper").mkdir(parents=True)
    os.utime(old, (1, 1))
    assert containers.clean_orphans() == 2
    assert sorted(path.name for path in folder.iterdir()) == sorted([kept.id, newborn.name])


def test_a_container_survives_a_restart(tmp_path: Path) -> None:
    with StoreRoot.open(tmp_path / "s") as root:
        record = Containers(root).create(IMAGE, "box")
    with StoreRoot.open(tmp_path / "s") as root:
        assert Containers(root).get("box") == record


def test_a_tree_of_any_depth_is_measured_and_removed(store: StoreRoot) -> None:
    containers = Containers(store)
    record = containers.create(IMAGE, "deep")
    fd = os.open(containers.upper(record.id), os.O_RDONLY)
    for depth in range(1500):
        os.mkdir("d", 0o700 if depth % 2 else 0o500, dir_fd=fd)
        inner = os.open("d", os.O_RDONLY, dir_fd=fd)
        os.close(fd)
        fd = inner
    os.write(file := os.open("file", os.O_WRONLY | os.O_CREAT, dir_fd=fd), b"x" * 10)
    os.close(file)
    os.close(fd)
    assert upper_size(containers.upper(record.id)) == 10
    containers.remove("deep")
    assert os.listdir(store.path / "containers") == []
