"""Hand-made layers give exactly the trees that are written down, through both implementations.

To write the trees down anew: LAYERFS_WRITE_GOLDEN=1, then read the difference.
"""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from layerfs import _pure
from layerfs.errors import InvalidArchive
from layerfs.layer.tree import Tree
from layerfs.layer.tree_text import parse_tree_text, tree_text
from tests.golden.layers import REFUSED, TREES
from tests.trees import Shelf, native

HERE = Path(__file__).parent
MODULES = {"pure": _pure, "native": native()}


@pytest.fixture(params=MODULES)
def shelf(request: pytest.FixtureRequest, tmp_path: Path) -> Shelf:
    if MODULES[request.param] is None:
        pytest.skip("the compiled part is not built")
    return Shelf(tmp_path, MODULES[request.param])


def trees_of(shelf: Shelf, layers: list[bytes]) -> list[Tree]:
    return [*(shelf.read(tar) for tar in layers), shelf.merge()]


@pytest.mark.parametrize("name", TREES)
def test_trees_are_as_written_down(shelf: Shelf, name: str) -> None:
    found = [line for tree in trees_of(shelf, TREES[name]) for line in tree_text(tree)]
    golden = HERE / f"{name}.txt"
    if os.environ.get("LAYERFS_WRITE_GOLDEN"):
        golden.write_text("\n".join(found) + "\n")
    assert found == golden.read_text().splitlines()


@pytest.mark.parametrize("name", REFUSED)
def test_is_refused(shelf: Shelf, name: str) -> None:
    with pytest.raises(InvalidArchive):
        trees_of(shelf, REFUSED[name])


@pytest.mark.parametrize("name", TREES)
def test_the_tar_comes_back_from_its_record(shelf: Shelf, name: str) -> None:
    trees_of(shelf, TREES[name])
    assert [shelf.replay(number) for number in range(len(TREES[name]))] == TREES[name]


@pytest.mark.parametrize("name", TREES)
def test_the_text_gives_the_same_bytes_again(name: str, tmp_path: Path) -> None:
    for number, tree in enumerate(trees_of(Shelf(tmp_path), TREES[name])):
        again = tmp_path / f"again-{number}"
        parse_tree_text(tree_text(tree), str(again))
        assert again.read_bytes() == Path(tree.path).read_bytes()
