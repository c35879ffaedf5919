"""A filter as BPF, by libseccomp through its binding.

Calls that are newer than the library are decided by a few instructions of ours before its own: since Linux 5.1 new
calls have one number on all architectures. What is newer than everything we know is ENOSYS, not EPERM, so that C
libraries fall back (runc does so, too).
"""

from __future__ import annotations

import errno
import os
import struct
from collections.abc import Iterable, Sequence
from typing import Any, Final

from layerfs.errors import InvalidInput, RunError, Unsupported
from layerfs.runtime.seccomp import Filter, Rule, error, is_error

_FIRST: Final = 443
_SINCE: Final = """
    quotactl_fd landlock_create_ruleset landlock_add_rule landlock_restrict_self memfd_secret process_mrelease
    futex_waitv set_mempolicy_home_node cachestat fchmodat2 map_shadow_stack futex_wake futex_wait futex_requeue
    statmount listmount lsm_get_self_attr lsm_set_self_attr lsm_list_modules mseal setxattrat getxattrat
    listxattrat removexattrat open_tree_attr file_getattr file_setattr
"""
_NEW: Final = {name: number for number, name in enumerate(_SINCE.split(), _FIRST)}
_LAST: Final = max(_NEW.values())
_X32: Final = 0x40000000
_AUDIT: Final = {  # architectures whose new numbers are the common ones
    "X86_64": 0xC000003E,
    "X86": 0x40000003,
    "AARCH64": 0xC00000B7,
    "ARM": 0x40000028,
    "RISCV64": 0xC00000F3,
    "PPC64LE": 0xC0000015,
    "S390X": 0x80000016,
    "S390": 0x00000016,
}
_LOAD, _EQUAL, _AT_LEAST, _RETURN = 0x20, 0x15, 0x35, 0x06
_NUMBER_AT, _ARCHITECTURE_AT = 0, 4
_INSTRUCTIONS_MAX: Final = 4096


def _library() -> Any:
    try:
        import pyseccomp
    except (ImportError, RuntimeError, OSError):
        raise Unsupported(
            "a seccomp filter needs libseccomp (package libseccomp2); --security-opt seccomp=unconfined goes without"
        ) from None
    return pyseccomp


def compile_filter(wanted: Filter) -> bytes:
    """struct sock_filter, one after the other. Raises Unsupported, InvalidInput, RunError."""
    library = _library()
    try:
        ours, late = _built(library, wanted)
        code = _exported(ours)
    except OSError as failed:
        if isinstance(failed, InvalidInput):
            raise
        raise RunError(f"the seccomp profile cannot be compiled: {(failed.strerror or str(failed)).lower()}") from None
    head = _preamble(wanted, late)
    if len(head) + len(code) > 8 * _INSTRUCTIONS_MAX:
        raise InvalidInput("the seccomp profile is too long for the kernel")
    return head + code


def _built(library: Any, wanted: Filter) -> tuple[Any, list[Rule]]:
    built = library.SyscallFilter(wanted.default)
    built.set_attr(library.Attr.CTL_OPTIMIZE, 2)  # a tree instead of a list
    for name in wanted.architectures[1:]:
        number = getattr(library.Arch, name, None)
        if number is None:
            raise InvalidInput(f"in the seccomp profile: unknown architecture SCMP_ARCH_{name}")
        try:
            built.add_arch(number)
        except FileExistsError:
            continue
    late = []
    for rule in wanted.rules:
        try:
            number = library.resolve_syscall(library.Arch.NATIVE, rule.name)
        except (OSError, ValueError):
            number = -1
        if number == -1:  # __NR_SCMP_ERROR: not known; other negative ones stand for calls of other architectures
            late += [rule] if rule.name in _NEW else []
            continue
        arguments = [library.Arg(a.index, a.op, a.value, a.other) for a in rule.arguments]
        built.add_rule(rule.action, number, *arguments)
    return built, late


def _exported(built: Any) -> bytes:
    place = os.memfd_create("layerfs-seccomp", os.MFD_CLOEXEC)
    with open(place, "r+b") as file:  # noqa: PTH123 (a descriptor)
        built.export_bpf(file)
        file.seek(0)
        return file.read()


def _instruction(code: int, value: int, yes: int = 0, no: int = 0) -> bytes:
    return struct.pack("<HBBI", code, yes, no, value)


def _preamble(wanted: Filter, late: Sequence[Rule]) -> bytes:
    """Decides the calls in `late`, and those after the last we know; goes on with the library's code for all others."""
    if any(rule.arguments for rule in late):
        name = next(rule.name for rule in late if rule.arguments)
        raise InvalidInput(f"libseccomp is too old for a seccomp rule about arguments of {name}")
    known = [_AUDIT[name] for name in wanted.architectures if name in _AUDIT]
    decisions = b"".join(_decisions(late, wanted.default))
    if not known or not decisions:
        return b""
    count = len(decisions) // 8
    body = [_instruction(_LOAD, _ARCHITECTURE_AT)]
    for at, architecture in enumerate(known):  # the last test falls to the end when it fails
        last = at == len(known) - 1
        body.append(_instruction(_EQUAL, architecture, len(known) - 1 - at, count + 1 if last else 0))
    return b"".join([*body, _instruction(_LOAD, _NUMBER_AT), decisions])


def _decisions(late: Iterable[Rule], default: int) -> Iterable[bytes]:
    for rule in late:
        yield _instruction(_EQUAL, _NEW[rule.name], 0, 1) + _instruction(_RETURN, rule.action)
    if is_error(default):
        yield _instruction(_AT_LEAST, _X32, 2, 0)  # x32 has its own numbers
        yield _instruction(_AT_LEAST, _LAST + 1, 0, 1) + _instruction(_RETURN, error(errno.ENOSYS))
