"""FUSE over io_uring, a switch of the whole host: it is told, and set where somebody asks for it; never silently."""

from __future__ import annotations

from pathlib import Path

from layerfs.errors import LayerfsError, Unsupported

__all__ = ["PARAMETER", "switch_uring", "uring_is_on"]

PARAMETER = Path("/sys/module/fuse/parameters/enable_uring")


def uring_is_on(parameter: Path = PARAMETER) -> bool:
    """Whether new FUSE mounts of this host may use io_uring.

    Raises:
        Unsupported: the kernel does not know it (before Linux 6.14), or FUSE is not loaded.
    """
    try:
        return parameter.read_text().strip() == "Y"
    except FileNotFoundError as error:
        raise Unsupported("this kernel has no FUSE over io_uring (Linux 6.14 or newer has)") from error


def switch_uring(on: bool, parameter: Path = PARAMETER) -> None:
    """For every FUSE mount that anybody on this host makes from now on; a restart of the host forgets it.

    Raises:
        Unsupported: as `uring_is_on`. LayerfsError: only root of the host may do this.
    """
    uring_is_on(parameter)
    try:
        parameter.write_text("Y" if on else "N")
    except OSError as error:
        failure = LayerfsError(f"{parameter} cannot be written: only root of the host may switch FUSE over io_uring")
        failure.errno = error.errno
        raise failure from error
