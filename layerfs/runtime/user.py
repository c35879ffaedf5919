"""Who the program runs as: `USER` and `-u` forms, looked up in the image's own passwd and group files.

`name`, `uid`, `name:group`, `uid:gid` and mixtures, by docker's rules (moby/sys/user): a uid that is listed gets that
entry's group and supplementary groups; one that is not listed gets group 0; an explicit group replaces them all.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

from layerfs._record import NamedTuple, replace
from layerfs.errors import InvalidInput, RunError
from layerfs.runtime.rootpath import read_in_root
from layerfs.runtime.spec import Identity

FILE_MAX = 16 << 20
ID_MAX = 2**31 - 1


class _User(NamedTuple):
    name: bytes
    uid: int
    gid: int
    home: bytes


class _Group(NamedTuple):
    name: bytes
    gid: int
    members: tuple[bytes, ...]


def _number(text: bytes) -> int | None:
    return int(text) if text.isdigit() and len(text) < 20 else None


def _lines(root: Path, path: bytes) -> Iterator[list[bytes]]:
    try:
        data = read_in_root(root, path, FILE_MAX)
    except OSError as error:
        raise RunError(f"reading {path.decode()} in {root}: {(error.strerror or str(error)).lower()}") from error
    for line in (data or b"").split(b"\n"):
        if line.strip():
            yield line.strip().split(b":")


def _users(root: Path) -> Iterator[_User]:
    for fields in _lines(root, b"/etc/passwd"):
        fields += [b""] * (7 - len(fields))
        yield _User(fields[0], _number(fields[2]) or 0, _number(fields[3]) or 0, fields[5])


def _groups(root: Path) -> Iterator[_Group]:
    for fields in _lines(root, b"/etc/group"):
        fields += [b""] * (4 - len(fields))
        yield _Group(fields[0], _number(fields[2]) or 0, tuple(filter(None, fields[3].split(b","))))


def _checked(number: int) -> int:
    if number > ID_MAX:
        raise RunError(f"uids and gids must be in range 0-{ID_MAX}")
    return number


def _find_user(root: Path, wanted: bytes) -> _User | None:
    number = _number(wanted) if wanted else 0
    return next((user for user in _users(root) if (wanted and user.name == wanted) or user.uid == number), None)


def _explicit_group(root: Path, wanted: bytes) -> int:
    number = _number(wanted)
    for group in _groups(root):
        if group.name == wanted or group.gid == number:
            return _checked(group.gid)
    if number is None:
        raise RunError(f"unable to find group {wanted.decode(errors='replace')}: no matching entries in group file")
    return _checked(number)


def _with_home(uid: int, home: bytes) -> bytes:
    return home or (b"/root" if uid == 0 else b"/")


def resolve_user(root: Path, user: bytes = b"") -> Identity:
    """The identity `user` stands for in the mounted `root`; RunError with docker's words for an unknown name."""
    name, _, group = user.partition(b":")
    if b"\0" in user or b"\n" in user:
        raise InvalidInput("a user name cannot hold a newline or a NUL byte")
    found = _find_user(root, name)
    number = _number(name) if name else 0
    if found is None and number is None:
        raise RunError(f"unable to find user {name.decode(errors='replace')}: no matching entries in passwd file")
    uid, gid, home = (found.uid, found.gid, found.home) if found else (number or 0, 0, b"")
    extra: tuple[int, ...] = ()
    if group:
        gid = _explicit_group(root, group)
    elif found:
        extra = tuple(entry.gid for entry in _groups(root) if found.name in entry.members)
    return Identity(_checked(uid), _checked(gid), (gid, *map(_checked, extra)), _with_home(uid, home))


def add_groups(root: Path, who: Identity, groups: Sequence[str]) -> Identity:
    """With docker's `--group-add`: names of the image's group file, or numbers. Raises RunError for an unknown name."""
    extra = tuple(_explicit_group(root, group.encode("utf-8", "surrogateescape")) for group in groups)
    return replace(who, groups=tuple(dict.fromkeys((*who.groups, *extra)))) if extra else who
