"""Our records are what the standard library's dataclasses are, for all that we use of them."""

from __future__ import annotations

import copy
import dataclasses
import pickle

import pytest

from layerfs import _record

KINDS = {}
for module in (dataclasses, _record):

    @module.dataclass(frozen=True, slots=True, order=True)
    class Point:
        x: int
        y: int = 2
        note: str = module.field(default="", compare=False)

        @property
        def sum(self):
            return self.x + self.y

    @module.dataclass(frozen=True, slots=True)
    class Named(Point):
        names: tuple[str, ...] = ()
        more: dict[str, int] = module.field(default_factory=dict, hash=False)

        def __post_init__(self):
            if self.x < 0:
                raise ValueError("below zero")

    @module.dataclass
    class Plain:
        a: int
        b: list[int] = module.field(default_factory=list, repr=False)

    KINDS[module] = (Point, Named, Plain)

BOTH = pytest.mark.parametrize("module", [dataclasses, _record], ids=["standard", "ours"])


@BOTH
def test_values_in_their_order_by_name_and_by_default(module):
    point, named, plain = KINDS[module]
    assert (point(1).y, point(1, 3).y, point(x=1, y=4).y, point(1).sum) == (2, 3, 4, 3)
    assert named(1, names=("a",)).names == ("a",)
    assert named(1).more is not named(1).more and plain(1).b == []
    for wrong in ((), (1, 2, "", 4)):
        with pytest.raises(TypeError):
            point(*wrong)
    for wrong in ({"z": 1}, {"x": 2}):
        with pytest.raises(TypeError):
            point(1, **wrong)
    with pytest.raises(ValueError, match="below zero"):
        named(-1)


@BOTH
def test_equality_order_hash_and_text(module):
    point, named, plain = KINDS[module]
    assert point(1, 2, "a") == point(1, 2, "b") != point(1, 3) and point(1) != named(1)
    assert hash(point(1, 2, "a")) == hash(point(1, 2, "b")) and hash(named(1, more={"a": 1})) == hash(named(1))
    assert sorted([point(2), point(1, 5), point(1)]) == [point(1), point(1, 5), point(2)]
    assert repr(point(1)) == "Point(x=1, y=2, note='')" and repr(plain(1)) == "Plain(a=1)"
    with pytest.raises(TypeError):
        hash(plain(1))
    with pytest.raises(TypeError):
        _ = point(1) < named(1)


@BOTH
def test_what_is_frozen_stays(module):
    point, named, plain = KINDS[module]
    for value in (point(1), named(1)):
        with pytest.raises(dataclasses.FrozenInstanceError):
            value.x = 2
        with pytest.raises(dataclasses.FrozenInstanceError):
            del value.x
        assert not hasattr(value, "__dict__")
    changed = plain(1)
    changed.a = 2
    assert changed.a == 2


@BOTH
@pytest.mark.parametrize("tools", [dataclasses, _record], ids=["by the standard", "by ours"])
def test_copies_with_changes_and_as_dictionaries(module, tools):
    point, named, plain = KINDS[module]
    assert tools.replace(named(1, 2, names=("a",)), x=5) == named(5, 2, names=("a",))
    assert tools.asdict(plain(1, [point(1)])) == {"a": 1, "b": [{"x": 1, "y": 2, "note": ""}]}
    assert copy.deepcopy(named(1, more={"a": 1})).more == {"a": 1}
    assert dataclasses.is_dataclass(point) and [each.name for each in dataclasses.fields(named)][-1] == "more"


def test_they_can_be_pickled():
    from layerfs.digest import Digest

    digest = Digest("ab" * 32)
    assert pickle.loads(pickle.dumps(digest)) == digest


def test_a_standard_class_may_stand_on_ours():
    @dataclasses.dataclass(frozen=True)
    class More(KINDS[_record][0]):
        z: int = 9

    assert (More(1).y, More(1, z=3).z) == (2, 3)


def test_the_standard_field_is_refused():
    with pytest.raises(TypeError, match="field"):

        @_record.dataclass
        class Wrong:
            a: list[int] = dataclasses.field(default_factory=list)
