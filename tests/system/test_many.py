"""Containers by the dozen, one after the other and all at once, each with a network: nothing of them is left.

LAYERFS_CONTAINERS: how many (100 once by hand); LAYERFS_EXECS: how many programs join one (1,000 once by hand).
"""

from __future__ import annotations

import os
import re
from collections.abc import Collection, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

import layerfs
from layerfs.runtime import netns
from tests.looking import below, cgroups, eventually, users_of, words_of
from tests.system.conftest import Host
from tests.workplace import mounts_in

pytestmark = [pytest.mark.root, pytest.mark.slow]

CONTAINERS = int(os.environ.get("LAYERFS_CONTAINERS", "8"))
EXECS = int(os.environ.get("LAYERFS_EXECS", "30"))
MONITOR_KIB = 2048


@pytest.fixture
def store(host: Host, small: str) -> Iterator[layerfs.Store]:
    with layerfs.Store(host.store) as store:
        eventually(lambda: not processes(host.store))  # of the test before
        earlier = {pid for pid, _ in processes(host.store)}  # which may end meanwhile
        before = remains(host, earlier)
        yield store
        if not eventually(lambda: remains(host, earlier) == before):  # an aftermath finds that there is nothing to do
            assert remains(host, earlier) == before


def remains(host: Host, earlier: Collection[int]) -> dict[str, object]:
    """Everything of the store's containers that there is: mounts, groups, interfaces, rules, processes, files."""
    files = [str(path) for name in ("containers", "control", "mounts", "tmp") for path in below(host.store / name)]
    files += [str(path) for path in below(host.store / "networks") if path.parent.name == "endpoints"]
    return {
        "mounts": mounts_in(host.store),
        "groups": [path for path in cgroups("") if path.parent.name == "layerfs" and ours(host, path.name)],
        "links": host.links(),
        "rules": host.other("nft", "list", "tables"),
        "processes": [each for each in processes(host.store) if each[0] not in earlier],
        "files": sorted(files),
    }


def ours(host: Host, name: str) -> bool:
    """Others use this machine too."""
    return (host.store / "containers" / name.partition(".")[0]).exists() or name in SEEN


SEEN: set[str] = set()


def processes(store: Path) -> list[tuple[int, str]]:
    """Those that have something of the store open, or stand in it, with what they run."""
    return [(pid, words_of(pid)) for pid in users_of(store)]


def started(host: Host, store: layerfs.Store, script: str, **settings: object) -> layerfs.Container:
    box = store.create("small:1", command=["sh", "-c", script], network="bridge", **settings)
    SEEN.add(box.id)
    netns.inside(host.network, box.start)
    return box


def ended(host: Host, box: layerfs.Container) -> None:
    netns.inside(host.network, lambda: box.remove(force=True))


def test_one_after_the_other(host: Host, store: layerfs.Store) -> None:
    for number in range(CONTAINERS):
        box = started(host, store, f"echo {number}; exit {number}")
        assert box.wait() == number % 256
        assert [entry.data for entry in box.logs()] == [f"{number}\n".encode()]
        ended(host, box)


def test_all_at_once(host: Host, store: layerfs.Store) -> None:
    with ThreadPoolExecutor(CONTAINERS) as pool:
        script = "echo ready; while ! test -e /stop; do sleep 0.1; done; exit 7"
        boxes = list(pool.map(lambda _: started(host, store, script), range(CONTAINERS)))
        addresses = {line for box in boxes for line in inet(box)}
        assert len(addresses) == CONTAINERS
        assert max(resident(box) for box in boxes) <= MONITOR_KIB
        assert all(box.state.running for box in boxes)
        list(pool.map(lambda box: box.exec(["sh", "-c", "echo > /stop"]), boxes))
        assert set(pool.map(lambda box: box.wait(60), boxes)) == {7}
        list(pool.map(lambda box: ended(host, box), boxes))


def inet(box: layerfs.Container) -> list[str]:
    return re.findall(r"inet (172\.[0-9.]+)/", box.exec(["ip", "addr", "show", "eth0"]).stdout.decode())


def resident(box: layerfs.Container) -> int:
    """KiB of a container's monitor."""
    status = Path(f"/proc/{box.state.pid}/status").read_text()
    monitor = re.search(r"PPid:\s*(\d+)", status)
    assert monitor is not None
    memory = re.search(r"Rss:\s*(\d+)", Path(f"/proc/{monitor[1]}/smaps_rollup").read_text())
    assert memory is not None
    return int(memory[1])


def test_many_programs_in_one(host: Host, store: layerfs.Store) -> None:
    box = started(host, store, "while :; do sleep 1000; done")
    for number in range(EXECS):
        assert box.exec(["echo", f"{number}"]).stdout == f"{number}\n".encode()
    assert box.state.running
    ended(host, box)
