"""User namespaces: which ids of a container are which of the host. podman's `--userns`, `--uidmap`, `--gidmap`,
`--subuidname` and `--subgidname`; subordinate ids are those of /etc/subuid and /etc/subgid. Pure but for these files.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import pairwise
from pathlib import Path

from layerfs._lazy import TYPE_CHECKING
from layerfs._record import dataclass
from layerfs.errors import InvalidInput
from layerfs.runtime.flags import IdMap

if TYPE_CHECKING:
    from typing import Final

SUBUID: Path = Path("/etc/subuid")
SUBGID: Path = Path("/etc/subgid")
NAMES: Final = ("layerfs", "containers")  # whose subordinate ids are ours, where no other name is given
AUTO_SIZE: Final = 65536
_MAPS_MAX: Final = 340  # the kernel's
_ID_END: Final = 2**32 - 1
_FILE_MAX: Final = 1 << 20
Range = tuple[int, int]  # first id, how many


@dataclass(frozen=True, slots=True)
class IdMaps:
    """Of one container."""

    uids: tuple[IdMap, ...]
    gids: tuple[IdMap, ...]

    @property
    def root(self) -> tuple[int, int]:
        """uid and gid that its root has on the host."""
        return _outside(self.uids, 0), _outside(self.gids, 0)

    def has_gid(self, number: int) -> bool:
        return any(each.inside <= number < each.inside + each.size for each in self.gids)

    @property
    def last_gid(self) -> int:
        """Of those in a row from its root's on."""
        return min(next(each.size for each in self.gids if each.inside == 0) - 1, 2**31 - 1)

    def texts(self) -> tuple[tuple[str, ...], tuple[str, ...]]:
        """`INSIDE:OUTSIDE:SIZE` of each, as they are kept."""
        one, other = ([f"{m.inside}:{m.outside}:{m.size}" for m in maps] for maps in (self.uids, self.gids))
        return tuple(one), tuple(other)


def _outside(maps: Iterable[IdMap], number: int) -> int:
    found = next((each for each in maps if each.inside <= number < each.inside + each.size), None)
    if found is None:
        raise InvalidInput(f"the id maps have no entry for {number}")
    return found.outside + number - found.inside


def parse_maps(texts: Sequence[str], option: str) -> tuple[IdMap, ...]:
    """`CONTAINER_ID:HOST_ID[:AMOUNT]` each, as podman takes them (without its flags `+`, `u`, `g` and `@`).

    Raises:
        InvalidInput: not of this form, out of range, ranges that overlap, or none for the container's root.
    """
    maps = tuple(_parse(text, option) for text in texts)
    if len(maps) > _MAPS_MAX:
        raise InvalidInput(f"{option}: over {_MAPS_MAX} ranges")
    for name in ("inside", "outside"):
        ordered = sorted((getattr(each, name), each.size) for each in maps)
        if any(first + size > after for (first, size), (after, _) in pairwise(ordered)):
            raise InvalidInput(f"{option}: ranges overlap: {' '.join(texts)}")
    if not any(each.inside == 0 for each in maps):
        raise InvalidInput(f"{option}: the container's root (0) has no id of the host's: {' '.join(texts)}")
    return maps


def _parse(text: str, option: str) -> IdMap:
    parts = text.split(":")
    if len(parts) not in (2, 3) or not all(p.isascii() and p.isdigit() and len(p) < 11 for p in parts):
        raise InvalidInput(f"invalid {option} '{text}': CONTAINER_ID:HOST_ID[:AMOUNT]")
    found = IdMap(int(parts[0]), int(parts[1]), int(parts[2]) if len(parts) > 2 else 1)
    if found.size < 1 or max(found.inside, found.outside) + found.size > _ID_END:
        raise InvalidInput(f"invalid {option} '{text}': out of range")
    return found


def subordinate(place: Path, names: Sequence[str]) -> list[Range]:
    """The ranges of the first of `names` that has some in that file (`NAME:FIRST:COUNT` lines).

    Raises:
        InvalidInput: none has.
    """
    try:
        with place.open("rb") as file:
            lines = file.read(_FILE_MAX).decode(errors="replace").splitlines()
    except OSError:
        lines = []
    for name in names:
        found = [r for line in lines if (fields := line.strip().split(":"))[0] == name and (r := _range(fields))]
        if found:
            return found
    raise InvalidInput(f"no subordinate ids in {place} for {' or '.join(names)}: add a line NAME:FIRST:COUNT")


def _range(fields: Sequence[str]) -> Range | None:
    if len(fields) != 3 or not all(f.isascii() and f.isdigit() and len(f) < 11 for f in fields[1:]):
        return None
    first, count = int(fields[1]), int(fields[2])
    return (first, count) if count and first + count <= _ID_END else None


def whole(ranges: Iterable[Range]) -> tuple[IdMap, ...]:
    """All of them one after the other, from the container's root on."""
    maps, inside = [], 0
    for first, count in ranges:
        maps.append(IdMap(inside, first, count))
        inside += count
    return tuple(maps)


def free(ranges: Iterable[Range], taken: Iterable[IdMap], size: int, what: str) -> IdMap:
    """The first `size` ids in a row that no other container has. Raises InvalidInput when there are none."""
    used = sorted((each.outside, each.outside + each.size) for each in taken)
    for first, count in ranges:
        at = first
        for start, end in used:
            if start < at + size and end > at:
                at = end
        if at + size <= first + count:
            return IdMap(0, at, size)
    raise InvalidInput(f"not enough unused subordinate {what} for {size} of a container's: see /etc/sub{what}")


@dataclass(frozen=True, slots=True)
class Mode:
    """`--userns`: `kind` is host, private or auto, `size` the ids of an `auto` one."""

    kind: str = "host"
    size: int = AUTO_SIZE


def parse_mode(text: str | None) -> Mode:
    """`host`, `private`, `auto[:size=N]`. Raises InvalidInput, also for podman's rootless ones."""
    name, _, options = (text or "host").partition(":")
    if name in ("keep-id", "nomap"):
        raise InvalidInput(f"--userns={name} is for a rootless engine: use auto, private or --uidmap")
    if name in ("ns", "container"):
        raise InvalidInput(f"--userns={name}: joining another's user namespace is not supported")
    if name not in ("host", "private", "auto") or (options and name != "auto"):
        raise InvalidInput(f"--userns: invalid USER mode: {text}")
    size = AUTO_SIZE
    for option in filter(None, options.split(",")):
        key, _, value = option.partition("=")
        if key != "size" or not (value.isascii() and value.isdigit() and 0 < int(value[:11]) < _ID_END):
            raise InvalidInput(f"--userns=auto: invalid option '{option}' (there is size=N)")
        size = int(value)
    return Mode(name, size)
