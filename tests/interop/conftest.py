"""A store in memory: these suites make many small ones."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from layerfs.store.root import StoreRoot


@pytest.fixture
def root(tmp_path: Path) -> Iterator[StoreRoot]:
    memory = Path("/dev/shm")
    place = Path(tempfile.mkdtemp(dir=memory)) if os.access(memory, os.W_OK) else tmp_path
    with StoreRoot.open(place / "store") as opened:
        yield opened
    shutil.rmtree(place, ignore_errors=True)
