"""One LMDB environment for each index directory and process.

LMDB allows a file to be open once in a process, and no environment to cross a fork. So environments are shared by
the identity of their directory and counted; around a fork new transactions wait, running ones of other threads end
first, and the child closes what it inherited. An environment cannot be closed in the child while a transaction of the
forking thread is open (it would free the parent's reader slot): such a child must not use the store.
"""

from __future__ import annotations

import contextlib
import errno
import os
import threading
import time
from collections import deque
from collections.abc import Iterator
from pathlib import Path

from layerfs._lazy import TYPE_CHECKING
from layerfs.errors import Corrupt, InvalidInput, LayerfsError, NoSpace, StoreError, StoreReadOnly

if TYPE_CHECKING:
    from typing import Any

    import lmdb

MAP_SIZES = (64 << 30, 16 << 30, 4 << 30, 1 << 30, 256 << 20)  # address space only; smaller under RLIMIT_AS
MAX_READERS = 1022
LOCK_FILE_SIZE = 65536  # what LMDB makes of it for that number
FORK_WAIT = 10.0  # seconds that a fork waits for transactions of other threads

_registry: dict[tuple[int, int], Environment] = {}
_registry_lock = threading.RLock()


class Environment:
    """A counted LMDB environment. `acquire` and `release` are the only way to one."""

    def __init__(self, path: Path, key: tuple[int, int], read_only: bool) -> None:
        self.path, self.key, self.read_only = path, key, read_only
        self.users = 0
        self.lost = False  # forked with an open transaction: unusable in this process
        self.pending = False  # this process has committed what the disk may not have yet
        self._mutex = threading.RLock()
        self._gate = threading.Condition(self._mutex)
        self._closed_gate = False
        self._active: dict[int, int] = {}
        self.write_lock = threading.Lock()
        self.writer: int | None = None
        self._env: lmdb.Environment | None = self._open()

    def _open(self) -> lmdb.Environment:
        import lmdb

        data = self.path / "data.mdb"
        with translated(self.path):
            if not self.read_only:
                _reserve_lock_file(self.path / "lock.mdb")
            for size in MAP_SIZES:
                with contextlib.suppress(lmdb.MemoryError):
                    env = lmdb.open(
                        os.fsencode(self.path),
                        map_size=size,
                        max_readers=MAX_READERS,
                        readonly=self.read_only,
                        lock=not self.read_only,  # read-only means a read-only file system: nobody writes
                        metasync=False,  # `sync` does that, where it matters
                        create=not self.read_only,
                        mode=0o600,
                        lib_version=0,
                    )
                    break
            else:
                raise StoreError("not enough address space to map the index (ulimit -v?)", path=str(data))
            if not self.read_only:
                env.reader_check()
                _fill_up(env, data)
        return env

    @property
    def env(self) -> lmdb.Environment:
        env = self._env
        if env is not None:
            return env
        if self.lost:
            raise StoreError("this process was forked while it had a transaction open: it cannot use the store")
        with _registry_lock:
            if self._env is None:
                self._env = self._open()
            return self._env

    def enter(self) -> None:
        """Counts a transaction of this thread, until it calls `leave`; waits while a fork or a resize is under way."""
        thread = threading.get_ident()
        with self._mutex:
            while self._closed_gate and thread not in self._active:
                self._gate.wait()
            self._active[thread] = self._active.get(thread, 0) + 1

    def leave(self) -> None:
        thread = threading.get_ident()
        with self._mutex:
            left = self._active.get(thread, 1) - 1
            if left:
                self._active[thread] = left
            else:
                self._active.pop(thread, None)
                if self._closed_gate:
                    self._gate.notify_all()

    def close_gate(self, wait: float) -> bool:
        """No new transactions from now; True when those of other threads have ended within `wait` seconds."""
        thread, end = threading.get_ident(), time.monotonic() + wait
        with self._gate:
            while self._closed_gate:
                self._gate.wait()
            self._closed_gate = True
            while any(other != thread for other in self._active):
                left = end - time.monotonic()
                if left <= 0 or not self._gate.wait(left):
                    return False
            return True

    def open_gate(self) -> None:
        with self._gate:
            self._closed_gate = False
            self._gate.notify_all()

    def begin(self, write: bool) -> lmdb.Transaction:
        """Begins a transaction, adopting a map that another process made larger."""
        import lmdb

        try:
            return self.env.begin(write=write)
        except lmdb.MapResizedError:
            self._adopt_size()
            return self.env.begin(write=write)

    def sync(self) -> None:
        """What was committed, by whomever, survives a power cut."""
        self.pending = False
        try:
            self.env.sync(True)
        except BaseException:
            self.pending = True
            raise

    def _adopt_size(self) -> None:
        if not self.close_gate(FORK_WAIT):
            self.open_gate()
            raise StoreError("the index grew while other transactions were open", path=str(self.path))
        try:
            self.env.set_mapsize(0)
            info = self.env.info()
            with contextlib.suppress(Exception):  # room to write, where the address space allows
                self.env.set_mapsize(info["map_size"] + MAP_SIZES[-1])
        finally:
            self.open_gate()

    def abandon(self) -> None:
        """In a forked child: drop what the parent opened; the next use opens anew."""
        clean = not self._active
        self._mutex = threading.RLock()
        self._gate, self._closed_gate = threading.Condition(self._mutex), False
        self._active, self.write_lock, self.writer = {}, threading.Lock(), None
        self.pending = False  # the parent's
        env, self._env = self._env, None
        if env is not None and clean:
            env.close()
        elif env is not None:
            _leaked.append(env)  # its destructor would end the parent's transactions
            self.lost = True

    def close(self) -> None:
        env = self._env
        try:
            if env is not None and self.pending:
                with translated(self.path):
                    self.sync()
        finally:
            self._env = None
            if env is not None:
                env.close()


_leaked: list[Any] = []
_forgotten: deque[Environment] = deque()


def _reserve_lock_file(path: Path) -> None:
    """LMDB maps its lock file sparse: on a full disk its first touch would be a SIGBUS. So take the blocks now."""
    fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        if os.fstat(fd).st_size < LOCK_FILE_SIZE:
            os.posix_fallocate(fd, 0, LOCK_FILE_SIZE)
    finally:
        os.close(fd)


def _fill_up(env: lmdb.Environment, data: Path) -> None:
    """Reading a map beyond its file's end is a SIGBUS. A file that was cut gets zeros there, which LMDB refuses.

    A whole file may be shorter as well, by free pages that were never written; then nobody reads those.
    """
    wanted = (env.info()["last_pgno"] + 1) * env.stat()["psize"]
    if data.stat().st_size >= wanted:
        return
    fd = os.open(data, os.O_RDWR | os.O_CLOEXEC)
    try:
        os.posix_fallocate(fd, wanted - 1, 1)  # never makes it shorter, whatever another process does meanwhile
    finally:
        os.close(fd)


def forget(environment: Environment) -> None:
    """`release` by a destructor, which may run in the middle of anything: the next `acquire` does it."""
    _forgotten.append(environment)


def acquire(path: Path, *, read_only: bool = False) -> Environment:
    """The process's environment for an index directory; opened for the first user."""
    while _forgotten:
        with contextlib.suppress(IndexError, LayerfsError):  # another thread was faster; a disk that is gone
            release(_forgotten.popleft())
    stat = path.stat()
    key = (stat.st_dev, stat.st_ino)
    with _registry_lock:
        found = _registry.get(key)
        if found is None:
            found = _registry[key] = Environment(path, key, read_only)
        found.users += 1
        return found


def release(environment: Environment) -> None:
    """Closes the environment when this was its last user."""
    with _registry_lock:
        environment.users -= 1
        if environment.users == 0:
            _registry.pop(environment.key, None)
            environment.close()


@contextlib.contextmanager
def translated(path: Path) -> Iterator[None]:
    """LMDB's errors in our words."""
    import lmdb

    try:
        yield
    except lmdb.Error as error:
        raise translate(error, path) from error


def translate(error: Exception, path: Path) -> LayerfsError:
    """One of LMDB's errors in our words. Raises what is none of them."""
    import lmdb

    if not isinstance(error, lmdb.Error):
        raise error
    if isinstance(error, lmdb.BadValsizeError):
        return InvalidInput("a name or key is empty or too long")
    if isinstance(error, lmdb.MapFullError | lmdb.TxnFullError):
        return NoSpace("the index is full", path=str(path))
    if isinstance(error, lmdb.ReadonlyError):
        return StoreReadOnly("the store is read-only", path=str(path))
    if isinstance(error, lmdb.CorruptedError | lmdb.PageNotFoundError | lmdb.InvalidError | lmdb.PanicError):
        return Corrupt(f"the index is damaged ({error})", path=str(path))
    return _by_errno(error, path)


def _by_errno(error: Exception, path: Path) -> LayerfsError:
    code = getattr(error, "code", 0)
    text = str(error)
    if code in (errno.ENOSPC, errno.EDQUOT) or "No space left" in text:
        return NoSpace("no space left while writing the index", path=str(path))
    if "Input/output error" in text and _is_full(path):  # what LMDB calls a short write
        return NoSpace("no space left while writing the index", path=str(path))
    if code == errno.EROFS or "Read-only file system" in text:
        return StoreReadOnly("the store is read-only", path=str(path))
    return StoreError(f"the index cannot be used ({text})", path=str(path))


def _is_full(path: Path) -> bool:
    with contextlib.suppress(OSError):
        status = os.statvfs(path)
        return status.f_bavail * status.f_frsize < 1 << 20
    return False


def _before_fork() -> None:
    _registry_lock.acquire()
    for environment in _registry.values():
        environment.close_gate(FORK_WAIT)


def _after_in_parent() -> None:
    for environment in _registry.values():
        environment.open_gate()
    _registry_lock.release()


def _after_in_child() -> None:
    global _registry_lock
    _registry_lock = threading.RLock()
    for environment in _registry.values():
        environment.abandon()


os.register_at_fork(before=_before_fork, after_in_parent=_after_in_parent, after_in_child=_after_in_child)
