"""A program that writes as fast as it can: every byte is in the log, also when that is rotated while it is followed."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable, Iterator
from pathlib import Path

import pytest

import layerfs
from layerfs.engine.logs import LogEntry
from tests.system.conftest import Host

pytestmark = [pytest.mark.root, pytest.mark.slow]

MEGABYTES = int(os.environ.get("LAYERFS_LOG_MEGABYTES", "32"))
LINE = "x" * 99


@pytest.fixture
def store(host: Host, small: str) -> Iterator[layerfs.Store]:
    with layerfs.Store(host.store) as store:
        yield store
        for box in store.containers():
            box.remove(force=True)


def wanted() -> str:
    digest = hashlib.sha256()
    for _ in range(MEGABYTES):
        digest.update(f"{LINE}\n".encode() * 10_000)
    return digest.hexdigest()


def found(entries: Iterable[LogEntry]) -> str:
    digest = hashlib.sha256()
    for entry in entries:
        digest.update(entry.data)
    return digest.hexdigest()


def test_nothing_is_lost(store: layerfs.Store) -> None:
    box = store.create("small:1", command=["sh", "-c", f"yes {LINE} | head -n {MEGABYTES}0000"])
    box.start()
    assert box.wait(300) == 0
    assert found(box.logs()) == wanted()


def test_who_follows_misses_nothing_when_files_are_rotated(store: layerfs.Store) -> None:
    options = {"max-size": "4m", "max-file": "100"}
    box = store.create("small:1", command=["sh", "-c", f"yes {LINE} | head -n {MEGABYTES}0000"], log_opts=options)
    box.start()
    assert found(box.logs(follow=True)) == wanted()
    files = sorted(Path(box.directory, "log").iterdir())
    assert len(files) > MEGABYTES // 4
    assert max(file.stat().st_size for file in files) < 5 << 20
