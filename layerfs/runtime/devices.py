"""/dev: docker's six nodes and its links, or every node of the host for privileged containers."""

from __future__ import annotations

import contextlib
import functools
import os
import stat
from collections.abc import Iterator
from pathlib import Path

from layerfs._lazy import TYPE_CHECKING
from layerfs.runtime.options import RunOptions
from layerfs.runtime.spec import NODEV, Step, StepKind

if TYPE_CHECKING:
    from typing import Final

_NODES: Final = (
    (b"null", 1, 3),
    (b"zero", 1, 5),
    (b"full", 1, 7),
    (b"random", 1, 8),
    (b"urandom", 1, 9),
    (b"tty", 5, 0),
)
_LINKS: Final = (
    (b"ptmx", b"pts/ptmx"),
    (b"fd", b"/proc/self/fd"),
    (b"stdin", b"/proc/self/fd/0"),
    (b"stdout", b"/proc/self/fd/1"),
    (b"stderr", b"/proc/self/fd/2"),
)
_LEFT_OUT: Final = {"pts", "shm", "fd", "mqueue", ".lxc", ".lxd-mounts", ".udev", "console"}  # as docker does


def host_nodes(root: Path = Path("/dev")) -> Iterator[Step]:
    """Every device node below `root` of the host."""
    try:
        entries = sorted(os.scandir(root), key=lambda entry: entry.name)
    except FileNotFoundError:  # devices come and go
        return
    for entry in entries:
        if entry.name in _LEFT_OUT or entry.is_symlink():
            continue
        if entry.is_dir():
            yield from host_nodes(Path(entry.path))
            continue
        with contextlib.suppress(FileNotFoundError):
            info = entry.stat(follow_symlinks=False)
            if stat.S_ISCHR(info.st_mode) or stat.S_ISBLK(info.st_mode):
                device = (os.major(info.st_rdev), os.minor(info.st_rdev))
                yield Step(StepKind.DEVICE, os.fsencode(entry.path), mode=info.st_mode, device=device)


def is_confined(options: RunOptions) -> bool:
    """Whether the mounts must keep devices in hand: a container may make nodes (CAP_MKNOD), and an image may hold
    some, so without a device cgroup every file system is nodev and each node of /dev is a mount of its own."""
    return not options.privileged and not options.device_cgroup


@functools.cache
def _standard_nodes(confined: bool) -> tuple[Step, ...]:
    return tuple(
        Step(StepKind.DEVICE, b"/dev/" + name, mode=stat.S_IFCHR | 0o666, device=(major, minor), confined=confined)
        for name, major, minor in _NODES
    )


@functools.cache
def _links(*, has_core: bool) -> tuple[Step, ...]:
    links = _LINKS + (((b"core", b"/proc/kcore"),) if has_core else ())
    return tuple(Step(StepKind.LINK, b"/dev/" + name, text) for name, text in links)


def device_steps(options: RunOptions) -> list[Step]:
    confined = is_confined(options)
    given = [
        Step(
            StepKind.DEVICE,
            os.fsencode(target),
            os.fsencode(source),
            mode=info.st_mode,
            device=(os.major(info.st_rdev), os.minor(info.st_rdev)),
            confined=confined,
        )
        for device in options.devices
        for source, target, info in device.nodes()
    ]
    steps = list(_standard_nodes(confined))
    if options.privileged:
        known = {step.target for step in steps}
        steps += [step for step in host_nodes() if step.target not in known]
    taken = {own.target for own in given}
    steps = [*(step for step in steps if step.target not in taken), *given]
    steps += _links(has_core=os.path.exists("/proc/kcore"))  # noqa: PTH110
    if confined:
        steps.append(Step(StepKind.ATTRIBUTES, b"/dev", attributes=NODEV, strict=True))
    return steps
