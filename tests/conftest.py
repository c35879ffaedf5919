"""What all tests share: the root marker, places, and a check that nothing stays mounted."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from layerfs.store.trash import remove_tree

PROJECT = Path(__file__).resolve().parents[1]


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    if os.geteuid() == 0:
        return
    for item in items:
        if item.get_closest_marker("root"):
            item.add_marker(pytest.mark.skip(reason="needs root: mounts, devices and namespaces"))


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder of shared suites and archives beside the project."""
    place = PROJECT.parent / "shared"
    if not place.is_dir():
        pytest.skip("no shared/ beside the project: public suites and archives are not here")
    return place


@pytest.fixture(autouse=True)
def nothing_stays(tmp_path: Path) -> Iterator[None]:
    """A test that leaves a mount below its tmp_path fails; the mount is detached. What it wrote is removed, however deep."""
    yield
    place = os.fsencode(tmp_path)
    mounts = [line.split()[4] for line in Path("/proc/self/mountinfo").read_bytes().splitlines()]
    left = [target for target in mounts if target.startswith(place + b"/")]
    for target in reversed(left):
        from layerfs import _native

        _native.umount(os.fsdecode(target), 2)
    remove_tree(tmp_path)
    if left:
        pytest.fail(f"left mounted: {left}")
