"""Leases: who is writing into the store right now.

A lease is a row, a directory below `tmp/` and, in it, the file `pins`: 32-byte keys (identities, diff IDs, chain IDs,
blob digests) that `gc` must keep. Rule for writers: hold a lease from before the first look-up or write until the row
that refers to it all (an image, a container) is committed. What is published after the oldest living lease began is
kept too.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import time
import weakref
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

from layerfs.errors import NoSpace, StoreError
from layerfs.store.durable import write_all, writing
from layerfs.store.format import ID_SIZE
from layerfs.store.index import Index
from layerfs.store.trash import remove_tree

# What is in `tmp/` has such a name until its lock is held; from then on an unheld lock means that its owner is dead.
NEWBORN = ".new-"
NEWBORN_SECONDS = 60
_open_leases: weakref.WeakSet[Lease] = weakref.WeakSet()


@dataclass(frozen=True, slots=True)
class LeaseRecord:
    """A row of the `leases` table."""

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
            pid_start=process_start(os.getpid()) or 0,
            pid_ns=pid_namespace(),
            boot=boot_id(),
            purpose=purpose,
            created=time.time_ns(),
        )

    @classmethod
    def from_row(cls, key: bytes, row: dict[str, Any]) -> LeaseRecord:
        return cls(
            id=key.decode("ascii", "replace"),
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
    """A held lease; a context manager. Safe from threads. `.tmp` is its directory, on the store's file system."""

    def __init__(self, record: LeaseRecord, tmp: Path, pins_fd: int, leases: Leases) -> None:
        self.id, self.tmp, self.record = record.id, tmp, record
        self._fd, self._leases = pins_fd, leases
        _open_leases.add(self)

    def pin(self, keys: bytes) -> None:
        """Keeps rows and files of these 32-byte keys from `gc` as long as the lease lives. Pin first, then look."""
        if len(keys) % ID_SIZE:
            raise StoreError("pins are whole 32-byte keys")
        if self._fd < 0:
            raise StoreError("the lease is over")
        with self._leases.gc_lock(), writing("the pins of a lease"):
            write_all(self._fd, keys)

    def release(self) -> None:
        """Ends the lease and removes what is left of its directory. Idempotent; a full disk does not make it fail."""
        if self._fd < 0:
            return
        fd, self._fd = self._fd, -1
        try:
            remove_tree(self.tmp)
            fcntl.flock(fd, fcntl.LOCK_UN)
            with contextlib.suppress(NoSpace), self._leases.index.update() as txn:
                txn.delete("leases", self.id.encode())
        finally:
            os.close(fd)

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


class Leases:
    """Acquires leases and tells the living from the dead."""

    def __init__(self, tmp: Path, index: Index, gc_lock: Callable[[], contextlib.AbstractContextManager[None]]) -> None:
        self.path, self.index, self.gc_lock = tmp, index, gc_lock

    def acquire(self, purpose: str) -> Lease:
        """A new lease of this process. Raises NoSpace, StoreReadOnly."""
        record = LeaseRecord.of_this_process(purpose)
        tmp = self.path / record.id
        with writing("a lease"):
            fd = self._make(tmp)
        try:
            with self.index.update() as txn:
                txn.put_json("leases", record.id.encode(), record.row())
        except BaseException:
            os.close(fd)
            remove_tree(tmp)
            raise
        return Lease(record, tmp, fd, self)

    def _make(self, tmp: Path) -> int:
        newborn = self.path / newborn_name()
        newborn.mkdir(0o700)
        fd = -1
        try:
            fd = os.open(newborn / "pins", os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
            fcntl.flock(fd, fcntl.LOCK_EX)
            newborn.rename(tmp)
        except BaseException:
            if fd >= 0:
                os.close(fd)
            remove_tree(newborn)
            raise
        return fd

    def records(self) -> list[LeaseRecord]:
        with self.index.view() as txn:
            return [LeaseRecord.from_row(key, row) for key, row in txn.scan_json("leases")]

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
        """Removes directories and rows of leases whose process is gone; the number of leases and orphans removed."""
        records = {record.id: record for record in self.records()}
        dead = [record for record in records.values() if not self.alive(record)]
        removed = sum(self._remove_tmp(self.path / record.id) for record in dead)
        if dead:
            with self.index.update() as txn:
                for record in dead:
                    txn.delete("leases", record.id.encode())
        for entry in self._strangers(set(records)):
            removed += self._remove_tmp(entry)
        return max(removed, len(dead))

    def _strangers(self, known: set[str]) -> Iterator[Path]:
        """What lies in `tmp/` without a row and without a holder."""
        with os.scandir(self.path) as entries:
            names = [entry for entry in entries if entry.name not in known]
        for entry in names:
            with contextlib.suppress(FileNotFoundError):
                is_directory = entry.is_dir(follow_symlinks=False)
                held = is_locked(Path(entry.path) / "pins" if is_directory else Path(entry.path))
                age = abs(time.time() - entry.stat(follow_symlinks=False).st_mtime)
                if not held and (age > NEWBORN_SECONDS or not _being_born(entry.name)):
                    yield Path(entry.path)

    def _remove_tmp(self, path: Path) -> int:
        if path.is_dir() and not path.is_symlink():
            remove_tree(path)
        else:
            with contextlib.suppress(FileNotFoundError, NotADirectoryError):
                path.unlink()
        return 1


def newborn_name() -> str:
    """A name that tells whose it is, for what this process is about to lock."""
    pid = os.getpid()
    return f"{NEWBORN}{pid}.{process_start(pid)}.{pid_namespace()}.{os.urandom(8).hex()}"


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
        text = Path(f"/proc/{pid}/stat").read_bytes()
    except (FileNotFoundError, ProcessLookupError):
        return None
    fields = text[text.rindex(b")") + 2 :].split()
    return None if fields[0] in (b"Z", b"X") else int(fields[19])


def pid_namespace() -> int:
    """The inode number of this process's PID namespace; 0 when the kernel does not say."""
    try:
        return Path("/proc/self/ns/pid").stat().st_ino
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


def _after_in_child() -> None:
    for lease in list(_open_leases):
        lease._forget()


os.register_at_fork(after_in_child=_after_in_child)
