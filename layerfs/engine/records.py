"""Small records that the public calls return."""

from __future__ import annotations

import os

from layerfs._lazy import TYPE_CHECKING
from layerfs._record import dataclass

if TYPE_CHECKING:
    from typing import Literal

    from layerfs.engine.image import Image
    from layerfs.image.compare import Difference

    Kind = Literal["A", "C", "D"]


@dataclass(frozen=True, slots=True)
class Change:
    """A name that was added (A), changed (C) or deleted (D).

    `path` begins with a slash; bytes that are no UTF-8 come as surrogate escapes (os.fsencode gives them back). Sizes
    are bytes of regular files, told where two trees were compared; `size` is what is there now, or was. `fields` says
    what differs then: type content mode owner mtime xattrs target device.
    """

    kind: Kind
    path: str
    old_size: int = 0
    new_size: int = 0
    fields: tuple[str, ...] = ()

    @property
    def size(self) -> int:
        return self.old_size if self.kind == "D" else self.new_size

    @classmethod
    def of(cls, difference: Difference) -> Change:
        return cls(
            difference.kind, os.fsdecode(difference.path), difference.old_size, difference.new_size, difference.fields
        )


class Changes(list[Change]):
    """A list of changes, also by kind."""

    @property
    def added(self) -> list[Change]:
        return [change for change in self if change.kind == "A"]

    @property
    def changed(self) -> list[Change]:
        return [change for change in self if change.kind == "C"]

    @property
    def deleted(self) -> list[Change]:
        return [change for change in self if change.kind == "D"]


@dataclass(frozen=True, slots=True)
class LoadedImage:
    """An image that a `load` brought, and the names it brought with it."""

    image: Image
    tags: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class TopTable:
    """The processes of a container, as texts."""

    titles: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
