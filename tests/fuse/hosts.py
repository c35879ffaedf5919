"""Other file systems for a store or an upper directory, on loop devices."""

from __future__ import annotations

import contextlib
import fcntl
import os
import struct
import subprocess
from collections.abc import Iterator
from pathlib import Path

KINDS = {
    "xfs": ["mkfs.xfs", "-q"],
    "xfs-plain": ["mkfs.xfs", "-q", "-m", "reflink=0"],
    "btrfs": ["mkfs.btrfs", "-q"],
    "ext4-1k": ["mkfs.ext4", "-q", "-b", "1024"],
}


@contextlib.contextmanager
def host(kind: str, top: Path) -> Iterator[Path]:
    """An empty directory on a file system of 400 MiB of one of KINDS."""
    image, place = top / f"{kind}.image", top / kind
    with image.open("wb") as file:
        file.truncate(400 << 20)
    subprocess.run([*KINDS[kind], image], check=True, capture_output=True)
    place.mkdir()
    subprocess.run(["mount", "-o", "loop", image, place], check=True)
    try:
        yield place
    finally:
        subprocess.run(["umount", "-l", place], check=True)
        image.unlink()


def is_shared(path: Path) -> bool:
    """Whether FIEMAP says of some extent that others have it, too."""
    fd = os.open(path, os.O_RDONLY)
    try:
        answer = fcntl.ioctl(fd, 0xC020660B, struct.pack("=QQIIII", 0, 1 << 40, 1, 0, 16, 0) + bytes(56 * 16))
    finally:
        os.close(fd)
    count = struct.unpack_from("=I", answer, 20)[0]
    return any(struct.unpack_from("=I", answer, 32 + 56 * at + 40)[0] & 0x2000 for at in range(count))
