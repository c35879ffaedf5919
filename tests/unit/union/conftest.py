"""A union in this process over small layers."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

sys.path.insert(0, str(Path(__file__).parents[2] / "conformance"))

from trees import Shelf

from layerfs.layer.tree import Tree
from layerfs.union import Contents, Union


class Bench:
    """Opens unions over one tree, with as many frozen directories as wanted."""

    def __init__(self, home: Path, layers: tuple[Any, ...]) -> None:
        self.home = home
        self.shelf = Shelf(home / "shelf")
        self.tree: Tree = self.shelf.tree(*layers)
        self.upper, self.work = home / "upper", home / "work"
        self.upper.mkdir()
        self.work.mkdir()
        self.frozen: list[Path] = []
        self._open: list[Union] = []

    def union(self, *, writable: bool = True) -> Union:
        self.close()
        contents = Contents(self.shelf.objects, [(n, self.shelf.pack_path(n)) for n in self.tree.packs])
        where = {"upper": self.upper, "work": self.work} if writable else {}
        union = Union(self.tree, contents, frozen=self.frozen, sync=False, **where)
        self._open.append(union)
        return union

    def freeze(self) -> Union:
        """What a snapshot does: the upper is frozen, a fresh one comes on top."""
        self.close()
        aside = self.home / f"frozen{len(self.frozen)}"
        self.upper.rename(aside)
        self.upper.mkdir()
        self.frozen.insert(0, aside)
        return self.union()

    def close(self) -> None:
        while self._open:
            self._open.pop().close()


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Callable[..., Bench]]:
    made: list[Bench] = []

    def make(*layers: Any) -> Bench:
        made.append(Bench(tmp_path / f"bench{len(made)}", layers))
        return made[-1]

    yield make
    for each in made:
        each.close()
