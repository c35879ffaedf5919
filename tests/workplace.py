"""The directory of one test run: made fresh, removed with all that is in it; by the next run when this one is killed.

pytest keeps the directories of three runs and removes older ones recursively, which fails on trees 1000 levels deep and
on mounts; so each run brings a directory of its own.
"""

from __future__ import annotations

import contextlib
import os
import signal
import tempfile
from pathlib import Path

from layerfs import _native
from layerfs.store.trash import remove_tree
from tests.looking import name_of, users_of

PREFIX = "layerfs-tests-"


def mounts_in(place: Path) -> list[str]:
    """Mount points below a directory, the last mounted first."""
    table = Path("/proc/self/mountinfo").read_bytes().splitlines()
    targets = [line.split()[4].decode("unicode_escape").encode("latin-1") for line in table]
    return [os.fsdecode(target) for target in reversed(targets) if target.startswith(os.fsencode(place) + b"/")]


def end_monitors(place: Path) -> None:
    """Kills the monitors of containers in stores below a directory, and so the containers."""
    for pid in users_of(place):
        if name_of(pid) == "layerfs-monitor":
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)


def remove(place: Path) -> list[str]:
    """Detaches what is mounted below a directory and removes it; the mount points that were left."""
    end_monitors(place)
    left = mounts_in(place)
    for target in left:
        _native.umount(target, 2)  # MNT_DETACH
    remove_tree(place)
    return left


def clear(place: Path) -> None:
    """The end of a run."""
    os.environ.pop("TMPDIR", None)
    tempfile.tempdir = None
    remove(place)


def fresh() -> Path:
    """A new directory for this process, after removing those of runs that are dead."""
    top = Path(tempfile.gettempdir()).resolve()
    for place in top.glob(f"{PREFIX}*"):
        pid = place.name.removeprefix(PREFIX).split("-")[0]
        with contextlib.suppress(FileNotFoundError):  # another run is faster
            if pid.isdecimal() and not Path("/proc", pid).exists() and place.stat().st_uid == os.geteuid():
                remove(place)
    place = Path(tempfile.mkdtemp(prefix=f"{PREFIX}{os.getpid()}-", dir=top))
    place.chmod(0o711)
    return place


def use(place: Path) -> Path:
    """Temporary files of this process and its children go to the directory too; what is left for pytest's own."""
    temporary = place / "tmp"
    temporary.mkdir()
    temporary.chmod(0o1777)
    os.environ["TMPDIR"] = tempfile.tempdir = str(temporary)
    return place / "t"
