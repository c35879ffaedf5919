"""Capabilities by name, docker's default set, and its rules for `--cap-add`, `--cap-drop` and `--privileged`."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from layerfs._lazy import TYPE_CHECKING
from layerfs.errors import InvalidInput

if TYPE_CHECKING:
    from typing import Final

_NAMES: Final = (
    "CHOWN DAC_OVERRIDE DAC_READ_SEARCH FOWNER FSETID KILL SETGID SETUID SETPCAP LINUX_IMMUTABLE NET_BIND_SERVICE "
    "NET_BROADCAST NET_ADMIN NET_RAW IPC_LOCK IPC_OWNER SYS_MODULE SYS_RAWIO SYS_CHROOT SYS_PTRACE SYS_PACCT SYS_ADMIN "
    "SYS_BOOT SYS_NICE SYS_RESOURCE SYS_TIME SYS_TTY_CONFIG MKNOD LEASE AUDIT_WRITE AUDIT_CONTROL SETFCAP MAC_OVERRIDE "
    "MAC_ADMIN SYSLOG WAKE_ALARM BLOCK_SUSPEND AUDIT_READ PERFMON BPF CHECKPOINT_RESTORE"
)
NAMES: Final = tuple(_NAMES.split())

DEFAULT: Final = 0xA80425FB  # docker's fourteen


def _bit(name: str, option: str) -> int:
    plain = name.upper().removeprefix("CAP_")
    if plain not in NAMES:
        raise InvalidInput(f'invalid {option}: unknown capability: "{name}"')
    return 1 << NAMES.index(plain)


def _mask(names: Iterable[str], option: str) -> tuple[int, bool]:
    mask, everything = 0, False
    for name in names:
        if name.upper() in ("ALL", "CAP_ALL"):
            everything = True
        else:
            mask |= _bit(name, option)
    return mask, everything


def all_known() -> int:
    """Every capability of this kernel (and of the names above, where the kernel does not say)."""
    try:
        last = int(Path("/proc/sys/kernel/cap_last_cap").read_text())
    except (OSError, ValueError):
        last = len(NAMES) - 1
    return int((1 << (last + 1)) - 1)


def available() -> int:
    """Those that this process could hand on."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("CapBnd:"):
            return int(line.split()[1], 16)
    return all_known()


def choose(add: Iterable[str] = (), drop: Iterable[str] = (), *, privileged: bool = False) -> int:
    """The bounding set, as a mask. `ALL` in `add` starts from everything, `ALL` in `drop` from nothing."""
    added, add_all = _mask(add, "CapAdd")
    dropped, drop_all = _mask(drop, "CapDrop")
    if privileged:
        return all_known()
    if add_all:
        return all_known() & ~dropped
    if drop_all:
        return added
    return (DEFAULT & ~dropped) | added
