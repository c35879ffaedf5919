"""Points in time and durations as docker's options take them."""

from __future__ import annotations

import re
import time
from datetime import datetime

from layerfs.errors import InvalidInput

_UNITS = {"ns": 1e-9, "us": 1e-6, "µs": 1e-6, "ms": 1e-3, "s": 1.0, "m": 60.0, "h": 3600.0}
_PART = re.compile(r"(\d+(?:\.\d*)?|\.\d+)(ns|us|µs|ms|s|m|h)")
_STAMP = re.compile(r"(\d+)(?:\.(\d{1,9})\d*)?\Z")
_FRACTION = re.compile(r"(?<=:\d\d)\.(\d{1,9})\d*")


def parse_duration(text: str) -> float:
    """Go's form, `1h2m3.5s`, in seconds. Raises InvalidInput."""
    sign, rest = (-1.0, text[1:]) if text.startswith("-") else (1.0, text.removeprefix("+"))
    if rest == "0":
        return 0.0
    parts = list(_PART.finditer(rest))
    if not parts or "".join(part[0] for part in parts) != rest:
        raise InvalidInput(f'time: invalid duration "{text}"')
    return sign * sum(float(part[1]) * _UNITS[part[2]] for part in parts)


def parse_moment(text: str) -> int:
    """Nanoseconds since 1970 of a Go duration before now, seconds since 1970, or an RFC 3339 time (local without zone;
    a date, or a time to the minute, will do). Raises InvalidInput."""
    if stamp := _STAMP.match(text):
        return int(stamp[1]) * 10**9 + int((stamp[2] or "0").ljust(9, "0"))
    try:
        return time.time_ns() - int(parse_duration(text) * 1e9)
    except InvalidInput:
        pass
    fraction = _FRACTION.search(text)
    try:
        whole = datetime.fromisoformat(_FRACTION.sub("", text))
    except ValueError:
        raise InvalidInput(f"invalid value for time: '{text}'") from None
    nanoseconds = int(fraction[1].ljust(9, "0")) if fraction else 0
    return int(whole.timestamp()) * 10**9 + nanoseconds
