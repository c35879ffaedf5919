"""docker's mounts, devices, masks and read-only paths, in its order, as steps (reference: moby's oci/defaults.go and
what `docker run` shows in /proc/self/mountinfo)."""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Final

from layerfs.errors import InvalidInput, RunError
from layerfs.runtime.files import ContainerFiles
from layerfs.runtime.options import Bind, RunOptions, Tmpfs
from layerfs.runtime.spec import NODEV, NOEXEC, NOSUID, READ_ONLY, STRICTATIME, Step, StepKind

KERNEL: Final = NOSUID | NODEV | NOEXEC
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

_DEVICES: Final = (
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
_TMPFS_ATTRIBUTES: Final = {"ro": READ_ONLY, "nosuid": NOSUID, "nodev": NODEV, "noexec": NOEXEC}
_TMPFS_REMOVES: Final = {"rw": READ_ONLY, "suid": NOSUID, "dev": NODEV, "exec": NOEXEC}
_TMPFS_OPTION = re.compile(r"(size|nr_blocks|nr_inodes|mode|uid|gid|huge|mpol)=[\w%:.+-]+\Z", re.ASCII)


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
        _filesystem(b"/dev/pts", b"devpts", b"devpts", NOSUID | NOEXEC, b"newinstance,ptmxmode=0666,mode=0620,gid=5"),
        _filesystem(b"/sys", b"sysfs", b"sysfs", sys_attributes, strict=True),
        *cgroup_mounts(tuple(options.cgroup_procs), privileged=options.privileged),
        _filesystem(b"/dev/mqueue", b"mqueue", b"mqueue", KERNEL),
        _filesystem(b"/dev/shm", b"tmpfs", b"shm", KERNEL, shm),
    ]


def unified_cgroups() -> bool:
    """Whether this host has the one tree of cgroup v2 (and not v1 controllers)."""
    return (CGROUP_ROOT / "cgroup.controllers").exists()


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


def _bind_step(bind: Bind) -> Step:
    if not bind.source.is_absolute():
        raise InvalidInput(f"the source of a bind must be an absolute path: {bind.source}")
    if not bind.source.exists():
        raise RunError(f'invalid mount config for type "bind": bind source path does not exist: {bind.source}')
    attributes = READ_ONLY if bind.read_only else 0
    return Step(StepKind.BIND, bind.target, os.fsencode(bind.source), attributes=attributes, recursive=True)


def _tmpfs_step(tmpfs: Tmpfs) -> Step:
    attributes, passed = KERNEL, []
    for option in tmpfs.options:
        if option in _TMPFS_ATTRIBUTES:
            attributes |= _TMPFS_ATTRIBUTES[option]
        elif option in _TMPFS_REMOVES:
            attributes &= ~_TMPFS_REMOVES[option]
        elif _TMPFS_OPTION.match(option):
            passed.append(option)
        else:
            raise InvalidInput(f"invalid tmpfs option {option!r}")
    return _filesystem(tmpfs.target, b"tmpfs", b"tmpfs", attributes, ",".join(passed).encode())


def user_mounts(options: RunOptions, files: ContainerFiles | None) -> list[Step]:
    """Binds, the three files of /etc, tmpfs; shallow targets first, so that none hides another."""
    steps = [_bind_step(bind) for bind in options.binds]
    if files is not None:
        for name, path in ((b"resolv.conf", files.resolv_conf), (b"hostname", files.hostname), (b"hosts", files.hosts)):
            if all(step.target != b"/etc/" + name for step in steps):
                steps.append(Step(StepKind.BIND, b"/etc/" + name, os.fsencode(path)))
    steps += [_tmpfs_step(tmpfs) for tmpfs in options.tmpfs]
    for step in steps:
        if step.target == b"/":
            raise InvalidInput("invalid mount target: destination can't be '/'")
    return sorted(steps, key=lambda step: step.target.count(b"/"))


def host_devices(root: Path = Path("/dev")) -> Iterator[Step]:
    """Every device node of the host, for privileged containers; what docker leaves out is left out."""
    skip = {"pts", "shm", "fd", "mqueue", ".lxc", ".lxd-mounts", ".udev", "console"}
    for entry in sorted(os.scandir(root), key=lambda entry: entry.name):
        if entry.name in skip or entry.is_symlink():
            continue
        if entry.is_dir():
            yield from host_devices(Path(entry.path))
            continue
        info = entry.stat(follow_symlinks=False)
        if stat.S_ISCHR(info.st_mode) or stat.S_ISBLK(info.st_mode):
            device = (os.major(info.st_rdev), os.minor(info.st_rdev))
            yield Step(StepKind.DEVICE, os.fsencode(entry.path), mode=info.st_mode, device=device)


def devices(options: RunOptions) -> list[Step]:
    made = [Step(StepKind.DEVICE, b"/dev/" + n, mode=stat.S_IFCHR | 0o666, device=(a, b)) for n, a, b in _DEVICES]
    if options.privileged:
        known = {step.target for step in made}
        made += [step for step in host_devices() if step.target not in known]
    links = _LINKS + (((b"core", b"/proc/kcore"),) if Path("/proc/kcore").exists() else ())
    return made + [Step(StepKind.LINK, b"/dev/" + name, text) for name, text in links]


def sysctls(pairs: Iterable[tuple[str, str]]) -> list[Step]:
    steps = []
    for name, value in pairs:
        if not re.fullmatch(r"[\w./-]+", name, re.ASCII) or ".." in name:
            raise InvalidInput(f"invalid sysctl {name!r}")
        target = b"/proc/sys/" + name.replace(".", "/").encode()
        steps.append(Step(StepKind.SYSCTL, target, value.encode(), strict=True))
    return steps


def protections() -> list[Step]:
    read_only = [Step(StepKind.READ_ONLY, path, optional=True, strict=True) for path in READ_ONLY_PATHS]
    return read_only + [Step(StepKind.MASK, path, optional=True, strict=True) for path in MASKED_PATHS]


def steps_for(options: RunOptions, files: ContainerFiles | None) -> tuple[Step, ...]:
    """All steps; a mount of the user's at a default's place replaces that one (and what lies below it)."""
    own = user_mounts(options, files)
    taken = [step.target for step in own]
    covered = tuple(target + b"/" for target in taken)
    defaults = [s for s in default_mounts(options) if s.target not in taken and not s.target.startswith(covered)]
    nodes = [] if b"/dev" in taken else devices(options)
    tail = [] if options.privileged else protections()
    return (*defaults, *own, *nodes, *sysctls(options.sysctls), *tail)
