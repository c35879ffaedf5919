"""Leases: who is writing into the store right now.

A lease is a directory below `tmp/` with two files: `lease`, whose it is, and `pins`, locked while it is held: 32-byte
keys (identities, diff IDs, chain IDs, blob digests) that `gc` must keep. No row: a lease need not survive a power cut,
and a durable commit costs more than most of what leases are held for.

Rule for writers: hold a lease from before the first look-up or write until the row that refers to it all (an image, a
container) is committed. What is published after the oldest living lease began is kept too.
"""

from __future__ import annotations

import contextlib
import fcntl
import functools
import os
import time
from collections.abc import Callable
from pathlib import Path
from types import TracebackType

from layerfs._lazy import TYPE_CHECKING, pattern
from layerfs._record import dataclass
from layerfs.errors import StoreError, StoreReadOnly
from layerfs.store.durable import write_all, writing
from layerfs.store.format import ID_SIZE
from layerfs.store.index import decode_json, encode_json
from layerfs.store.reserve import keep_reserve, reading
from layerfs.store.trash import remove_tree

if TYPE_CHECKING:
    import weakref
    from typing import Any

# What is in `tmp/` has such a name until its lock is held; from then on an unheld lock means that its owner is dead.
NEWBORN = ".new-"
NEWBORN_SECONDS = 60
_LEASE = pattern(r"[0-9a-f]{32}\Z")
_open_leases: list[weakref.WeakSet[Lease]] = []  # one, once there has been a lease


@dataclass(frozen=True, slots=True)
class LeaseRecord:
    """The file `lease`: JSON."""

    id: str
    pid: int
    pid_start: int
    pid_ns: int
    boot: str
    purpose: str
    created: int

    @classmethod
    def of_this_process(cls, purpose: str) -> LeaseRecord:
        return cls(
            id=os.urandom(16).hex(),
            pid=os.getpid(),
            pid_start=_own_start(os.getpid()) or 0,
            pid_ns=pid_namespace(),
            boot=boot_id(),
            purpose=purpose,
            created=time.time_ns(),
        )

    @classmethod
    def from_row(cls, id: str, row: dict[str, Any]) -> LeaseRecord:
        return cls(
            id=id,
            pid=int(row.get("pid", 0)),
            pid_start=int(row.get("pid_start", 0)),
            pid_ns=int(row.get("pid_ns", 0)),
            boot=str(row.get("boot", "")),
            purpose=str(row.get("purpose", "")),
            created=int(row.get("created", 0)),
        )

    def row(self) -> dict[str, Any]:
        return {
            "pid": self.pid,
            "pid_start": self.pid_start,
            "pid_ns": self.pid_ns,
            "boot": self.boot,
            "purpose": self.purpose,
            "created": self.created,
        }


class Lease:
    """A held lease; a context manager. Safe from threads. `.tmp` is its directory, on the store's file system.
    `reads`: its owner writes nothing else."""

    def __init__(self, record: LeaseRecord, tmp: Path, pins_fd: int, leases: Leases, *, reads: bool = False) -> None:
        self.id, self.tmp, self.record, self._reads = record.id, tmp, record, reads
        self._fd, self._leases = pins_fd, leases
        _note(self)

    def pin(self, keys: bytes) -> None:
        """Keeps rows and files of these 32-byte keys from `gc` as long as the lease lives. Pin first, then look."""
        if len(keys) % ID_SIZE:
            raise StoreError("pins are whole 32-byte keys")
        if self._fd < 0:
            raise StoreError("the lease is over")
        if self._reads:
            reading(self._leases.path.parent, lambda: self._write(keys))
        else:
            self._write(keys)

    def _write(self, keys: bytes) -> None:
        with self._leases.gc_lock(), writing("the pins of a lease"):
            size = os.fstat(self._fd).st_size
            try:
                write_all(self._fd, keys)
            except OSError:
                os.ftruncate(self._fd, size)  # half a key would make nonsense of those behind it
                raise

    def release(self) -> None:
        """Ends the lease and removes what is left of its directory. Idempotent."""
        if self._fd < 0:
            return
        fd, self._fd = self._fd, -1
        _remove(os.fspath(self.tmp))
        fcntl.flock(fd, fcntl.LOCK_UN)
        os.close(fd)
        if self._reads:
            keep_reserve(self._leases.path.parent)  # of which it may have had a part

    def __enter__(self) -> Lease:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.release()

    def _forget(self) -> None:
        """In a forked child: the lease is the parent's."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1


class _NoLease(Lease):
    """On a store that nobody can write to nothing is ever collected, so that nothing needs to be kept."""

    def __init__(self, record: LeaseRecord, tmp: Path) -> None:
        self.id, self.tmp, self.record = record.id, tmp, record

    def pin(self, keys: bytes) -> None:
        pass

    def release(self) -> None:
        pass

    def _forget(self) -> None:
        pass


class Leases:
    """Acquires leases and tells the living from the dead."""

    def __init__(self, tmp: Path, gc_lock: Callable[[], contextlib.AbstractContextManager[None]]) -> None:
        self.path, self.gc_lock = tmp, gc_lock

    def acquire(self, purpose: str, *, reads: bool = False) -> Lease:
        """A new lease of this process. Raises NoSpace, StoreReadOnly."""
        record = LeaseRecord.of_this_process(purpose)
        tmp, newborn = self.path / record.id, self.path / newborn_name()
        fd = -1
        with writing("a lease"):
            newborn.mkdir(0o700)
            try:
                (newborn / "lease").write_bytes(encode_json(record.row()))
                fd = os.open(newborn / "pins", os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
                fcntl.flock(fd, fcntl.LOCK_EX)
                newborn.rename(tmp)
            except BaseException:
                if fd >= 0:
                    os.close(fd)
                remove_tree(newborn)
                raise
        return Lease(record, tmp, fd, self, reads=reads)

    def reading(self, purpose: str) -> Lease:
        """A lease for who only reads, also on a full disk. On a read-only file system it is none, and its `tmp` cannot
        be written to."""
        try:
            return reading(self.path.parent, lambda: self.acquire(purpose, reads=True))
        except StoreReadOnly:
            record = LeaseRecord.of_this_process(purpose)
            return _NoLease(record, self.path / record.id)

    def records(self) -> list[LeaseRecord]:
        """Of every lease, living or dead."""
        return [record for name in self._names() if _LEASE.match(name) and (record := self._record(name)) is not None]

    def _names(self) -> list[str]:
        with contextlib.suppress(FileNotFoundError), os.scandir(self.path) as entries:
            return [entry.name for entry in entries]
        return []

    def _record(self, name: str) -> LeaseRecord | None:
        """None when it is being removed."""
        try:
            row = decode_json((self.path / name / "lease").read_bytes(), "leases")
            return LeaseRecord.from_row(name, row)
        except (OSError, AttributeError, TypeError, ValueError):
            return None

    def living(self) -> list[LeaseRecord]:
        return [record for record in self.records() if self.alive(record)]

    def alive(self, record: LeaseRecord) -> bool:
        """By boot, process and start time; in another PID namespace, where they say nothing, by the lock on pins."""
        tmp = self.path / record.id
        if record.boot != boot_id() or not tmp.is_dir():
            return False
        if record.pid_ns not in (0, pid_namespace()):
            return is_locked(tmp / "pins")
        return process_start(record.pid) == record.pid_start

    def pins(self) -> set[bytes]:
        """Every pinned key of the living. Only exact while the gc lock is held."""
        found: set[bytes] = set()
        for record in self.living():
            with contextlib.suppress(FileNotFoundError):
                data = (self.path / record.id / "pins").read_bytes()
                whole = len(data) - len(data) % ID_SIZE
                found.update(data[i : i + ID_SIZE] for i in range(0, whole, ID_SIZE))
        return found

    def clean_dead(self) -> int:
        """Removes what is in `tmp/` of processes that are gone; the number of things removed."""
        dead = [self.path / name for name in self._names() if not self._held(name)]
        for path in dead:
            self._remove_tmp(path)
        return len(dead)

    def _held(self, name: str) -> bool:
        """Whether somebody living has it: by the lease's record, else by the lock; what is being made, by its age."""
        path = self.path / name
        if _LEASE.match(name) and (record := self._record(name)) is not None:
            return self.alive(record)
        if is_locked(path / "pins" if path.is_dir() else path):
            return True
        try:
            age = abs(time.time() - path.lstat().st_mtime)
        except FileNotFoundError:
            return True
        return age < NEWBORN_SECONDS and _being_born(name)

    def _remove_tmp(self, path: Path) -> None:
        if path.is_dir() and not path.is_symlink():
            remove_tree(path)
        else:
            with contextlib.suppress(FileNotFoundError, NotADirectoryError):
                path.unlink()


def newborn_name() -> str:
    """A name that tells whose it is, for what this process is about to lock."""
    pid = os.getpid()
    return f"{NEWBORN}{pid}.{_own_start(pid)}.{pid_namespace()}.{os.urandom(8).hex()}"


def _being_born(name: str) -> bool:
    """Whether a name is that of something whose maker may still live."""
    if not name.startswith(NEWBORN):
        return False
    try:
        pid, start, namespace = map(int, name.removeprefix(NEWBORN).split(".")[:3])
    except ValueError:
        return True
    return namespace != pid_namespace() or process_start(pid) == start


def boot_id() -> str:
    global _boot
    if _boot is None:
        _boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    return _boot


_boot: str | None = None


def process_start(pid: int) -> int | None:
    """Clock ticks from boot to the start of a process (/proc/PID/stat, field 22); None when it is gone or a zombie."""
    try:
        fd = os.open(f"/proc/{pid}/stat", os.O_RDONLY | os.O_CLOEXEC)
        try:
            text = os.read(fd, 4096)
        finally:
            os.close(fd)
    except (FileNotFoundError, ProcessLookupError):
        return None
    fields = text[text.rindex(b")") + 2 :].split()
    return None if fields[0] in (b"Z", b"X") else int(fields[19])


@functools.lru_cache(maxsize=1)
def _own_start(pid: int) -> int | None:
    """Of this process; a fork's child has another number."""
    return process_start(pid)


def pid_namespace() -> int:
    """The inode number of this process's PID namespace; 0 when the kernel does not say."""
    return _pid_namespace(os.getpid())


@functools.lru_cache(maxsize=1)
def _pid_namespace(pid: int) -> int:
    """No process ever leaves its own; the first child may begin in another."""
    try:
        return os.stat("/proc/self/ns/pid").st_ino  # noqa: PTH116
    except OSError:
        return 0


def is_locked(path: Path) -> bool:
    """Whether somebody holds an flock on the file."""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
    except OSError:
        return False
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    else:
        return False
    finally:
        os.close(fd)


def _remove(tmp: str) -> None:
    """A lease's directory, in which there is nearly always nothing but its own files."""
    try:
        for name in ("lease", "pins"):
            os.unlink(f"{tmp}/{name}")  # noqa: PTH108 (a part of every short command)
        os.rmdir(tmp)  # noqa: PTH106
    except OSError:
        remove_tree(Path(tmp))


def _note(lease: Lease) -> None:
    import weakref  # which commands that only read are without

    if not _open_leases:
        _open_leases.append(weakref.WeakSet())
    _open_leases[0].add(lease)


def _after_in_child() -> None:
    _own_start.cache_clear()  # its number may be its parent's in another namespace
    _pid_namespace.cache_clear()
    for leases in _open_leases:
        for lease in list(leases):
            lease._forget()


os.register_at_fork(after_in_child=_after_in_child)
