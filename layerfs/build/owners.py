"""`--chown`: names and numbers, looked up in the passwd and group files of the image that is built on."""

from __future__ import annotations

from collections.abc import Iterator

from layerfs.build.files import Files
from layerfs.build.find import find
from layerfs.errors import InvalidInput

_FILE_MAX = 16 << 20
_ID_MAX = 2**31 - 1


def is_numeric(owner: str) -> bool:
    """Whether no file has to be asked."""
    return all(part.isdecimal() for part in owner.split(":", 1))


def find_owner(files: Files, owner: str) -> tuple[int, int]:
    """`user`, `user:group`, names or numbers: a user alone is the group's number too, as docker has it for COPY.

    Raises:
        InvalidInput: a name that is not there.
    """
    user, _, group = owner.partition(":")
    uid, own = _user(files, user or "0")
    return uid, (_group(files, group) if group else own)


def _user(files: Files, text: str) -> tuple[int, int]:
    if text.isdecimal():
        return _number(text), _number(text)
    for fields in _lines(files, b"etc/passwd"):
        if len(fields) > 3 and fields[0] == text.encode():
            return _number(fields[2].decode()), _number(fields[3].decode())
    raise InvalidInput(f"unable to convert uid/gid chown string to host mapping: can't find uid for user {text}")


def _group(files: Files, text: str) -> int:
    if text.isdecimal():
        return _number(text)
    for fields in _lines(files, b"etc/group"):
        if len(fields) > 2 and fields[0] == text.encode():
            return _number(fields[2].decode())
    raise InvalidInput(f"unable to convert uid/gid chown string to host mapping: can't find gid for group {text}")


def _lines(files: Files, path: bytes) -> Iterator[list[bytes]]:
    item = find(files, path)
    if item is None or not item.is_file or item.size > _FILE_MAX:
        return
    content = files.content(item)
    data = b"".join(content.pieces(content.extents())) if content else b""
    for line in data.split(b"\n"):
        if line.strip() and not line.startswith(b"#"):
            yield line.strip().split(b":")


def _number(text: str) -> int:
    number = int(text) if text.isdecimal() else 0
    if number > _ID_MAX:
        raise InvalidInput(f"uids and gids must be in range 0-{_ID_MAX}")
    return number
