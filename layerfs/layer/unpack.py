"""A tar into a directory of the host, by descriptors: no name leads out of it, through no link, whatever is there or
changes meanwhile.
"""

from __future__ import annotations

import contextlib
import errno
import os
import stat
import tarfile
from collections.abc import Iterator
from dataclasses import dataclass
from typing import BinaryIO

from layerfs.errors import InvalidArchive, InvalidInput
from layerfs.layer.host import HOST_LABELS

_DIR = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_NEW = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
_OLD = os.O_WRONLY | os.O_TRUNC | os.O_NOFOLLOW | os.O_CLOEXEC
_PIECE = 1 << 18
_XATTR = "SCHILY.xattr."
_SET_ID = 0o6000


@dataclass(frozen=True, slots=True)
class Rules:
    """`owners` and `set_id`: keep them, else everything is ours and the set-id bits go. `devices`: make nodes, else
    they are passed over. `xattrs`: set them."""

    owners: bool = False
    set_id: bool = False
    devices: bool = False
    xattrs: bool = False


def unpack(stream: BinaryIO, base: int, rules: Rules) -> None:
    """Extracts below the directory with the descriptor `base`, over what is there.

    Raises:
        InvalidArchive: it is no tar, or a name climbs. InvalidInput: a directory over something else, or the reverse.
        OSError: the host's, with the name.
    """
    place = _Place(base, rules)
    try:
        with tarfile.open(fileobj=stream, mode="r|*", encoding="utf-8", errors="surrogateescape") as archive:
            for member in archive:
                place.add(archive, member)
    except (tarfile.TarError, EOFError, UnicodeError, ValueError) as error:
        raise InvalidArchive(f"not a usable tar archive: {error}") from error
    finally:
        stream.read()  # to the end, so that a writer is not stopped by a closed pipe
    place.finish()


def _parts(name: str) -> list[str]:
    parts = [part for part in name.split("/") if part not in ("", ".")]
    if ".." in parts:
        raise InvalidArchive(f"a name in the archive climbs: {name!r}")
    return parts


class _Place:
    def __init__(self, base: int, rules: Rules) -> None:
        self._base, self._rules = base, rules
        self._times: list[tuple[list[str], tarfile.TarInfo]] = []

    @contextlib.contextmanager
    def _parent(self, parts: list[str]) -> Iterator[int]:
        """The directory of the last part; made where it is missing."""
        fd = os.dup(self._base)
        try:
            for part in parts[:-1]:
                with contextlib.suppress(FileExistsError):
                    os.mkdir(part, 0o755, dir_fd=fd)
                try:
                    inner = os.open(part, _DIR, dir_fd=fd)
                except OSError as error:
                    if error.errno in (errno.ELOOP, errno.ENOTDIR):
                        raise InvalidArchive(f"{'/'.join(parts)!r} would go through what is no directory") from error
                    raise
                os.close(fd)
                fd = inner
            yield fd
        finally:
            os.close(fd)

    def add(self, archive: tarfile.TarFile, member: tarfile.TarInfo) -> None:
        parts = _parts(member.name)
        if not parts:
            return
        with self._parent(parts) as parent:
            try:
                if self._make(archive, member, parent, parts[-1]):
                    self._dress(member, parent, parts)
            except OSError as error:
                if error.filename is None or isinstance(error, InvalidInput):
                    raise
                raise type(error)(error.errno, error.strerror, "/".join(parts)) from error

    def _make(self, archive: tarfile.TarFile, member: tarfile.TarInfo, parent: int, name: str) -> bool:
        """Whether there is a new entry now, or one to be dressed."""
        if member.isdir():
            return self._make_directory(member, parent, name)
        if (member.ischr() or member.isblk()) and not self._rules.devices:
            return False
        in_use = self._clear(parent, name)
        if member.isreg():
            self._write(archive, member, os.open(name, _OLD if in_use else _NEW, 0o600, dir_fd=parent))
        elif member.issym():
            os.symlink(member.linkname, name, dir_fd=parent)
        elif member.islnk():
            self._link(member, parent, name)
        elif member.isfifo():
            os.mkfifo(name, 0o600, dir_fd=parent)
        elif member.ischr() or member.isblk():
            kind = stat.S_IFCHR if member.ischr() else stat.S_IFBLK
            os.mknod(name, kind | 0o600, os.makedev(member.devmajor, member.devminor), dir_fd=parent)
        else:
            return False
        return not member.islnk()

    @staticmethod
    def _make_directory(member: tarfile.TarInfo, parent: int, name: str) -> bool:
        try:
            os.mkdir(name, 0o700, dir_fd=parent)
        except FileExistsError:
            if not stat.S_ISDIR(os.stat(name, dir_fd=parent, follow_symlinks=False).st_mode):
                raise InvalidInput(f"cannot overwrite non-directory {member.name!r} with directory") from None
        return True

    @staticmethod
    def _clear(parent: int, name: str) -> bool:
        """Takes away what has the name; True when it is a mount (a file of /etc), which stays."""
        try:
            os.unlink(name, dir_fd=parent)
        except FileNotFoundError:
            pass
        except IsADirectoryError:
            raise InvalidInput(f"cannot overwrite directory {name!r} with non-directory") from None
        except OSError as error:
            if error.errno != errno.EBUSY:
                raise
            return True
        return False

    @staticmethod
    def _write(archive: tarfile.TarFile, member: tarfile.TarInfo, fd: int) -> None:
        source = archive.extractfile(member)
        with open(fd, "wb") as target:
            while source is not None and (data := source.read(_PIECE)):
                target.write(data)

    def _link(self, member: tarfile.TarInfo, parent: int, name: str) -> None:
        to = _parts(member.linkname)
        if not to:
            raise InvalidArchive(f"a hard link to nothing: {member.name!r}")
        with self._parent(to) as there:
            os.link(to[-1], name, src_dir_fd=there, dst_dir_fd=parent, follow_symlinks=False)

    def _dress(self, member: tarfile.TarInfo, parent: int, parts: list[str]) -> None:
        name, rules = parts[-1], self._rules
        if rules.owners:
            os.chown(name, member.uid, member.gid, dir_fd=parent, follow_symlinks=False)
        if rules.xattrs:
            self._set_xattrs(member, parent, name)
        if member.issym():
            self._set_time(member, parent, name)
            return
        mode = member.mode & 0o7777 if rules.set_id else member.mode & 0o7777 & ~_SET_ID
        fd = os.open(name, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=parent)
        try:
            if not stat.S_ISLNK(os.fstat(fd).st_mode):  # somebody may have put a link there
                os.chmod(f"/proc/self/fd/{fd}", mode)  # noqa: PTH101
        finally:
            os.close(fd)
        if member.isdir():
            self._times.append((parts, member))
        else:
            self._set_time(member, parent, name)

    @staticmethod
    def _set_xattrs(member: tarfile.TarInfo, parent: int, name: str) -> None:
        for key, value in member.pax_headers.items():
            attribute = os.fsencode(key.removeprefix(_XATTR))
            if not key.startswith(_XATTR) or attribute in HOST_LABELS or attribute.startswith(b"trusted.overlay."):
                continue
            with contextlib.suppress(OSError):
                place = f"/proc/self/fd/{parent}/{name}"
                os.setxattr(place, attribute, value.encode("utf-8", "surrogateescape"), follow_symlinks=False)

    @staticmethod
    def _set_time(member: tarfile.TarInfo, parent: int, name: str) -> None:
        when = int(member.mtime * 1_000_000_000) if isinstance(member.mtime, float) else member.mtime * 1_000_000_000
        with contextlib.suppress(OSError, OverflowError):
            os.utime(name, ns=(when, when), dir_fd=parent, follow_symlinks=False)

    def finish(self) -> None:
        """Directories get their times when all is in them."""
        for parts, member in reversed(self._times):
            with contextlib.suppress(OSError), self._parent(parts) as parent:
                self._set_time(member, parent, parts[-1])
