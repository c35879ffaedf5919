"""What `inspect` shows, with the types that its parts have in docker: structs and maps print differently, and of what
is not there Go knows what it would be. And Go's fmt: what values print as.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from typing import Any, Final

_MAPS: Final = frozenset(
    {
        *("Labels", "ExposedPorts", "Volumes", "PortBindings", "Ports", "Networks", "Sysctls", "StorageOpt", "Tmpfs"),
        *("Annotations", "DriverOpts", "AuxiliaryAddresses", "Options", "Containers", "Data"),
    }
)
_POINTERS: Final = frozenset(
    {
        *("Init", "MemorySwappiness", "OomKillDisable", "PidsLimit", "IPAMConfig", "Health", "Healthcheck"),
        *("StopTimeout", "SizeRw", "SizeRootFs"),
    }
)


class Nil:
    """Go's nil pointer, slice or map; `text` is what it prints as."""

    __slots__ = ("text",)

    def __init__(self, text: str) -> None:
        self.text = text

    def __bool__(self) -> bool:
        return False

    def __len__(self) -> int:
        return 0

    def __iter__(self) -> Iterator[Any]:
        return iter(())

    def __eq__(self, other: object) -> bool:
        return other is None or isinstance(other, Nil)

    def __hash__(self) -> int:
        return 0


class Struct(dict[str, Any]):
    """`kind`: of what field it is the value."""

    kind = ""


def _nil(name: str) -> Nil:
    return Nil("map[]" if name in _MAPS else "<nil>" if name in _POINTERS else "[]")


def typed(value: Any, name: str = "", parent: str = "") -> Any:
    """A document with Go's types, by the names of its fields."""
    if isinstance(value, list):
        return [typed(each, "", name) for each in value]
    if value is None:
        return _nil(name)
    if not isinstance(value, dict):
        return value
    if name in _MAPS or (parent, name) == ("LogConfig", "Config"):
        return {key: typed(each) for key, each in value.items()}
    found = Struct((key, typed(each, key, name)) for key, each in value.items())
    found.kind = name
    return found


_TEXTS, _LISTS = ("User", "WorkingDir", "StopSignal", "MacAddress"), ("Env", "Cmd", "Entrypoint", "Shell", "OnBuild")
_OMITTED: Final[dict[str, dict[str, Any]]] = {  # fields that JSON leaves out when they are empty
    "": {"Variant": "", "OsVersion": "", **{name: _nil(name) for name in ("SizeRw", "SizeRootFs")}},
    "State": {"Health": _nil("Health")},
    "Config": {
        **dict.fromkeys(_TEXTS, ""),
        **dict.fromkeys(("NetworkDisabled", "ArgsEscaped"), False),
        **{name: _nil(name) for name in (*_LISTS, "ExposedPorts", "Volumes", "Labels", "Healthcheck", "StopTimeout")},
    },
    "Healthcheck": dict.fromkeys(("Interval", "Timeout", "StartPeriod", "StartInterval", "Retries"), 0),
}


def field_of(value: Mapping[str, Any], name: str) -> Any:
    """Raises KeyError."""
    if name in value or not isinstance(value, Struct):
        return value[name]
    return _OMITTED.get(value.kind, {})[name]


def show(value: Any) -> str:
    """A value as Go's fmt prints it with %v."""
    if value is None:
        return "<no value>"
    if isinstance(value, Nil):
        return value.text
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, Struct):
        return "{" + " ".join(map(show, value.values())) + "}"
    if isinstance(value, Mapping):
        return "map[" + " ".join(f"{k}:{show(v)}" for k, v in sorted(value.items())) + "]"
    if isinstance(value, (list, tuple)):
        return "[" + " ".join(map(show, value)) + "]"
    return str(value)


def to_json(value: Any) -> str:
    """A value as docker prints it for `json`: one line, no escaping of non-ASCII, keys in their order."""
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"), default=lambda nil: None)


_VERB = re.compile(r"%([-+ 0#]*)(\d*)(?:\.(\d+))?(.)", re.S)


def sprintf(pattern: str, *values: Any) -> str:
    """Go's, with its complaints in the text."""
    rest = list(values)

    def one(match: re.Match[str]) -> str:
        flags, width, precision, verb = match[1], int(match[2] or 0), match[3], match[4]
        if verb == "%":
            return "%"
        if not rest:
            return f"%!{verb}(MISSING)"
        value = rest.pop(0)
        text = _formatted(verb, value, flags, None if precision is None else int(precision))
        if "-" in flags:
            return text.ljust(width)
        if "0" in flags and _is_number(value):
            return text.zfill(width)
        return text.rjust(width)

    text = _VERB.sub(one, pattern)
    extra = ", ".join(f"{_type(value)}={show(value)}" for value in rest)
    return f"{text}%!(EXTRA {extra})" if extra else text


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _type(value: Any) -> str:
    names = {bool: "bool", int: "int", float: "float64", str: "string", list: "[]interface {}"}
    return names.get(type(value), "map[string]interface {}" if isinstance(value, Mapping) else "<nil>")


def _formatted(verb: str, value: Any, flags: str, precision: int | None) -> str:
    if verb == "T":
        return _type(value)
    if verb == "v" or (verb == "s" and not _is_number(value) and not isinstance(value, bool)):
        text = show(value)
        return text if precision is None or not isinstance(value, str) else text[:precision]
    if verb == "t" and isinstance(value, bool):
        return show(value)
    if verb in "qxX" and isinstance(value, str):
        raw = value.encode("utf-8", "surrogateescape").hex()
        return json.dumps(value, ensure_ascii=False) if verb == "q" else raw if verb == "x" else raw.upper()
    if verb == "q" and isinstance(value, list):
        return "[" + " ".join(_formatted("q", each, flags, precision) for each in value) + "]"
    whole = isinstance(value, int) and not isinstance(value, bool)
    sign = "+" if "+" in flags else ""
    if whole and verb in "dxXob":
        return format(value, f"{sign}{verb}")
    if whole and verb == "c" and 0 <= value < 0x110000:
        return chr(value)
    if isinstance(value, float) and verb in "eEfFgG":
        return format(value, f"{sign}.{6 if precision is None else precision}{verb}")
    return f"%!{verb}({_type(value)}={show(value)})"
