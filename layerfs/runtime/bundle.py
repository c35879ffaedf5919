"""The config.json of an OCI runtime bundle (runtime-spec 1.1) for what `plan` has made of a container. Pure.

What our own helper does by steps of its own is said in the specification's words: masks, read-only paths, device nodes
and kernel parameters have lists there, and /dev's standard nodes and links are the runtime's business.
"""

from __future__ import annotations

import os
import resource
import stat
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, Final

from layerfs._record import replace
from layerfs.errors import Unsupported
from layerfs.runtime.capabilities import NAMES
from layerfs.runtime.cgroup_plan import DEVICES
from layerfs.runtime.resources import DeviceRate, DeviceRule, Resources, cpu_limit
from layerfs.runtime.seccomp import Argument, Filter, action_name, operator_name
from layerfs.runtime.spec import (
    NOATIME,
    NODEV,
    NOEXEC,
    NOSUID,
    READ_ONLY,
    STRICTATIME,
    Namespace,
    RunSpec,
    Step,
    StepKind,
)

VERSION: Final = "1.1.0"
_ATTRIBUTES: Final = (
    *((READ_ONLY, "ro"), (NOSUID, "nosuid"), (NODEV, "nodev"), (NOEXEC, "noexec"), (NOATIME, "noatime")),
    (STRICTATIME, "strictatime"),
)
_PROPAGATION: Final = {0: "private", 1 << 19: "slave", 1 << 20: "shared"}
_NAMESPACES: Final = {
    Namespace.PID: "pid",
    Namespace.NETWORK: "network",
    Namespace.IPC: "ipc",
    Namespace.UTS: "uts",
    Namespace.MOUNT: "mount",
    Namespace.CGROUP: "cgroup",
}
_LIMITS: Final = {
    value: name for name, value in vars(resource).items() if name.startswith("RLIMIT_") and name != "RLIMIT_OFILE"
}
_CLOCKS: Final = {1: "monotonic", 7: "boottime"}
_STANDARD: Final = {b"/dev/" + name for name in (b"null", b"zero", b"full", b"random", b"urandom", b"tty")}
_CGROUPS: Final = b"/sys/fs/cgroup"
Document = dict[str, Any]


def document(
    spec: RunSpec,
    *,
    rootfs: str = "rootfs",
    seccomp: Filter | None = None,
    resources: Resources = Resources(),  # noqa: B008 (frozen)
    devices: Iterable[DeviceRule] | None = None,
    cgroup: str = "",
    users: str = "",
    available: int = -1,
) -> Document:
    """For the mounted root at `rootfs` (a path in the bundle, or absolute). `devices`: what the container may use
    beside docker's own; None: everything. `cgroup`: the path of its control groups. `users`: where the
    user namespace can be found that its network belongs to. `available`: capabilities that
    there are to give.

    Raises:
        Unsupported: what no bundle can say.
    """
    if spec.init:
        raise Unsupported("a bundle has no --init: that process is layerfs's own")
    found: Document = {
        "ociVersion": VERSION,
        "process": _process(replace(spec, capabilities=spec.capabilities & available)),
        "root": {"path": rootfs, "readonly": spec.read_only},
        "mounts": list(_mounts(spec.steps)),
        "linux": _linux(spec, seccomp, resources, devices, cgroup, users),
        **({"annotations": dict(spec.annotations)} if spec.annotations else {}),
    }
    return found | ({"hostname": _text(spec.hostname)} if spec.hostname else {})


def _text(data: bytes) -> str:
    """Raises Unsupported: JSON has only Unicode."""
    try:
        return data.decode()
    except UnicodeDecodeError:
        raise Unsupported(f"a bundle holds only UTF-8: {os.fsdecode(data)!r}") from None


def _process(spec: RunSpec) -> Document:
    who = spec.identity
    process: Document = {
        "terminal": spec.terminal is not None,
        "user": {"uid": who.uid, "gid": who.gid, "additionalGids": list(who.groups)},
        "args": list(map(_text, spec.argv)),
        "env": list(map(_text, spec.env)),
        "cwd": _text(spec.cwd),
        "capabilities": _capabilities(spec),
        "rlimits": [
            {"type": _LIMITS[each.resource], "hard": each.hard % 2**64, "soft": each.soft % 2**64}
            for each in spec.limits
        ],
        "noNewPrivileges": spec.no_new_privileges,
        "oomScoreAdj": spec.oom_score_adj,
    }
    if spec.terminal and any(spec.terminal):
        process["consoleSize"] = {"height": spec.terminal[0], "width": spec.terminal[1]}
    return process


def _capabilities(spec: RunSpec) -> Document:
    names = [f"CAP_{name}" for number, name in enumerate(NAMES) if spec.capabilities >> number & 1]
    root = names if spec.identity.uid == 0 else []
    return {"bounding": names, "effective": root, "permitted": root, "inheritable": [], "ambient": []}


def _cgroups_read_only(steps: Iterable[Step]) -> bool:
    """With version 1 the tree of controllers is made first, and becomes read-only by a step of its own."""
    kinds = (StepKind.FILESYSTEM, StepKind.ATTRIBUTES)
    return any(step.target == _CGROUPS and step.kind in kinds and step.attributes & READ_ONLY for step in steps)


def _mounts(steps: Sequence[Step]) -> Iterator[Document]:
    for step in steps:
        if step.target == _CGROUPS:
            if step.kind is StepKind.FILESYSTEM:
                options = ["nosuid", "noexec", "nodev", *(["ro"] if _cgroups_read_only(steps) else [])]
                yield {"destination": _text(_CGROUPS), "type": "cgroup", "source": "cgroup", "options": options}
        elif step.target.startswith(_CGROUPS + b"/"):
            continue
        elif step.kind is StepKind.FILESYSTEM:
            options = [*_attributes(step.attributes), *filter(None, _text(step.options).split(","))]
            yield {
                "destination": _text(step.target),
                "type": _text(step.type),
                "source": _text(step.source or step.type),
                "options": options,
            }
        elif step.foreign:  # a bundle cannot name another container's /dev/shm: one of its own
            options = [*_attributes(step.attributes), "mode=1777", "size=65536k"]
            yield {"destination": _text(step.target), "type": "tmpfs", "source": "shm", "options": options}
        elif step.kind is StepKind.BIND:
            yield _bind(step)


def _bind(step: Step) -> Document:
    how = ("rbind", "r") if step.recursive else ("bind", "")
    options = [how[0], f"{how[1]}{_PROPAGATION[step.mode]}", *_attributes(step.attributes)]
    mapped = ["ridmap" if step.recursive else "idmap"] if step.mapped else []
    return {
        "destination": _text(step.target),
        "type": "bind",
        "source": _text(step.source),
        "options": [*options, *([] if step.attributes & READ_ONLY else ["rw"]), *mapped],
    }


def _attributes(bits: int) -> list[str]:
    return [word for bit, word in _ATTRIBUTES if bits & bit]


def _linux(
    spec: RunSpec,
    seccomp: Filter | None,
    resources: Resources,
    devices: Iterable[DeviceRule] | None,
    cgroup: str,
    users: str,
) -> Document:
    by_kind: dict[StepKind, list[Step]] = {}
    for step in spec.steps:
        by_kind.setdefault(step.kind, []).append(step)
    found: Document = {
        "namespaces": list(_namespaces(spec, users)),
        "maskedPaths": [_text(step.target) for step in by_kind.get(StepKind.MASK, ())],
        "readonlyPaths": [_text(step.target) for step in by_kind.get(StepKind.READ_ONLY, ())],
        "sysctl": {_sysctl(step): _text(step.source) for step in by_kind.get(StepKind.SYSCTL, ())},
        "devices": [_node(step) for step in by_kind.get(StepKind.DEVICE, ()) if step.target not in _STANDARD],
        "resources": _resources(resources, devices),
        "rootfsPropagation": "private",
    }
    if cgroup:
        found["cgroupsPath"] = cgroup
    if spec.clocks:
        found["timeOffsets"] = {_CLOCKS[clock]: {"secs": seconds, "nanosecs": 0} for clock, seconds in spec.clocks}
    if spec.id_maps:
        for name, maps in (("uidMappings", spec.id_maps.uids), ("gidMappings", spec.id_maps.gids)):
            found[name] = [{"containerID": m.inside, "hostID": m.outside, "size": m.size} for m in maps]
    return found | ({"seccomp": _seccomp(seccomp)} if seccomp else {})


def _namespaces(spec: RunSpec, users: str) -> Iterator[Document]:
    entered = dict(spec.entered)
    for kind, name in _NAMESPACES.items():
        if kind in entered:
            yield {"type": name, "path": _text(entered[kind])}
        elif spec.namespaces & kind:
            yield {"type": name}
    if spec.id_maps:
        yield {"type": "user"} | ({"path": users} if Namespace.USER in entered else {})
    if spec.clocks:
        yield {"type": "time"}


def _sysctl(step: Step) -> str:
    return _text(step.target.removeprefix(b"/proc/sys/")).replace("/", ".")


def _node(step: Step) -> Document:
    kind = "b" if stat.S_ISBLK(step.mode) else "c"
    numbers = {"major": step.device[0], "minor": step.device[1]}
    return {
        "path": _text(step.target),
        "type": kind,
        **numbers,
        "fileMode": stat.S_IMODE(step.mode),
        "uid": 0,
        "gid": 0,
    }


def _rule(rule: DeviceRule) -> Document:
    numbers = {name: value for name, value in (("major", rule.major), ("minor", rule.minor)) if value is not None}
    return {"allow": True, "type": rule.kind, **numbers, "access": rule.access}


def _resources(wanted: Resources, devices: Iterable[DeviceRule] | None) -> Document:
    rules: list[Document] = [{"allow": devices is None, "access": "rwm"}]
    rules += [] if devices is None else map(_rule, (*DEVICES, *devices))
    found = {"devices": rules, "memory": _memory(wanted), "cpu": _cpu(wanted), "blockIO": _block(wanted)}
    if wanted.pids_limit:
        found["pids"] = {"limit": wanted.pids_limit}
    return {name: value for name, value in found.items() if value}


def _memory(wanted: Resources) -> Document:
    found: Document = {
        "limit": wanted.memory,
        "swap": wanted.memory_swap or 2 * wanted.memory,
        "reservation": wanted.memory_reservation,
        "disableOOMKiller": wanted.oom_kill_disable,
    }
    found = {name: value for name, value in found.items() if value}
    return found | ({} if wanted.memory_swappiness is None else {"swappiness": wanted.memory_swappiness})


def _cpu(wanted: Resources) -> Document:
    quota, period = cpu_limit(wanted)
    found = {"shares": wanted.cpu_shares, "quota": quota, "period": period}
    found |= {"cpus": wanted.cpuset_cpus, "mems": wanted.cpuset_mems}  # type: ignore[dict-item]
    return {name: value for name, value in found.items() if value}


def _block(wanted: Resources) -> Document:
    def devices(rates: Sequence[DeviceRate], word: str) -> list[Document]:
        numbers = [(*map(int, each.number.split(":")), each.rate) for each in rates]
        return [{"major": major, "minor": minor, word: rate} for major, minor, rate in numbers]

    found = {
        "weight": wanted.blkio_weight,
        "weightDevice": devices(wanted.blkio_weight_device, "weight"),
        "throttleReadBpsDevice": devices(wanted.device_read_bps, "rate"),
        "throttleWriteBpsDevice": devices(wanted.device_write_bps, "rate"),
        "throttleReadIOPSDevice": devices(wanted.device_read_iops, "rate"),
        "throttleWriteIOPSDevice": devices(wanted.device_write_iops, "rate"),
    }
    return {name: value for name, value in found.items() if value}


def _seccomp(rules: Filter) -> Document:
    grouped: dict[tuple[int, tuple[Argument, ...]], list[str]] = {}
    for rule in rules.rules:
        grouped.setdefault((rule.action, rule.arguments), []).append(rule.name)
    found: Document = {
        **_action("defaultAction", "defaultErrnoRet", rules.default),
        "architectures": [f"SCMP_ARCH_{name}" for name in rules.architectures],
        "syscalls": [
            {
                "names": names,
                **_action("action", "errnoRet", action),
                **({"args": list(map(_argument, args))} if args else {}),
            }
            for (action, args), names in grouped.items()
        ],
    }
    flags = [
        name
        for bit, name in ((2, "SECCOMP_FILTER_FLAG_LOG"), (4, "SECCOMP_FILTER_FLAG_SPEC_ALLOW"))
        if rules.flags & bit
    ]
    return found | ({"flags": flags} if flags else {})


def _action(name: str, number_name: str, action: int) -> Document:
    word, number = action_name(action)
    return {name: word} | ({} if number is None else {number_name: number})


def _argument(each: Argument) -> Mapping[str, Any]:
    return {"index": each.index, "value": each.value, "valueTwo": each.other, "op": operator_name(each.op)}
