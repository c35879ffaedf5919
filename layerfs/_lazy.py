"""Names of a package that load when they are first used (PEP 562), and patterns that are compiled then: importing costs
next to nothing. What has a name of `typing`'s stands for it: that takes longer to load than most of our modules."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable, Mapping

__all__ = ["TYPE_CHECKING", "Generic", "Protocol", "cast", "loader", "pattern"]

TYPE_CHECKING = False
if TYPE_CHECKING:
    from re import compile as pattern
    from typing import Any, Generic, Protocol, cast


def loader(package: str, homes: Mapping[str, str]) -> Callable[[str], Any]:
    """The `__getattr__` of a package; `homes` says which module of it holds a name.

    A name must not be a module's too: importing that module would put it in the name's place.
    """

    def load(name: str) -> Any:
        if name not in homes:
            raise AttributeError(f"module {package!r} has no attribute {name!r}", name=name, obj=sys.modules[package])
        value = getattr(importlib.import_module(f"{package}.{homes[name]}"), name)
        setattr(sys.modules[package], name, value)
        return value

    return load


if not TYPE_CHECKING:

    class _Pattern:
        """A compiled pattern, from its first use on."""

        def __init__(self, text, flags):
            self._source = text, flags

        def __getattr__(self, name):
            import re

            compiled = re.compile(*self._source)
            for method in ("match", "fullmatch", "search", "sub", "finditer", "findall", "split"):
                setattr(self, method, getattr(compiled, method))
            return getattr(compiled, name)

    Protocol = object

    class Generic:
        """A class of which there are kinds for the type checker."""

        def __class_getitem__(cls, kind):
            return cls

    def cast(kind, value):
        """`typing.cast`."""
        return value

    def pattern(text, flags=0):
        """`re.compile` for modules that are loaded more often than their patterns are needed."""
        return _Pattern(text, flags)
