"""Digests of what a COPY takes: names, modes, owners, links as written, xattrs and contents; never times.

The contents of a context's files are hashed once and remembered by inode, size, modification and change time. What was
changed less than a grain of the clock before it was read could be changed again without a trace: it is not remembered.
Nor is what lies on a file system whose change times are no such thing: those of images (EROFS, squashfs, a mount of
ours) may be the same in the next image.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import stat
import struct
import threading
import time
from collections.abc import Hashable
from pathlib import Path

from layerfs.build.files import Files, Item, Skip, walk

_STATE = struct.Struct("<QQQqq")  # device, inode | size, mtime, ctime (ns)
_KEY, _SIZE = 16, _STATE.size + 33  # of a record: the state, the sha256, 1 when there are no xattrs
_TOGETHER, _TREES_MAX = 3000, 64
_KEPT_MAX, _KEPT_EACH = 64 << 20, 256  # bytes of files that are kept, and what each takes beside its own
_GRAIN, _COARSE = 100_000_000, 2_500_000_000  # ns; file systems that keep whole seconds, or two
_HEAD = b"layerfs hashes 2\n"
_HONEST = frozenset(["bcachefs", "btrfs", "ext2", "ext3", "ext4", "f2fs", "tmpfs", "xfs", "zfs"])  # of file systems


class Hashes:
    """The remembered contents of one context, in a file of the store's cache, which may go at any time. Thread-safe.
    `trees` are its remembered directories."""

    def __init__(self, place: Path | None) -> None:
        self._place = place
        self.trees = Trees(place.with_name(f"{place.name}.trees") if place is not None else None)
        self._known: dict[bytes, bytes] | None = None  # until it is asked for
        self._new: dict[bytes, bytes] = {}
        self._here: dict[bytes, tuple[bytes, bool]] = {}  # what this build has read, remembered or not
        self._kept: dict[bytes, bytes] = {}
        self._room = _KEPT_MAX
        self._seen = False
        self._lock = threading.Lock()

    def look_at(self, top: int) -> None:
        """Only what is on the file system of the first such directory is remembered, if that is an honest one."""
        if self._seen:
            return
        self._seen = True
        self.trees.device = os.fstat(top).st_dev if file_system_of(top) in _HONEST else None

    def _loaded(self) -> dict[bytes, bytes]:
        if self._known is None:
            self._known = _read(self._place) if self._place is not None else {}
        return self._known

    def get(self, status: os.stat_result) -> tuple[bytes, bool] | None:
        """The sha256 of a file's bytes, and whether it surely has no xattrs."""
        state = _state(status)
        if here := self._here.get(state):
            return here
        found = self._new.get(state[:_KEY]) or self._loaded().get(state[:_KEY])
        return (found[-33:-1], found[-1:] == b"1") if found is not None and found[:-33] == state[_KEY:] else None

    def put(self, status: os.stat_result, digest: bytes, began_ns: int, *, plain: bool = False) -> None:
        """`began_ns`: when reading it began. `plain`: it has no xattrs."""
        state = _state(status)
        with self._lock:
            if status.st_dev == self.trees.device and is_settled(status, began_ns):
                self._new[state[:_KEY]] = state[_KEY:] + digest + (b"1" if plain else b"0")
            else:
                self._here[state] = (digest, plain)

    def keep(self, status: os.stat_result, data: bytes) -> None:
        """The bytes of a small file that was read for its digest, while there is room: its layer wants them next."""
        cost = len(data) + _KEPT_EACH
        with self._lock:
            if cost <= self._room and (state := _state(status)) not in self._kept:
                self._kept[state] = data
                self._room -= cost

    def take(self, status: os.stat_result) -> bytes | None:
        """What was kept of a file; its room is free again."""
        if not self._kept:
            return None
        with self._lock:
            data = self._kept.pop(_state(status), None)
            self._room += len(data) + _KEPT_EACH if data is not None else 0
        return data

    def save(self) -> None:
        """Never an error: they are hashed again then."""
        self.trees.save()
        with self._lock:
            if self._place is None or not self._new:
                return
            known = self._loaded()
            known |= self._new
            self._new = {}
            body = b"".join(key + value for key, value in known.items())
        _write(self._place, _HEAD + body + hashlib.sha256(body).digest())


def _read(place: Path) -> dict[bytes, bytes]:
    """Nothing when it is missing or damaged."""
    try:
        data = place.read_bytes()
    except OSError:
        return {}
    body, digest = data[len(_HEAD) : -32], data[-32:]
    if not data.startswith(_HEAD) or len(body) % _SIZE or hashlib.sha256(body).digest() != digest:
        return {}
    return {body[at : at + _KEY]: body[at + _KEY : at + _SIZE] for at in range(0, len(body), _SIZE)}


def _write(place: Path, data: bytes) -> None:
    temporary = place.with_name(f".{place.name}.{os.urandom(6).hex()}")
    with contextlib.suppress(OSError):
        place.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        temporary.write_bytes(data)
        temporary.replace(place)
    with contextlib.suppress(OSError):
        temporary.unlink(missing_ok=True)


class Trees:
    """The remembered digests of directories, by what `_status_of_all` says of them. `device`: what lies elsewhere is
    not remembered."""

    def __init__(self, place: Path | None) -> None:
        self.device: int | None = None
        self._place = place
        self._known: dict[bytes, bytes] = {}
        self._changed = False
        with contextlib.suppress(OSError):
            data = place.read_bytes() if place is not None else b""
            if len(data) % 64 == 32 and hashlib.sha256(data[:-32]).digest() == data[-32:]:
                self._known = {data[at : at + 32]: data[at + 32 : at + 64] for at in range(0, len(data) - 32, 64)}

    def get(self, seen: bytes) -> bytes | None:
        return self._known.get(seen)

    def put(self, seen: bytes, digest: bytes, *, settled: bool) -> None:
        if settled:
            self._known[seen] = digest
            self._changed = True

    def save(self) -> None:
        """The newest of them. Never an error."""
        if self._changed and self._place is not None:
            pairs = list(self._known.items())[-_TREES_MAX:]
            body = b"".join(seen + digest for seen, digest in pairs)
            _write(self._place, body + hashlib.sha256(body).digest())


def file_system_of(fd: int) -> str:
    """The kind of file system that a descriptor is on; "" where the kernel does not say."""
    try:
        fields = Path(f"/proc/self/fdinfo/{fd}").read_text().split()
        number = fields[fields.index("mnt_id:") + 1]
        table = Path("/proc/self/mountinfo").read_text(errors="surrogateescape")
    except (OSError, ValueError):
        return ""
    line = next((line for line in table.splitlines() if line.startswith(f"{number} ")), "")
    return line.partition(" - ")[2].partition(" ")[0]


def _state(status: os.stat_result) -> bytes:
    times = (status.st_mtime_ns, status.st_ctime_ns)
    return _STATE.pack(status.st_dev, status.st_ino, status.st_size, *times)


def is_settled(status: os.stat_result, began_ns: int) -> bool:
    """Whether a later change must have another change time."""
    times = (status.st_mtime_ns, status.st_ctime_ns)
    grain = _COARSE if all(ns % 1_000_000_000 == 0 for ns in times) else _GRAIN
    return max(times) + grain < began_ns


def digest_of(files: Files, top: Item, skip: Skip | None = None) -> bytes:
    """Of everything at and below an item. The name of `top` itself does not count: its place is decided by others.

    Where a source remembers (`files.trees`), one look at each file's status is enough when none has changed.
    """
    trees: Trees | None = getattr(files, "trees", None)
    if trees is None or not top.is_dir:
        return _digest(files, top, skip)
    began = now_ns()
    seen, latest, devices = _status_of_all(files, top, skip)
    known = trees.get(seen)
    if known is None:
        known = _digest(files, top, skip)
        trees.put(seen, known, settled=latest + _COARSE < began and devices == {trees.device})
    return known


def _status_of_all(files: Files, top: Item, skip: Skip | None) -> tuple[bytes, int, set[int]]:
    """A digest of names and of what changes with every change; the latest of the times; the devices."""
    sha, latest = hashlib.sha256(), 0
    devices: set[int] = set()
    parts: list[bytes] = []
    for path, item in walk(files, top, skip):
        status = item.handle
        latest = max(latest, status.st_mtime_ns, status.st_ctime_ns)
        devices.add(status.st_dev)
        parts += (path, _state(status), b"%o" % item.mode)
        if len(parts) > _TOGETHER:
            sha.update(b"\0".join(parts))
            parts = []
    sha.update(b"\0".join(parts))
    return sha.digest(), latest, devices


def _digest(files: Files, top: Item, skip: Skip | None) -> bytes:
    sha = hashlib.sha256()
    links: dict[Hashable, bytes] = {}
    for path, item in walk(files, top, skip):
        sha.update(_record(files, path, item, links))
    return sha.digest()


def _record(files: Files, path: bytes, item: Item, links: dict[Hashable, bytes]) -> bytes:
    owner = (item.uid, item.gid) if files.owned else (0, 0)
    head = b"%d:%b\0%o %d %d %x " % (len(path), path, item.mode, *owner, item.rdev)
    if item.inode is not None:
        first = links.setdefault(item.inode, path)
        if first != path:
            return b"%bL%d:%b" % (head, len(first), first)
    if item.is_link:
        target = files.readlink(item)
        head += b"%d:%b" % (len(target), target)
    elif stat.S_ISREG(item.mode):
        head += files.identity(item)  # before the xattrs: it may know that there are none
    for name, value in files.xattrs(item):
        head += b"X%d:%b%d:%b" % (len(name), name, len(value), value)
    return head + b"\n"


def now_ns() -> int:
    return time.time_ns()
