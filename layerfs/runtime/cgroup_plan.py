"""From limits to the files of a cgroup and what is written there, for both versions (reference 4.7). Pure."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator

from layerfs._lazy import TYPE_CHECKING
from layerfs._record import dataclass
from layerfs.errors import Unsupported
from layerfs.runtime.resources import DeviceRate, DeviceRule, Resources, cpu_limit

if TYPE_CHECKING:
    from typing import Final

# docker's: any node may be made, these may be used (reference 4.3)
DEVICES: Final = (
    *(DeviceRule(kind, None, None, "m") for kind in "cb"),
    *(DeviceRule("c", 1, minor, "rwm") for minor in (3, 5, 7, 8, 9)),
    *(DeviceRule("c", 5, minor, "rwm") for minor in (0, 1, 2)),
    *(DeviceRule("c", 136, None, "rwm"), DeviceRule("c", 10, 200, "rwm")),
)
_THROTTLES: Final = (
    ("device_read_bps", "blkio.throttle.read_bps_device", "rbps"),
    ("device_write_bps", "blkio.throttle.write_bps_device", "wbps"),
    ("device_read_iops", "blkio.throttle.read_iops_device", "riops"),
    ("device_write_iops", "blkio.throttle.write_iops_device", "wiops"),
)


@dataclass(frozen=True, slots=True)
class Setting:
    """`value` goes into `file` of the cgroup of `controller`; `alternatives` are other names of it (schedulers of other
    kernels); an `implied` one nobody asked for may be absent."""

    controller: str
    file: str
    value: str
    implied: bool = False
    alternatives: tuple[tuple[str, str], ...] = ()


def settings_v1(wanted: Resources) -> list[Setting]:
    return [*_memory_v1(wanted), *_cpu_v1(wanted), *_cpuset(wanted), *_pids(wanted), *_blkio_v1(wanted)]


def settings_v2(wanted: Resources) -> list[Setting]:
    """Raises Unsupported for what version 2 has no file for."""
    return [*_memory_v2(wanted), *_cpu_v2(wanted), *_cpuset(wanted), *_pids(wanted), *_io_v2(wanted)]


def _swap(wanted: Resources) -> int:
    """Memory and swap together, -1 for no limit, 0 when there is none to set."""
    return wanted.memory_swap or 2 * wanted.memory


def _memory_v1(wanted: Resources) -> Iterator[Setting]:
    if wanted.memory:
        yield Setting("memory", "memory.limit_in_bytes", str(wanted.memory))
    if swap := _swap(wanted):
        yield Setting("memory", "memory.memsw.limit_in_bytes", str(swap), implied=wanted.memory_swap <= 0)
    if wanted.memory_reservation:
        yield Setting("memory", "memory.soft_limit_in_bytes", str(wanted.memory_reservation))
    if wanted.memory_swappiness is not None:
        yield Setting("memory", "memory.swappiness", str(wanted.memory_swappiness))
    if wanted.oom_kill_disable:
        yield Setting("memory", "memory.oom_control", "1")


def _memory_v2(wanted: Resources) -> Iterator[Setting]:
    if wanted.memory_swappiness is not None:
        raise Unsupported("memory swappiness cannot be set for a container with cgroup v2")
    if wanted.oom_kill_disable:
        raise Unsupported("the OOM killer cannot be disabled for a container with cgroup v2")
    if wanted.memory:
        yield Setting("memory", "memory.max", str(wanted.memory))
    if swap := _swap(wanted):
        value = "max" if swap < 0 else str(swap - wanted.memory)
        yield Setting("memory", "memory.swap.max", value, implied=wanted.memory_swap <= 0)
    if wanted.memory_reservation:
        yield Setting("memory", "memory.low", str(wanted.memory_reservation))


def _cpu_v1(wanted: Resources) -> Iterator[Setting]:
    if wanted.cpu_shares:
        yield Setting("cpu", "cpu.shares", str(wanted.cpu_shares))
    quota, period = cpu_limit(wanted)
    if period:
        yield Setting("cpu", "cpu.cfs_period_us", str(period))
        yield Setting("cpu", "cpu.cfs_quota_us", str(quota))


def weight_of_shares(shares: int) -> int:
    """runc's map since 1.3: 1024, the default of version 1, is 100, that of version 2, and ratios are about kept."""
    if shares <= 2:
        return 1
    if shares >= 262144:
        return 10000
    log = math.log2(shares)
    return math.ceil(10 ** ((log * log + 125 * log) / 612 - 7 / 34))


def _cpu_v2(wanted: Resources) -> Iterator[Setting]:
    if wanted.cpu_shares:
        yield Setting("cpu", "cpu.weight", str(weight_of_shares(wanted.cpu_shares)))
    quota, period = cpu_limit(wanted)
    if period:
        yield Setting("cpu", "cpu.max", f"{quota if quota > 0 else 'max'} {period}")


def _cpuset(wanted: Resources) -> Iterator[Setting]:
    if wanted.cpuset_cpus:
        yield Setting("cpuset", "cpuset.cpus", wanted.cpuset_cpus)
    if wanted.cpuset_mems:
        yield Setting("cpuset", "cpuset.mems", wanted.cpuset_mems)


def _pids(wanted: Resources) -> Iterator[Setting]:
    if wanted.pids_limit:
        yield Setting("pids", "pids.max", str(wanted.pids_limit))


def _blkio_v1(wanted: Resources) -> Iterator[Setting]:
    if wanted.blkio_weight:
        yield _weight_v1("", wanted.blkio_weight)
    for device in wanted.blkio_weight_device:
        yield _weight_v1(f"{device.number} ", device.rate)
    for field, file, _ in _THROTTLES:
        for device in _rates(wanted, field):
            yield Setting("blkio", file, f"{device.number} {device.rate}")


def _weight_v1(device: str, weight: int) -> Setting:
    suffix = "_device" if device else ""
    value = f"{device}{weight}"
    return Setting("blkio", f"blkio.weight{suffix}", value, alternatives=((f"blkio.bfq.weight{suffix}", value),))


def _io_v2(wanted: Resources) -> Iterator[Setting]:
    if wanted.blkio_weight:
        yield _weight_v2("default ", wanted.blkio_weight)
    for device in wanted.blkio_weight_device:
        yield _weight_v2(f"{device.number} ", device.rate)
    for field, _, word in _THROTTLES:
        for device in _rates(wanted, field):
            yield Setting("io", "io.max", f"{device.number} {word}={device.rate or 'max'}")


def _weight_v2(device: str, weight: int) -> Setting:
    """io.weight goes from 1 to 10000; BFQ keeps version 1's numbers."""
    scaled = 1 + (weight - 10) * 9999 // 990
    return Setting("io", "io.weight", f"{device}{scaled}", alternatives=(("io.bfq.weight", f"{device}{weight}"),))


def _rates(wanted: Resources, field: str) -> Iterable[DeviceRate]:
    rates: tuple[DeviceRate, ...] = getattr(wanted, field)
    return rates
