"""Kernel mounts as data: the Mount record, reading mountinfo, attaching and detaching.

Nothing here knows images or unions. The system calls come from the compiled part; without it attaching raises
Unsupported.
"""

from __future__ import annotations

import contextlib
import errno
import os
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import ModuleType

from layerfs._lazy import pattern
from layerfs._record import dataclass
from layerfs.errors import InUse, LayerfsError, MountError, Unsupported

try:
    from layerfs import _native as _loaded

    _native: ModuleType | None = _loaded
except ImportError:
    _native = None

__all__ = [
    "Mount",
    "MountEntry",
    "attach",
    "bind",
    "busy_processes",
    "detach",
    "detached",
    "device_users",
    "entry_of",
    "mount_table",
    "overlay",
]

_PASSING_SECONDS = 1.0  # who only looks at all mounts, copies a namespace, or has just answered is gone by then

READ_ONLY, NO_SUID, NO_DEV, NO_EXEC = 0x1, 0x2, 0x4, 0x8  # MOUNT_ATTR_*
ATTRIBUTES = {"ro": READ_ONLY, "nosuid": NO_SUID, "nodev": NO_DEV, "noexec": NO_EXEC} | {
    "noatime": 0x10,
    "strictatime": 0x20,
    "nodiratime": 0x80,
}
_BIND = 0x1000  # MS_BIND
_LAZY, _NO_FOLLOW = 2, 8  # MNT_DETACH, UMOUNT_NOFOLLOW
_STRING_MAX = 255  # fsconfig(2) takes strings of 256 bytes with their end
_PATIENCE = 10.0  # seconds
_OCTAL = pattern(rb"\\([0-7]{3})")
_ESCAPED = pattern(rb"[ \t\n\\]")

Option = tuple[str, str | int | None]  # name and text, descriptor, or None for a flag


@dataclass(frozen=True, slots=True)
class Mount:
    """A mount that could be made: what mount(8) takes."""

    type: str
    source: str
    target: str
    options: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class MountEntry:
    """One line of mountinfo (proc(5)); `target` is seen from the reader's root."""

    id: int
    parent: int
    device: str
    root: bytes
    target: bytes
    options: str
    type: str
    source: bytes
    super_options: str


def _unescape(field: bytes) -> bytes:
    return field if b"\\" not in field else _OCTAL.sub(lambda m: bytes([int(m[1], 8) & 0xFF]), field)


def parse_line(line: bytes) -> MountEntry:
    """One mountinfo line; space, tab, newline and backslash come as octal escapes."""
    left, _, right = line.partition(b" - ")
    fields, rest = left.split(b" "), right.split(b" ")
    return MountEntry(
        id=int(fields[0]),
        parent=int(fields[1]),
        device=fields[2].decode(),
        root=_unescape(fields[3]),
        target=_unescape(fields[4]),
        options=fields[5].decode(),
        type=rest[0].decode(),
        source=_unescape(rest[1]),
        super_options=rest[2].decode(errors="surrogateescape") if len(rest) > 2 else "",
    )


def mount_table(process: int | str = "self", part: bytes = b"") -> list[MountEntry]:
    """The mounts that a process sees, in mount order; `part`: only lines that hold these bytes. Raises OSError when the
    process is gone or not ours to see."""
    with open(f"/proc/{process}/mountinfo", "rb", buffering=0) as file:  # noqa: PTH123 (read several times in a run)
        data = file.read()
    return [parse_line(line) for line in data.split(b"\n") if line and part in line]


def entry_of(target: Path, *, real: bool = False) -> MountEntry | None:
    """The topmost mount at exactly this place, or None. `real`: the path is resolved already."""
    wanted = os.fsencode(target if real else os.path.realpath(target))
    plain = b"" if _ESCAPED.search(wanted) else b" " + wanted + b" "
    found = [entry for entry in mount_table(part=plain) if entry.target == wanted]
    return found[-1] if found else None


def _call(name: str) -> ModuleType:
    if _native is None:
        raise Unsupported(f"{name} needs the compiled part of layerfs, which is not loaded")
    return _native


def detached(fstype: str, options: Sequence[Option], *, attributes: int = 0) -> int:
    """A mount that is attached nowhere, as an owned fd; closing it frees the mount (unless something stands on it).

    Raises:
        Unsupported: no such file system type here, or the privileges are missing.
        MountError: the kernel's reason.
    """
    with _explained(fstype):
        fd: int = _call("mounting").mount_new(fstype, options, None, attributes)
    return fd


def attach(fstype: str, options: Sequence[Option], target: Path, *, attributes: int = 0) -> None:
    """Mount at a directory that exists. Errors as `detached`."""
    with _explained(fstype):
        _call("mounting").mount_new(fstype, options, os.fspath(target), attributes)


@contextlib.contextmanager
def _explained(fstype: str) -> Iterator[None]:
    """Turns the errnos that mean "cannot be done here" into Unsupported."""
    try:
        yield
    except MountError as error:
        if error.errno == errno.ENODEV:
            raise Unsupported(f"this kernel has no file system type {fstype}") from error
        if error.errno == errno.EPERM:
            raise Unsupported(f"mounting {fstype} needs root: {error.message}") from error
        if error.errno == errno.EBUSY:
            raise InUse(f"{error.message} (in use by another mount)") from error
        raise


def bind(source: str | os.PathLike[str], target: str | os.PathLike[str]) -> None:
    """Shows a file or directory at another place, too. Raises MountError."""
    _call("mounting").mount(os.fspath(source), os.fspath(target), None, _BIND, None)


def detach(target: Path, *, lazy: bool = False) -> None:
    """Unmount the topmost mount at `target`.

    Raises:
        InUse: something still uses it; `lazy` detaches it now and frees it when the last user is gone.
        MountError: nothing is mounted there, or the kernel's reason.
    """
    deadline = time.monotonic() + _PASSING_SECONDS
    while True:
        try:
            return _unmount(target, lazy)
        except MountError as error:
            if error.errno != errno.EBUSY:
                raise
            users = busy_processes(target)
            if not users and time.monotonic() < deadline:
                time.sleep(0.02)
                continue
            by = f" by {', '.join(users)}" if users else ""
            message = f"the mount is in use{by}; a lazy unmount detaches it anyway"
            raise InUse(message, path=os.fspath(target)) from error


def _unmount(target: Path, lazy: bool) -> None:
    """An ordinary user's FUSE mounts go by the program that made them."""
    try:
        _call("unmounting").umount(os.fspath(target), _NO_FOLLOW | (_LAZY if lazy else 0))
    except MountError as error:
        import shutil
        import subprocess

        program = shutil.which("fusermount3") or shutil.which("fusermount")
        if error.errno != errno.EPERM or os.geteuid() == 0 or program is None:
            raise
        command = [program, "-u", *(["-z"] if lazy else []), "--", os.fspath(target)]
        done = subprocess.run(command, capture_output=True, env={"LC_ALL": "C"}, check=False)
        if done.returncode != 0:
            said = done.stderr.decode("utf-8", "replace").strip().partition(": ")[2]
            failure = MountError(said or f"{program} failed", path=os.fspath(target))
            failure.errno = errno.EBUSY if said.endswith("Device or resource busy") else errno.EPERM
            raise failure from None


def busy_processes(target: Path, *, limit: int = 3) -> list[str]:
    """Some processes with a working directory, root or open file in the mount, as `name (pid)`: a hint, not a proof."""
    try:
        return device_users(_call("unmounting").device_of(target), limit=limit)
    except OSError:
        return []


def device_users(device: int, *, source: bytes | None = None, limit: int = 3) -> list[str]:
    """The same for a file system by its device number, wherever it is mounted; mapped files count too. `source` tells
    it from another one that has been given the number meanwhile. File systems of others, which may not answer, are not
    asked."""
    found: list[str] = []
    for process in Path("/proc").iterdir():
        if len(found) < limit and process.name.isdigit() and _uses(process, device) and _sees(process, device, source):
            with contextlib.suppress(OSError):
                found.append(f"{(process / 'comm').read_text().strip()} ({process.name})")
    return found


def _uses(process: Path, device: int) -> bool:
    try:
        links = [process / "cwd", process / "root", *(process / "fd").iterdir()]
        if f" {os.major(device):02x}:{os.minor(device):02x} " in (process / "maps").read_text(errors="replace"):
            return True
    except OSError:
        return False
    for link in links:
        with contextlib.suppress(OSError):
            if _call("looking for users").device_of(link) == device:
                return True
    return False


def _sees(process: Path, device: int, source: bytes | None) -> bool:
    """Whether the number means that file system to the process; it may hold one that it sees nowhere any more."""
    number = b" %d:%d " % (os.major(device), os.minor(device))
    try:
        lines = [line for line in (process / "mountinfo").read_bytes().splitlines() if number in line]
    except OSError:
        return False
    return source is None or not lines or any(source in line for line in lines)


@contextlib.contextmanager
def short_path(path: Path) -> Iterator[str]:
    """A name of a directory or file that every mount option takes: short, and free of `\\`, `:` and `,`."""
    text = os.fspath(path)
    if len(os.fsencode(text)) <= _STRING_MAX and not set(text) & set("\\:,"):
        yield text
        return
    fd = os.open(path, os.O_PATH | os.O_CLOEXEC)
    try:
        yield f"/proc/self/fd/{fd}"
    finally:
        os.close(fd)


@dataclass(frozen=True, slots=True)
class Upper:
    """overlayfs's writable part: two directories of one file system."""

    upper: Path
    work: Path


def overlay(
    target: Path,
    *,
    lower: Sequence[int | Path],
    data: Sequence[Path] = (),
    upper: Upper | None = None,
    source: str = "overlay",
    attributes: int = 0,
    volatile: bool = False,
) -> None:
    """Attach an overlay: `lower` topmost first (a Path, or the fd of a detached mount), `data` the data-only layers.

    Metadata copy-ups, directory renames, kept hard links and constant inode numbers are on, whatever the module's
    defaults are.

    Raises:
        InUse: the upper directory belongs to another overlay.
        Unsupported, MountError: as `detached`.
    """
    with contextlib.ExitStack() as stack:
        named = [f"/proc/self/fd/{at}" if isinstance(at, int) else stack.enter_context(short_path(at)) for at in lower]
        options: list[Option] = [("source", source), *(("lowerdir+", name) for name in named)]
        options += [("datadir+", stack.enter_context(short_path(path))) for path in data]
        options += [("metacopy", "on"), ("redirect_dir", "on")]
        if upper is not None:
            options += [("upperdir", stack.enter_context(short_path(upper.upper)))]
            options += [("workdir", stack.enter_context(short_path(upper.work)))]
            options += [("index", "on"), ("xino", "on"), *([("volatile", None)] if volatile else [])]
        _attach_patiently(options, target, attributes, patience=_PATIENCE if upper is not None else 0)


def _attach_patiently(options: Sequence[Option], target: Path, attributes: int, *, patience: float) -> None:
    """An upper directory that was unmounted just now may be held for a moment by a mount namespace that somebody has
    copied meanwhile, as every start of a container does."""
    deadline = time.monotonic() + patience
    while True:
        try:
            attach("overlay", options, target, attributes=attributes)
            return
        except InUse:
            if time.monotonic() >= deadline:
                raise
            time.sleep(0.02)


def unsupported(error: LayerfsError, hint: str) -> Unsupported:
    """The same error as "cannot be done here", with what would help."""
    return Unsupported(f"{error.message}; {hint}")
