"""A store with a small tree, and whatever is mounted goes at the end."""

from __future__ import annotations

import sys
from pathlib import Path

sys.path[:0] = [str(Path(__file__).parent), str(Path(__file__).parents[1] / "conformance")]

import importlib.util

_spec = importlib.util.spec_from_file_location(
    "layerfs_snapshot_fixtures", Path(__file__).parents[1] / "unit/snapshot/conftest.py"
)
assert _spec and _spec.loader
_fixtures = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(_fixtures)
store, tree = _fixtures.store, _fixtures.tree

_fixtures = importlib.import_module("test_native")
shelf, make = _fixtures.shelf, _fixtures.make
