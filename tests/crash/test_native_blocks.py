"""Block-level files when the server dies before any of its changes of a file, and when the power goes at any moment.

The server's changes are noted by a library that is loaded into it (changes.c), which also kills it. Power loss is a
model: changes of sizes, holes and marks reach the disk in their order, bytes that were not synced may be lost.

LAYERFS_ROUNDS: how many losses of power.
"""

from __future__ import annotations

import ctypes
import errno
import itertools
import os
import random
import struct
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

sys.path[:0] = [str(Path(__file__).parents[1] / "fuse"), str(Path(__file__).parents[1] / "conformance")]

from test_native import Box
from trees import Shelf, file

from layerfs import mount
from layerfs.layer.blocks import Base
from layerfs.layer.tree import Tree
from layerfs.snapshot.native import start_native

pytestmark = [pytest.mark.root, pytest.mark.timeout(36_000)]

ROUNDS = int(os.environ.get("LAYERFS_ROUNDS", "300"))
BLOCK = 4096
SIZE = 40 * BLOCK + 1234
DATA = b"".join(b"%08d" % number for number in range(SIZE // 8 + 1))[:SIZE]
KEEP, PUNCH, ZERO = 1, 2, 16
_LIBC = ctypes.CDLL(None, use_errno=True)
Act = Callable[[Path, bytearray], None]


# --- what is done, to the file and to the bytes it must have ---------------------------------------------------------


def write(at: int, text: bytes) -> Act:
    def act(path: Path, body: bytearray) -> None:
        body.extend(bytes(max(0, at - len(body))))
        body[at : at + len(text)] = text
        with path.open("r+b", buffering=0) as out:
            if os.pwrite(out.fileno(), text, at) != len(text):
                raise OSError(errno.EIO, "half of it")

    return act


def cut(size: int) -> Act:
    def act(path: Path, body: bytearray) -> None:
        body.extend(bytes(max(0, size - len(body))))
        del body[size:]
        os.truncate(path, size)

    return act


def allocate(mode: int, at: int, count: int) -> Act:
    def act(path: Path, body: bytearray) -> None:
        if not mode & KEEP:
            body.extend(bytes(max(0, at + count - len(body))))
        end = min(at + count, len(body))
        if mode & (PUNCH | ZERO):
            body[at:end] = bytes(max(0, end - at))
        with path.open("r+b", buffering=0) as out:
            if _LIBC.fallocate(out.fileno(), mode, ctypes.c_long(at), ctypes.c_long(count)):
                raise OSError(ctypes.get_errno(), "fallocate")

    return act


def sync(path: Path, body: bytearray) -> None:
    with path.open("r+b", buffering=0) as out:
        os.fsync(out.fileno())


SCRIPT: list[Act] = [
    write(3 * BLOCK + 17, b"first"),
    write(10 * BLOCK - 5, b"over a border"),
    write(20 * BLOCK, b"w" * (3 * BLOCK)),
    sync,
    write(5 * BLOCK, bytes(BLOCK)),
    write(20 * BLOCK + 1, b"again"),
    allocate(PUNCH | KEEP, 12 * BLOCK + 5, 2 * BLOCK),
    write(SIZE - 3, b"over the end"),
    cut(30 * BLOCK + 77),
    write(29 * BLOCK, b"x" * (2 * BLOCK)),
    sync,
    cut(35 * BLOCK),
    allocate(0, 24 * BLOCK, 8 * BLOCK),
    allocate(ZERO, 28 * BLOCK + 9, 20 * BLOCK),
    write(50 * BLOCK + 1, b"far behind"),
    cut(26 * BLOCK),
    write(0, b"f" * (20 * BLOCK)),
    sync,
    cut(0),
    write(BLOCK, b"the end"),
]


# --- running it ------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def shelf(tmp_path_factory: pytest.TempPathFactory) -> Shelf:
    return Shelf(tmp_path_factory.mktemp("blocks-crash"))


@pytest.fixture(scope="module")
def tree(shelf: Shelf) -> Tree:
    return shelf.tree([file("a", DATA)])


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("library") / "changes.so"
    source = Path(__file__).with_name("changes.c")
    subprocess.run(["gcc", "-shared", "-fPIC", "-O1", "-Wall", "-Werror", "-o", out, source], check=True)
    return out


class Watched(Box):
    """A mount whose server has the library in it."""

    def serve(self, library: Path, **variables: str) -> Path:
        orders = self.orders() | {"blocks_size": "131073"}
        self.pid = start_native(orders, [], environment={"LD_PRELOAD": str(library), **variables})
        return self.root

    def after_death(self) -> Path:
        self.await_end()
        while mount.entry_of(self.root) is not None:
            mount.detach(self.root, lazy=True)
        return self.mount()


def blocks_of(data: bytes | bytearray) -> list[bytes]:
    return [bytes(data[at : at + BLOCK]).ljust(BLOCK, b"\0") for at in range(0, len(data), BLOCK)]


def check(found: bytes, states: list[bytes], what: str) -> None:
    """Each block is as it was in one of the states; behind the end of a file there are zeros."""
    sizes = {len(state) for state in states}
    assert min(sizes) <= len(found) <= max(sizes), (what, len(found), sizes)
    splits = [blocks_of(state) for state in states]
    for number, block in enumerate(blocks_of(found)):
        allowed = [split[number] if number < len(split) else bytes(BLOCK) for split in splits]
        end = len(found) - number * BLOCK
        assert any(block[:end] == each[:end] for each in allowed), f"{what}: block {number} is {block[:20]!r}"


def test_a_server_killed_before_any_of_its_changes_leaves_old_or_new_blocks(
    shelf: Shelf, tree: Tree, library: Path, tmp_path: Path
) -> None:
    for number in itertools.count(1):
        box = Watched(shelf, tree, tmp_path / f"box{number}", ())
        root = box.serve(library, LAYERFS_DIE_AT=str(number))
        body = bytearray(DATA)
        died = False
        for act in SCRIPT:
            before = bytes(body)
            try:
                act(root / "a", body)
            except OSError:
                died = True
                break
        if died:
            root = box.after_death()
            check((root / "a").read_bytes(), [before, bytes(body)], f"killed before change {number}")
            os.truncate(root / "a", 60 * BLOCK)  # nothing comes back
            grown = [state.ljust(60 * BLOCK, b"\0") for state in (before, bytes(body))]
            check((root / "a").read_bytes(), grown, f"grown after change {number}")
        else:
            assert (root / "a").read_bytes() == body
        box.unmount()
        if not died:
            break
    assert number > len(SCRIPT)


# --- power loss ------------------------------------------------------------------------------------------------------


@dataclass
class Disk:
    """What the disk has of one file."""

    size: int = 0
    blocks: dict[int, bytearray] = field(default_factory=dict)
    mark: Base | None = None

    def write(self, at: int, data: bytes) -> None:
        self.size = max(self.size, at + len(data))
        for start in range(at - at % BLOCK, at + len(data), BLOCK):
            block = self.blocks.setdefault(start // BLOCK, bytearray(BLOCK))
            first, end = max(at, start), min(at + len(data), start + BLOCK)
            block[first - start : end - start] = data[first - at : end - at]

    def zero(self, at: int, end: int) -> None:
        for number in [number for number in self.blocks if at < (number + 1) * BLOCK and number * BLOCK < end]:
            start = number * BLOCK
            if at <= start and start + BLOCK <= end:
                del self.blocks[number]
            else:
                first, last = max(at, start), min(end, start + BLOCK)
                self.blocks[number][first - start : last - start] = bytes(last - first)

    def truncate(self, size: int) -> None:
        self.zero(size, max(self.size, size) + BLOCK)
        self.size = size

    def shown(self) -> bytes:
        valid = min(self.mark.length, self.size) if self.mark else 0
        below = blocks_of(DATA[:valid])
        found = [
            self.blocks.get(number) or (below[number] if number < len(below) else bytes(BLOCK))
            for number in range(-(-self.size // BLOCK))
        ]
        return b"".join(found)[: self.size]


Record = tuple[str, int, int, bytes]


def records(path: Path, ino: int) -> Iterator[tuple[int, Record]]:
    """(where it ends in the notes, kind, offset, length, bytes) of the changes of one file."""
    text, at = path.read_bytes(), 0
    while at < len(text):
        kind, inode, offset, length = struct.unpack_from("=4Q", text, at)
        at += 32
        data = text[at : at + length] if chr(kind) in "wx" else b""
        at += len(data)
        if inode == ino:
            yield at, (chr(kind), offset, length, data)


def lost(changes: list[Record], chance: random.Random) -> Disk:
    """The disk after a loss of power: bytes that were not synced may be missing."""
    disk = Disk()
    synced = max((number for number, change in enumerate(changes) if change[0] == "s"), default=-1)
    for number, (kind, offset, length, data) in enumerate(changes):
        if kind == "w":
            for at in [offset, *range(offset - offset % BLOCK + BLOCK, offset + length, BLOCK)]:
                if number < synced or chance.random() < 0.5:
                    end = min(offset + length, at - at % BLOCK + BLOCK)
                    disk.write(at, data[at - offset : end - offset])
        elif kind == "t":
            disk.truncate(offset)
        elif kind in "ABDQR":
            mode = ord(kind) - ord("A")
            if mode & (PUNCH | ZERO):
                disk.zero(offset, offset + length)
            if not mode & KEEP:
                disk.size = max(disk.size, offset + length)
        elif kind == "x":
            disk.mark = Base.parse(data)
        elif kind == "r":
            disk.mark = None
    return disk


def test_a_loss_of_power_leaves_blocks_that_were_there_since_the_last_sync(
    shelf: Shelf, tree: Tree, library: Path, tmp_path: Path
) -> None:
    box = Watched(shelf, tree, tmp_path / "box", ())
    notes = tmp_path / "notes"
    root = box.serve(library, LAYERFS_NOTE=str(notes))
    body = bytearray(DATA)
    states, ends, synced = [bytes(DATA)], [0], [0]
    for number, act in enumerate(SCRIPT, 1):
        act(root / "a", body)
        states.append(bytes(body))
        ends.append(notes.stat().st_size)
        synced.append(number if act is sync else synced[-1])
    time.sleep(0.1)
    ino = (box.upper / "a").stat().st_ino
    box.unmount()
    every = list(records(notes, ino))
    first = next(number for number, (_, change) in enumerate(every) if change[0] == "x") + 1
    chance = random.Random(1)
    for turn in range(ROUNDS):
        upto = chance.randrange(first, len(every) + 1)
        end = every[upto - 1][0]
        now = next((number for number, at in enumerate(ends) if at >= end), len(ends) - 1)
        allowed = states[synced[now - 1] : now + 1]
        check(lost([change for _, change in every[:upto]], chance).shown(), allowed, f"round {turn}, {upto} changes")
