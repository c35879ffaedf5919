"""Small disks to fill: a file system of a few MiB, and a file that takes what is left of it."""

from __future__ import annotations

import contextlib
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path


@contextlib.contextmanager
def small_disk(kind: str, top: Path, *, size: int) -> Iterator[Path]:
    """Mounts `tmpfs` or `ext4` (a loop device) of `size` bytes below `top`."""
    place = top / "disk"
    place.mkdir()
    if kind == "tmpfs":
        subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", place], check=True)
    else:
        image = top / "disk.image"
        with image.open("wb") as file:
            file.truncate(size)
        subprocess.run(["mkfs.ext4", "-q", "-m", "0", "-O", "^has_journal", image], check=True)
        subprocess.run(["mount", "-o", "loop", image, place], check=True)
    try:
        yield place
    finally:
        subprocess.run(["umount", "-l", place], check=True)


@contextlib.contextmanager
def filled(place: Path, leave: int = 0) -> Iterator[None]:
    """Takes all space of the disk but `leave` bytes."""
    filler = place / "filler"
    try:
        with contextlib.suppress(OSError), filler.open("wb", buffering=0) as file:
            while (left := free(place) - leave) > 0:
                file.write(bytes(min(left, 1 << 20)))
        yield
    finally:
        filler.unlink(missing_ok=True)


def free(place: Path) -> int:
    status = os.statvfs(place)
    return status.f_bavail * status.f_frsize
