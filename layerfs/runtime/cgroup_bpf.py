"""The device control of cgroup v2: a small BPF program, attached to the group, that says which devices may be used.

The kernel asks it with type, access wanted, major and minor; 1 allows. It lives as long as the group does.
"""

from __future__ import annotations

import ctypes
import errno
import os
import platform
import struct
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Final

from layerfs.errors import RunError, Unsupported
from layerfs.runtime.resources import DeviceRule

_SYSCALLS: Final = {"x86_64": 321, "aarch64": 280, "riscv64": 280}
_PROG_LOAD, _PROG_ATTACH = 5, 8
_PROG_TYPE_CGROUP_DEVICE, _CGROUP_DEVICE, _ALLOW_MULTI = 15, 6, 2
_TYPES: Final = {"b": 1, "c": 2}
_ACCESS: Final = {"m": 1, "r": 2, "w": 4}
# instruction codes of linux/bpf.h: a 32-bit load, arithmetic with a constant, jumps that compare with a constant
_LOAD, _MOVE, _MOVE_REG, _AND, _SHIFT, _EXIT = 0x61, 0xB4, 0xBC, 0x54, 0x74, 0x95
_JUMP_NE, _JUMP_NE_REG = 0x55, 0x5D
_TYPE, _WANTED, _MAJOR, _MINOR, _HELP = 2, 3, 4, 5, 6  # registers; 1 is the context


def _instruction(code: int, target: int = 0, source: int = 0, offset: int = 0, value: int = 0) -> bytes:
    signed = value - (1 << 32) if value >= 1 << 31 else value
    return struct.pack("<BBhi", code, target | source << 4, offset, signed)


def _checks(rule: DeviceRule) -> list[bytes]:
    """Conditions of one rule; each is an instruction (or three) whose jump offset is filled in later."""
    checks = []
    if rule.kind in _TYPES:
        checks.append(_instruction(_JUMP_NE, _TYPE, value=_TYPES[rule.kind]))
    allowed = sum(_ACCESS[letter] for letter in set(rule.access))
    if allowed != 7:  # everything that is wanted is among what is allowed
        checks.append(_instruction(_MOVE_REG, _HELP, _WANTED))
        checks.append(_instruction(_AND, _HELP, value=allowed))
        checks.append(_instruction(_JUMP_NE_REG, _HELP, _WANTED))
    if rule.major is not None:
        checks.append(_instruction(_JUMP_NE, _MAJOR, value=rule.major))
    if rule.minor is not None:
        checks.append(_instruction(_JUMP_NE, _MINOR, value=rule.minor))
    return checks


def _rule(rule: DeviceRule) -> list[bytes]:
    body = [*_checks(rule), _instruction(_MOVE, 0, value=1), _instruction(_EXIT)]
    jumps = (_JUMP_NE, _JUMP_NE_REG)
    return [
        part if part[0] not in jumps else part[:2] + struct.pack("<h", len(body) - at - 1) + part[4:]
        for at, part in enumerate(body)
    ]


def program(rules: Iterable[DeviceRule]) -> bytes:
    """Allows what a rule allows, and nothing else."""
    parts = [
        _instruction(_LOAD, _TYPE, 1, 0),
        _instruction(_MOVE_REG, _WANTED, _TYPE),
        _instruction(_AND, _TYPE, value=0xFFFF),
        _instruction(_SHIFT, _WANTED, value=16),
        _instruction(_LOAD, _MAJOR, 1, 4),
        _instruction(_LOAD, _MINOR, 1, 8),
    ]
    for rule in rules:
        parts += _rule(rule)
    return b"".join([*parts, _instruction(_MOVE, 0, value=0), _instruction(_EXIT)])


def _bpf(command: int, attributes: bytes) -> int:
    number = _SYSCALLS.get(platform.machine())
    if number is None:
        raise Unsupported(f"device control with cgroup v2 is not known for {platform.machine()}")
    libc = ctypes.CDLL(None, use_errno=True)
    buffer = ctypes.create_string_buffer(attributes, len(attributes))
    result = int(libc.syscall(number, command, buffer, len(attributes)))
    if result < 0:
        code = ctypes.get_errno()
        kind = Unsupported if code in (errno.ENOSYS, errno.EINVAL) else RunError
        raise kind(f"device control with cgroup v2: bpf: {os.strerror(code).lower()}")
    return result


def attach(group: Path, rules: Sequence[DeviceRule]) -> None:
    """Puts `rules` in force for the group at `group`. Raises RunError, Unsupported."""
    code = ctypes.create_string_buffer(program(rules))
    licence = ctypes.create_string_buffer(b"Apache-2.0")
    count = (len(code) - 1) // 8
    load = struct.pack("<IIQQ", _PROG_TYPE_CGROUP_DEVICE, count, ctypes.addressof(code), ctypes.addressof(licence))
    loaded = _bpf(_PROG_LOAD, load.ljust(64, b"\0"))
    try:
        place = os.open(group, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            _bpf(_PROG_ATTACH, struct.pack("<IIII", place, loaded, _CGROUP_DEVICE, _ALLOW_MULTI))
        finally:
            os.close(place)
    finally:
        os.close(loaded)
