"""Other file systems for a store or an upper directory, on loop devices."""

from __future__ import annotations

import contextlib
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
