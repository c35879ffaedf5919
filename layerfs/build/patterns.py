"""The patterns of `${v#p}`, `${v%p}` and `${v/p/r}`: `*`, `?` and escapes, matched in time linear in the value.

A star takes anything but a newline. Between two stars stands a piece of fixed length, so the earliest place of each
piece gives the shortest match, and the last place of the last piece the longest: no backtracking is needed.
"""

from __future__ import annotations

import re
from collections.abc import Callable

from layerfs._record import dataclass
from layerfs.build.problems import problem

_STAR = "*"


@dataclass(frozen=True, slots=True)
class Pattern:
    """The pieces between stars, each compiled; one piece when there is no star."""

    pieces: tuple[re.Pattern[str], ...]
    spans_lines: bool  # a piece has a newline itself

    def match(self, value: str, start: int, *, longest: bool) -> int | None:
        """Where a match that begins at `start` ends."""
        found = self.pieces[0].match(value, start)
        return None if found is None else self._rest(value, found.end(), longest=longest)

    def search(self, value: str, start: int) -> tuple[int, int] | None:
        """The first match from `start` on, as long as possible."""
        while start <= len(value):
            found = self.pieces[0].search(value, start)
            if found is None:
                return None
            end = self._rest(value, found.end(), longest=True)
            if end is not None:
                return found.start(), end
            # What follows is not on this line: no later beginning on the line can do better.
            newline = value.find("\n", found.end())
            start = found.start() + 1 if self.spans_lines else len(value) + 1 if newline < 0 else newline + 1
        return None

    def _rest(self, value: str, position: int, *, longest: bool) -> int | None:
        last = len(self.pieces) - 1
        for number, piece in enumerate(self.pieces[1:], 1):
            line_end = value.find("\n", position)
            limit = len(value) if line_end < 0 else line_end
            find = _last if longest and number == last else _first
            end = find(piece, value, position, limit)
            if end is None:
                return None
            position = end
        return position


def _first(piece: re.Pattern[str], value: str, position: int, limit: int) -> int | None:
    found = piece.search(value, position)
    return found.end() if found is not None and found.start() <= limit else None


def _last(piece: re.Pattern[str], value: str, position: int, limit: int) -> int | None:
    for start in range(limit, position - 1, -1):
        found = piece.match(value, start)
        if found is not None:
            return found.end()
    return None


def trim_prefix(pattern: str, value: str, *, longest: bool) -> str:
    end = _compile(_tokens(pattern)).match(value, 0, longest=longest)
    return value if end is None else value[end:]


def trim_suffix(pattern: str, value: str, *, longest: bool) -> str:
    backwards = value[::-1]
    end = _compile(_tokens(pattern)[::-1]).match(backwards, 0, longest=longest)
    return value if end is None else value[: len(value) - end]


def substitute(pattern: str, replacement: str, value: str, *, everywhere: bool, check: Callable[[int], None]) -> str:
    """Replace the first match, or all that do not overlap; `check` is told the growing size of the result."""
    compiled = _compile(_tokens(pattern))
    if not everywhere:
        found = compiled.search(value, 0)
        return value if found is None else value[: found[0]] + replacement + value[found[1] :]
    if len(compiled.pieces) == 1 and pattern:
        (piece,) = compiled.pieces
        check(len(replacement) * sum(1 for _ in piece.finditer(value)))
        return piece.sub(lambda _: replacement, value)
    result: list[str] = []
    size = done = position = 0
    while (found := compiled.search(value, position)) is not None:
        start, end = found
        result.append(value[done:start])
        if end > done or start == 0:  # an empty match just after another is none
            result.append(replacement)
            size += len(replacement)
        check(size)
        done = end
        position = max(end, position + 1)
    return "".join(result) + value[done:]


def _tokens(pattern: str) -> list[str]:
    """Regular expressions for single characters, and stars."""
    tokens: list[str] = []
    position = 0
    while position < len(pattern):
        char = pattern[position]
        position += 1
        if char == "\\":
            char = pattern[position : position + 1]
            if char not in ("*", "?", "\\", "}", "/"):
                raise problem(f"invalid pattern ({pattern}) in substitution: invalid escape '\\{char}'", word=pattern)
            position += 1
            tokens.append(re.escape(char))
        else:
            tokens.append(_STAR if char == "*" else "." if char == "?" else re.escape(char))
    return tokens


def _compile(tokens: list[str]) -> Pattern:
    pieces: list[list[str]] = [[]]
    for token in tokens:
        if token == _STAR:
            pieces.append([])
        else:
            pieces[-1].append(token)
    spans_lines = any("\n" in token for token in tokens)
    return Pattern(tuple(re.compile("".join(piece)) for piece in pieces), spans_lines)
