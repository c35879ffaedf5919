"""Mount options: their texts, what they mean, which engine can do them."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from itertools import pairwise

from layerfs._lazy import pattern
from layerfs._record import dataclass, replace
from layerfs.errors import InvalidInput, Unsupported

__all__ = ["KNOWN", "MountOptions", "Options", "parse_size"]


_TIMES = ("noatime", "strictatime")  # one of them
_ATTRIBUTES = ("nosuid", "nodev", "noexec", *_TIMES, "nodiratime")
_FLAGS = (*_ATTRIBUTES, "volatile")
_VALUES = ("size", "inodes", "uidmap", "gidmap", "cache", "coherence", "access")
KNOWN = (*_FLAGS, *_VALUES)
_OF_ENGINE = {
    "native": frozenset(KNOWN),
    "kernel": frozenset(_FLAGS),
    "python": frozenset({"nosuid", "nodev", "noexec", "volatile"}),
}
_SIZE = pattern(r"(\d+(?:\.\d+)?|\.\d+) ?([kmgtpe]?)(?:i?b)?\Z", re.IGNORECASE | re.ASCII)
_MAP_MORE = pattern(r"\d+:\d+:\d+(?::\d+:\d+:\d+)*\Z", re.ASCII)
_MAPS_MAX = 340  # as the kernel has it for /proc/*/uid_map
_ID_END = (1 << 32) - 1  # 4294967295 is no id
_UNITS = " kmgtpe"

IdMap = tuple[tuple[int, int, int], ...]


def parse_size(text: str, what: str = "size") -> int:
    """Bytes, by docker's rules: `1024`, `64k`, `1.5g`, `10GiB`; units are powers of 1024."""
    found = _SIZE.match(text.strip())
    if not found:
        raise InvalidInput(f"invalid {what} {text!r}: a number with a unit b, k, m, g or t")
    size = int(float(found[1]) * 1024 ** _UNITS.index(found[2].lower() or " "))
    if not 0 < size < 1 << 62:
        raise InvalidInput(f"invalid {what} {text!r}: out of range")
    return size


@dataclass(frozen=True, slots=True)
class MountOptions:
    """What a mount is asked for. `size`, `inodes`: limits of the writable layer; None: none.

    `uidmap`, `gidmap`: (stored id, shown id, count), empty: as stored. `cache`: seconds the kernel may keep names and
    attributes, None: for ever, 0: it keeps nothing, not even pages of closed files.
    """

    flags: frozenset[str] = frozenset()
    size: int | None = None
    inodes: int | None = None
    uidmap: IdMap = ()
    gidmap: IdMap = ()
    cache: int | None = None
    strict: bool = False
    private: bool = False

    @classmethod
    def parse(cls, options: Options) -> MountOptions:
        """From `"size=1g,noatime"`, from a list of such texts, or from a mapping of names to values.

        Raises:
            InvalidInput: an unknown option (the message names the known ones), or a value that is none.
        """
        if isinstance(options, MountOptions):
            return options
        if not options:
            return _NONE
        chosen: dict[str, object] = {}
        flags: set[str] = set()
        for name, value in _pairs(options):
            if name in _FLAGS and value is None:
                flags.add(name)
            elif name in _FLAGS:
                raise InvalidInput(f"mount option {name} takes no value")
            elif name not in _VALUES:
                raise InvalidInput(f"unknown mount option {name!r} (there are {', '.join(KNOWN)})")
            elif value is None:
                raise InvalidInput(f"mount option {name} needs a value")
            else:
                chosen |= _value(name, value)
        if flags.issuperset(_TIMES):
            raise InvalidInput(f"the mount options {' and '.join(_TIMES)} exclude each other")
        return cls(frozenset(flags), **chosen)  # type: ignore[arg-type]

    def changed(self, other: MountOptions) -> MountOptions:
        """With what `other` sets over it."""
        if other is _NONE:
            return self
        fields = {"coherence": "strict", "access": "private"}
        values = {
            fields.get(name, name): getattr(other, fields.get(name, name)) for name in other.names() - other.flags
        }
        return replace(self, flags=self.flags | other.flags, **values)

    @property
    def attributes(self) -> list[str]:
        """Those that are the mount's own, as mount(8) has them."""
        return sorted(self.flags - {"volatile"})

    @property
    def limited(self) -> bool:
        return self.size is not None or self.inodes is not None

    def names(self) -> set[str]:
        """Of the options that are set."""
        if self is _NONE:
            return set()
        given = {
            "size": self.size is not None,
            "inodes": self.inodes is not None,
            "uidmap": bool(self.uidmap),
            "gidmap": bool(self.gidmap),
            "cache": self.cache is not None,
            "coherence": self.strict,
            "access": self.private,
        }
        return {*self.flags, *(name for name, is_set in given.items() if is_set)}

    def check_engine(self, engine: str) -> None:
        """Raises Unsupported when the engine cannot do one of them."""
        if lacking := sorted(self.names() - _OF_ENGINE[engine]):
            raise Unsupported(f"the engine {engine} has no mount option {lacking[0]}: use the engine native")

    def orders(self) -> dict[str, str]:
        """For the native engine's server; the flags are given beside them."""
        if self is _NONE:
            return {}
        texts = {
            "size": str(self.size or ""),
            "inodes": str(self.inodes or ""),
            "uidmap": _map_text(self.uidmap),
            "gidmap": _map_text(self.gidmap),
            "cache": "" if self.cache is None else str(self.cache),
        }
        return {name: text for name, text in texts.items() if text}

    def texts(self) -> tuple[str, ...]:
        """As they could be asked for again, for who lists mounts."""
        words = ["coherence=strict"] * self.strict + ["access=private"] * self.private
        return (*sorted(self.flags), *(f"{name}={value}" for name, value in self.orders().items()), *words)

    def switches(self) -> list[str]:
        """Flags for the native engine's server."""
        return [*sorted(self.flags), *(["strict"] if self.strict else []), *(["private"] if self.private else [])]


_NONE = MountOptions()  # what nearly all mounts have: what follows from it need not be looked at
Options = str | Collection[str] | Mapping[str, object] | MountOptions


def _pairs(options: str | Collection[str] | Mapping[str, object]) -> list[tuple[str, str | None]]:
    if isinstance(options, Mapping):
        return [
            (str(name), None if value is True else str(value))
            for name, value in options.items()
            if value is not None and value is not False
        ]
    texts = [options] if isinstance(options, str) else list(options)
    pairs: list[tuple[str, str | None]] = []
    for text in texts:
        for part in filter(None, str(text).split(",")):
            if pairs and _MAP_MORE.match(part) and pairs[-1][0] in ("uidmap", "gidmap"):
                pairs[-1] = (pairs[-1][0], f"{pairs[-1][1]},{part}")
                continue
            name, equals, value = part.partition("=")
            pairs.append((name, value if equals else None))
    return pairs


def _value(name: str, text: str) -> dict[str, object]:
    if name == "size":
        return {"size": parse_size(text)}
    if name == "inodes":
        return {"inodes": _number(name, text, least=1)}
    if name in ("uidmap", "gidmap"):
        return {name: parse_map(name, text)}
    if name == "cache":
        words = {"always": None, "none": 0}
        return {"cache": words[text] if text in words else _number(name, text, "always, none, or seconds")}
    words_of = {"coherence": ("strict", {"strict": True, "normal": False}), "access": ("private", {"private": True})}
    field, known = words_of[name]
    known |= {"all": False} if name == "access" else {}
    if text not in known:
        raise InvalidInput(f"invalid mount option {name}={text}: {' or '.join(sorted(known))}")
    return {field: known[text]}


def _number(name: str, text: str, said: str = "a number", least: int = 0) -> int:
    if not (text.isascii() and text.isdigit() and least <= int(text) < 1 << 31):
        raise InvalidInput(f"invalid mount option {name}={text}: {said}")
    return int(text)


def parse_map(name: str, text: str) -> IdMap:
    """`INSIDE:OUTSIDE:COUNT`, several with commas (or colons): ids as they are stored, as the mount shows them.

    Raises:
        InvalidInput: not of this form, out of range, or ranges that overlap on one side.
    """
    numbers = text.replace(",", ":").split(":")
    if len(numbers) % 3 or not all(n.isascii() and n.isdigit() and len(n) < 11 for n in numbers):
        raise InvalidInput(f"invalid mount option {name}={text}: INSIDE:OUTSIDE:COUNT, several with commas")
    values = list(map(int, numbers))
    ranges = tuple(zip(values[::3], values[1::3], values[2::3], strict=True))
    if len(ranges) > _MAPS_MAX:
        raise InvalidInput(f"{name} has over {_MAPS_MAX} ranges")
    if any(not count or max(first, second) + count > _ID_END for first, second, count in ranges):
        raise InvalidInput(f"invalid mount option {name}={text}: a range is empty or ends over {_ID_END - 1}")
    for side in (0, 1):
        ordered = sorted((each[side], each[2]) for each in ranges)
        if any(start + count > after for (start, count), (after, _) in pairwise(ordered)):
            raise InvalidInput(f"invalid mount option {name}={text}: ranges overlap")
    return ranges


def _map_text(ranges: IdMap) -> str:
    return ",".join(":".join(map(str, each)) for each in ranges)
