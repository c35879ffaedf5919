"""Random work on the bytes of several files through many descriptors and mappings, against byte arrays (after fsx).

Each descriptor and mapping sees the file's bytes, whatever happened since it was opened: copy-up, renames, links,
removal. The one exception that may be asked for: `freezes` names files whose read-only descriptors keep the first bytes
from the moment somebody opens the file for writing (docs/limits.md).
"""

from __future__ import annotations

import ctypes
import errno
import mmap
import os
import random
from collections import deque
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from pathlib import Path

_LIBC = ctypes.CDLL(None, use_errno=True)
_ALLOCATE, _KEEP_SIZE, _PUNCH, _ZERO = 0, 1, 2, 16
_AT_FDCWD, _EXCHANGE = -100, 2
_BLOCK = 4096
LIMIT = 3 << 20


@dataclass(eq=False)
class Opened:
    fd: int
    reads: bool
    writes: bool
    append: bool = False
    direct: bool = False
    frozen: bytes | None = field(default=None, repr=False)
    mapping: mmap.mmap | None = field(default=None, repr=False)


@dataclass(eq=False)
class Body:
    """A file: its bytes and names, and who has it open."""

    data: bytearray
    names: list[str]
    lower: bytes | None = None  # its first bytes, while nothing has changed them and old descriptors would keep them
    opened: list[Opened] = field(default_factory=list)

    def change(self) -> None:
        """Somebody is about to change the bytes, or to give the file another name."""
        if self.lower is not None:
            for handle in self.opened:
                handle.frozen = self.lower
            self.lower = None

    def put(self, at: int, data: bytes) -> None:
        self.grow(at + len(data) if data else 0)
        self.data[at : at + len(data)] = data

    def grow(self, size: int) -> None:
        self.data.extend(bytes(max(0, size - len(self.data))))

    def cut(self, size: int) -> None:
        self.grow(size)
        del self.data[size:]


class Exerciser:
    """`step()` does one random thing and checks what it shows; `check()` compares everything."""

    def __init__(
        self,
        root: Path,
        files: Collection[Sequence[str]],
        seed: int,
        *,
        freezes: Collection[str] = (),
        nameless: bool = True,
    ) -> None:
        """`files`: the names of each file that is there. `nameless`: O_TMPFILE is there (Linux 6.1)."""
        self.root, self.chance, self.nameless = root, random.Random(seed), nameless
        self.bodies: list[Body] = []
        self.count = 0
        self.trail: deque[str] = deque(maxlen=40)
        for names in files:
            data = (root / names[0]).read_bytes()
            self.bodies.append(Body(bytearray(data), list(names), data if names[0] in freezes else None))
        self.buffer = mmap.mmap(-1, 1 << 18)
        self.steps = [
            *[self.read] * 8,
            *[self.write] * 6,
            *[self.open] * 3,
            self.close,
            self.cut,
            self.cut,
            self.allocate,
            self.allocate,
            self.copy,
            self.map,
            *[self.touch] * 5,
            self.look,
            self.look,
            self.seek,
            self.sync,
            self.change_attributes,
            self.rename,
            self.link,
            self.unlink,
            self.create,
        ]

    def step(self) -> None:
        step = self.chance.choice(self.steps)
        self.trail.append(step.__name__)
        try:
            step()
        except (AssertionError, OSError) as error:
            error.add_note(f"after {' '.join(self.trail)}")
            raise

    # --- choosing ---

    def _body(self, *, named: bool = False) -> Body | None:
        bodies = [body for body in self.bodies if body.names] if named else self.bodies
        return self.chance.choice(bodies) if bodies else None

    def _path(self, body: Body) -> Path:
        return self.root / self.chance.choice(body.names)

    def _handle(self, *, reads: bool = False, writes: bool = False) -> tuple[Body, Opened] | None:
        pairs = [
            (body, handle)
            for body in self.bodies
            for handle in body.opened
            if (handle.reads or not reads) and (handle.writes or not writes)
        ]
        return self.chance.choice(pairs) if pairs else None

    def _at(self, body: Body) -> int:
        size = len(body.data)
        return min(
            LIMIT, self.chance.choice([self.chance.randrange(size + 5000), size, 0, 4095, 65536, size & -_BLOCK])
        )

    def _some(self) -> bytes:
        return self.chance.randbytes(self.chance.choice([1, 100, 4096, 5000, 70_000]))

    # --- opening ---

    def open(self) -> None:
        body = self._body(named=True)
        if body is None or len(body.opened) >= 6:
            return
        access = self.chance.choice([os.O_RDONLY, os.O_RDONLY, os.O_RDWR, os.O_RDWR, os.O_WRONLY])
        writes = access != os.O_RDONLY
        flags = self.chance.choice([0, 0, 0, os.O_APPEND]) if writes else 0
        direct = self.chance.random() < 0.15
        cuts = writes and self.chance.random() < 0.06
        if writes:
            body.change()
        fd = os.open(self._path(body), access | flags | (os.O_DIRECT if direct else 0) | (os.O_TRUNC if cuts else 0))
        if cuts:
            body.cut(0)
        body.opened.append(Opened(fd, access != os.O_WRONLY, writes, bool(flags), direct))

    def close(self) -> None:
        pair = self._handle()
        if pair:
            self._close(*pair)

    def _close(self, body: Body, handle: Opened) -> None:
        body.opened.remove(handle)
        if handle.mapping:
            handle.mapping.close()
        os.close(handle.fd)
        if not body.names and not body.opened:
            self.bodies.remove(body)

    # --- bytes ---

    def _sees(self, body: Body, handle: Opened) -> bytes | bytearray:
        return body.data if handle.frozen is None else handle.frozen

    def read(self) -> None:
        pair = self._handle(reads=True)
        if not pair:
            return
        body, handle = pair
        at, count = self._at(body), self.chance.choice([1, 4096, self.chance.randrange(1, 200_000)])
        if handle.direct:
            at, count = at & -_BLOCK, max(_BLOCK, count & -_BLOCK)
            got = os.preadv(handle.fd, [memoryview(self.buffer)[:count]], at)
            found = self.buffer[:got]
        else:
            found = os.pread(handle.fd, count, at)
        self._same(found, self._sees(body, handle)[at : at + count], body, handle, at)

    def _same(self, found: bytes, wanted: bytes, body: Body, handle: Opened | None, at: int) -> None:
        if found == wanted:
            return
        first = next((i for i, (a, b) in enumerate(zip(found, wanted, strict=False)) if a != b), -1)
        raise AssertionError(
            f"{body.names} {handle}: {len(found)} bytes at {at}, wanted {len(wanted)}; the first wrong one is {first}, "
            f"{found[first : first + 8]!r} for {wanted[first : first + 8]!r}; size {len(body.data)}"
        )

    def write(self) -> None:
        pair = self._handle(writes=True)
        if not pair:
            return
        body, handle = pair
        at, data = self._at(body), self._some()
        if handle.direct:
            at, data = at & -_BLOCK, self.chance.randbytes(self.chance.choice([1, 5]) * _BLOCK)
            if handle.append and len(body.data) % _BLOCK:
                return
            self.buffer[: len(data)] = data
            at = len(body.data) if handle.append else at
            if at + len(data) > LIMIT:
                return
            os.pwritev(handle.fd, [memoryview(self.buffer)[: len(data)]], at)
        else:
            at = len(body.data) if handle.append else at
            if at + len(data) > LIMIT + 80_000:
                return
            assert os.pwrite(handle.fd, data, at) == len(data)
        body.put(at, data)

    def cut(self) -> None:
        body = self._body()
        if body is None:
            return
        size = self._at(body)
        writers = [handle for handle in body.opened if handle.writes]
        if writers and self.chance.random() < 0.5:
            os.ftruncate(self.chance.choice(writers).fd, size)
        elif body.names:
            body.change()
            os.truncate(self._path(body), size)
        else:
            return
        body.cut(size)

    def allocate(self) -> None:
        pair = self._handle(writes=True)
        if not pair or pair[1].append:
            return
        body, handle = pair
        at, count = self._at(body), self.chance.randrange(1, 100_000)
        mode = self.chance.choice([_ALLOCATE, _KEEP_SIZE, _KEEP_SIZE | _PUNCH, _ZERO, _ZERO | _KEEP_SIZE])
        done = _LIBC.fallocate(handle.fd, mode, ctypes.c_long(at), ctypes.c_long(count))
        assert done == 0, os.strerror(ctypes.get_errno())
        if not mode & _KEEP_SIZE:
            body.grow(at + count)
        if mode & (_PUNCH | _ZERO):
            end = min(at + count, len(body.data))
            body.data[at:end] = bytes(max(0, end - at))

    def copy(self) -> None:
        """copy_file_range between two files, or within one."""
        source, target = self._handle(reads=True), self._handle(writes=True)
        if not source or not target or target[1].append or target[1].direct:  # direct: parts are written, then EINVAL
            return
        seen = self._sees(*source)
        at, to, count = self._at(source[0]), self._at(target[0]), self.chance.randrange(1, 150_000)
        if source[0] is target[0] and abs(at - to) < count:
            return
        data = bytes(seen[at : at + count])
        try:
            done = os.copy_file_range(source[1].fd, target[1].fd, count, at, to)
        except OSError as error:
            if error.errno in (errno.EXDEV, errno.EOPNOTSUPP, errno.EINVAL):
                return
            raise
        assert done <= len(data)
        assert done or not data
        target[0].put(to, data[:done])

    # --- mappings ---

    def map(self) -> None:
        pair = self._handle(reads=True)
        if not pair or pair[1].mapping:
            return
        body, handle = pair
        size = len(self._sees(body, handle))
        if not size:
            return
        access = mmap.PROT_READ | (mmap.PROT_WRITE if handle.writes else 0)
        handle.mapping = mmap.mmap(handle.fd, size, mmap.MAP_SHARED, access)

    def touch(self) -> None:
        pairs = [(body, handle) for body in self.bodies for handle in body.opened if handle.mapping]
        if not pairs:
            return
        body, handle = self.chance.choice(pairs)
        assert handle.mapping
        seen = self._sees(body, handle)
        end = min(len(handle.mapping), len(seen))
        if not end:
            return
        at = self.chance.randrange(end)
        count = min(end - at, self.chance.choice([1, 5000, 50_000]))
        if handle.writes and self.chance.random() < 0.6:
            data = self.chance.randbytes(count)
            handle.mapping[at : at + count] = data
            body.put(at, data)
            if self.chance.random() < 0.1:
                handle.mapping.flush()
        else:
            self._same(handle.mapping[at : at + count], seen[at : at + count], body, handle, at)

    # --- attributes and the rest ---

    def look(self) -> None:
        body = self._body()
        if body is None:
            return
        for name in body.names:
            entry = os.stat(self.root / name)
            assert (entry.st_size, entry.st_nlink) == (len(body.data), len(body.names)), (name, body.opened)
        for handle in body.opened:
            entry = os.fstat(handle.fd)
            wanted = len(self._sees(body, handle)), len(body.names)
            found = entry.st_size, entry.st_nlink
            assert found == wanted, (body.names, handle, found, wanted)

    def seek(self) -> None:
        """What lies in a hole is zeros."""
        pair = self._handle(reads=True)
        if not pair:
            return
        seen = self._sees(*pair)
        at = self._at(pair[0])
        try:
            found = os.lseek(pair[1].fd, at, os.SEEK_DATA)
        except OSError as error:
            assert error.errno == errno.ENXIO
            found = len(seen)
        assert not any(seen[at:found])
        if found < len(seen):
            assert os.lseek(pair[1].fd, found, os.SEEK_HOLE) > found

    def sync(self) -> None:
        pair = self._handle()
        if not pair:
            return
        fd = pair[1].fd
        self.chance.choice(
            [
                lambda: os.fsync(fd),
                lambda: os.fdatasync(fd),
                lambda: os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED),
                lambda: os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_WILLNEED),
            ]
        )()

    def change_attributes(self) -> None:
        body = self._body(named=True)
        if body is None:
            return
        path = self._path(body)
        kind = self.chance.randrange(4)
        if kind == 0:
            os.chmod(path, 0o600 | self.chance.randrange(0o100))
        elif kind == 1:
            time = self.chance.randrange(1 << 60)
            os.utime(path, ns=(time, time))
            assert os.stat(path).st_mtime_ns == time
        elif kind == 2:
            value = self.chance.randbytes(20)
            os.setxattr(path, "user.value", value)
            assert os.getxattr(self._path(body), "user.value") == value
        elif body.opened:
            os.fchmod(self.chance.choice(body.opened).fd, 0o600)
            assert os.stat(path).st_mode & 0o777 == 0o600

    # --- names ---

    def _fresh(self) -> str:
        self.count += 1
        return f"n{self.count}"

    def rename(self) -> None:
        """To a free name, over another file, or changing places with one."""
        body, other = self._body(named=True), self._body(named=True)
        if body is None or other is None:
            return
        old = self.chance.choice(body.names)
        kind = self.chance.randrange(4)
        if kind < 2 or other is body or len(self.bodies) < 4:
            new = self._fresh()
            os.rename(self.root / old, self.root / new)
            body.names[body.names.index(old)] = new
            return
        new = self.chance.choice(other.names)
        flags = _EXCHANGE if kind == 2 else 0
        old_path, new_path = os.fsencode(self.root / old), os.fsencode(self.root / new)
        done = _LIBC.renameat2(_AT_FDCWD, old_path, _AT_FDCWD, new_path, flags)
        assert done == 0, os.strerror(ctypes.get_errno())
        body.names.remove(old)
        other.names.remove(new)
        body.names.append(new)
        if flags:
            other.names.append(old)
        elif not other.names and not other.opened:
            self.bodies.remove(other)

    def link(self) -> None:
        body = self._body(named=True)
        if body is None or len(body.names) > 3:
            return
        new = self._fresh()
        body.change()
        os.link(self._path(body), self.root / new)
        body.names.append(new)

    def unlink(self) -> None:
        body = self._body(named=True)
        if body is None or (len(self.bodies) < 5 and len(body.names) == 1):
            return
        name = self.chance.choice(body.names)
        os.unlink(self.root / name)
        body.names.remove(name)
        if not body.names and not body.opened:
            self.bodies.remove(body)

    def create(self) -> None:
        """A new file, by name or first without one."""
        if len(self.bodies) > 8:
            return
        name = self._fresh()
        if not self.nameless or self.chance.random() < 0.5:
            fd = os.open(self.root / name, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o644)
            body = Body(bytearray(), [name])
        else:
            fd = os.open(self.root, os.O_RDWR | os.O_TMPFILE, 0o644)
            body = Body(bytearray(), [])
            if self.chance.random() < 0.7:
                os.link(f"/proc/self/fd/{fd}", self.root / name, src_dir_fd=fd, follow_symlinks=True)
                body.names.append(name)
        body.opened.append(Opened(fd, True, True))
        self.bodies.append(body)

    # --- the whole ---

    def check(self) -> None:
        """All names, sizes and bytes are as they should be."""
        for body in self.bodies:
            for name in body.names:
                self._same((self.root / name).read_bytes(), bytes(body.data), body, None, 0)
        assert {name for body in self.bodies for name in body.names} <= set(os.listdir(self.root))

    def end(self) -> None:
        """Closes everything."""
        for body in list(self.bodies):
            for handle in list(body.opened):
                self._close(body, handle)
