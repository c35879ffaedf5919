"""Engine `native` never shows a wrong byte: random work on several files at once, with each data path on and off.

LAYERFS_STEPS: how many steps each set of switches does (a million once by hand).
"""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest
from exerciser import Exerciser
from test_native import BIG, MIDDLE, MODES, OLD, Box
from trees import Shelf, file, hardlink

from layerfs.layer.tree import Tree

pytestmark = [pytest.mark.root, pytest.mark.timeout(36_000)]

STEPS = int(os.environ.get("LAYERFS_STEPS", "2000"))
ROUND = 2000  # then everything is in the upper: a new container
LOWER = {
    "empty": b"",
    "small": b"small",
    "packed": bytes(range(256)) * 300,
    "middle": MIDDLE,
    "big": BIG,
    "other": BIG[::-1],
    "linked": BIG[:1_500_000],
}
FILES = [["linked", "link"], *([name] for name in LOWER if name != "linked")]
SETS = {**MODES, "no_cache": ("no_cache",), "cached": ("no_passthrough", "no_cache", "no_readdirplus")}


@pytest.fixture(scope="module")
def tree(shelf: Shelf) -> Tree:
    return shelf.tree([*[file(name, data) for name, data in LOWER.items()], hardlink("link", "linked")])


@pytest.mark.parametrize("name", SETS)
def test_random_work_on_several_files(name: str, make: Callable[..., Box]) -> None:
    switches = SETS[name]
    freezes = () if {"strict", "no_passthrough", OLD} & set(switches) else ("big", "other")
    for number in range(max(1, STEPS // ROUND)):
        box = make(*switches)
        root = box.mount()
        seed = number * 100 + len(switches)
        work = Exerciser(root, FILES, seed=seed, freezes=freezes, nameless=OLD not in switches)
        try:
            for step in range(min(STEPS, ROUND)):
                work.step()
                if step % 500 == 499:
                    drop_caches()
            work.check()
        finally:
            work.end()
        work.root = box.remount()
        work.check()
        box.unmount()


def test_a_file_that_is_linked_while_it_is_passed_through_is_one_file(make: Callable[..., Box]) -> None:
    """The kernel kept the size it knew under the name that was not used to write."""
    root = make().mount()
    with (root / "big").open("rb", buffering=0) as reader:
        assert reader.read(9) == BIG[:9]
        os.link(root / "big", root / "again")
        with (root / "again").open("ab") as writer:
            writer.write(b"more")
        assert [(root / name).stat().st_size for name in ("big", "again")] == [len(BIG) + 4] * 2
        assert (root / "big").read_bytes() == BIG + b"more"
        assert reader.read() == BIG[9:]


@pytest.mark.parametrize("name", SETS)
@pytest.mark.parametrize("over", [False, True], ids=["unlink", "rename"])
def test_a_file_whose_name_goes_while_it_is_open_is_found_by_its_last_one(
    name: str, over: bool, make: Callable[..., Box]
) -> None:
    """With two nodes for one file its descriptors and its names showed different bytes."""
    box = make(*SETS[name])
    root = box.mount()
    (root / "one").write_bytes(b"old")
    os.link(root / "one", root / "two")
    root = box.remount()
    with (root / "one").open("r+b", buffering=0) as stream:
        (root / "small").rename(root / "one") if over else (root / "one").unlink()
        assert os.fstat(stream.fileno()).st_nlink == 1
        with (root / "two").open("ab") as other:
            other.write(b" and new")
        assert (os.fstat(stream.fileno()).st_ino, stream.read()) == ((root / "two").stat().st_ino, b"old and new")
        stream.write(b"!")
        assert (root / "two").read_bytes() == b"old and new!"


def drop_caches() -> None:
    Path("/proc/sys/vm/drop_caches").write_text("3")
