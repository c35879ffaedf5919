"""SIGKILL of an engine's server while clients write (case 15): errors at once, what was synced is there."""

from __future__ import annotations

import os
import random
import signal
import time
from pathlib import Path

import pytest

import layerfs
from tests.crash.harness import finish, start
from tests.crash.world import base_tar, command, docker_archive, mounted_sources, whole
from tests.looking import eventually

pytestmark = pytest.mark.root
ROUNDS = 8 * int(os.environ.get("LAYERFS_KILLS", "1"))


@pytest.fixture
def store(tmp_path: Path) -> Path:
    command(tmp_path / "store", "load", "-q", "-i", docker_archive(tmp_path / "b.tar", {"base:1": [base_tar()]}))
    command(tmp_path / "store", "create", "--name", "box", "base:1")
    return tmp_path / "store"


def writer(root: Path, log: Path, number: int) -> None:
    """Appends synced records to a lower file, makes and renames files; notes outside what is on the disk for sure."""
    lower = os.open(root / f"d{number}/f{number}", os.O_WRONLY | os.O_APPEND)
    note = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    count = 0
    try:
        while True:
            os.write(lower, b"%08d" % count)
            os.fsync(lower)
            temporary = root / f"d{number}/.new"
            with temporary.open("wb") as file:
                file.write(b"%d" % count * 2000)
                file.flush()
                os.fsync(file.fileno())
            temporary.rename(root / f"d{number}/made{count % 20}")
            directory = os.open(root / f"d{number}", os.O_RDONLY)
            os.fsync(directory)
            os.close(directory)
            os.write(note, b"%d %d\n" % (count, count % 20))
            count += 1
    except OSError:
        os.write(note, b"error %d\n" % time.monotonic_ns())


def noted(log: Path) -> tuple[int, int]:
    """The last record that was synced (-1 when none was), and when the client got its error."""
    lines = log.read_text().splitlines()
    assert lines[-1].startswith("error ")
    return (int(lines[-2].split()[0]) if len(lines) > 1 else -1), int(lines[-1].split()[1])


def reader(root: Path) -> None:
    """Reads until it gets an error; a read that hangs is what the test is about."""
    with pytest.raises(OSError):
        while True:
            for place in sorted((root / "d7").iterdir()):
                place.read_bytes()


@pytest.mark.parametrize("engine", ["native", "python"])
def test_server_killed_while_clients_write(store: Path, tmp_path: Path, engine: str) -> None:
    chance = random.Random(4)
    originals = {n: member_bytes(store, f"d{n}/f{n}") for n in range(2)}
    for number in range(1, ROUNDS + 1):
        command(store, "umount", "--all")
        command(store, "mount", "--engine", engine, "box")
        with layerfs.Store(store) as opened:
            [mounted] = opened.mounts()
        root, logs = Path(mounted.target), [tmp_path / f"log{number}-{n}" for n in range(2)]
        children = [start(lambda n, root=root, logs=logs: writer(root, logs[n], n), n) for n in range(2)]
        children.append(start(lambda _, root=root: reader(root), 0))
        assert eventually(lambda logs=logs: all(log.exists() for log in logs))  # type: ignore[misc]
        time.sleep(chance.uniform(0.05, 0.6))
        os.kill(mounted.pid, signal.SIGKILL)
        killed = time.monotonic_ns()
        assert [finish(*child) for child in children] == [0, 0, 0]
        assert time.monotonic_ns() - killed < 60_000_000_000
        check_round(store, logs, originals, "kernel" if number % 2 else engine, clean=number % 3)


def member_bytes(store: Path, name: str) -> bytes:
    with layerfs.Store(store) as opened, opened.image("base:1").mount() as root:
        return (root / name).read_bytes()


def check_round(store: Path, logs: list[Path], originals: dict[int, bytes], engine: str, *, clean: int) -> None:
    """The dead mount goes by `umount`, by the next mount, or by gc; then everything synced is there."""
    if clean == 0:
        command(store, "umount", "box")
    elif clean == 1:
        command(store, "gc")
        assert list(mounted_sources(store)) == []
    with layerfs.Store(store) as opened:
        box = opened.container("box")
        box.diff()
        with box.mount(engine=engine) as root:
            for n, log in enumerate(logs):
                last, _ = noted(log)
                found = (root / f"d{n}/f{n}").read_bytes()
                assert found.startswith(originals[n])
                records = found[len(originals[n]) :]
                got = [records[at : at + 8] for at in range(0, len(records), 8)]
                assert got[: last + 1] == [b"%08d" % count for count in range(last + 1)]
                for count in range(max(0, last - 19), last + 1):
                    data = (root / f"d{n}/made{count % 20}").read_bytes()
                    assert data == b"%d" % (int(data[: len(data) // 2000])) * 2000
                    assert int(data[: len(data) // 2000]) >= count
                (root / f"d{n}/f{n}").write_bytes(originals[n])
    whole(store)
