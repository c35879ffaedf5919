"""Engine `native` under load: many names, many open files, many clients in the same directories.

LAYERFS_STEPS: how much work the clients do.
"""

from __future__ import annotations

import os
import random
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import pytest
from test_native import BIG, Box
from trees import Shelf, directory, file

from layerfs.layer.tree import Tree
from layerfs.snapshot import native
from tests.looking import eventually

pytestmark = [pytest.mark.root, pytest.mark.timeout(36_000)]

STEPS = int(os.environ.get("LAYERFS_STEPS", "1000"))
FOLDERS, IN_FOLDER = 50, 800
SANITIZED = "LAYERFS_TEST_SERVER" in os.environ  # memory is theirs, then


@pytest.fixture(scope="module")
def tree(shelf: Shelf) -> Tree:
    return shelf.tree(
        [
            file("big", BIG),
            *[directory(f"d{number}") for number in range(FOLDERS)],
            *[file(f"d{n % FOLDERS}/name-of-a-file-{n:06}", b"%d" % n) for n in range(FOLDERS * IN_FOLDER)],
        ]
    )


@pytest.fixture
def box(make: Callable[..., Box]) -> Box:
    made = make()
    made.mount()
    return made


def drop_caches(kind: str = "2") -> None:
    Path("/proc/sys/vm/drop_caches").write_text(kind)


def walk(root: Path) -> int:
    """How many entries there are, all of them looked up."""
    count = 0
    for folder in os.scandir(root):
        count += 1
        if folder.is_dir():
            for entry in os.scandir(folder.path):
                os.stat(entry.path)
                count += 1
    return count


@pytest.mark.skipif(SANITIZED, reason="sanitizers keep freed memory")
def test_memory_follows_what_the_kernel_knows(box: Box) -> None:
    """An inode takes less than 150 bytes with its name, and all of them are given back (fuse-overlayfs#210)."""
    idle, descriptors = box.resident(), box.descriptors()
    assert idle < 8 << 20
    count = walk(box.root)
    assert count == FOLDERS * (IN_FOLDER + 1) + 1
    assert box.resident() - idle < count * 150
    drop_caches()
    assert eventually(lambda: box.resident() <= idle + (1 << 20)), (idle, box.resident())
    assert eventually(lambda: box.descriptors() <= descriptors + 8)


@pytest.fixture
def narrow(make: Callable[..., Box], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Box:
    """A server that may have 600 descriptors at most."""
    script = tmp_path / "server"
    script.write_text(f"#!/bin/sh\nulimit -n 600 && exec {native.SERVER}\n")
    script.chmod(0o755)
    monkeypatch.setattr(native, "SERVER", script)
    made = make()
    made.mount()
    return made


@pytest.mark.parametrize("kind", ["lower", "new", "removed", "nameless", "directories"])
def test_more_files_are_open_than_the_server_has_descriptors(narrow: Box, kind: str) -> None:
    """The libfuse examples fail with EMFILE here."""
    root, count = narrow.root, 1500
    opened = list(open_many(root, kind, count))
    try:
        assert len(opened) == count
        for number, fd in enumerate(opened):
            if kind == "directories":
                assert len(os.listdir(fd)) == (IN_FOLDER if number < FOLDERS else 0)
            else:
                assert os.pread(fd, 9, 0) == b"%d" % number
            assert os.fstat(fd).st_nlink == (0 if kind in ("removed", "nameless") else 1 + (kind == "directories"))
        if kind in ("removed", "nameless", "new"):
            for number, fd in enumerate(opened):
                os.pwrite(fd, b"more", 0)
                os.fchmod(fd, 0o640)
                assert (os.pread(fd, 4, 0), os.fstat(fd).st_mode & 0o777) == (b"more", 0o640), number
    finally:
        for fd in opened:
            os.close(fd)
    assert (root / "d1").is_dir()


def open_many(root: Path, kind: str, count: int) -> Iterator[int]:
    for number in range(count):
        if kind == "lower":
            yield os.open(root / f"d{number % FOLDERS}/name-of-a-file-{number:06}", os.O_RDONLY)
        elif kind == "directories":
            if number >= FOLDERS:
                (root / f"d{number}").mkdir()
            yield os.open(root / f"d{number}", os.O_RDONLY)
        else:
            path = root / f"n{number}"
            flags = os.O_RDWR | (os.O_TMPFILE if kind == "nameless" else os.O_CREAT)
            fd = os.open(root if kind == "nameless" else path, flags)
            os.write(fd, b"%d" % number)
            if kind == "removed":
                path.unlink()
            yield fd


# --- many clients ----------------------------------------------------------------------------------------------------


def client(root: str, seed: int, steps: int) -> None:
    """Changes names in directories that all share. Whatever the others do, an error is one of those that can be, and a
    file that is there is whole.
    """
    chance = random.Random(seed)
    for step in range(steps):
        folder, other = (f"{root}/d{chance.randrange(3)}" for _ in range(2))
        name, second = (f"shared{chance.randrange(12)}" for _ in range(2))
        kind = chance.randrange(9)
        with suppress(FileNotFoundError, FileExistsError):
            if kind == 0:
                write_whole(f"{folder}/{name}", f"{root}/t{seed}-{step}")
            elif kind == 1:
                os.rename(f"{folder}/{name}", f"{other}/{second}")
            elif kind == 2:
                os.link(f"{folder}/{name}", f"{other}/{second}")
            elif kind == 3:
                os.unlink(f"{folder}/{name}")
            elif kind == 4:
                names = os.listdir(folder)
                assert len(names) == len(set(names))
                assert sum(entry.startswith("name-of") for entry in names) == IN_FOLDER
            elif kind == 5:
                lower = f"{folder}/name-of-a-file-{chance.randrange(IN_FOLDER) * FOLDERS + int(folder[-1]):06}"
                os.chmod(lower, 0o600 + chance.randrange(64))
                number = int(lower[-6:])
                with open(lower, "r+b", buffering=0) as stream:
                    assert stream.read(9) == b"%d" % number
                    stream.seek(0)
                    stream.write(b"%d" % number)
            elif kind == 6:
                os.mkdir(f"{folder}/sub")
                write_whole(f"{folder}/sub/{name}", f"{root}/t{seed}-{step}")
            elif kind == 7:
                os.unlink(f"{folder}/sub/{name}")
            else:
                check_whole(f"{folder}/{name}")


def write_whole(path: str, temporary: str) -> None:
    with open(temporary, "wb") as stream:
        stream.write(os.fsencode(os.path.basename(temporary)).ljust(64) * 100)
    os.rename(temporary, path)


def check_whole(path: str) -> None:
    with open(path, "rb", buffering=0) as stream:
        data = stream.read(10_000)
    assert len(data) == 6400
    assert data == data[:64] * 100


def test_many_clients_in_the_same_directories_while_memory_is_short(box: Box) -> None:
    code = f"import sys; sys.path[:0] = {sys.path!r}; from test_load import client; client(*eval(sys.argv[1]))"
    clients = [subprocess.Popen([sys.executable, "-c", code, repr((str(box.root), seed, STEPS))]) for seed in range(6)]
    while any(process.poll() is None for process in clients):
        drop_caches("3")
        time.sleep(0.1)
    assert [process.wait() for process in clients] == [0] * 6
    before = {folder: sorted(os.listdir(box.root / folder)) for folder in ("d0", "d1", "d2")}
    found = box.root
    for folder, names in before.items():
        assert sum(name.startswith("name-of") for name in names) == IN_FOLDER
        for name in names:
            if name.startswith("shared"):
                check_whole(f"{found}/{folder}/{name}")
    box.remount()
    assert {folder: sorted(os.listdir(box.root / folder)) for folder in before} == before
    assert not [name for name in os.listdir(box.root) if name.startswith("t")]
