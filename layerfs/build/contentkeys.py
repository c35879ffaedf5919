"""Digests of what a COPY takes: names, modes, owners, links as written, xattrs and contents; never times.

The contents of a context's files are hashed once and remembered by inode, size, modification and change time. What was
changed less than a grain of the clock before it was read could be changed again without a trace: it is not remembered.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import secrets
import stat
import struct
import threading
import time
from collections.abc import Hashable
from pathlib import Path

from layerfs.build.files import Files, Item, Skip, walk

_STATE = struct.Struct("<QQQqq")  # device, inode | size, mtime, ctime (ns)
_KEY, _SIZE = 16, _STATE.size + 33  # of a record: the state, the sha256, 1 when there are no xattrs
_GRAIN, _COARSE = 100_000_000, 2_500_000_000  # ns; file systems that keep whole seconds, or two
_HEAD = b"layerfs hashes 2\n"


class Hashes:
    """The remembered contents of one context, in a file of the store's cache, which may go at any time. Thread-safe."""

    def __init__(self, place: Path | None) -> None:
        self._place = place
        self._known: dict[bytes, bytes] = {}
        self._new: dict[bytes, bytes] = {}
        self._here: dict[bytes, tuple[bytes, bool]] = {}  # what this build has read, remembered or not
        self._lock = threading.Lock()
        if place is not None:
            self._load(place)

    def _load(self, place: Path) -> None:
        try:
            data = place.read_bytes()
        except OSError:
            return
        body, digest = data[len(_HEAD) : -32], data[-32:]
        if not data.startswith(_HEAD) or len(body) % _SIZE or hashlib.sha256(body).digest() != digest:
            return
        self._known = {body[at : at + _KEY]: body[at + _KEY : at + _SIZE] for at in range(0, len(body), _SIZE)}

    def get(self, status: os.stat_result) -> tuple[bytes, bool] | None:
        """The sha256 of a file's bytes, and whether it surely has no xattrs."""
        state = _state(status)
        if here := self._here.get(state):
            return here
        found = self._new.get(state[:_KEY]) or self._known.get(state[:_KEY])
        return (found[-33:-1], found[-1:] == b"1") if found is not None and found[:-33] == state[_KEY:] else None

    def put(self, status: os.stat_result, digest: bytes, began_ns: int, *, plain: bool = False) -> None:
        """`began_ns`: when reading it began. `plain`: it has no xattrs."""
        state = _state(status)
        with self._lock:
            if is_settled(status, began_ns):
                self._new[state[:_KEY]] = state[_KEY:] + digest + (b"1" if plain else b"0")
            else:
                self._here[state] = (digest, plain)

    def save(self) -> None:
        """Never an error: they are hashed again then."""
        with self._lock:
            if self._place is None or not self._new:
                return
            self._known |= self._new
            self._new = {}
            body = b"".join(key + value for key, value in self._known.items())
        temporary = self._place.with_name(f".{self._place.name}.{secrets.token_hex(6)}")
        with contextlib.suppress(OSError):
            self._place.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            temporary.write_bytes(_HEAD + body + hashlib.sha256(body).digest())
            temporary.replace(self._place)
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)


def _state(status: os.stat_result) -> bytes:
    times = (status.st_mtime_ns, status.st_ctime_ns)
    return _STATE.pack(status.st_dev, status.st_ino, status.st_size, *times)


def is_settled(status: os.stat_result, began_ns: int) -> bool:
    """Whether a later change must have another change time."""
    times = (status.st_mtime_ns, status.st_ctime_ns)
    grain = _COARSE if all(ns % 1_000_000_000 == 0 for ns in times) else _GRAIN
    return max(times) + grain < began_ns


def digest_of(files: Files, top: Item, skip: Skip | None = None) -> bytes:
    """Of everything at and below an item. The name of `top` itself does not count: its place is decided by others."""
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
