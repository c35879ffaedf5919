"""What is handed to others: lists of changes by kind, and objects for other processes."""

from __future__ import annotations

import pickle
import subprocess
import sys
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path

import pytest

import layerfs


def test_changes_come_by_kind_with_sizes(store: layerfs.Store, image: layerfs.Image) -> None:
    box = store.create(image)
    (box.upper / "new").write_bytes(b"x" * 10)
    other = box.commit()
    changes = layerfs.diff(image, other)
    assert [(c.path, c.size) for c in changes.added] == [("/new", 10)]
    assert (changes.changed, changes.deleted) == ([], [])
    assert [(c.path, c.size) for c in layerfs.diff(other, image).deleted] == [("/new", 10)]
    assert [c.path for c in box.diff().added] == ["/new"]


def test_store_image_container_and_snapshot_can_be_pickled(store: layerfs.Store, image: layerfs.Image) -> None:
    box = store.create(image, name="box")
    snapshot = box.snapshot("one")
    kept = (image, box, snapshot)
    there = pickle.loads(pickle.dumps(kept))
    assert there == kept and there[0].store is there[1].store
    assert there[0].history() == image.history()
    there[0].store.close()
    assert box.name == "box"  # ours is still open


def _name(box: layerfs.Container) -> str:
    with box.store:
        return box.name


def test_a_container_goes_to_a_spawned_process(store: layerfs.Store, image: layerfs.Image) -> None:
    boxes = [store.create(image, name=name) for name in ("one", "two")]
    with ProcessPoolExecutor(2, mp_context=get_context("spawn")) as pool:
        assert list(pool.map(_name, boxes)) == ["one", "two"]


def test_a_store_that_is_gone_is_not_made_by_unpickling(tmp_path: Path) -> None:
    with layerfs.Store(tmp_path / "first") as store:
        data = pickle.dumps(store)
    (tmp_path / "first").rename(tmp_path / "second")
    with pytest.raises(layerfs.errors.StoreError, match="there is no layerfs store"):
        pickle.loads(data)


def test_the_package_runs_as_a_module() -> None:
    done = subprocess.run([sys.executable, "-m", "layerfs", "--version"], capture_output=True, text=True, check=True)
    assert done.stdout == f"layerfs version {layerfs.__version__}\n"


def test_what_is_compared_must_be_images(image: layerfs.Image) -> None:
    with pytest.raises(TypeError, match="two images or two snapshots, not Image and str"):
        layerfs.diff(image, "small:1")  # type: ignore[arg-type]


@pytest.mark.root
def test_a_mount_that_has_ended_is_not_entered_again(store: layerfs.Store, image: layerfs.Image) -> None:
    handle = store.create(image).mount()
    with handle as place:
        assert (place / "etc/motd").read_text() == "Welcome\n"
    handle.unmount()
    with pytest.raises(layerfs.errors.MountError, match="has ended"), handle:
        pytest.fail("entered")
