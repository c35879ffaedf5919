"""A small root made of busybox, and helpers that run things in it."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from layerfs.runtime import RunOptions, RunResult, helper, run

BUSYBOX = Path("/bin/busybox")
PASSWD = "root:x:0:0:root:/root:/bin/sh\nbob:x:1000:1001::/home/bob:/bin/sh\n"
GROUP = "root:x:0:\nbob:x:1001:\nstaff:x:50:bob\n"


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if Path(__file__).parent in item.path.parents:
            item.add_marker(pytest.mark.root)


@pytest.fixture(scope="session", autouse=True)
def the_helper() -> None:
    """Sanitizer builds are tested by naming one in LAYERFS_TEST_HELPER."""
    if place := os.environ.get("LAYERFS_TEST_HELPER"):
        helper.PATH = Path(place)  # type: ignore[misc]
    if not helper.PATH.exists():
        pytest.fail("layerfs-run is not built: python setup.py build_ext --inplace")


@pytest.fixture(scope="session")
def busybox_bin(tmp_path_factory: pytest.TempPathFactory) -> Path:
    if not BUSYBOX.exists():
        pytest.skip("needs busybox-static")
    place = tmp_path_factory.mktemp("busybox")
    place.chmod(0o755)
    shutil.copy(BUSYBOX, place / "busybox")
    names = subprocess.run([place / "busybox", "--list"], check=True, capture_output=True, text=True).stdout.split()
    for name in names:
        if name != "busybox":
            (place / name).symlink_to("busybox")
    return place


@pytest.fixture
def root(tmp_path: Path, busybox_bin: Path) -> Path:
    place = tmp_path / "root"
    for name in ("etc", "tmp", "proc", "home/bob"):
        (place / name).mkdir(parents=True)
    shutil.copytree(busybox_bin, place / "bin", symlinks=True, copy_function=os.link)
    (place / "etc/passwd").write_text(PASSWD)
    (place / "etc/group").write_text(GROUP)
    return place


Runner = Callable[..., RunResult]


@pytest.fixture
def box(root: Path) -> Runner:
    """box("sh text") or box(["argv"]) with options of RunOptions and of run(); a hanging test is killed after 120 s."""

    def box(command=None, *, config=None, root=root, **options):
        own = {"stdin", "stdout", "stderr", "timeout", "output_limit", "on_started", "state", "forward_signals"}
        how = {name: options.pop(name) for name in list(options) if name in own}
        if isinstance(command, str):
            command = ["sh", "-c", command]
        return run(root, config or {}, RunOptions(command=command, **options), **{"timeout": 120, **how})

    return box
