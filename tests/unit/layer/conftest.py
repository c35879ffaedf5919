"""A fresh store, and layers made of entries."""

import io

import pytest

from layerfs.layer.write import TarWriter
from layerfs.store import StoreRoot


@pytest.fixture
def root(tmp_path):
    store = StoreRoot.open(tmp_path / "store")
    yield store
    store.close()


@pytest.fixture
def lease(root):
    with root.leases.acquire("test") as held:
        yield held


@pytest.fixture
def tar_of():
    def make(*entries):
        sink = io.BytesIO()
        writer = TarWriter(sink.write)
        writer.add_all(entries)
        writer.finish()
        return sink.getvalue()

    return make
