"""docker's mounts, devices, masks and read-only paths, in its order, as steps (reference: moby's oci/defaults.go and
what `docker run` shows in /proc/self/mountinfo)."""

from __future__ import annotations

import functools
import os
from collections.abc import Iterable, Sequence
from pathlib import Path

from layerfs._lazy import TYPE_CHECKING
from layerfs.errors import InvalidInput
from layerfs.runtime.devices import device_steps, is_confined
from layerfs.runtime.files import ContainerFiles
from layerfs.runtime.options import RunOptions
from layerfs.runtime.spec import KERNEL, NODEV, NOEXEC, NOSUID, READ_ONLY, STRICTATIME, Step, StepKind
from layerfs.runtime.volumes import volume_steps

if TYPE_CHECKING:
    from typing import Final

CGROUP_ROOT: Final = Path("/sys/fs/cgroup")

READ_ONLY_PATHS: Final = (b"/proc/bus", b"/proc/fs", b"/proc/irq", b"/proc/sys", b"/proc/sysrq-trigger")
MASKED_PATHS: Final = (
    b"/proc/asound",
    b"/proc/acpi",
    b"/proc/interrupts",
    b"/proc/kcore",
    b"/proc/keys",
    b"/proc/latency_stats",
    b"/proc/timer_list",
    b"/proc/timer_stats",
    b"/proc/sched_debug",
    b"/proc/scsi",
    b"/sys/firmware",
    b"/sys/devices/virtual/powercap",
)
# What the helper makes in a root that lacks it; docker keeps these in a layer that diff and commit do not see.
MOUNT_POINTS: Final = (
    *(b"/proc", b"/dev", b"/sys"),
    *(b"/etc/resolv.conf", b"/etc/hostname", b"/etc/hosts"),
)


@functools.lru_cache(maxsize=64)
def _filesystem(
    target: bytes, kind: bytes, source: bytes, attributes: int, options: bytes = b"", *, strict: bool = False
) -> Step:
    return Step(StepKind.FILESYSTEM, target, source, kind, options, attributes, strict=strict)


def default_mounts(options: RunOptions) -> list[Step]:
    sys_attributes = KERNEL if options.privileged else KERNEL | READ_ONLY
    shm = f"mode=1777,size={options.shm_size // 1024}k".encode()
    return [
        _filesystem(b"/proc", b"proc", b"proc", KERNEL, strict=True),
        _filesystem(b"/dev", b"tmpfs", b"tmpfs", NOSUID | STRICTATIME, b"mode=755,size=65536k", strict=True),
        _filesystem(b"/dev/pts", b"devpts", b"devpts", NOSUID | NOEXEC, _devpts(options)),
        _sys(options, sys_attributes),
        *cgroup_mounts(tuple(options.cgroup_procs), privileged=options.privileged),
        _filesystem(b"/dev/mqueue", b"mqueue", b"mqueue", KERNEL),
        *_shm(options, shm),
    ]


def _devpts(options: RunOptions) -> bytes:
    tty = options.id_maps is None or options.id_maps.has_gid(5)
    return b"newinstance,ptmxmode=0666,mode=0620" + (b",gid=5" if tty else b"")


def _sys(options: RunOptions, attributes: int) -> Step:
    if options.id_maps and options.network == "container":  # only who owns the network may mount it
        return Step(StepKind.BIND, b"/sys", b"/sys", attributes=KERNEL | READ_ONLY, strict=True)
    return _filesystem(b"/sys", b"sysfs", b"sysfs", attributes, strict=True)


def _shm(options: RunOptions, size: bytes) -> list[Step]:
    place, owner = b"/dev/shm", options.shared.get("ipc", "")
    if not options.shm_size:
        return []
    if owner:  # another container's namespace, by its file
        mounts = os.fsencode(Path(owner).with_name("mnt"))
        return [Step(StepKind.BIND, place, place, type=mounts, attributes=KERNEL, foreign=True)]
    if owner is None and Path("/dev/shm").is_dir():
        return [Step(StepKind.BIND, place, place, attributes=KERNEL)]
    return [_filesystem(place, b"tmpfs", b"shm", KERNEL, size)]


def unified_cgroups() -> bool:
    """Whether this host has the one tree of cgroup v2 (and not v1 controllers)."""
    return os.path.exists(f"{CGROUP_ROOT}/cgroup.controllers")  # noqa: PTH110 (twice in every run)


def cgroup_mounts(joined: Sequence[Path], *, privileged: bool) -> list[Step]:
    """v2: the tree from the container's own cgroup down. v1: a tmpfs with the joined cgroups only, so that nothing of
    the host's tree shows when there are none."""
    access = 0 if privileged else READ_ONLY
    root = b"/sys/fs/cgroup"
    if unified_cgroups():
        return [_filesystem(root, b"cgroup2", b"cgroup", KERNEL | access, strict=True)]
    if not CGROUP_ROOT.is_dir():
        return []
    steps = [_filesystem(root, b"tmpfs", b"cgroup", KERNEL, b"mode=755", strict=True)]
    for procs in joined:
        controller = procs.relative_to(CGROUP_ROOT).parts[0]
        target = root + b"/" + os.fsencode(controller)
        steps.append(Step(StepKind.BIND, target, os.fsencode(procs.parent), attributes=KERNEL | access, strict=True))
    if not privileged:
        steps.append(Step(StepKind.ATTRIBUTES, root, attributes=READ_ONLY, strict=True))
    return steps


@functools.lru_cache(maxsize=64)
def _sysctl(name: str, value: str) -> Step:
    words = name.replace(".", "_").replace("/", "_").replace("-", "_").replace("_", "a")
    if not (words.isalnum() and words.isascii()) or ".." in name:
        raise InvalidInput(f"invalid sysctl {name!r}")
    return Step(StepKind.SYSCTL, b"/proc/sys/" + name.replace(".", "/").encode(), value.encode(), strict=True)


def sysctls(pairs: Iterable[tuple[str, str]]) -> list[Step]:
    return [_sysctl(name, value) for name, value in pairs]


@functools.cache
def protections() -> tuple[Step, ...]:
    read_only = [Step(StepKind.READ_ONLY, path, optional=True, strict=True) for path in READ_ONLY_PATHS]
    return (*read_only, *(Step(StepKind.MASK, path, optional=True, strict=True) for path in MASKED_PATHS))


def steps_for(options: RunOptions, files: ContainerFiles | None) -> tuple[Step, ...]:
    """All steps; a mount of the user's at a default's place replaces that one (and what lies below it)."""
    own = volume_steps(options, files)
    taken = [step.target for step in own]
    covered = tuple(target + b"/" for target in taken)
    root = [Step(StepKind.ATTRIBUTES, b"/", attributes=NODEV, recursive=True)] if is_confined(options) else []
    defaults = [s for s in default_mounts(options) if s.target not in taken and not s.target.startswith(covered)]
    nodes = [] if b"/dev" in taken else device_steps(options)
    tail = () if options.privileged or options.unmasked else protections()
    return (*root, *defaults, *own, *nodes, *sysctls(options.sysctls), *tail)
