"""What the caller mounts: binds, tmpfs, and the three files of /etc."""

from __future__ import annotations

import os
import re
from pathlib import Path

from layerfs._lazy import TYPE_CHECKING, pattern
from layerfs.errors import InvalidInput, RunError
from layerfs.runtime.devices import is_confined
from layerfs.runtime.files import ContainerFiles
from layerfs.runtime.options import Bind, RunOptions, Tmpfs
from layerfs.runtime.spec import KERNEL, NODEV, NOEXEC, NOSUID, READ_ONLY, Step, StepKind

if TYPE_CHECKING:
    from typing import Final

_ADDS: Final = {"ro": READ_ONLY, "nosuid": NOSUID, "nodev": NODEV, "noexec": NOEXEC}
_REMOVES: Final = {"rw": READ_ONLY, "suid": NOSUID, "dev": NODEV, "exec": NOEXEC}
_PROPAGATION: Final = {"private": 0, "slave": 1 << 19, "shared": 1 << 20}  # MS_*
_OPTION: Final = pattern(r"(size|nr_blocks|nr_inodes|mode|uid|gid|huge|mpol)=[\w%:.+-]+\Z", re.ASCII)


def _bind_step(bind: Bind, confined: bool) -> Step:
    if not bind.source.is_absolute():
        raise InvalidInput(f"the source of a bind must be an absolute path: {bind.source}")
    if bind.make_source and not bind.source.exists():
        bind.source.mkdir(parents=True, exist_ok=True)
    if not bind.source.exists():
        raise RunError(f'invalid mount config for type "bind": bind source path does not exist: {bind.source}')
    attributes = READ_ONLY if bind.read_only else 0
    if confined and not bind.source.is_relative_to("/dev"):  # who binds from /dev asks for devices
        attributes |= NODEV
    propagation = _PROPAGATION[bind.propagation.removeprefix("r") or "private"]
    if bind.propagation.removeprefix("r") == "shared" and not _is_shared(bind.source):
        raise RunError(f"path {bind.source} is mounted on a mount that is not shared")
    return Step(
        StepKind.BIND,
        bind.target,
        os.fsencode(bind.source),
        attributes=attributes,
        mode=propagation,
        recursive=bind.recursive,
        mapped=bind.mapped,
    )


def _is_shared(source: Path) -> bool:
    """Whether what happens below `source` could be seen by others."""
    best, shared = "", False
    for line in Path("/proc/self/mountinfo").read_text(errors="surrogateescape").splitlines():
        fields = line.split(" - ")[0].split()
        if source.is_relative_to(fields[4]) and len(fields[4]) >= len(best):
            best, shared = fields[4], any(field.startswith("shared:") for field in fields[6:])
    return shared


def _tmpfs_step(tmpfs: Tmpfs, confined: bool) -> Step:
    attributes, passed = KERNEL, []
    for option in tmpfs.options:
        if option in _ADDS:
            attributes |= _ADDS[option]
        elif option in _REMOVES:
            attributes &= ~_REMOVES[option]
        elif _OPTION.match(option):
            passed.append(option)
        else:
            raise InvalidInput(f"invalid tmpfs option {option!r}")
    attributes |= NODEV if confined else 0
    return Step(StepKind.FILESYSTEM, tmpfs.target, b"tmpfs", b"tmpfs", ",".join(passed).encode(), attributes)


def _file_steps(files: ContainerFiles, taken: set[bytes]) -> list[Step]:
    places = {
        b"/etc/resolv.conf": files.resolv_conf,
        b"/etc/hostname": files.hostname,
        b"/etc/hosts": files.hosts,
    }
    return [
        Step(StepKind.BIND, target, os.fsencode(os.path.abspath(path)))  # noqa: PTH100
        for target, path in places.items()
        if target not in taken
    ]


def _check_target(target: bytes, privileged: bool) -> None:
    if target == b"/":
        raise InvalidInput("invalid mount target: destination can't be '/'")
    if not privileged and (target == b"/proc" or target.startswith(b"/proc/")):
        raise InvalidInput(f'"{os.fsdecode(target)}" cannot be mounted because it is inside /proc')


def volume_steps(options: RunOptions, files: ContainerFiles | None) -> list[Step]:
    """Binds, the files of /etc, tmpfs; shallow targets first, so that none hides another."""
    confined = is_confined(options)
    binds = [_bind_step(bind, confined) for bind in options.binds]
    if options.id_maps is None:
        binds = [step._replace(mapped=False) for step in binds]
    own = files and _file_steps(files, {step.target for step in binds})
    steps = [*binds, *(own or ()), *(_tmpfs_step(tmpfs, confined) for tmpfs in options.tmpfs)]
    for step in steps:
        _check_target(step.target, options.privileged)
    return sorted(steps, key=lambda step: step.target.count(b"/"))
