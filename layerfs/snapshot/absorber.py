"""Absorbing in the background: a process of its own, of the lowest priority, that ends when there is nothing to do.

    python -m layerfs.snapshot.absorber STORE

There is one for a store at a time. States that a mount stands on are left alone, as their files would have to be
copied; whoever else wants a state that is being absorbed gets it (absorb.GaveWay). It may be killed at any moment.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING

from layerfs.errors import Corrupt, InUse, InvalidInput, LayerfsError, NoSpace, Unsupported
from layerfs.snapshot.absorb import GaveWay, absorb
from layerfs.snapshot.states import StateRecord, States, mounted_places
from layerfs.store.root import StoreRoot

if TYPE_CHECKING:
    from layerfs.store.index import Txn

__all__ = ["start_absorber", "waiting"]

_LOCK = "absorber"
_PAUSE = 0.1  # seconds after it gave way
_IOPRIO_SET, _WHO_PROCESS, _IDLE = {"x86_64": 251, "aarch64": 30}, 1, 3 << 13


def start_absorber(root: StoreRoot) -> None:
    """Has what can be absorbed absorbed by a process that outlives the caller. Nothing happens when there is nothing to
    do, or one is at it.

    Raises:
        Unsupported: it is not known what program runs Python here.
    """
    if not sys.executable:
        raise Unsupported("absorbing in the background needs to know the Python interpreter (sys.executable is empty)")
    with root.index.view() as txn:
        if not waiting(txn):
            return
    try:
        with root.lock(_LOCK, wait=False):
            pass
    except BlockingIOError:
        return
    here = str(Path(__file__).resolve().parents[2])
    process = subprocess.Popen(
        [sys.executable, "-m", __name__, str(root.path)],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        cwd="/",
        env={**os.environ, "PYTHONPATH": os.pathsep.join([here, *filter(None, [os.environ.get("PYTHONPATH")])])},
        start_new_session=True,
    )
    threading.Thread(target=process.wait, name="layerfs-reaper", daemon=True).start()


def waiting(txn: Txn) -> list[StateRecord]:
    """The states that can be absorbed without copying big files: parents first."""
    states, mounted = States(txn), mounted_places(txn)
    found: dict[str, StateRecord] = {}
    for each in sorted(states.all(), key=lambda state: state.created_ns):
        loose = states.loose(each.id)
        if not any(state.place in mounted or state.served for state in loose):
            found |= {state.id: state for state in loose}
    return list(found.values())


def run(root: StoreRoot) -> None:
    """Until nothing is left that can be absorbed. Who comes while this one is at it goes away (`start_absorber`), so it
    looks once more when it has let others begin."""
    refused = set[str]()
    while _next(root, refused) is not None:
        with root.lock(_LOCK, wait=False):
            _run(root, refused)


def _next(root: StoreRoot, refused: set[str]) -> StateRecord | None:
    with root.index.view() as txn:
        return next((each for each in waiting(txn) if each.id not in refused), None)


def _run(root: StoreRoot, refused: set[str]) -> None:
    while (state := _next(root, refused)) is not None:
        try:
            absorb(root, state.id, yielding=True)
        except GaveWay:
            time.sleep(_PAUSE)
        except (InvalidInput, Corrupt, InUse, FileNotFoundError):  # no layer can hold it; it has just gone
            refused.add(state.id)


def _be_humble() -> None:
    with contextlib.suppress(OSError):
        os.nice(19)
    with contextlib.suppress(OSError, KeyError, AttributeError):
        ctypes.CDLL(None).syscall(_IOPRIO_SET[os.uname().machine], _WHO_PROCESS, 0, _IDLE)


def main(path: str) -> int:
    _be_humble()
    try:
        with StoreRoot.open(Path(path), create=False) as root:
            run(root)
    except (BlockingIOError, NoSpace, FileNotFoundError):
        return 0
    except LayerfsError as error:
        print(f"layerfs: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
