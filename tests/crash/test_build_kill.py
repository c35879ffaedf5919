"""SIGKILL at random moments of builds, and full disks: nothing is left, and the next build uses what was finished.

LAYERFS_KILLS multiplies the rounds.
"""

from __future__ import annotations

import contextlib
import os
from pathlib import Path
from typing import Any

import pytest

import layerfs
from layerfs.build.steps import StepFailed
from layerfs.errors import NoSpace
from tests.build.conftest import BUSYBOX, Events, make_base, read, write_files
from tests.crash.harness import crash_rounds
from tests.crash.world import mounted_sources, processes, whole
from tests.disks import filled, small_disk
from tests.looking import eventually

pytestmark = [pytest.mark.root, pytest.mark.skipif(not BUSYBOX.exists(), reason="needs busybox-static")]

ROUNDS = 8 * int(os.environ.get("LAYERFS_KILLS", "1"))
SEED = int(os.environ.get("LAYERFS_SEED", "0"))
SECRET = os.urandom(8).hex().encode()  # of this session
TEXT = """FROM box:1 AS first
COPY d /d
RUN --mount=type=cache,target=/c,id=kept --mount=target=/ctx --mount=type=secret,id=s \
    echo {number} >> /c/log; cat /ctx/f /run/secrets/s > /first; dd if=/dev/zero of=/big bs=64k count=40 2>/dev/null
FROM box:1 AS second
RUN seq 1 2000 > /second; chown bob /etc/group; rm /etc/passwd
FROM box:1
COPY --from=first /first /big /
COPY --from=second /second /number-{number}
RUN --network=none echo {number} > /last; chmod 700 /big
"""


def context(top: Path, number: int) -> Path:
    files = {f"d/{n}": f"{n} {number}" for n in range(30)}
    return write_files(top / "context", {"Dockerfile": TEXT.format(number=number), "f": f"{number}\n", **files})


def build(place: Path, context: Path, **how: Any) -> None:
    with layerfs.Store(place) as store:
        store.build(context, tag="built:1", secrets={"s": SECRET}, network="none", **how)


def left(place: Path) -> list[str]:
    """What a build has left behind: mounts, containers, secrets, processes."""
    with layerfs.Store(place) as store:
        found = [box.id for box in store.container_table.list()]
        found += [record.target for record in store.mounts(dead=True)]
    found += mounted_sources(place)
    found += secrets()
    return found + [line for line in processes().splitlines() if f" {place}" in line or f"={place}" in line]


def secrets() -> list[str]:
    """Ours: other builds' come and go."""
    found = []
    for path in Path("/dev/shm").glob("layerfs-secret-*"):
        with contextlib.suppress(OSError):
            if (path / "secret").read_bytes() == SECRET:
                found.append(str(path))
    return found


def clean(place: Path) -> None:
    assert eventually(lambda: not left(place)), left(place)


def test_a_killed_build_leaves_nothing_and_the_next_one_ends_it(tmp_path: Path) -> None:
    place = tmp_path / "store"
    with layerfs.Store(place) as store:
        store.import_archive(make_base(tmp_path / "base"), tag="box:1")

    def verify(number: int) -> None:
        clean(place)
        whole(place)

    outcome = crash_rounds(
        lambda number: build(place, tmp_path / "context"),
        verify,
        rounds=ROUNDS,
        seed=SEED,
        prepare=lambda number: context(tmp_path, number),
    )
    assert outcome.killed > 0
    events = Events()
    build(place, tmp_path / "context")
    build(place, tmp_path / "context", progress=events)
    assert all(text.startswith("FROM") for text in events.kinds("done"))
    with layerfs.Store(place) as store:
        image = store.image("built:1")
        assert (read(image, "last"), read(image, "first")) == (b"%d\n" % ROUNDS, b"%d\n" % ROUNDS + SECRET)
        store.gc()
        assert [path for path in (place / "tmp").glob("*") if path.is_dir()] == []
    whole(place)


def test_builds_on_a_full_disk_end_with_one_error_and_go_on_when_there_is_room(tmp_path: Path) -> None:
    with small_disk("ext4", tmp_path, size=96 << 20) as disk:
        place = disk / "store"
        with layerfs.Store(place) as store:
            store.import_archive(make_base(tmp_path / "base"), tag="box:1")
        where = write_files(tmp_path / "context", {"big": os.urandom(6 << 20), "f": "f\n"})
        lines = "FROM box:1\nCOPY big /copied\nRUN dd if=/dev/urandom of=/written bs=64k count=80 && echo wrote\n"
        write_files(where, {"Dockerfile": lines + "RUN --mount=target=/ctx cat /ctx/f > /end\n"})
        failed = 0
        for room in (0, 1 << 20, 3 << 20, 7 << 20, 9 << 20, 11 << 20):
            with filled(disk, leave=room):
                try:
                    build(place, where)
                except (NoSpace, StepFailed):
                    failed += 1
            clean(place)
        assert failed > 2
        build(place, where)
        with layerfs.Store(place) as store:
            image = store.image("built:1")
            assert read(image, "end") == b"f\n" and len(read(image, "written")) == 80 << 16
            store.gc()
        whole(place)
