"""A store with a small image, and a root of busybox for tests that run things."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

import layerfs

BUSYBOX = Path("/bin/busybox")


@pytest.fixture
def store(tmp_path: Path) -> Iterator[layerfs.Store]:
    with layerfs.Store(tmp_path / "store") as store:
        yield store


@pytest.fixture
def image(store: layerfs.Store, tmp_path: Path) -> layerfs.Image:
    place = tmp_path / "plain"
    (place / "etc").mkdir(parents=True)
    (place / "etc/motd").write_text("Welcome\n")
    return store.import_archive(place, tag="small:1", changes=["ENV A=1 B=2", 'CMD ["sh"]', "LABEL k=v"])


@pytest.fixture
def shell_image(store: layerfs.Store, tmp_path: Path) -> layerfs.Image:
    """One that programs can run in; it has no /etc, /proc, /sys and /dev."""
    if not BUSYBOX.exists():
        pytest.skip("needs busybox-static")
    place = tmp_path / "shell"
    (place / "bin").mkdir(parents=True)
    shutil.copy(BUSYBOX, place / "bin")
    for name in ("sh", "cat", "echo", "sleep", "ls", "rm", "mkdir", "touch", "id", "env", "kill", "ln"):
        (place / "bin" / name).symlink_to("busybox")
    return store.import_archive(place, tag="shell:1", changes=['CMD ["sh"]'])
