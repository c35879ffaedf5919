"""Typed reading of untrusted JSON: a wrong type is an error that names the field, `null` is an absent field.

Field names are matched exactly; unknown ones are left alone (they live on in the raw bytes that every record keeps).
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping

from layerfs._lazy import TYPE_CHECKING, pattern
from layerfs.digest import Digest
from layerfs.errors import InvalidArchive, InvalidInput

if TYPE_CHECKING:
    from datetime import timezone
    from typing import Any, NoReturn, TypeVar

    _T = TypeVar("_T")

DOCUMENT_MAX = 4 << 20  # what registries and their clients accept for a manifest
_INT64 = range(-(1 << 63), 1 << 63)
_TIME = pattern(
    r"(\d{4})-(\d{2})-(\d{2})[Tt](\d{2}):(\d{2}):(\d{2})(?:[.,](\d{1,9})\d*)?([Zz]|[+-]\d{2}:\d{2})\Z", re.ASCII
)


def load(data: bytes, what: str, *, limit: int = DOCUMENT_MAX) -> Any:
    """Parse a JSON document.

    Raises:
        InvalidArchive: too long, not UTF-8, not JSON, nested too deep, or with numbers JSON does not have.
    """
    if len(data) > limit:
        raise InvalidArchive(f"{what} is {len(data)} bytes long, more than the {limit} allowed")
    try:
        return json.loads(data.decode("utf-8"), parse_constant=_no_constant)
    except (ValueError, RecursionError) as error:
        reason = "nested too deep" if isinstance(error, RecursionError) else str(error)
        raise InvalidArchive(f"{what} is not valid JSON: {reason}") from None


def load_object(data: bytes, what: str, *, limit: int = DOCUMENT_MAX) -> Fields:
    value = load(data, what, limit=limit)
    if not isinstance(value, dict):
        raise InvalidArchive(f"{what} is {_kind(value)}, not a JSON object")
    return Fields(value, what)


def dump(value: Any) -> bytes:
    """The one way we write JSON: UTF-8, no spaces, keys in the order given."""
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"), allow_nan=False).encode("utf-8")


class Fields:
    """One JSON object on its way into a record; `where` is its name in errors."""

    def __init__(self, values: Mapping[str, Any], where: str) -> None:
        self._values, self.where = values, where

    def has(self, key: str) -> bool:
        return self._values.get(key) is not None

    def names(self) -> list[str]:
        return list(self._values)

    def text(self, key: str, default: str = "") -> str:
        value = self._typed(key, str, "a string")
        return default if value is None else _clean(value)

    def flag(self, key: str) -> bool:
        return bool(self._typed(key, bool, "true or false"))

    def integer(self, key: str, default: int = 0) -> int:
        value = self._values.get(key)
        if value is None:
            return default
        if isinstance(value, bool) or not isinstance(value, int) or value not in _INT64:
            self._wrong(key, "an integer", value)
        return value

    def child(self, key: str) -> Fields | None:
        value = self._typed(key, dict, "an object")
        return None if value is None else Fields(value, self._at(key))

    def children(self, key: str) -> list[Fields]:
        """A list of objects; a `null` element is an error."""
        found = []
        for number, value in enumerate(self._typed(key, list, "a list") or []):
            if not isinstance(value, dict):
                self._wrong(f"{key}[{number}]", "an object", value)
            found.append(Fields(value, self._at(f"{key}[{number}]")))
        return found

    def texts(self, key: str) -> tuple[str, ...] | None:
        """A list of strings, or None when absent."""
        values = self._typed(key, list, "a list of strings")
        if values is None:
            return None
        for number, value in enumerate(values):
            if not isinstance(value, str):
                self._wrong(f"{key}[{number}]", "a string", value)
        return tuple(map(_clean, values))

    def pairs(self, key: str) -> tuple[tuple[str, str], ...]:
        """An object of strings, in the order of the document."""
        values = self._typed(key, dict, "an object of strings") or {}
        for name, value in values.items():
            if not isinstance(value, str | None):
                self._wrong(f"{key}[{name!r}]", "a string", value)
        return tuple((_clean(name), _clean(value or "")) for name, value in values.items())

    def keys(self, key: str) -> tuple[str, ...]:
        """The names of an object whose values are empty objects (ExposedPorts, Volumes)."""
        values = self._typed(key, dict, "an object") or {}
        return tuple(sorted(map(_clean, values)))

    def digest(self, key: str) -> Digest:
        return self.checked(key, Digest.parse, self.text(key))

    def digests(self, key: str) -> tuple[Digest, ...]:
        return tuple(self.checked(f"{key}[{n}]", Digest.parse, text) for n, text in enumerate(self.texts(key) or ()))

    def time_ns(self, key: str) -> int | None:
        """An RFC 3339 time in nanoseconds since the epoch; None when absent or empty."""
        text = self.text(key)
        return self.checked(key, parse_time, text) if text else None

    def checked(self, key: str, parse: Callable[[str], _T], text: str) -> _T:
        try:
            return parse(text)
        except InvalidInput as error:
            raise InvalidArchive(f"{self._at(key)}: {error.message}") from None

    def _at(self, key: str) -> str:
        return f"{self.where}.{key}".replace(".[", "[")

    def _typed(self, key: str, kind: type, words: str) -> Any:
        value = self._values.get(key)
        if value is not None and not isinstance(value, kind):
            self._wrong(key, words, value)
        return value

    def _wrong(self, key: str, words: str, value: object) -> NoReturn:
        raise InvalidArchive(f"{self._at(key)} is {_kind(value)}, not {words}")


def parse_time(text: str) -> int:
    """RFC 3339 with up to nanoseconds, as integer nanoseconds since the epoch (exact).

    Raises:
        InvalidInput: not such a time.
    """
    from datetime import UTC, datetime, timedelta

    match = _TIME.match(text)
    if match is None:
        raise InvalidInput(f"{text!r} is not an RFC 3339 time")
    *whole, fraction, zone = match.groups()
    try:
        year, month, day, hour, minute, second = map(int, whole)
        moment = datetime(year, month, day, hour, minute, second, tzinfo=_zone(zone))
        seconds = (moment - datetime(1970, 1, 1, tzinfo=UTC)) // timedelta(seconds=1)
    except (ValueError, OverflowError):
        raise InvalidInput(f"{text!r} is not an RFC 3339 time") from None
    return seconds * 1_000_000_000 + int((fraction or "").ljust(9, "0"))


def format_time(ns: int) -> str:
    """RFC 3339 in UTC as Go prints it: the fraction without trailing zeros, none when it is zero."""
    from datetime import UTC, datetime, timedelta

    seconds, fraction = divmod(ns, 1_000_000_000)
    text = (datetime(1970, 1, 1, tzinfo=UTC) + timedelta(seconds=seconds)).strftime("%Y-%m-%dT%H:%M:%S").rjust(19, "0")
    return text + (f".{fraction:09d}".rstrip("0") if fraction else "") + "Z"


def _zone(text: str) -> timezone:
    from datetime import UTC, timedelta, timezone

    if text in "Zz":
        return UTC
    hours, minutes = int(text[1:3]), int(text[4:6])
    if minutes > 59:
        raise ValueError(text)
    offset = timedelta(hours=hours, minutes=minutes)
    return timezone(-offset if text[0] == "-" else offset)


def _clean(text: str) -> str:
    """Lone surrogates, which JSON escapes can spell, become U+FFFD: such text could not be printed or stored."""
    if text.isascii():
        return text
    return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")


def _kind(value: object) -> str:
    if value is None:
        return "null"
    names = {str: "a string", bool: "a boolean", dict: "an object", list: "a list", int: "a number", float: "a number"}
    return names[type(value)]


def _no_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not a JSON number")
