"""Engine `python`: starts the FUSE server as a process of its own, which ends with its mount."""

from __future__ import annotations

import contextlib
import errno
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

from layerfs.errors import LayerfsError, MountError, Unsupported
from layerfs.snapshot.process import Forked

__all__ = ["start_server"]

_START_SECONDS = 30


def start_server(orders: dict[str, Any], *, lock_fd: int | None = None) -> int:
    """Returns the server's pid when the mount answers. `lock_fd` is held by the server as long as it lives.

    `orders`: `tree`, `packs` and `objects` (paths), `target`, `name` (shown as the mount's source), and optionally
    `upper`, `work`, `frozen`, `read_only`, `volatile`, `options` (nosuid, nodev, noexec).

    Raises:
        Unsupported: no FUSE device, library or Python here. MountError: what the server says went wrong.
    """
    if not sys.executable:
        raise Unsupported("the engine python needs to know the Python interpreter (sys.executable is empty)")
    read_end, write_end = os.pipe()
    errors = os.memfd_create("layerfs-fuse", os.MFD_CLOEXEC)
    try:
        os.set_inheritable(write_end, True)
        process = _spawn(
            {**orders, "report": write_end}, [write_end, *([lock_fd] if lock_fd is not None else [])], errors
        )
        os.close(write_end)
        write_end = -1
        return _await(process, read_end, errors, Path(orders["target"]))
    finally:
        os.close(read_end)
        os.close(errors)
        if write_end >= 0:
            os.close(write_end)


def _spawn(orders: dict[str, Any], passed: list[int], errors: int) -> subprocess.Popen[bytes]:
    here = str(Path(__file__).resolve().parents[2])
    paths = [here, *filter(None, [os.environ.get("PYTHONPATH")])]
    process = subprocess.Popen(
        [sys.executable, "-m", "layerfs.fuse"],
        stdin=subprocess.PIPE,
        stdout=errors,
        stderr=errors,
        pass_fds=passed,
        cwd="/",
        env={**os.environ, "PYTHONPATH": os.pathsep.join(paths)},
        start_new_session=True,
    )
    assert process.stdin is not None
    with contextlib.suppress(BrokenPipeError), process.stdin as pipe:
        pipe.write(json.dumps(orders).encode())
    return process


def _await(process: subprocess.Popen[bytes], report: int, errors: int, target: Path) -> int:
    """The server's one line, or its end, or too long a silence."""
    import select

    ready, _, _ = select.select([report], [], [], _START_SECONDS)
    line = os.read(report, 65536) if ready else b""
    message = json.loads(line) if line else {}
    child = Forked(process)
    if message.get("ready"):
        return child.pid
    from layerfs.snapshot.unready import give_up

    give_up(child, target, silent=not ready)
    raise _failure(message, _tail(errors))


def _tail(errors: int) -> str:
    """The last line that the server wrote to stderr."""
    text = os.pread(errors, 1 << 16, 0).decode("utf-8", "replace").strip()
    return text.splitlines()[-1] if text else ""


def _failure(message: dict[str, Any], said: str) -> LayerfsError:
    text = str(message.get("error") or "the FUSE server ended before the mount answered")
    full = f"{text}: {said}" if said and said not in text else text
    if message.get("errno") == errno.ENOTSUP or "/dev/fuse" in said or "Unable to find libfuse" in text:
        return Unsupported(full)
    failure = MountError(full)
    failure.errno = message.get("errno", errno.EIO)
    return failure
