"""`--chmod`: octal, or symbolic as chmod(1) takes it."""

from __future__ import annotations

import re
import stat
from collections.abc import Callable

from layerfs.errors import InvalidInput

Change = Callable[[int], int]  # a mode with type bits, before and after
_OCTAL = re.compile(r"[0-7]{1,4}\Z|0[0-7]{1,4}\Z")
_CLAUSE = re.compile(r"([ugoa]*)((?:[-+=][rwxXst]*|[-+=][ugo])+)\Z")
_ACTION = re.compile(r"([-+=])([rwxXst]*|[ugo])(?=[-+=]|\Z)")
_SHIFTS = {"u": 6, "g": 3, "o": 0}
_BITS = {"r": 4, "w": 2, "x": 1}


def parse_mode(text: str) -> Change:
    """Raises InvalidInput, in BuildKit's words."""
    if _OCTAL.match(text):
        number = int(text, 8)
        return lambda mode: stat.S_IFMT(mode) | number
    clauses = [_CLAUSE.match(clause) for clause in text.split(",")]
    if not text or not all(clauses):
        raise InvalidInput(
            f"invalid chmod parameter: '{text}'. it should be octal string and between 0 and 07777, "
            "or a symbolic mode as chmod(1) takes it"
        )
    parsed = [(clause[1], _ACTION.findall(clause[2])) for clause in clauses if clause]

    def change(mode: int) -> int:
        for who, actions in parsed:
            for operator, what in actions:
                mode = _apply(mode, who or "a", operator, what)
        return mode

    return change


def _apply(mode: int, who: str, operator: str, what: str) -> int:
    classes = "ugo" if "a" in who else who
    bits, room = 0, 0
    for each in classes:
        bits |= _permissions(mode, what) << _SHIFTS[each]
        room |= 7 << _SHIFTS[each]
    if "s" in what:
        bits |= (stat.S_ISUID if "u" in classes else 0) | (stat.S_ISGID if "g" in classes else 0)
    if "t" in what:
        bits |= stat.S_ISVTX
    if operator == "+":
        return mode | bits
    if operator == "-":
        return mode & ~bits
    return (mode & ~room) | bits


def _permissions(mode: int, what: str) -> int:
    if what in _SHIFTS and what:
        return mode >> _SHIFTS[what] & 7
    found = sum(_BITS[char] for char in set(what) & set(_BITS))
    return found | (1 if "X" in what and (stat.S_ISDIR(mode) or mode & 0o111) else 0)
