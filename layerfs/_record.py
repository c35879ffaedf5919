"""`dataclass`, `field`, `fields`, `replace` and `asdict` of the standard library, as far as we use them, without
generated code: a command starts up in the time that the standard ones take for the classes it needs, and they bring
`inspect` with them (50 ms of processor time for `create`, a third of all). And `NamedTuple`, without `typing` (5 ms).

What they make are dataclasses for the standard functions, too. To the type checker they are the standard ones.
Making an instance takes a few microseconds: classes with very many instances use the standard decorator.
"""

from __future__ import annotations

from layerfs._lazy import TYPE_CHECKING

__all__ = ["NamedTuple", "asdict", "dataclass", "field", "fields", "replace"]

if TYPE_CHECKING:
    from dataclasses import asdict, dataclass, field, fields, replace
    from typing import NamedTuple
else:
    from itertools import repeat
    from operator import attrgetter

    class _TupleMaker(type):
        """Makes of a class with annotations one that stands on collections.namedtuple, as typing does."""

        def __new__(maker, name, bases, body):
            from collections import namedtuple

            names = body.get("__annotations__", {})
            defaults = [body.pop(each) for each in names if each in body]
            return type(name, (namedtuple(name, names, defaults=defaults),), {"__slots__": (), **body})

    NamedTuple = type.__new__(_TupleMaker, "NamedTuple", (), {})

    class _Missing:
        def __repr__(self):
            return "MISSING"

    MISSING = _Missing()

    class Field:
        """One attribute: its default, or what makes one; whether it is shown, compared and hashed."""

        __slots__ = ("compare", "default", "factory", "hash", "name", "repr")

        def __init__(self, name, default, factory, repr, hash, compare):
            self.name, self.default, self.factory = name, default, factory
            self.repr, self.hash, self.compare = repr, hash, compare

    def field(*, default=MISSING, default_factory=MISSING, repr=True, hash=None, compare=True):
        return Field("", default, default_factory, repr, hash, compare)

    class _Parameters:
        """What the standard decorator asks of the bases of a class."""

        def __init__(self, frozen):
            self.frozen = frozen

    class _StandardFields:
        """`__dataclass_fields__`, made when a standard function asks for it."""

        def __get__(self, instance, owner):
            import dataclasses
            import typing

            found = {}
            for each in owner.__record_fields__:
                default = dataclasses.MISSING if each.default is MISSING else each.default
                factory = dataclasses.MISSING if each.factory is MISSING else each.factory
                made = dataclasses.field(
                    default=default,
                    default_factory=factory,
                    repr=each.repr,
                    hash=each.hash,
                    compare=each.compare,
                    kw_only=False,
                )
                made.name, made.type, made._field_type = each.name, typing.Any, dataclasses._FIELD
                found[each.name] = made
            return found

    def dataclass(cls=None, /, *, frozen=False, slots=False, eq=True, order=False):
        if cls is None:
            return lambda cls: _make(cls, frozen, slots, eq, order)
        return _make(cls, frozen, slots, eq, order)

    def _make(cls, frozen, slots, eq, order):
        own = _own_fields(cls)
        known = {}
        for base in reversed(cls.__mro__[1:]):
            known |= {each.name: each for each in base.__dict__.get("__record_fields__", ())}
        inherited = set(known)
        every = tuple({**known, **own}.values())
        for name, each in own.items():
            if isinstance(cls.__dict__.get(name), Field):
                if each.default is MISSING:
                    delattr(cls, name)
                else:
                    setattr(cls, name, each.default)
        if slots:
            cls = _with_slots(cls, [name for name in own if name not in inherited], own)
        _add_methods(cls, every, frozen, eq)
        if order:
            _add_order(cls, [each.name for each in every if each.compare])
        if slots and frozen:
            _add_state(cls, [each.name for each in every])
        cls.__record_fields__ = every
        cls.__dataclass_fields__ = _StandardFields()
        cls.__dataclass_params__ = _Parameters(frozen)
        cls.__match_args__ = tuple(each.name for each in every)
        cls.__record_values__ = _reader(cls.__match_args__)
        return cls

    def _own_fields(cls):
        found = {}
        for name, kind in cls.__dict__.get("__annotations__", {}).items():  # noqa: RUF063 (inspect is what we are without)
            if "ClassVar" in str(kind):
                continue
            value = cls.__dict__.get(name, MISSING)
            if isinstance(value, Field):
                value.name = name
                found[name] = value
            elif type(value).__module__ == "dataclasses":
                raise TypeError(f"{cls.__name__}.{name} needs this module's field()")
            else:
                found[name] = Field(name, value, MISSING, True, None, True)
        return found

    def _with_slots(cls, names, own):
        namespace = {
            name: value
            for name, value in cls.__dict__.items()
            if name not in own and name not in ("__dict__", "__weakref__")
        }
        namespace["__slots__"] = tuple(names)
        made = type(cls)(cls.__name__, cls.__bases__, namespace)
        made.__qualname__ = cls.__qualname__
        return made

    def _add_methods(cls, every, frozen, eq):
        def add(name, function):
            if name not in cls.__dict__:
                function.__qualname__ = f"{cls.__qualname__}.{name}"
                setattr(cls, name, function)

        add("__init__", _initializer(cls.__qualname__, every, hasattr(cls, "__post_init__")))
        add("__repr__", _shower([each.name for each in every if each.repr]))
        if eq:
            compared = [each.name for each in every if each.compare]
            add("__eq__", _comparer(compared))
            hashed = [each.name for each in every if (each.compare if each.hash is None else each.hash)]
            if frozen:
                if cls.__dict__.get("__hash__") is None:  # defining __eq__ has set it so
                    cls.__hash__ = _hasher(hashed)
            elif "__hash__" not in cls.__dict__:
                cls.__hash__ = None
        if frozen:
            _freeze(cls, frozenset(each.name for each in every))

    def _initializer(what, every, post):
        names = tuple(each.name for each in every)
        known = frozenset(names)
        defaults = {each.name: each.default for each in every if each.default is not MISSING}
        factories = tuple((each.name, each.factory) for each in every if each.factory is not MISSING)
        put = object.__setattr__

        def __init__(self, *values, **named):
            given = {**defaults, **named}
            if values:
                if len(values) > len(names):
                    raise TypeError(f"{what}() takes {len(names)} arguments but {len(values)} were given")
                given.update(zip(names, values))  # noqa: B905 (fewer values than names)
            for name, factory in factories:
                if name not in given:
                    given[name] = factory()
            if given.keys() != known or (values and named and not named.keys().isdisjoint(names[: len(values)])):
                _complain(what, names, values, given, named)
            any(map(put, repeat(self), given, given.values()))  # which gives None each time: a loop without code
            if post:
                self.__post_init__()

        return __init__

    def _complain(what, names, values, given, named):
        for name in names:
            if name not in given:
                raise TypeError(f"{what}() misses the argument {name!r}")
        left = set(names[len(values) :])
        twice = next(name for name in named if name not in left)
        raise TypeError(f"{what}() got an unexpected argument {twice!r}, or one twice")

    def _shower(names):
        def __repr__(self):
            inner = ", ".join(f"{name}={getattr(self, name)!r}" for name in names)
            return f"{type(self).__qualname__}({inner})"

        return __repr__

    def _reader(names):
        """What gives the values of these attributes as a tuple."""
        if len(names) > 1:
            return attrgetter(*names)
        return lambda self: tuple([getattr(self, name) for name in names])

    def _comparer(names):
        values = _reader(names)

        def __eq__(self, other):
            if other.__class__ is not self.__class__:
                return NotImplemented
            return values(self) == values(other)

        return __eq__

    def _add_order(cls, names):
        import operator

        for name in ("__lt__", "__le__", "__gt__", "__ge__"):
            setattr(cls, name, _orderer(names, getattr(operator, name)))

    def _orderer(names, compare):
        values = _reader(names)

        def ordered(self, other):
            if other.__class__ is not self.__class__:
                return NotImplemented
            return compare(values(self), values(other))

        return ordered

    def _hasher(names):
        values = _reader(names)

        def __hash__(self):
            return hash(values(self))

        return __hash__

    def _freeze(cls, names):
        def __setattr__(self, name, value):
            if type(self) is cls or name in names:
                _refuse("assign to", name)
            super(cls, self).__setattr__(name, value)

        def __delattr__(self, name):
            if type(self) is cls or name in names:
                _refuse("delete", name)
            super(cls, self).__delattr__(name)

        cls.__setattr__, cls.__delattr__ = __setattr__, __delattr__

    def _refuse(deed, name):
        from dataclasses import FrozenInstanceError

        raise FrozenInstanceError(f"cannot {deed} field {name!r}")

    def _add_state(cls, names):
        """For pickle and copy, which cannot assign to what is frozen."""

        values = _reader(names)

        def __getstate__(self):
            return values(self)

        def __setstate__(self, state):
            for name, value in zip(names, state, strict=True):
                object.__setattr__(self, name, value)

        if "__getstate__" not in cls.__dict__:
            cls.__getstate__, cls.__setstate__ = __getstate__, __setstate__

    def fields(what):
        return what.__record_fields__

    def replace(record, /, **changes):
        if not hasattr(record, "__record_fields__"):
            return _standard().replace(record, **changes)
        cls = record.__class__
        values = dict(zip(cls.__match_args__, cls.__record_values__(record)))  # noqa: B905
        values.update(changes)
        return cls(**values)

    def asdict(record):
        if not hasattr(record, "__record_fields__"):
            return _standard().asdict(record)
        return {each.name: _plain(getattr(record, each.name)) for each in record.__record_fields__}

    def _standard():
        import dataclasses

        return dataclasses

    def _plain(value):
        if isinstance(value, str | int | None):
            return value
        if hasattr(type(value), "__dataclass_params__"):
            return asdict(value)
        if isinstance(value, tuple) and hasattr(value, "_fields"):
            return type(value)(*map(_plain, value))
        if isinstance(value, list | tuple):
            return type(value)(map(_plain, value))
        if isinstance(value, dict):
            return type(value)((_plain(key), _plain(each)) for key, each in value.items())
        return value
