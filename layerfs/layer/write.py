"""Writing the canonical tar of a layer: equal entries give equal bytes.

The form, where the specification leaves a choice:

* ustar headers; a PAX header before those that need one, and only with the records that are needed, sorted by name;
* numeric owners, empty owner names, no access or change times;
* modification times to the nanosecond (PAX `mtime` when ustar cannot say it). Docker cuts to whole seconds; that
  loses what the file system had, and make and python compare those digits;
* all xattrs as `SCHILY.xattr.NAME` (`LIBARCHIVE.xattr.` for names with `=`), except the private ones of overlayfs,
  which would forge its state elsewhere;
* a hard link carries the attributes of its inode, size 0, after the entry with the data;
* whiteouts are `.wh.NAME`, regular, mode 0600, time 0; `.wh..wh..opq` follows its directory and has its permissions
  and owner, time 0: both as docker;
* files with zero blocks of 1 MiB or more in total that the source keeps as holes are PAX sparse 1.0 (Go, GNU tar,
  libarchive and Python read it): a hole of 1 TiB costs nothing;
* two zero blocks end the archive.

The order is the caller's. Names that a layer cannot hold raise InvalidInput.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Callable, Iterable

from layerfs.errors import InUse, InvalidInput
from layerfs.layer.entry import Content, Entry
from layerfs.layer.sparse import Extents, canonical_extents, sparse_table

BLOCK = 512
SPARSE_BORDER = 1 << 20
FLUSH = 1 << 20
NAME_MAX, PATH_MAX = 255, 4095  # the limits of a tree (docs/format.md)
PRIVATE_XATTRS = (b"trusted.overlay.", b"user.overlay.")
_PADDING = bytes(BLOCK)
_NAMES = (b"path", b"linkpath", b"GNU.sparse.name")  # records that hold names
_MAX_7, _MAX_11 = 0o7777777, 0o77777777777
_TYPES = {
    stat.S_IFREG: b"0",
    stat.S_IFLNK: b"2",
    stat.S_IFCHR: b"3",
    stat.S_IFBLK: b"4",
    stat.S_IFDIR: b"5",
    stat.S_IFIFO: b"6",
}


class TarWriter:
    """Writes entries as a layer tar to `write`, which gets pieces of about 1 MiB. `finish()` ends the archive.

    `latest_ns`: later modification times are set to this one (SOURCE_DATE_EPOCH). `hand_over`: is offered the contents
    of files without holes; it answers whether it has written all of its bytes by itself.
    """

    def __init__(
        self,
        write: Callable[[bytes], object],
        *,
        latest_ns: int | None = None,
        hand_over: Callable[[Content], bool] = lambda content: False,
    ) -> None:
        self._write, self._hand_over = write, hand_over
        self._latest = latest_ns
        self._parts: list[bytes] = []
        self._held = 0
        self.size = 0  # bytes of tar so far

    def add_all(self, entries: Iterable[Entry]) -> None:
        for entry in entries:
            self.add(entry)

    def add(self, entry: Entry) -> None:
        """Raises InvalidInput for what a layer cannot hold, InUse for a file that changes while it is read."""
        _check_path(entry.path)
        if entry.whiteout:
            self._empty(_in_directory(entry.path, b".wh."), 0o600, 0, 0)
        elif entry.link is not None:
            self._member(entry, b"1", entry.path, linkname=entry.link)
        elif stat.S_ISREG(entry.mode) and entry.content is not None and entry.size:
            self._regular(entry, entry.content)
        else:
            self._other(entry)

    def finish(self) -> None:
        self._put(bytes(2 * BLOCK))
        self.flush()

    def _other(self, entry: Entry) -> None:
        kind = _TYPES.get(stat.S_IFMT(entry.mode))
        if kind is None:
            raise InvalidInput("a layer cannot hold a file of this type", path=b"/" + entry.path)
        name = entry.path
        if kind == b"5":
            name = (name or b".") + b"/"
        self._member(entry, kind, name, linkname=entry.target)
        if entry.opaque:
            marker = entry.path + b"/.wh..wh..opq" if entry.path else b".wh..wh..opq"
            self._empty(marker, entry.mode & 0o777, entry.uid, entry.gid)

    def _regular(self, entry: Entry, content: Content) -> None:
        whole = ((0, entry.size),)
        extents = content.extents()
        if extents != whole and entry.size > sum(length for _, length in extents):
            extents = canonical_extents(content, extents)
            if entry.size - sum(length for _, length in extents) >= SPARSE_BORDER:
                self._sparse(entry, content, extents)
                return
        self._member(entry, b"0", entry.path, size=entry.size)
        if entry.size > FLUSH:
            self.flush()
            if self._hand_over(content):
                self.size += entry.size
                self._pad(entry.size)
                return
        self._data(entry, content, whole)

    def _sparse(self, entry: Entry, content: Content, extents: Extents) -> None:
        table = sparse_table(extents, entry.size)
        records = {
            b"GNU.sparse.major": b"1",
            b"GNU.sparse.minor": b"0",
            b"GNU.sparse.name": entry.path,
            b"GNU.sparse.realsize": b"%d" % entry.size,
        }
        size = len(table) + sum(length for _, length in extents)
        name = b"GNUSparseFile.0/" + _ascii(entry.path.rpartition(b"/")[2])[:80]
        self._member(entry, b"0", name, size=size, records=records)
        self._put(table)
        self._data(entry, content, extents)

    def _data(self, entry: Entry, content: Content, extents: Extents) -> None:
        wanted, got = sum(length for _, length in extents), 0
        for piece in content.pieces(extents):
            got += len(piece)
            self._put(piece)
        if got != wanted:
            raise InUse(f"the file gave {got} bytes instead of {wanted}", path=b"/" + entry.path)
        self._pad(wanted)

    def _pad(self, size: int) -> None:
        if size % BLOCK:
            self._put(_PADDING[size % BLOCK :])

    def _empty(self, path: bytes, mode: int, uid: int, gid: int) -> None:
        self._member(Entry(path, stat.S_IFREG | mode, uid, gid), b"0", path)

    def _member(
        self,
        entry: Entry,
        kind: bytes,
        name: bytes,
        *,
        linkname: bytes = b"",
        size: int = 0,
        records: dict[bytes, bytes] | None = None,
    ) -> None:
        records = records or {}
        seconds, nanoseconds = divmod(self._time(entry.mtime_ns), 1_000_000_000)
        if nanoseconds or not 0 <= seconds <= _MAX_11:
            records[b"mtime"] = _decimal(seconds, nanoseconds)
        for key, number, limit in ((b"uid", entry.uid, _MAX_7), (b"gid", entry.gid, _MAX_7), (b"size", size, _MAX_11)):
            if number > limit:
                records[key] = b"%d" % number
        prefix, short = _split_name(name)
        if short is None:
            records[b"path"], short = name, _ascii(name)[:100]
        if len(linkname) > 100 or not linkname.isascii():
            records[b"linkpath"], linkname = linkname, _ascii(linkname)[:100]
        if kind != b"1":
            for key, value in entry.xattrs:
                _xattr_record(records, key, value, entry.path)
        front = self._pax(records, name) if records else b""
        device = (os.major(entry.rdev), os.minor(entry.rdev)) if kind in b"34" else (0, 0)
        fields = (entry.mode & 0o7777, entry.uid, entry.gid, size, seconds)
        self._put(front + _header(short, fields, kind, linkname, device, prefix))

    def _time(self, mtime_ns: int) -> int:
        return mtime_ns if self._latest is None else min(mtime_ns, self._latest)

    @staticmethod
    def _pax(records: dict[bytes, bytes], name: bytes) -> bytes:
        """The member before one that says what its own header cannot."""
        if any(key in records and not _is_utf8(records[key]) for key in _NAMES):
            records[b"hdrcharset"] = b"BINARY"
        body = b"".join(_pax_record(key, records[key]) for key in sorted(records))
        short = b"PaxHeaders.0/" + _ascii(name.rstrip(b"/").rpartition(b"/")[2])[:80]
        header = _header(short, (0o644, 0, 0, len(body), 0), b"x", b"", (0, 0), b"")
        return header + body + _PADDING[: -len(body) % BLOCK]

    def _put(self, data: bytes) -> None:
        self._parts.append(data)
        self._held += len(data)
        if self._held >= FLUSH:
            self.flush()

    def flush(self) -> None:
        """All that was added is written."""
        self.size += self._held
        data = b"".join(self._parts)
        self._parts, self._held = [], 0
        self._write(data)


def _header(
    name: bytes,
    fields: tuple[int, int, int, int, int],
    kind: bytes,
    linkname: bytes,
    device: tuple[int, int],
    prefix: bytes,
) -> bytes:
    """A ustar header (POSIX.1-2001). Numbers that do not fit are 0 and stand in the PAX header."""
    mode, uid, gid, size, mtime = fields
    numbers = b"%07o\0%07o\0%07o\0%011o\0%011o\0" % (
        mode,
        uid if uid <= _MAX_7 else 0,
        gid if gid <= _MAX_7 else 0,
        size if size <= _MAX_11 else 0,
        mtime if 0 <= mtime <= _MAX_11 else 0,
    )
    devices = b"%07o\0%07o\0" % device
    # the NULs count nothing: summing what is between them takes a fifth of the time
    total = sum(b"%b%b%bustar00%b%b%b" % (name, numbers, kind, linkname, devices, prefix)) + 8 * 0x20
    return b"%b%b%06o\0 %b%bustar\x0000%b%b%b" % (
        name.ljust(100, b"\0"),
        numbers,
        total,
        kind,
        linkname.ljust(100, b"\0"),
        bytes(64),
        devices,
        prefix.ljust(167, b"\0"),
    )


def _split_name(name: bytes) -> tuple[bytes, bytes | None]:
    """(prefix, name) for a ustar header; (b"", None) when it does not fit."""
    if not name.isascii():
        return b"", None
    if len(name) <= 100:
        return b"", name
    cut = name.find(b"/", len(name) - 101, -1)
    return (name[:cut], name[cut + 1 :]) if 0 < cut <= 155 else (b"", None)


def _pax_record(key: bytes, value: bytes) -> bytes:
    body = b" %b=%b\n" % (key, value)
    length = len(body)
    while len(body) + len(b"%d" % length) != length:
        length = len(body) + len(b"%d" % length)
    return b"%d%b" % (length, body)


def _xattr_record(records: dict[bytes, bytes], name: bytes, value: bytes, path: bytes) -> None:
    if name.startswith(PRIVATE_XATTRS):
        return
    if b"\0" in name:
        raise InvalidInput("a layer cannot hold an xattr with a NUL in its name", path=b"/" + path)
    if b"=" in name:
        if not value:
            raise InvalidInput("a layer cannot hold an empty xattr with = in its name", path=b"/" + path)
        import base64
        import urllib.parse

        records[b"LIBARCHIVE.xattr." + urllib.parse.quote_from_bytes(name).encode()] = base64.b64encode(value)
    else:
        records[b"SCHILY.xattr." + name] = value


def _decimal(seconds: int, nanoseconds: int) -> bytes:
    if nanoseconds and seconds < 0:  # -1.25 is -2 s and 0.75 s: PAX wants sign and magnitude
        whole, part = -(seconds + 1), 1_000_000_000 - nanoseconds
        return b"-%d" % whole + (b".%09d" % part).rstrip(b"0")
    return b"%d" % seconds + ((b".%09d" % nanoseconds).rstrip(b"0") if nanoseconds else b"")


def _check_path(path: bytes) -> None:
    if b".wh." in path and b"/.wh." in b"/" + path:
        raise InvalidInput("a layer cannot hold a name that begins with .wh. (a whiteout there)", path=b"/" + path)
    if len(path) > 255 and (len(path) > PATH_MAX or max(map(len, path.split(b"/"))) > NAME_MAX):
        raise InvalidInput("a layer cannot hold a name over 255 or a path over 4095 bytes", path=b"/" + path)
    if b"\0" in path or path.startswith(b"/") or path.endswith(b"/"):
        raise InvalidInput("not a path inside a layer", path=path)


def _in_directory(path: bytes, prefix: bytes) -> bytes:
    directory, slash, name = path.rpartition(b"/")
    return directory + slash + prefix + name


def _ascii(data: bytes) -> bytes:
    return data if data.isascii() else bytes(byte for byte in data if byte < 128)


def _is_utf8(data: bytes) -> bool:
    if data.isascii():
        return True
    try:
        data.decode()
    except UnicodeDecodeError:
        return False
    return True
