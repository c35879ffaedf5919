"""Access times: relatime on what the upper directory has, nothing on what only lower layers have."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest
from trees import directory, file, symlink
from worlds import World

pytestmark = [pytest.mark.root, pytest.mark.no_remount]

LONG_AGO = 1_000_000_000
BASE = [
    file("f", b"lower" * 2000),
    file("big", b"B" * (2 << 20)),
    directory("d"),
    file("d/x", b"x"),
    symlink("link", "f"),
]
base = pytest.mark.layers(BASE)


def age(path: Path, atime: int, mtime: int) -> None:
    os.utime(path, (atime, mtime), follow_symlinks=False)


def atime(path: Path) -> float:
    return os.stat(path, follow_symlinks=False).st_atime


@base
@pytest.mark.parametrize("name", ["f", "big", "new"])
def test_the_first_read_after_a_change_is_noted(world: World, name: str) -> None:
    path = world.root / name
    with path.open("ab") as out:
        out.write(b"more")
    world.remount()
    age(path, LONG_AGO, LONG_AGO + 5)
    before = time.time() - 1
    path.read_bytes()
    assert atime(path) >= before
    first = atime(path)
    time.sleep(0.02)
    path.read_bytes()
    assert atime(path) == first
    assert path.stat().st_mtime == LONG_AGO + 5


@base
def test_an_old_access_is_noted_again(world: World) -> None:
    path = world.root / "new"
    path.write_bytes(b"new")
    world.remount()
    age(path, LONG_AGO + 9, LONG_AGO)  # read since it was changed, but over a day ago
    path.read_bytes()
    assert atime(path) > time.time() - 60


@base
@pytest.mark.parametrize("name", ["f", "big", "d", "link"])
def test_reading_what_only_lower_layers_have_leaves_no_trace(world: World, name: str) -> None:
    path = world.root / name
    before = atime(path)
    if path.is_symlink():
        os.readlink(path)
    elif path.is_dir():
        os.listdir(path)
    else:
        path.read_bytes()
    assert atime(path) == before
    assert world.in_upper(name) is None


@base
def test_listing_a_directory_is_a_read(world: World) -> None:
    path = world.root / "made"
    path.mkdir()
    world.remount()
    age(path, LONG_AGO, LONG_AGO + 5)
    os.listdir(path)
    assert atime(path) > time.time() - 60
