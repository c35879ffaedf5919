from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from layerfs.store import StoreRoot


@pytest.fixture
def root(tmp_path: Path) -> Iterator[StoreRoot]:
    with StoreRoot.open(tmp_path / "store") as opened:
        yield opened
