"""Docker's texts for people: sizes and ages (go-units' rules, reference facts 1.5 and 5.1)."""

from __future__ import annotations

import time

_UNITS = ("B", "kB", "MB", "GB", "TB", "PB", "EB", "ZB", "YB")
_HOUR = 3600.0


def human_size(size: float, digits: int = 3) -> str:
    """A decimal size: `0B`, `1.98MB`. `images` and `history` print 3 significant digits, `system df` 4."""
    unit = 0
    while unit < len(_UNITS) - 1 and (size >= 1000 or float(f"{size:.{digits}g}") >= 1000):
        size, unit = size / 1000, unit + 1
    return f"{size:.{digits}g}{_UNITS[unit]}"


def human_duration(seconds: float) -> str:
    """How long: `Less than a second`, `5 minutes`, `About an hour`, `3 weeks`."""
    hours = int(seconds / _HOUR + 0.5)
    if seconds < 1:
        return "Less than a second"
    if seconds < 60:
        return "1 second" if seconds < 2 else f"{int(seconds)} seconds"
    if seconds < _HOUR:
        return "About a minute" if seconds < 120 else f"{int(seconds / 60)} minutes"
    if hours < 48:
        return "About an hour" if hours == 1 else f"{hours} hours"
    for limit, unit, length in ((24 * 14, "days", 24), (24 * 60, "weeks", 24 * 7), (24 * 365 * 2, "months", 24 * 30)):
        if hours < limit:
            return f"{hours // length} {unit}"
    return f"{int(seconds / _HOUR) // 24 // 365} years"


def human_ago(moment_ns: int | None, now_ns: int | None = None) -> str:
    """`2 weeks ago`; `N/A` for a time that is not set."""
    if moment_ns is None:
        return "N/A"
    now = time.time_ns() if now_ns is None else now_ns
    return human_duration((now - moment_ns) / 1e9) + " ago"


def history_ago(moment_ns: int | None, now_ns: int | None = None) -> str:
    """The same for `history`, where the epoch and its first second count as not set (`images` shows their age)."""
    return human_ago(None if moment_ns is not None and moment_ns <= 10**9 else moment_ns, now_ns)


def ellipsis(text: str, width: int) -> str:
    """The text cut to `width` characters, the last being `…` when something was cut."""
    return text if len(text) <= width else text[: width - 1] + "…"
