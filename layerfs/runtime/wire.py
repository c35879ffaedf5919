"""The spec as the helper reads it; `layerfs_native/runtime/run.h` describes the form, byte for byte.

Magic, then records of u16 tag, u32 length and payload, little-endian; a string is its bytes and one NUL.
"""

from __future__ import annotations

import functools
import struct

from layerfs._lazy import TYPE_CHECKING
from layerfs.errors import InvalidInput
from layerfs.runtime.spec import Life, Probe, RunSpec, Step

if TYPE_CHECKING:
    from typing import Final

MAGIC: Final = b"LFSRUN1\n"
SPEC_MAX: Final = 16 << 20

(ROOT, NAMESPACES, OPTIONS, ARGUMENT, ENVIRONMENT, IDENTITY, WORKDIR, HOSTNAME) = range(1, 9)
(STEP, CAPABILITIES, RLIMIT, CGROUP, SECCOMP) = range(9, 14)
OOM_SCORE, ENTER, CLOCK = range(32, 35)
UID_MAP, GID_MAP, RUNTIME = range(40, 43)
SHARED_PIDS = 256
(TERMINAL, JOIN, MONITOR, AFTER, EVENTS, HEALTH, PROBE) = range(14, 21)

STARTED, FAILED, EXITED = 1, 2, 3  # packets of the helper


def _record(tag: int, payload: bytes) -> bytes:
    return struct.pack("<HI", tag, len(payload)) + payload


def _string(text: bytes) -> bytes:
    if b"\0" in text:
        raise InvalidInput(f"a NUL byte in {text[:60]!r}")
    return text + b"\0"


@functools.lru_cache(maxsize=256)  # most are the same in every container
def _step(step: Step) -> bytes:
    flags = step.recursive * 1 | step.optional * 2 | step.strict * 4 | step.confined * 8 | step.mapped * 16
    flags |= step.foreign * 32
    numbers = struct.pack("<5IQ", step.kind, flags, step.mode, *step.device, step.attributes)
    return _record(STEP, numbers + b"".join(map(_string, (step.type, step.source, step.target, step.options))))


def _probe(probe: Probe) -> list[bytes]:
    times = (probe.interval, probe.timeout, probe.start_period, probe.start_interval)
    return [
        _record(HEALTH, struct.pack("<4QI", *times, probe.retries)),
        *(_record(PROBE, _string(word)) for word in probe.argv),
    ]


def _life(life: Life, spec: RunSpec) -> list[bytes]:
    flags = life.stdin * 1 | life.stdin_once * 2 | (not life.log) * 4
    log = (life.log_size, life.log_files)
    end = (int(spec.stop_signal), life.stop_milliseconds)
    records = [_record(MONITOR, struct.pack("<3IQ2Ii", flags, life.restart, life.restart_max, *log, *end))]
    records += [_record(AFTER, _string(word)) for word in life.after]
    if life.events:
        records.append(_record(EVENTS, _string(life.events) + _string(life.event_attributes)))
    return records + (_probe(life.probe) if life.probe else [])


def _place(spec: RunSpec) -> list[bytes]:
    if spec.join:
        return [_record(JOIN, struct.pack("<IQ", *spec.join))]
    records = [_record(ROOT, _string(spec.rootfs))]
    if spec.hostname:
        records.append(_record(HOSTNAME, _string(spec.hostname)))
    return records + [_step(step) for step in spec.steps]


def encode(spec: RunSpec, life: Life | None = None) -> bytes:
    """The whole spec; InvalidInput when a string holds a NUL or the whole is larger than the helper takes."""
    who = spec.identity
    options = spec.read_only * 1 | spec.no_new_privileges * 2 | spec.init * 4 | spec.shared_pids * SHARED_PIDS
    records = [
        _record(NAMESPACES, struct.pack("<I", spec.namespaces)),
        _record(OPTIONS, struct.pack("<I", options)),
        *_place(spec),
        *(_record(ARGUMENT, _string(word)) for word in spec.argv),
        *(_record(ENVIRONMENT, _string(entry)) for entry in spec.env),
        _record(IDENTITY, struct.pack(f"<{2 + len(who.groups)}I", who.uid, who.gid, *who.groups)),
        _record(WORKDIR, _string(spec.cwd)),
        _record(CAPABILITIES, struct.pack("<Q", spec.capabilities)),
        *(_record(RLIMIT, struct.pack("<IQQ", x.resource, x.soft % 2**64, x.hard % 2**64)) for x in spec.limits),
        *(_record(CGROUP, _string(path)) for path in spec.cgroup_procs),
    ]
    records += [_record(ENTER, struct.pack("<I", kind) + _string(path)) for kind, path in spec.entered]
    records += [_record(CLOCK, struct.pack("<Iq", clock, seconds)) for clock, seconds in spec.clocks]
    if spec.id_maps:
        for tag, maps in ((UID_MAP, spec.id_maps.uids), (GID_MAP, spec.id_maps.gids)):
            records += [_record(tag, struct.pack("<3I", each.inside, each.outside, each.size)) for each in maps]
    records += [_record(RUNTIME, _string(word)) for word in spec.runtime]
    if spec.oom_score_adj:
        records.append(_record(OOM_SCORE, struct.pack("<i", spec.oom_score_adj)))
    if spec.seccomp:
        records.append(_record(SECCOMP, struct.pack("<I", 0) + spec.seccomp))
    if spec.terminal:
        records.append(_record(TERMINAL, struct.pack("<2H", *spec.terminal)))
    if life:
        records += _life(life, spec)
    encoded = MAGIC + b"".join(records)
    if len(encoded) > SPEC_MAX:
        raise InvalidInput("argument list too long")
    return encoded
