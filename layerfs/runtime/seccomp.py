"""seccomp profiles in docker's form: read, checked, and narrowed to what holds for one machine and one container. Pure;
`seccomp_compile` makes a filter of the result.
"""

from __future__ import annotations

import json
import re
from collections.abc import Collection, Iterator, Mapping
from typing import Any, Final

from layerfs._record import dataclass
from layerfs.errors import InvalidInput

PROFILE_MAX: Final = 4 << 20
ALLOW, LOG, KILL_THREAD, KILL_PROCESS, TRAP = 0x7FFF0000, 0x7FFC0000, 0x00000000, 0x80000000, 0x00030000
_ERRNO, _TRACE = 0x00050000, 0x7FF00000
_ACTIONS: Final = {
    "ALLOW": ALLOW,
    "LOG": LOG,
    "KILL": KILL_THREAD,
    "KILL_THREAD": KILL_THREAD,
    "KILL_PROCESS": KILL_PROCESS,
    "TRAP": TRAP,
}
_OPERATORS: Final = {"NE": 1, "LT": 2, "LE": 3, "EQ": 4, "GE": 5, "GT": 6, "MASKED_EQ": 7}
_FLAGS: Final = {"SECCOMP_FILTER_FLAG_LOG": 2, "SECCOMP_FILTER_FLAG_SPEC_ALLOW": 4, "SECCOMP_FILTER_FLAG_TSYNC": 0}
_MACHINES: Final = {  # uname's name: (libseccomp's, Go's)
    "x86_64": ("X86_64", "amd64"),
    "aarch64": ("AARCH64", "arm64"),
    "armv7l": ("ARM", "arm"),
    "i686": ("X86", "x86"),
    "ppc64le": ("PPC64LE", "ppc64le"),
    "s390x": ("S390X", "s390x"),
    "riscv64": ("RISCV64", "riscv64"),
}


@dataclass(frozen=True, slots=True)
class Argument:
    """A condition on one argument: `op` by libseccomp's number."""

    index: int
    op: int
    value: int
    other: int


@dataclass(frozen=True, slots=True)
class Rule:
    """`action` for the call `name` when all of `arguments` hold."""

    name: str
    action: int
    arguments: tuple[Argument, ...] = ()


@dataclass(frozen=True, slots=True)
class Filter:
    """What a profile is for one container."""

    default: int
    architectures: tuple[str, ...]
    rules: tuple[Rule, ...]
    flags: int = 0


def parse(text: str) -> dict[str, Any]:
    """The JSON object. Raises InvalidInput."""
    if len(text) > PROFILE_MAX:
        raise InvalidInput("the seccomp profile is larger than 4 MiB")
    try:
        document = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise InvalidInput(f"Decoding seccomp profile failed: {error}") from None
    if not isinstance(document, dict):
        raise InvalidInput("Decoding seccomp profile failed: it is no JSON object")
    return document


def resolve(document: Mapping[str, Any], machine: str, kernel: str, capabilities: Collection[str]) -> Filter:
    """What of a profile holds on `machine` (uname -m) with `kernel` (uname -r) for a container with `capabilities`
    (`CAP_…`). Raises InvalidInput for what is no profile."""
    try:
        native, go_name = _MACHINES[machine]
    except KeyError:
        raise InvalidInput(f"seccomp profiles are not known for {machine}") from None
    default = _action(document.get("defaultAction"), document.get("defaultErrnoRet"))
    if document.get("listenerPath"):
        raise InvalidInput("a seccomp profile with a listener is not supported")
    rules = [
        rule
        for entry in _list(document, "syscalls")
        if _applies(entry, go_name, kernel, capabilities)
        for rule in _rules(entry)
        if rule.action != default
    ]
    flags = 0
    for flag in _list(document, "flags"):
        if flag not in _FLAGS:
            raise InvalidInput(f"unknown seccomp flag {flag!r}")
        flags |= _FLAGS[flag]
    return Filter(default, tuple(_architectures(document, native)), tuple(rules), flags)


def _list(holder: Mapping[str, Any], name: str) -> list[Any]:
    value = holder.get(name) or []
    if not isinstance(value, list):
        raise InvalidInput(f"the seccomp profile's {name} are no list")
    return value


def _architectures(document: Mapping[str, Any], native: str) -> Iterator[str]:
    yield native
    if document.get("archMap") and document.get("architectures"):
        raise InvalidInput("both architectures and archMap are set in the seccomp profile, only one can be")
    for name in _list(document, "architectures"):
        if _plain(name, "SCMP_ARCH_") != native:
            yield _plain(name, "SCMP_ARCH_")
    for entry in _list(document, "archMap"):
        if isinstance(entry, dict) and _plain(entry.get("architecture"), "SCMP_ARCH_") == native:
            yield from (_plain(name, "SCMP_ARCH_") for name in _list(entry, "subArchitectures"))


def _plain(value: Any, prefix: str) -> str:
    if not isinstance(value, str) or not value.startswith(prefix):
        raise InvalidInput(f"in the seccomp profile: {value!r} is none of {prefix}*")
    return value.removeprefix(prefix)


def _action(name: Any, number: Any) -> int:
    plain = _plain(name, "SCMP_ACT_")
    if plain in ("ERRNO", "TRACE"):
        value = 1 if number is None else number
        if not isinstance(value, int) or not 0 <= value <= 0xFFFF:
            raise InvalidInput(f"in the seccomp profile: {number!r} is no error number")
        return (_ERRNO if plain == "ERRNO" else _TRACE) | value
    if plain not in _ACTIONS:
        raise InvalidInput(f"in the seccomp profile: the action {name} is not supported")
    return _ACTIONS[plain]


def action_name(action: int) -> tuple[str, int | None]:
    """The specification's word for an action, and its number where it has one."""
    for base, word in ((_ERRNO, "ERRNO"), (_TRACE, "TRACE")):
        if action & 0xFFFF0000 == base:
            return f"SCMP_ACT_{word}", action & 0xFFFF
    return next(f"SCMP_ACT_{word}" for word, value in _ACTIONS.items() if value == action), None


def operator_name(number: int) -> str:
    return next(f"SCMP_CMP_{word}" for word, value in _OPERATORS.items() if value == number)


def is_error(action: int) -> bool:
    """Whether a call with this action fails or kills."""
    return action not in (ALLOW, LOG) and action & 0x7FFF0000 != _TRACE


def error(number: int) -> int:
    return _ERRNO | number


def _applies(entry: Any, machine: str, kernel: str, capabilities: Collection[str]) -> bool:
    if not isinstance(entry, dict):
        raise InvalidInput("in the seccomp profile: a rule is no object")
    includes, excludes = entry.get("includes") or {}, entry.get("excludes") or {}
    if not isinstance(includes, dict) or not isinstance(excludes, dict):
        raise InvalidInput("in the seccomp profile: includes and excludes are objects")
    if (arches := _list(includes, "arches")) and machine not in arches:
        return False
    if any(cap not in capabilities for cap in _list(includes, "caps")):
        return False
    if includes.get("minKernel") and _version(kernel) < _version(includes["minKernel"]):
        return False
    if machine in _list(excludes, "arches") or any(cap in capabilities for cap in _list(excludes, "caps")):
        return False
    return not (excludes.get("minKernel") and _version(kernel) >= _version(excludes["minKernel"]))


def _version(text: Any) -> tuple[int, int]:
    match = re.match(r"(\d+)\.(\d+)", str(text), re.ASCII)
    if not match:
        raise InvalidInput(f"in the seccomp profile: {text!r} is no kernel version")
    return int(match[1]), int(match[2])


def _rules(entry: Mapping[str, Any]) -> Iterator[Rule]:
    names = [entry["name"]] if entry.get("name") else _list(entry, "names")
    action = _action(entry.get("action"), entry.get("errnoRet"))
    arguments = [_argument(value) for value in _list(entry, "args")]
    for name in names:
        if not isinstance(name, str) or not name.isascii():
            raise InvalidInput(f"in the seccomp profile: {name!r} is no system call")
        if len({argument.index for argument in arguments}) < len(
            arguments
        ):  # several for one: any of them, as with runc
            yield from (Rule(name, action, (argument,)) for argument in arguments)
        else:
            yield Rule(name, action, tuple(arguments))


def _argument(value: Any) -> Argument:
    if not isinstance(value, dict):
        raise InvalidInput("in the seccomp profile: an argument is no object")
    op = _plain(value.get("op"), "SCMP_CMP_")
    numbers = [value.get("index", 0), value.get("value", 0), value.get("valueTwo", 0)]
    if op not in _OPERATORS or not all(isinstance(n, int) and 0 <= n < 2**64 for n in numbers) or numbers[0] > 5:
        raise InvalidInput(f"in the seccomp profile: a bad condition on an argument: {value!r}")
    return Argument(numbers[0], _OPERATORS[op], numbers[1], numbers[2])
