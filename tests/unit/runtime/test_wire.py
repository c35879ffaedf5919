"""The encoded spec, read back by hand from the description in run.h."""

import dataclasses
import re
import struct
from pathlib import Path

import pytest

from layerfs.errors import InvalidInput
from layerfs.runtime import spec as module
from layerfs.runtime import wire
from layerfs.runtime.spec import Identity, Limit, Namespace, RunSpec, Step, StepKind

HEADER = Path(__file__).resolve().parents[3] / "layerfs_native/runtime/run.h"
SPEC = RunSpec(
    rootfs=b"/r",
    argv=(b"a", b"\xff", b""),
    env=(b"A=1",),
    cwd=b"/w",
    hostname=b"h",
    identity=Identity(1, 2, (2, 3)),
    capabilities=0xA80425FB,
    namespaces=Namespace.PID,
    steps=(Step(StepKind.MASK, b"/proc/x", optional=True, strict=True),),
    read_only=True,
    limits=(Limit(7, 10, -1),),
)


def records(data):
    assert data[:8] == b"LFSRUN1\n"
    at = 8
    while at < len(data):
        tag, length = struct.unpack_from("<HI", data, at)
        yield tag, data[at + 6 : at + 6 + length]
        at += 6 + length


def test_records_carry_every_field():
    found = list(records(wire.encode(SPEC)))
    assert (1, b"/r\0") in found
    assert [payload for tag, payload in found if tag == wire.ARGUMENT] == [b"a\0", b"\xff\0", b"\0"]
    assert (wire.IDENTITY, struct.pack("<4I", 1, 2, 2, 3)) in found
    assert (wire.RLIMIT, struct.pack("<IQQ", 7, 10, 2**64 - 1)) in found
    assert (wire.STEP, struct.pack("<5IQ", 5, 6, 0, 0, 0, 0) + b"\0\0/proc/x\0\0") in found


def test_a_nul_byte_is_refused():
    with pytest.raises(InvalidInput, match="NUL"):
        wire.encode(dataclasses.replace(SPEC, argv=(b"a\0b",)))


def test_more_than_the_helper_takes_is_refused():
    with pytest.raises(InvalidInput, match="argument list too long"):
        wire.encode(dataclasses.replace(SPEC, argv=(b"x" * wire.SPEC_MAX,)))


@pytest.mark.parametrize(
    ("prefix", "names"),
    [
        (
            "LFS_TAG_",
            {name: getattr(wire, name) for name in ("ROOT", "ARGUMENT", "ENVIRONMENT", "STEP", "SECCOMP", "CGROUP")},
        ),
        ("LFS_STEP_", {kind.name: int(kind) for kind in module.StepKind}),
    ],
)
def test_numbers_agree_with_the_header(prefix, names):
    in_header = dict(re.findall(rf"{prefix}(\w+) = (\d+)", HEADER.read_text()))
    assert {name: int(in_header[name]) for name in names} == names
