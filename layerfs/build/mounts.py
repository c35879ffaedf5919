"""`RUN --mount=` and `--device=`: comma-separated keys and values, with the rules of each type."""

from __future__ import annotations

import re
from collections.abc import Callable

from layerfs._record import dataclass, field
from layerfs.build.instructions import Device, Mount
from layerfs.build.problems import nearest, problem, quote

_KINDS = ("bind", "cache", "secret", "ssh", "tmpfs")
_SHARING = ("locked", "private", "shared")
_READ_ONLY = ("readonly", "ro")
_WRITABLE = ("readwrite", "rw")
_VALUED = (
    "type",
    "from",
    "source",
    "src",
    "target",
    "dst",
    "destination",
    "size",
    "id",
    "sharing",
    "mode",
    "uid",
    "gid",
)
_KEYS = (*_VALUED, *_READ_ONLY, *_WRITABLE, "required", "env")
_TRUE = frozenset(("1", "t", "T", "TRUE", "true", "True"))
_FALSE = frozenset(("0", "f", "F", "FALSE", "false", "False"))
_SIZE = re.compile(r"(\d+(?:\.\d+)?) ?([kmgtp]?)i?b?\Z", re.ASCII | re.IGNORECASE)
_NUMBER_MAX = 1 << 32
_SIZE_MAX = 1 << 63


@dataclass(slots=True)
class _Draft:
    kind: str = "bind"
    read_only: bool | None = None
    required: bool = False
    texts: dict[str, str] = field(default_factory=dict)
    numbers: dict[str, int] = field(default_factory=dict)


def mount_source(flag: str) -> str:
    """`from=` of a mount, which may not have variables: it decides what the stage depends on."""
    source = ""
    for text in csv_fields(flag, "mounts"):
        key, equals, value = text.partition("=")
        if key.lower() == "from" and equals:
            if 0 <= value.find("$") < len(value) - 1:
                reason = "'from' doesn't support variable expansion, define alias stage instead"
                raise problem(reason, word=text)
            source = value
    return source


def parse_mount(flag: str, expand: Callable[[str], str]) -> Mount:
    """A mount with its values expanded.

    Raises:
        InvalidDockerfile: an unknown key or type, a key that the type does not have, a value out of range.
    """
    draft = _Draft()
    for text in csv_fields(flag, "mounts"):
        key, equals, value = text.partition("=")
        if equals:
            _set(draft, key.lower(), expand(value), text)
        else:
            _switch(draft, key.lower(), text)
    _check(draft)
    read_only = draft.kind not in ("cache", "tmpfs") if draft.read_only is None else draft.read_only
    texts, numbers = draft.texts, draft.numbers
    return Mount(
        draft.kind,
        texts.get("from", ""),
        texts.get("source", ""),
        texts.get("target", ""),
        read_only,
        numbers.get("size", 0),
        texts.get("id", ""),
        texts.get("sharing", ""),
        draft.required,
        texts.get("env"),
        numbers.get("mode"),
        numbers.get("uid"),
        numbers.get("gid"),
    )


def parse_device(flag: str) -> Device:
    name, required = "", False
    for text in csv_fields(flag, "devices"):
        key, equals, value = text.partition("=")
        if key.lower() == "required":
            required = _boolean("required", value) if equals else True
        elif equals and key.lower() == "name":
            if name:
                raise problem(f"device name already set to {name}", word=text)
            name = value
        elif name:
            reason = (
                f"unexpected key '{key}' in '{text}'" if equals else f"invalid field '{text}' must be a key=value pair"
            )
            raise problem(reason, word=text, suggestion=nearest(key, ("name", "required")) if equals else "")
        else:
            name = text
    return Device(name, required)


def csv_fields(text: str, what: str) -> list[str]:
    """One line of comma-separated values; a field may stand in double quotes, doubled inside."""
    if not text:
        raise problem(f"failed to parse csv {what}: nothing given")
    fields: list[str] = []
    position = 0
    while True:
        if text.startswith('"', position):
            value, position = _quoted(text, position + 1, what)
        else:
            end = text.find(",", position)
            end = len(text) if end < 0 else end
            value = text[position:end]
            if '"' in value:
                raise problem(f'failed to parse csv {what}: bare " in non-quoted-field', word=value)
            position = end
        fields.append(value)
        if position == len(text):
            return fields
        position += 1


def _quoted(text: str, position: int, what: str) -> tuple[str, int]:
    parts: list[str] = []
    while True:
        end = text.find('"', position)
        if end < 0:
            raise problem(f'failed to parse csv {what}: extraneous or missing " in quoted-field', word=text)
        parts.append(text[position:end])
        position = end + 1
        if not text.startswith('"', position):
            break
        parts.append('"')
        position += 1
    if position < len(text) and text[position] != ",":
        raise problem(f'failed to parse csv {what}: extraneous or missing " in quoted-field', word=text)
    return "".join(parts), position


def _switch(draft: _Draft, key: str, text: str) -> None:
    if key in (*_READ_ONLY, *_WRITABLE):
        draft.read_only = key in _READ_ONLY
    elif key != "required":
        raise problem(f"invalid field '{text}' must be a key=value pair", word=text)
    elif draft.kind not in ("secret", "ssh"):
        raise problem(f"unexpected key '{key}' for mount type '{draft.kind}'", word=text)
    else:
        draft.required = True


def _set(draft: _Draft, key: str, value: str, text: str) -> None:
    if key == "type":
        draft.kind = _one_of(value, _KINDS, "unsupported mount type")
    elif key == "sharing":
        draft.texts[key] = _one_of(value, _SHARING, "unsupported sharing value")
    elif key in ("source", "src"):
        draft.texts["source"] = value
    elif key in ("target", "dst", "destination"):
        draft.texts["target"] = value
    elif key in ("from", "id", "env"):
        draft.texts[key] = value
    elif key in _READ_ONLY or key in _WRITABLE:
        draft.read_only = _boolean(key, value) == (key in _READ_ONLY)
    elif key == "required" and draft.kind in ("secret", "ssh"):
        draft.required = _boolean(key, value)
    elif key == "size" and draft.kind == "tmpfs":
        draft.numbers[key] = _size(value)
    elif key in ("required", "size"):
        raise problem(f"unexpected key '{key}' for mount type '{draft.kind}'", word=text)
    elif key in ("mode", "uid", "gid"):
        draft.numbers[key] = _number(key, value)
    else:
        raise problem(f"unexpected key '{key}' in '{text}'", word=text, suggestion=nearest(key, _KEYS))


def _check(draft: _Draft) -> None:
    kind, texts = draft.kind, draft.texts
    if kind in ("bind", "tmpfs"):
        for key in ("mode", "uid", "gid"):
            if key in draft.numbers:
                raise problem(f"{key} not allowed for {quote(kind)} type mounts", word=key)
    if kind == "secret":
        if texts.get("from"):
            raise problem("secret mount should not have a from", word="from")
        if texts.get("sharing"):
            raise problem("secret mount should not define sharing", word="sharing")
        if not any(texts.get(key) for key in ("source", "target", "id")):
            raise problem("invalid secret mount. one of source, target required")
        if texts.get("source") and texts.get("id"):
            raise problem("both source and id can't be set")
    if texts.get("sharing") and kind != "cache":
        raise problem(f"invalid cache sharing set for {kind} mount", word="sharing")


def _one_of(value: str, options: tuple[str, ...], what: str) -> str:
    if value.lower() not in options:
        raise problem(f"{what} {quote(value)}", word=value, suggestion=nearest(value, options))
    return value.lower()


def _boolean(key: str, value: str) -> bool:
    if value not in _TRUE | _FALSE:
        raise problem(f"invalid value for {key}: {value}", word=value)
    return value in _TRUE


def _number(key: str, value: str) -> int:
    digits = "01234567" if key == "mode" else "0123456789"
    number = int(value, len(digits)) if value and len(value) < 20 and not value.strip(digits) else _NUMBER_MAX
    if number >= _NUMBER_MAX:
        raise problem(f"invalid value {value} for {key}", word=value)
    return number


def _size(value: str) -> int:
    match = _SIZE.match(value)
    size = int(float(match[1][:40]) * 1024 ** " kmgtp".index(match[2].lower() or " ")) if match else _SIZE_MAX
    if size >= _SIZE_MAX:
        raise problem(f"invalid value for size: {value}", word=value)
    return size
