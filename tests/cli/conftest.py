"""The `layerfs` command as a process of its own, on a store that has one image that programs can run in."""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

import layerfs
from layerfs.runtime import helper

BUSYBOX = Path("/bin/busybox")
LAYERFS = [sys.executable, "-c", "import sys; from layerfs.cli import main; sys.exit(main())"]
PROGRAMS = (
    "sh",
    "cat",
    "echo",
    "sleep",
    "ls",
    "rm",
    "env",
    "kill",
    "id",
    "pwd",
    "hostname",
    "touch",
    "readlink",
    "trap",
    *(
        "umount",
        "mount",
        "rmdir",
        "ps",
        "tty",
        "stty",
        "yes",
        "head",
        "seq",
        "find",
        "mkdir",
        "ln",
        "true",
        "test",
        "dd",
        "mknod",
        "chmod",
        "sync",
    ),
)


@pytest.fixture(scope="session", autouse=True)
def the_helper() -> None:
    """Sanitizer builds are tested by naming one in LAYERFS_TEST_HELPER."""
    if place := os.environ.get("LAYERFS_TEST_HELPER"):
        helper.PATH = Path(place)  # type: ignore[misc]


@pytest.fixture(scope="session")
def template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    if not BUSYBOX.exists():
        pytest.skip("needs busybox-static")
    place = tmp_path_factory.mktemp("template")
    (place / "root/bin").mkdir(parents=True)
    (place / "root/etc").mkdir()
    (place / "root/etc/passwd").write_text("root:x:0:0::/root:/bin/sh\nbob:x:1000:1001::/home/bob:/bin/sh\n")
    shutil.copy(BUSYBOX, place / "root/bin")
    for name in PROGRAMS:
        (place / "root/bin" / name).symlink_to("busybox")
    with layerfs.Store(place / "store") as store:
        store.import_archive(place / "root", tag="box:1", changes=['CMD ["echo", "the default"]'])
    return place / "store"


@pytest.fixture
def store(tmp_path: Path, template: Path) -> Path:
    shutil.copytree(template, tmp_path / "store")
    return tmp_path / "store"


@pytest.fixture
def opened(store: Path) -> Iterator[layerfs.Store]:
    """The store, whose containers go at the end, running or not."""
    with layerfs.Store(store) as opened:
        yield opened
        for box in opened.containers():
            with contextlib.suppress(layerfs.errors.ContainerNotFound):
                box.remove(force=True)


@pytest.fixture
def shell(opened: layerfs.Store) -> Callable[..., layerfs.Container]:
    """shell("sh text", setting=...): a container that was made, not started."""

    def create(script: str, **settings: object) -> layerfs.Container:
        return opened.create("box:1", command=["sh", "-c", script], **settings)

    return create


Run = Callable[..., "subprocess.CompletedProcess[bytes]"]


@pytest.fixture
def layerfs_command(store: Path) -> Run:
    """layerfs_command("run", "box:1"): the finished process; stderr never has a traceback."""

    def run(*arguments: str | bytes, env: dict[str, str] | None = None, **how: object) -> object:
        how = {"stdin": subprocess.DEVNULL, "capture_output": True} | how if "stdout" not in how else how
        if "input" in how:
            how.pop("stdin", None)
        done = subprocess.run(
            [*LAYERFS, *arguments],
            env={**os.environ, "LAYERFS_STORE": str(store)} | (env or {}),
            timeout=120,
            check=False,
            **how,
        )
        assert b"Traceback" not in (done.stderr or b"")
        return done

    return run
