"""The `world` fixture: a test asks for layers with `@layers(...)` and runs once on every implementation.

After each test the tree is mounted again, by the same engine and by the other one, and must look the same.
"""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

sys.path.insert(0, str(Path(__file__).parent))

import uring
from trees import Shelf
from worlds import WORLDS, EngineWorld, World, picture, union_picture

from layerfs.store.root import StoreRoot


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "layers(*layers): what the world's lower layers hold, base first")
    config.addinivalue_line("markers", "diverges(*worlds, reason): known to fail there")
    config.addinivalue_line("markers", "no_remount: the tree is not compared after a remount")


@pytest.fixture(scope="session")
def shelf(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Shelf]:
    """One store for the whole run; every test has a writable directory of its own."""
    home = tmp_path_factory.mktemp("conformance")
    with StoreRoot.open(home / "store") as store:
        EngineWorld.store, EngineWorld.shelf = store, Shelf(home / "store")
        yield EngineWorld.shelf


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "world" in metafunc.fixturenames:
        without = [] if uring.available() else ["uring"]  # a kernel before 6.14
        metafunc.parametrize("world", [name for name in WORLDS if name not in without], indirect=True)


@pytest.fixture
def world(request: pytest.FixtureRequest, shelf: Shelf, tmp_path: Path) -> Iterator[World]:
    kind = WORLDS[request.param]
    for marker in request.node.iter_markers("diverges"):
        if request.param in marker.args:
            request.node.add_marker(pytest.mark.xfail(reason=marker.kwargs["reason"], strict=True))
    marker = request.node.get_closest_marker("layers")
    world = kind(tmp_path / "box", marker.args if marker else ())
    try:
        world.mount()
        yield world
        if not request.node.get_closest_marker("no_remount"):
            check_remount(world)
    finally:
        world.unmount()


def check_remount(world: World) -> None:
    """The same engine again (its rules, for `python`), then the other one."""
    before = picture(world.root, inodes=world.stable_links)
    if not isinstance(world, EngineWorld):
        world.remount()
        assert picture(world.root, inodes=world.stable_links) == before, "a remount changed the tree"
        return
    if world.engine in ("kernel", "native"):
        world.remount()
        assert picture(world.root) == before, "a remount changed the tree"
    world.unmount()
    with contextlib.closing(world.union()) as union:
        assert union_picture(union, inodes=True) == before, "the union in Python sees another tree"
    without = {path: facts[:-1] if path else facts for path, facts in before.items()}
    for other in sorted({"kernel", "native"} - {world.engine}):
        world.mount_with(other)
        assert picture(world.root, inodes=False) == without, f"the engine {other} sees another tree"
        world.unmount()


@pytest.fixture
def make_world(shelf: Shelf, tmp_path: Path) -> Iterator[Callable[..., World]]:
    """For tests that want a certain implementation, or several mounts."""
    made: list[World] = []

    def make(name: str, *layers: Any) -> World:
        world = WORLDS[name](tmp_path / f"box{len(made)}", layers)
        made.append(world)
        world.mount()
        return world

    yield make
    for world in made:
        world.unmount()
