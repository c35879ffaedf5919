"""What a container may use: docker's limits as plain numbers, checked by docker's rules and in its words."""

from __future__ import annotations

import functools
import os
import re
import stat
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path

from layerfs._lazy import TYPE_CHECKING, pattern
from layerfs._record import dataclass, fields, replace
from layerfs.errors import InvalidInput

if TYPE_CHECKING:
    from typing import Any, Final

MEMORY_MIN: Final = 6 << 20
CPU_PERIOD: Final = 100_000
_SHARES = (2, 262144)
_UNITS: Final = {"": 1, "b": 1, "k": 1 << 10, "m": 1 << 20, "g": 1 << 30, "t": 1 << 40, "p": 1 << 50}
_SIZE = pattern(r"(\d+(?:\.\d+)?)\s*([bkmgtp]?)(?:i?b)?\Z", re.IGNORECASE | re.ASCII)
_RULE = pattern(r"([abc])\s+(\d+|\*):(\d+|\*)\s+([rwm]{1,3})\Z", re.ASCII)


def parse_size(value: int | str, *, unlimited: bool = False) -> int:
    """Bytes of `64m`, `1.5g`, `1024`; -1 where `unlimited` allows it. Raises InvalidInput."""
    if isinstance(value, int) and not isinstance(value, bool):
        number = value
    elif unlimited and str(value).strip() == "-1":
        number = -1
    elif match := _SIZE.match(str(value).strip()):
        number = int(float(match[1]) * _UNITS[match[2].lower()]) if "." in match[1] else int(match[1])
        number *= 1 if "." in match[1] else _UNITS[match[2].lower()]
    else:
        raise InvalidInput(f"invalid size: '{value}'")
    if number > 2**63 - 1 or number < (-1 if unlimited else 0):
        raise InvalidInput(f"invalid size: '{value}'")
    return number


@dataclass(frozen=True, slots=True)
class DeviceRate:
    """A number for one block device of the host: a weight, bytes or operations a second."""

    path: str
    rate: int

    @property
    def number(self) -> str:
        """MAJOR:MINOR. Raises InvalidInput when `path` is no block device."""
        try:
            info = Path(self.path).stat()
        except OSError as error:
            raise InvalidInput(f"{self.path}: {(error.strerror or str(error)).lower()}") from None
        if not stat.S_ISBLK(info.st_mode):
            raise InvalidInput(f"{self.path} is not a block device")
        return f"{os.major(info.st_rdev)}:{os.minor(info.st_rdev)}"


@dataclass(frozen=True, slots=True)
class DeviceRule:
    """What a device cgroup allows: `kind` a, b or c; None is every number; `access` some of r, w, m."""

    kind: str
    major: int | None
    minor: int | None
    access: str

    @classmethod
    def parse(cls, text: str) -> DeviceRule:
        match = _RULE.match(text.strip())
        if not match:
            raise InvalidInput(f"invalid device cgroup format '{text}'")
        numbers = [None if n == "*" else int(n) for n in match.group(2, 3)]
        return cls(match[1], numbers[0], numbers[1], match[4])

    def __str__(self) -> str:
        major, minor = ("*" if n is None else str(n) for n in (self.major, self.minor))
        return f"{self.kind} {major}:{minor} {self.access}"


@dataclass(frozen=True, slots=True)
class Resources:
    """Limits of one container; 0, empty or None is "not limited". Sizes in bytes."""

    memory: int = 0
    memory_swap: int = 0  # memory and swap together; -1: as much swap as there is; 0: twice the memory
    memory_reservation: int = 0
    memory_swappiness: int | None = None
    oom_kill_disable: bool = False
    nano_cpus: int = 0  # thousand millionths of a processor
    cpu_shares: int = 0
    cpu_period: int = 0  # microseconds
    cpu_quota: int = 0
    cpuset_cpus: str = ""
    cpuset_mems: str = ""
    pids_limit: int = 0
    blkio_weight: int = 0
    blkio_weight_device: tuple[DeviceRate, ...] = ()
    device_read_bps: tuple[DeviceRate, ...] = ()
    device_write_bps: tuple[DeviceRate, ...] = ()
    device_read_iops: tuple[DeviceRate, ...] = ()
    device_write_iops: tuple[DeviceRate, ...] = ()
    device_cgroup_rules: tuple[DeviceRule, ...] = ()

    def __bool__(self) -> bool:
        return self != _unlimited()

    def __post_init__(self) -> None:
        _check_memory(self)
        _check_cpu(self)
        if self.blkio_weight and not 10 <= self.blkio_weight <= 1000:
            raise InvalidInput("Range of blkio weight is from 10 to 1000")
        if any(not 10 <= device.rate <= 1000 for device in self.blkio_weight_device):
            raise InvalidInput("Range of blkio weight is from 10 to 1000")

    def changed(self, values: Mapping[str, Any]) -> Resources:
        """With a caller's values, by the names of docker's flags (and `cpus`, `pids`). Raises InvalidInput."""
        chosen: dict[str, Any] = {}
        for given, value in values.items():
            name, parse = _PARSERS[given]
            chosen[name] = parse(given, value)
        wanted = replace(self, **chosen)
        _check_machine(wanted, chosen)
        return wanted

    @classmethod
    def of(cls, row: Mapping[str, Any]) -> Resources:
        return cls(**{name: _from_row(name, value) for name, value in row.items() if name in _FIELDS})

    def row(self) -> dict[str, Any]:
        """Plain values, only those that are not the default."""
        standard = _unlimited()
        if self == standard:
            return {}
        pairs = ((name, getattr(self, name)) for name in sorted(_FIELDS))
        return {n: _to_row(n, value) for n, value in pairs if value != getattr(standard, n)}


@functools.cache
def _unlimited() -> Resources:
    return Resources()


def _check_memory(wanted: Resources) -> None:
    memory, swap = wanted.memory, wanted.memory_swap
    if memory and memory < MEMORY_MIN:
        raise InvalidInput("Minimum memory limit allowed is 6MB")
    if swap > 0 and not memory:
        raise InvalidInput("You should always set the Memory limit when using Memoryswap limit, see usage")
    if 0 < swap < memory:
        raise InvalidInput("Minimum memoryswap limit should be larger than memory limit, see usage")
    if memory and wanted.memory_reservation > memory:
        raise InvalidInput("Minimum memory limit can not be less than memory reservation limit, see usage")
    if 0 < wanted.memory_reservation < MEMORY_MIN:
        raise InvalidInput("Minimum memory reservation allowed is 6MB")
    if wanted.memory_swappiness is not None and not -1 <= wanted.memory_swappiness <= 100:
        raise InvalidInput(f"Invalid value: {wanted.memory_swappiness}, valid memory swappiness range is 0-100")


def _check_cpu(wanted: Resources) -> None:
    if wanted.nano_cpus and (wanted.cpu_period or wanted.cpu_quota):
        which = "CPU Period" if wanted.cpu_period else "CPU Quota"
        raise InvalidInput(f"Conflicting options: Nano CPUs and {which} cannot both be set")
    if wanted.cpu_period and not 1000 <= wanted.cpu_period <= 1_000_000:
        raise InvalidInput("CPU cfs period can not be less than 1ms (i.e. 1000) or larger than 1s (i.e. 1000000)")
    if 0 < wanted.cpu_quota < 1000:
        raise InvalidInput("CPU cfs quota can not be less than 1ms (i.e. 1000)")
    if wanted.cpu_shares and not _SHARES[0] <= wanted.cpu_shares <= _SHARES[1]:
        raise InvalidInput(f"invalid CPU shares: {wanted.cpu_shares}: from {_SHARES[0]} to {_SHARES[1]}")
    for name in ("cpuset_cpus", "cpuset_mems"):
        value = getattr(wanted, name)
        if value and not re.fullmatch(r"\d{1,5}(-\d{1,5})?(,\d{1,5}(-\d{1,5})?)*", value, re.ASCII):
            raise InvalidInput(f"Invalid value {value} for {name.replace('_', ' ')}")


def _check_machine(wanted: Resources, names: Iterable[str]) -> None:
    """What a caller asks for has to be here; what a record says was so once, maybe on another machine."""
    count = os.cpu_count() or 1
    if "nano_cpus" in names and wanted.nano_cpus and not 10**7 <= wanted.nano_cpus <= count * 10**9:
        raise InvalidInput(f"range of CPUs is from 0.01 to {count:.2f}, as there are only {count} CPUs available")
    for name, (what, file) in _ONLINE.items():
        value = getattr(wanted, name)
        if name in names and value and not _numbers(value) <= _numbers(here := _online(file)):
            raise InvalidInput(f"Requested {what} are not available - requested {value}, available: {here}")


def _online(file: str) -> str:
    try:
        return Path("/sys/devices/system", file, "online").read_text().strip()
    except OSError:  # a kernel without memory nodes
        return "0-99999"


def _numbers(text: str) -> set[int]:
    """Of a list as the kernel has it: `0-3,7`."""
    ends = (part.partition("-")[::2] for part in text.split(",") if part)
    return {number for first, last in ends for number in range(int(first), int(last or first) + 1)}


def cpu_limit(wanted: Resources) -> tuple[int, int]:
    """(quota, period) in microseconds; (0, 0) without a limit, quota -1 for "none"."""
    if wanted.nano_cpus:
        return wanted.nano_cpus * CPU_PERIOD // 10**9, CPU_PERIOD
    if wanted.cpu_quota or wanted.cpu_period:
        return wanted.cpu_quota or -1, wanted.cpu_period or CPU_PERIOD
    return 0, 0


def _size(name: str, value: Any) -> int:
    return parse_size(0 if value is None else value, unlimited=name == "memory_swap")


def _integer(name: str, value: Any) -> int:
    try:
        return int(value or 0)
    except (TypeError, ValueError):
        raise InvalidInput(f"invalid value for {name}: {value!r}") from None


def _pids(name: str, value: Any) -> int:
    return max(_integer(name, value), 0)


def _swappiness(name: str, value: Any) -> int | None:
    number = -1 if value is None else _integer(name, value)
    return None if number == -1 else number


def _nano_cpus(name: str, value: Any) -> int:
    text = str(value or 0)
    if not re.fullmatch(r"\d*\.?\d{0,9}|\d+", text, re.ASCII) or text == ".":
        raise InvalidInput(f"invalid value for {name}: {value!r} (a number like 1.5)")
    whole, _, part = text.partition(".")
    return int(whole or 0) * 10**9 + int(part.ljust(9, "0") or 0)


def _text(name: str, value: Any) -> str:
    return str(value or "")


def _flag(name: str, value: Any) -> bool:
    return bool(value)


def _rates(name: str, value: Any) -> tuple[DeviceRate, ...]:
    return tuple(_rate(name, each) for each in _listed(value))


def _listed(value: Any) -> list[Any]:
    if value is None:
        return []
    return [value] if isinstance(value, str) else list(value)


def _rate(name: str, value: Any) -> DeviceRate:
    if isinstance(value, DeviceRate):
        return value
    path, colon, number = str(value).rpartition(":")
    if not colon or not path.startswith("/dev/"):
        raise InvalidInput(f"bad format for {name.replace('_', '-')}: {value} (PATH below /dev, colon, number)")
    rate = parse_size(number) if name.endswith("bps") else _integer(name, number)
    return DeviceRate(path, rate)


def _rules(name: str, value: Any) -> tuple[DeviceRule, ...]:
    return tuple(rule if isinstance(rule, DeviceRule) else DeviceRule.parse(rule) for rule in _listed(value))


_RATES = ("device_read_bps", "device_write_bps", "device_read_iops", "device_write_iops", "blkio_weight_device")
_ONLINE: Final = {"cpuset_cpus": ("CPUs", "cpu"), "cpuset_mems": ("memory nodes", "node")}
_FIELDS: Final = frozenset(field.name for field in fields(Resources))
_PARSERS: Final[dict[str, tuple[str, Callable[[str, Any], Any]]]] = {
    "memory": ("memory", _size),
    "memory_swap": ("memory_swap", _size),
    "memory_reservation": ("memory_reservation", _size),
    "memory_swappiness": ("memory_swappiness", _swappiness),
    "oom_kill_disable": ("oom_kill_disable", _flag),
    "cpus": ("nano_cpus", _nano_cpus),
    "cpu_shares": ("cpu_shares", _integer),
    "cpu_period": ("cpu_period", _integer),
    "cpu_quota": ("cpu_quota", _integer),
    "cpuset_cpus": ("cpuset_cpus", _text),
    "cpuset_mems": ("cpuset_mems", _text),
    "pids": ("pids_limit", _pids),
    "pids_limit": ("pids_limit", _pids),
    "blkio_weight": ("blkio_weight", _integer),
    "device_cgroup_rules": ("device_cgroup_rules", _rules),
    **{name: (name, _rates) for name in _RATES},
}
NAMES: Final = frozenset(_PARSERS)


def _to_row(name: str, value: Any) -> Any:
    if name in _RATES:
        return [[device.path, device.rate] for device in value]
    return [str(rule) for rule in value] if name == "device_cgroup_rules" else value


def _from_row(name: str, value: Any) -> Any:
    if name in _RATES:
        return tuple(DeviceRate(str(path), int(rate)) for path, rate in value)
    return _rules(name, value) if name == "device_cgroup_rules" else value
