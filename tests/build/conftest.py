"""A store with one image that programs can run in, shared by all tests of a session, and contexts written as texts."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

import layerfs
from layerfs.build.events import BuildEvent
from layerfs.runtime import helper

BUSYBOX = Path("/bin/busybox")
PROGRAMS = "sh cat echo ls rm env id pwd touch mkdir chmod chown stat sleep find test true false ln mv grep seq cp date"
Files = Mapping[str, str | bytes]


@pytest.fixture(scope="session", autouse=True)
def the_helper() -> None:
    """Sanitizer builds are tested by naming one in LAYERFS_TEST_HELPER."""
    if place := os.environ.get("LAYERFS_TEST_HELPER"):
        helper.PATH = Path(place)  # type: ignore[misc]


def make_base(place: Path) -> Path:
    """A root of busybox."""
    (place / "bin").mkdir(parents=True)
    (place / "etc").mkdir()
    (place / "tmp").mkdir()
    (place / "tmp").chmod(0o1777)
    (place / "etc/passwd").write_text("root:x:0:0::/root:/bin/sh\nbob:x:1000:1001::/home/bob:/bin/sh\n")
    (place / "etc/group").write_text("root:x:0:\nbob:x:1001:\nstaff:x:50:bob\n")
    shutil.copy(BUSYBOX, place / "bin")
    for name in PROGRAMS.split():
        (place / "bin" / name).symlink_to("busybox")
    return place


@pytest.fixture(scope="session")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    if not BUSYBOX.exists():
        pytest.skip("needs busybox-static")
    return make_base(tmp_path_factory.mktemp("base") / "root")


@pytest.fixture(scope="session")
def shared_store(tmp_path_factory: pytest.TempPathFactory, base: Path) -> Iterator[layerfs.Store]:
    with layerfs.Store(tmp_path_factory.mktemp("build") / "store") as store:
        store.import_archive(base, tag="box:1")
        yield store


@pytest.fixture
def store(shared_store: layerfs.Store) -> Iterator[layerfs.Store]:
    """The shared store; a build that leaves a mount, a container or a lease behind fails its test."""
    yield shared_store
    assert shared_store.mounts(dead=True) == []
    assert shared_store.container_table.list() == []
    assert shared_store.root.leases.living() == []


def write_files(top: Path, files: Files) -> Path:
    """Files by name; `x ->` is a symlink to its text, a name that ends with a slash an empty directory."""
    top.mkdir(parents=True, exist_ok=True)
    for name, text in files.items():
        place = top / name.removesuffix(" ->")
        place.parent.mkdir(parents=True, exist_ok=True)
        if name.endswith("/"):
            place.mkdir(exist_ok=True)
        elif name.endswith(" ->"):
            place.symlink_to(os.fsdecode(text) if isinstance(text, bytes) else text)
        else:
            place.write_bytes(text if isinstance(text, bytes) else text.encode())
    return top


Build = Callable[..., layerfs.Image]


@pytest.fixture
def build(store: layerfs.Store, tmp_path: Path) -> Build:
    """Builds a Dockerfile's text with files as its context."""

    def run(dockerfile: str, files: Files | None = None, **how: Any) -> layerfs.Image:
        context = write_files(tmp_path / "context", {"Dockerfile": dockerfile, **(files or {})})
        return store.build(context, **how)

    return run


def tree(image: layerfs.Image) -> dict[str, tuple[int, int, int]]:
    """Mode with its type, uid and gid of every path."""
    return {path.decode(): (inode.mode, inode.uid, inode.gid) for path, inode in image.tree().walk() if path}


def read(image: layerfs.Image, path: str) -> bytes:
    """A file's bytes, without a mount."""
    found = image.tree()
    inode = found.resolve(path.encode())
    assert inode is not None, path
    identity = found.content(inode)
    return image.store.root.contents.read(identity) if identity else b""


class Events(list[BuildEvent]):
    """A progress callback that keeps what it hears."""

    def __call__(self, event: BuildEvent) -> None:
        self.append(event)

    def kinds(self, kind: str) -> list[str]:
        names = {event.step: event.text for event in self if event.kind == "start"}
        return [names[event.step] for event in self if event.kind == kind and not event.meta]

    def output(self) -> str:
        return b"".join(event.data for event in self if event.kind == "output").decode()
