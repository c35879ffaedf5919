"""Values of instructions and filters in docker's spelling: durations, ports, signals."""

from __future__ import annotations

import re

from layerfs._lazy import pattern
from layerfs.errors import InvalidInput

_DURATION = pattern(r"[-+]?(?:\d+\.?\d*|\.\d+)(?:ns|us|µs|μs|ms|s|m|h)")
_NANOSECONDS = {
    "ns": 1,
    "us": 10**3,
    "µs": 10**3,
    "μs": 10**3,
    "ms": 10**6,
    "s": 10**9,
    "m": 60 * 10**9,
    "h": 3600 * 10**9,
}
_PORT = pattern(r"(\d{1,5})(?:-(\d{1,5}))?\Z", re.ASCII)
_SIGNALS = pattern(
    "ABRT|ALRM|BUS|CHLD|CLD|CONT|FPE|HUP|ILL|INT|IO|IOT|KILL|PIPE|POLL|PROF|PWR|QUIT|SEGV|STKFLT|STOP|SYS|TERM|TRAP|TSTP|"
    r"TTIN|TTOU|URG|USR1|USR2|VTALRM|WINCH|XCPU|XFSZ|RTMIN(\+\d{1,2})?|RTMAX(-\d{1,2})?"
)


def parse_duration(text: str) -> int:
    """Go's duration text in nanoseconds: `1m30s`, `1.5h`, `0`.

    Raises:
        InvalidInput: another text.
    """
    if text in ("0", "+0", "-0"):
        return 0
    sign, body = (-1, text[1:]) if text.startswith("-") else (1, text.removeprefix("+"))
    parts = _DURATION.findall(body)
    if not parts or "".join(parts) != body:
        raise InvalidInput(f'time: invalid duration "{text}"')
    total = 0.0
    for part in parts:
        unit = part.lstrip("0123456789.")
        total += float(part.removesuffix(unit)) * _NANOSECONDS[unit]
    return sign * round(total)


def parse_ports(text: str) -> list[str]:
    """`80`, `80/udp` or `80-82/tcp` as the list of its ports, each with its protocol."""
    numbers, slash, protocol = text.partition("/")
    protocol = protocol.lower() if slash else "tcp"
    if protocol not in ("tcp", "udp", "sctp"):
        raise InvalidInput(f"Invalid proto: {protocol}")
    container = numbers.rpartition(":")[2]
    match = _PORT.match(container)
    if match is None:
        raise InvalidInput(f"Invalid containerPort: {container}")
    first, last = int(match[1]), int(match[2] or match[1])
    if last < first or last > 65535:
        raise InvalidInput(f"Invalid containerPort: {container}")
    return [f"{port}/{protocol}" for port in range(first, last + 1)]


def check_signal(text: str) -> None:
    """A signal's number (1..64) or name, with or without SIG.

    Raises:
        InvalidInput: docker's `invalid signal: X`.
    """
    name = text.upper().removeprefix("SIG")
    is_number = text.isdecimal() and text.isascii()
    if not (1 <= int(text) <= 64 if is_number else _SIGNALS.fullmatch(name)):
        raise InvalidInput(f"invalid signal: {text}")
