"""Settings of a container's life, from docker's forms: restart policies, logs, health checks."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping

from layerfs._lazy import TYPE_CHECKING, pattern
from layerfs._record import replace
from layerfs.errors import InvalidInput
from layerfs.runtime.spec import Probe, Restart

if TYPE_CHECKING:
    from layerfs.engine.settings import Settings
    from layerfs.oci import ContainerConfig
    from layerfs.oci.config import Healthcheck

_KINDS = {
    "": Restart.NO,
    "no": Restart.NO,
    "on-failure": Restart.ON_FAILURE,
    "always": Restart.ALWAYS,
    "unless-stopped": Restart.UNLESS_STOPPED,
}
_SIZE = pattern(r"(\d+(?:\.\d+)?)\s*([kmgt]?)(?:i?b)?\Z", re.I | re.A)
_SHORTEST = 1_000_000  # ns, of a health check's times
_LOG_OPTS = {"max-size", "max-file", "mode", "compress", "labels", "env", "tag"}


def parse_restart(text: str) -> tuple[Restart, int]:
    """Raises InvalidInput in docker's words."""
    kind, colon, most = text.partition(":")
    if kind not in _KINDS:
        raise InvalidInput(f"invalid restart policy: unknown policy '{kind}'")
    if not colon:
        return _KINDS[kind], 0
    if not most.isdigit():
        raise InvalidInput("invalid restart policy format: maximum retry count must be an integer")
    if _KINDS[kind] != Restart.ON_FAILURE:
        raise InvalidInput("invalid restart policy: maximum retry count can only be used with 'on-failure'")
    return _KINDS[kind], min(int(most), 2**31 - 1)


def parse_bytes(text: str) -> int:
    """`10m`, `64k`, `1.5g`, `512b`; docker's suffixes are 1024-based. Raises InvalidInput."""
    match = _SIZE.match(text.strip())
    if match is None:
        raise InvalidInput(f"invalid size: '{text}'")
    return int(float(match[1]) * 1024 ** " kmgt".index(match[2].lower() or " "))


def parse_log(driver: str, options: Mapping[str, str]) -> tuple[int, int]:
    """Size (0: no end) and number of files. Raises InvalidInput."""
    if driver not in ("json-file", "none", "local"):
        raise InvalidInput(f"logger: no log driver named '{driver}' is registered")
    if unknown := [name for name in options if name not in _LOG_OPTS]:
        raise InvalidInput(f"unknown log opt '{unknown[0]}' for json-file log driver")
    size = options.get("max-size", "-1")
    files = options.get("max-file", "1")
    if not files.isdigit() or int(files) < 1:
        raise InvalidInput("max-file cannot be less than 1")
    limit = 0 if size in ("-1", "0") else parse_bytes(size)
    if not limit and int(files) > 1:
        raise InvalidInput("max-size must be set when max-file is set")
    return limit, min(int(files), 1000)


def merge_health(wanted: Settings, image: Healthcheck | None) -> Healthcheck | None:
    """The image's health check with the container's settings over it. Raises InvalidInput."""
    from layerfs.oci.config import Healthcheck

    given = {
        "interval": wanted.health_interval,
        "timeout": wanted.health_timeout,
        "start_period": wanted.health_start_period,
        "start_interval": wanted.health_start_interval,
    }
    numbers = {name: int(seconds * 1_000_000_000) for name, seconds in given.items() if seconds is not None}
    if any(number < 0 for number in numbers.values()) or (wanted.health_retries or 0) < 0:
        raise InvalidInput("health check times and retries cannot be negative")
    if small := [name for name, number in numbers.items() if 0 < number < _SHORTEST]:
        what = {"start_period": "StartPeriod", "start_interval": "StartInterval"}.get(small[0], small[0].title())
        raise InvalidInput(f"{what} in Healthcheck cannot be less than 1ms")
    if wanted.health_retries is not None:
        numbers["retries"] = wanted.health_retries
    if wanted.no_healthcheck:
        if wanted.health_cmd is not None or numbers:
            raise InvalidInput("--no-healthcheck conflicts with --health-* options")
        return Healthcheck(("NONE",))
    if wanted.health_cmd is None and not numbers:
        return image
    test = ("CMD-SHELL", wanted.health_cmd) if wanted.health_cmd is not None else image.test if image else ()
    return replace(image or Healthcheck(), test=test, **numbers)


def probe_of(config: ContainerConfig) -> Probe | None:
    """What the monitor is to run; None where there is no health check."""
    health = config.healthcheck
    kind, *words = (health.test or ("NONE",)) if health else ("NONE",)
    if health is None or kind == "NONE" or not words:
        return None
    argv = [*(config.shell or ("/bin/sh", "-c")), *words] if kind == "CMD-SHELL" else words
    return Probe(
        argv=tuple(os.fsencode(word) for word in argv),
        interval=_milliseconds(health.interval, 30_000),
        timeout=_milliseconds(health.timeout, 30_000),
        start_period=_milliseconds(health.start_period, 0),
        start_interval=_milliseconds(health.start_interval, 5_000),
        retries=health.retries or 3,
    )


def _milliseconds(nanoseconds: int, default: int) -> int:
    return max(1, nanoseconds // 1_000_000) if nanoseconds else default
