"""Engine `native`: starts the C server (`libexec/layerfs-fuse`) as a process of its own, which ends with its mount."""

from __future__ import annotations

import contextlib
import errno
import os
import select
import signal
import struct
import threading
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path

from layerfs import mount
from layerfs._lazy import TYPE_CHECKING
from layerfs.errors import LayerfsError, MountError, NoSpace, Unsupported
from layerfs.snapshot.process import start

if TYPE_CHECKING:
    from layerfs.snapshot.process import Process

__all__ = ["SERVER", "SWITCHES", "Server", "encode_orders", "join_thread", "serve_in_thread", "start_native"]

SERVER = Path(__file__).resolve().parents[1] / "libexec" / "layerfs-fuse"
SWITCHES = (
    "no_passthrough",
    "no_readdirplus",
    "no_acl",
    "no_uring",
    "no_killpriv",
    "no_opendir_enosys",
    "no_cache",
    "no_follow",
    "no_zero_open",
    "no_blocks",
    "strict",
)
_START_SECONDS, _END_SECONDS = 30, 10
_MORE = struct.pack("<HI", 0, 0)  # ends the orders: wait for a byte
_threads: dict[str, threading.Thread] = {}  # servers in this process, by the source of their mounts


def encode_orders(
    orders: Mapping[str, str | bytes], flags: Iterable[str] = (), several: Iterable[tuple[str, str]] = ()
) -> bytes:
    """Records of u16 key size, u32 value size (little-endian), key, value; see layerfs_native/fuse/options.c."""
    records = []
    for key, value in [*orders.items(), *((flag, b"") for flag in flags), *several]:
        data = os.fsencode(value)
        records.append(struct.pack("<HI", len(key), len(data)) + key.encode() + data)
    return b"".join(records)


class Server:
    """The server's process: it loads, and waits for its orders, while we prepare what it needs. Without them it ends
    with the block that it was started for, or with us. `lock_fd` is held by it as long as it lives; `control_fd` is its
    control socket. `program`: another build of it.

    """

    def __init__(
        self,
        lock_fd: int | None = None,
        control_fd: int | None = None,
        program: Path | None = None,
        environment: Mapping[str, str] | None = None,
    ) -> None:
        self._going = False
        self._report, report_end = os.pipe()
        self._errors = os.memfd_create("layerfs-native", os.MFD_CLOEXEC)
        orders, self._orders = os.pipe()
        given = {"report": report_end, "lock": lock_fd, "control": control_fd}
        passed = {name: fd for name, fd in given.items() if fd is not None}
        settings = {"PATH": os.environ.get("PATH", os.defpath), **(environment or {})}
        try:
            self._process = start(program or SERVER, orders, self._errors, tuple(passed.values()), settings)
        except BaseException:
            self._close()
            raise
        finally:
            os.close(orders)
            os.close(report_end)  # so that its end is seen
        self._passed = dict(zip(passed, self._process.passed, strict=True))

    def __enter__(self) -> Server:
        return self

    def __exit__(self, *_: object) -> None:
        if not self._going:
            self._process.send(signal.SIGKILL)
            self._process.ended(_END_SECONDS)
        self._close()

    def _close(self) -> None:
        for fd in (self._report, self._errors, self._orders):
            os.close(fd)

    @property
    def pid(self) -> int:
        """Raises Unsupported: the program is missing."""
        try:
            return self._process.pid
        except FileNotFoundError as error:
            raise Unsupported("the engine native is not built here (libexec/layerfs-fuse is missing)") from error

    def mount(
        self,
        orders: Mapping[str, str],
        flags: Iterable[str] = (),
        several: Iterable[tuple[str, str]] = (),
        *,
        before: Callable[[int], object] = lambda pid: None,
    ) -> int:
        """See `start_native`. Once."""
        descriptors = {name: str(fd) for name, fd in self._passed.items() if name != "lock"}
        self._say(encode_orders({**orders, **descriptors}, flags, several) + _MORE)
        before(self.pid)
        self._going = True
        self._say(b"g")
        return _await(self._process, self._report, self._errors, Path(orders["target"]))

    def _say(self, data: bytes) -> None:
        with contextlib.suppress(BrokenPipeError):  # it has ended, and said why
            while data:
                data = data[os.write(self._orders, data) :]


def start_native(
    orders: Mapping[str, str],
    flags: Iterable[str] = (),
    several: Iterable[tuple[str, str]] = (),
    *,
    lock_fd: int | None = None,
    control_fd: int | None = None,
    server: Path | None = None,
    environment: Mapping[str, str] | None = None,
    before: Callable[[int], object] = lambda pid: None,
) -> int:
    """A `Server` that mounts at once; its pid when the mount answers.

    `orders`: `tree`, `packs`, `objects` (paths), `target`, `name` (shown as the mount's source), and optionally
    `upper`, `work`, and `uppers` (where the next upper will be, should this one be frozen). `several`: orders that come
    more than once: `frozen`, upper directories below, the newest first. `flags`: read_only, volatile, nosuid, nodev,
    noexec, noatime, and SWITCHES, each of which turns a feature off. `before` is called with the server's pid while it
    prepares what it can, and ends before it mounts.

    Raises:
        Unsupported: no FUSE device, or the program is missing. MountError: what the server says went wrong.
    """
    with Server(lock_fd, control_fd, server, environment) as started:
        return started.mount(orders, flags, several, before=before)


def serve_in_thread(
    orders: Mapping[str, str],
    flags: Iterable[str] = (),
    several: Iterable[tuple[str, str]] = (),
    *,
    lock_fd: int | None = None,
    control_fd: int | None = None,
) -> int:
    """`start_native` for tests: the server runs in a thread of this process, which ends with the mount or the process.

    Nothing of the process but that thread is changed. A child that this process forks keeps the mount alive as long as
    it lives.
    """
    from layerfs import _server

    read_end, write_end = os.pipe()
    lock = os.dup(lock_fd) if lock_fd is not None else None
    words = {"report": str(write_end)} | ({"control": str(os.dup(control_fd))} if control_fd is not None else {})
    place = os.memfd_create("layerfs-orders", os.MFD_CLOEXEC)
    os.write(place, encode_orders({**orders, **words}, flags, several))
    os.lseek(place, 0, os.SEEK_SET)

    def serve() -> None:
        _server.serve(place)
        os.close(place)
        if lock is not None:
            os.close(lock)

    thread = threading.Thread(target=serve, name="layerfs-server", daemon=True)
    thread.start()
    with os.fdopen(read_end, "rb") as report:
        line = report.readline().decode("utf-8", "replace").strip()
    if line != "ready":
        thread.join()
        with contextlib.suppress(LayerfsError):
            mount.detach(Path(orders["target"]), lazy=True)
        raise _failure(line)
    _threads[orders["name"]] = thread
    return os.getpid()


def join_thread(name: str, seconds: float) -> None:
    """Waits for the server in this process whose mount has that source. Raises MountError when it does not end."""
    thread = _threads.get(name)
    if thread is not None:
        thread.join(seconds)
        if thread.is_alive():
            raise MountError("unmounted, but the server in this process has not ended")
        del _threads[name]


def _await(process: Process, report: int, errors: int, target: Path) -> int:
    """The server's one line, or its end, or too long a silence."""
    ready, _, _ = select.select([report], [], [], _START_SECONDS)
    line = os.read(report, 4096).decode("utf-8", "replace").strip() if ready else ""
    if line == "ready":
        return process.pid
    from layerfs.snapshot.unready import give_up

    give_up(process, target, silent=not ready)
    raise _failure(line or os.pread(errors, 4096, 0).decode("utf-8", "replace").strip())


def _failure(line: str) -> LayerfsError:
    number, _, text = line.partition(" ")
    code = int(number) if number.isdigit() else errno.EIO
    said = text if number.isdigit() else line or "the FUSE server ended before the mount answered"
    if code == errno.ENOTSUP:
        return Unsupported(said)
    if code == errno.ENOSPC:
        return NoSpace(said)
    failure = MountError(said)
    failure.errno = code
    return failure
