"""Starting the helper program.

It runs from a sealed copy in memory, so a container that reaches /proc/self/exe while the helper still is PID 1 finds
nothing of the host to write to (CVE-2019-5736).
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import socket
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path

from layerfs._lazy import TYPE_CHECKING
from layerfs.errors import RunError

if TYPE_CHECKING:
    from typing import IO, Any, Final

    from layerfs.runtime.idmaps import IdMaps

    Stream = int | IO[Any] | None  # as subprocess.Popen takes it: None inherits, PIPE, DEVNULL, a descriptor or a file

PATH: Final = Path(__file__).parents[1] / "libexec" / "layerfs-run"

_KEPT = (  # a monitor's environment; a test build's sanitizers are told in the last two where to write
    *("PATH", "HOME", "LANG", "LC_ALL", "LD_LIBRARY_PATH", "PYTHONHOME", "PYTHONPATH", "TMPDIR"),
    *("ASAN_OPTIONS", "UBSAN_OPTIONS"),
)
_MFD_EXEC = 0x10
_SEALS = fcntl.F_SEAL_WRITE | fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_SEAL
_lock = threading.Lock()
_copies: dict[tuple[int, int], int] = {}


def _memfd(name: str, data: bytes, flags: int = 0) -> int:
    fd = os.memfd_create(name, os.MFD_CLOEXEC | flags)
    with open(fd, "wb", closefd=False) as file:
        file.write(data)
    return _above_streams(fd)


def _above_streams(fd: int) -> int:
    """The same file at a number above 2: in a process without standard streams it may have got one of theirs."""
    if fd > 2:
        return fd
    moved = fcntl.fcntl(fd, fcntl.F_DUPFD_CLOEXEC, 3)
    os.close(fd)
    return moved


def _sealed_copy() -> int:
    data = PATH.read_bytes()
    try:
        fd = _memfd("layerfs-run", data, os.MFD_ALLOW_SEALING | _MFD_EXEC)
    except OSError:  # before Linux 6.3 a memfd is always executable, and the flag is unknown
        fd = _memfd("layerfs-run", data, os.MFD_ALLOW_SEALING)
    fcntl.fcntl(fd, fcntl.F_ADD_SEALS, _SEALS)
    return fd


def program() -> int:
    """A descriptor of the sealed copy, made once for a process (and again when the file was replaced)."""
    try:
        info = PATH.stat()
        key = (info.st_ino, info.st_mtime_ns)
        with _lock:
            if key not in _copies:
                _copies[key] = _sealed_copy()
            return _copies[key]
    except OSError as error:
        raise RunError(f"the container helper cannot be used: {error.strerror}", path=str(PATH)) from error


def launch(
    spec: bytes, stdin: Stream, stdout: Stream, stderr: Stream, *, detached: bool = False
) -> tuple[subprocess.Popen[bytes], socket.socket]:
    """Starts the helper with an encoded spec. The socket answers with its packets; closing it ends the container,
    unless that is `detached`."""
    executable = program()
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET | socket.SOCK_CLOEXEC)
    control = _above_streams(theirs.detach())
    plan = _memfd("layerfs-spec", spec)
    try:
        process = subprocess.Popen(
            ["layerfs-run", str(plan), str(control), str(0 if detached else os.getpid())],
            executable=f"/proc/self/fd/{executable}",
            stdin=stdin,
            stdout=stdout,
            stderr=stderr,
            bufsize=0,
            pass_fds=(executable, plan, control),
        )
    except OSError as error:
        ours.close()
        raise RunError(f"the container helper cannot be started: {error.strerror}") from error
    except BaseException:
        ours.close()
        raise
    finally:
        os.close(plan)
        os.close(control)
    return process, ours


@contextlib.contextmanager
def holder_of_namespaces(maps: IdMaps) -> Iterator[int]:
    """The pid of a process in a new network namespace of a new user namespace, while inside. Raises RunError."""
    from layerfs.runtime.spec import Identity, Namespace, RunSpec
    from layerfs.runtime.wire import encode

    executable = program()
    nobody = Identity()
    namespaces = Namespace.MOUNT | Namespace.PID
    plan = _memfd(
        "layerfs-spec", encode(RunSpec(b"/", (b"-",), (), b"/", b"", nobody, 0, namespaces, (), id_maps=maps))
    )
    try:
        process = subprocess.Popen(
            ["layerfs-run", "namespaces", str(plan)],
            executable=f"/proc/self/fd/{executable}",
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            pass_fds=(executable, plan),
        )
    except OSError as error:
        raise RunError(f"the container helper cannot be started: {error.strerror}") from error
    finally:
        os.close(plan)
    with process:
        assert process.stdout is not None
        assert process.stderr is not None
        line = process.stdout.readline()
        if not line.strip().isdigit():
            reason = process.stderr.read().decode(errors="replace").strip().lower()
            raise RunError(f"making a user namespace: {reason or 'the helper ended'}")
        yield int(line)
        process.communicate()


def launch_monitor(spec: bytes, client: socket.socket, directory: int, locks: tuple[int, int]) -> None:
    """Starts a monitor that outlives this process. `client` is its end of the first client's connection; `directory`
    the container's; `locks` are held by it until the container has ended. All are copied: the caller closes its own."""
    executable = program()
    plan = _memfd("layerfs-spec", spec)
    passed = [_above_streams(os.dup(fd)) for fd in (client.fileno(), directory, *locks)]
    try:
        subprocess.run(
            ["layerfs-run", "monitor", *map(str, (plan, *passed))],
            executable=f"/proc/self/fd/{executable}",
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            pass_fds=(executable, plan, *passed),
            env={name: os.environ[name] for name in _KEPT if name in os.environ},
            check=True,
        )
    except (OSError, subprocess.CalledProcessError) as error:
        raise RunError(f"the container's monitor cannot be started: {error}") from error
    finally:
        for fd in (plan, *passed):
            os.close(fd)
