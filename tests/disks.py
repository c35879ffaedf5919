"""Disks of their own for a store or an upper directory: small ones to fill, and other file systems than the host's."""

from __future__ import annotations

import contextlib
import fcntl
import os
import struct
import subprocess
from collections.abc import Iterator, Sequence
from pathlib import Path

KINDS = {
    "xfs": ["mkfs.xfs", "-q"],
    "xfs-plain": ["mkfs.xfs", "-q", "-m", "reflink=0"],
    "btrfs": ["mkfs.btrfs", "-q"],
    "ext4-1k": ["mkfs.ext4", "-q", "-b", "1024"],
}


@contextlib.contextmanager
def mounted(source: Path | str, place: Path, *options: str) -> Iterator[Path]:
    """An image by a loop device; or what mount(8) has other `options` for."""
    place.mkdir(exist_ok=True)
    subprocess.run(["mount", *(options or ["-o", "loop"]), source, place], check=True)
    try:
        yield place
    finally:
        subprocess.run(["umount", "-l", place], check=True)


def make_image(image: Path, command: Sequence[str], size: int) -> Path:
    """A file with an empty file system, of `size` bytes."""
    image.write_bytes(b"")
    os.truncate(image, size)
    subprocess.run([*command, image], check=True, capture_output=True)
    return image


@contextlib.contextmanager
def host(kind: str, top: Path) -> Iterator[Path]:
    """An empty directory on a file system of 400 MiB of one of KINDS."""
    image = make_image(top / f"{kind}.image", KINDS[kind], 400 << 20)
    try:
        with mounted(image, top / kind) as place:
            yield place
    finally:
        image.unlink()


@contextlib.contextmanager
def small_disk(kind: str, top: Path, *, size: int) -> Iterator[Path]:
    """Mounts `tmpfs` or `ext4` (a loop device) of `size` bytes below `top`."""
    if kind == "tmpfs":
        with mounted("tmpfs", top / "disk", "-t", "tmpfs", "-o", f"size={size}") as place:
            yield place
        return
    image = make_image(top / "disk.image", ["mkfs.ext4", "-q", "-m", "0", "-O", "^has_journal"], size)
    with mounted(image, top / "disk") as place:
        yield place


@contextlib.contextmanager
def filled(place: Path, leave: int = 0) -> Iterator[Path]:
    """Takes all space of the disk but `leave` bytes; the file that does."""
    filler = place / "filler"
    try:
        with contextlib.suppress(OSError), filler.open("wb", buffering=0) as file:
            while (left := free(place) - leave) > 0:
                file.write(bytes(min(left, 1 << 20)))
        yield filler
    finally:
        filler.unlink(missing_ok=True)


def free(place: Path) -> int:
    status = os.statvfs(place)
    return status.f_bavail * status.f_frsize


def is_shared(path: Path) -> bool:
    """Whether FIEMAP says of some extent that others have it, too."""
    fd = os.open(path, os.O_RDONLY)
    try:
        answer = fcntl.ioctl(fd, 0xC020660B, struct.pack("=QQIIII", 0, 1 << 40, 1, 0, 16, 0) + bytes(56 * 16))
    finally:
        os.close(fd)
    count = struct.unpack_from("=I", answer, 20)[0]
    return any(struct.unpack_from("=I", answer, 32 + 56 * at + 40)[0] & 0x2000 for at in range(count))
