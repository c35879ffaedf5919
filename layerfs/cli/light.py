"""Stand-ins for modules of the standard library that take long to load, while a command loads modules that use them for
next to nothing: `typing` (whose names are in annotations, that nobody evaluates), what pathlib and subprocess want of
`urllib.parse` and `locale`, and `ipaddress`, which few containers need.

Loading those takes a seventh of the time that `layerfs run` takes to load all it needs. A stand-in is never made where
the real module is there already; what it has no name for it takes from that; and all are gone before a module is loaded
that is not ours or Python's, or one for builds or registries.
"""

from __future__ import annotations

import sys
from types import ModuleType

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

_HINTS = ("Any", "BinaryIO", "Final", "IO", "Literal", "NoReturn", "Self", "TextIO")


class _StandIn(ModuleType):
    """Has what was given to it; anything else is the real module's, which is loaded for it."""

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__") and name != "__all__":  # the import system's own questions
            raise AttributeError(name)
        real = _real(self.__name__)
        self.__dict__.update(vars(real))  # who wants more of it gets all of it from one hand
        return getattr(real, name)


def _real(name: str) -> Any:
    from importlib import import_module

    if isinstance(sys.modules.get(name), _StandIn):
        del sys.modules[name]
    return import_module(name)


class _Hint:
    """In the place of a type, in an alias or a union, too."""

    def __getitem__(self, parameters: object) -> _Hint:
        return self

    def __or__(self, other: object) -> _Hint:
        return self

    __ror__ = __or__


class _Named(type):
    """Makes a named tuple of a class with annotations, as `typing.NamedTuple` does, but compiles none of them."""

    def __new__(mcs, name: str, bases: tuple[type, ...], body: dict[str, Any]) -> Any:
        from collections import namedtuple

        fields = body["__annotations__"]
        defaults = [body[each] for each in fields if each in body]
        make: Any = namedtuple
        made = make(name, fields, defaults=defaults, module=body["__module__"])
        for key, value in body.items():
            if key not in fields and key not in ("__module__", "__qualname__", "__orig_bases__"):
                setattr(made, key, value)
        return made


class _NamedTuple:
    def __mro_entries__(self, bases: object) -> tuple[type, ...]:
        return (_base,)

    def __call__(self, *arguments: Any) -> Any:
        return _real("typing").NamedTuple(*arguments)


_base: Any = type.__new__(_Named, "NamedTuple", (), {})


def _typing() -> dict[str, Any]:
    made: dict[str, Any] = dict.fromkeys(_HINTS, _Hint())
    return made | {
        "TYPE_CHECKING": False,
        "NamedTuple": _NamedTuple(),
        "NewType": lambda name, kind: lambda value: value,
        "Protocol": object,
        "TypeVar": lambda name, *constraints, **how: _Hint(),
        "cast": lambda kind, value: value,
    }


def _quote(*arguments: Any) -> str:
    text: str = _real("urllib.parse").quote_from_bytes(*arguments)
    return text


_NAMES: dict[str, Callable[[], dict[str, Any]]] = {
    "typing": _typing,
    "urllib.parse": lambda: {"quote_from_bytes": _quote},
    "locale": dict,
    "ipaddress": dict,
}


_OURS = ("layerfs", "lmdb")
_LARGE = ("layerfs.build", "layerfs.registry")  # they take longer than what this saves


class _Watch:
    """A finder that finds nothing: it sees which modules are loaded."""

    @staticmethod
    def find_spec(name: str, path: object = None, target: object = None) -> None:
        top = name.partition(".")[0]
        if (top not in _OURS and top not in sys.stdlib_module_names) or name in _LARGE:
            end()


def begin() -> None:
    """From now on, modules of ours get the stand-ins. For a process with one thread."""
    for name, names in _NAMES.items():
        if name not in sys.modules:
            sys.modules[name] = stand_in = _StandIn(name)
            stand_in.__dict__.update(names())
    sys.meta_path.insert(0, _Watch)


def end() -> None:
    """As soon as others' modules are loaded, which may want more of `typing` than ours do."""
    sys.meta_path[:] = [finder for finder in sys.meta_path if finder is not _Watch]
    for name in _NAMES:
        if isinstance(sys.modules.get(name), _StandIn):
            del sys.modules[name]


__all__ = ["begin", "end"]
