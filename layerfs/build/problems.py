"""What is wrong in a Dockerfile, told with its file, its line, a caret and a suggestion.

The texts are BuildKit's, because users look for them. A function that knows no place raises `problem()`; whoever knows
the place adds it with `locate()`.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager

from layerfs.errors import InvalidDockerfile

_SHORT = 6  # shorter words allow one edit, longer ones two (BuildKit: always two, and a swap of neighbours is two)
_WORD_MAX = 100
_EXCERPT_LINES = 3
_EXCERPT_WIDTH = 160


def problem(reason: str, *, word: str = "", suggestion: str = "") -> InvalidDockerfile:
    """An error without a place yet; `word` is what the caret shall point at."""
    error = InvalidDockerfile(f"{reason} (did you mean {suggestion}?)" if suggestion else reason)
    error.word = word
    return error


def locate(error: InvalidDockerfile, file: str, lines: Sequence[str], first: int, last: int) -> InvalidDockerfile:
    """Add the place to an error that has none; `lines` are those from `first` to `last`, counted from 1."""
    if not error.line:
        error.file, error.first_line, error.last_line = file, first, last
        error.line = first + _row_of(error.word, lines)
        error.excerpt = _excerpt(error.word, lines, first)
    return error


@contextmanager
def located(file: str, lines: Sequence[str], first: int, last: int) -> Iterator[None]:
    """Errors raised inside are about these lines."""
    try:
        yield
    except InvalidDockerfile as error:
        raise locate(error, file, lines, first, last) from None


def nearest(word: str, options: Iterable[str], *, fold: bool = False, short: int = _SHORT) -> str:
    """The option that was likely meant, or "" (also when the word is one of them, as the fault is another then).

    Words of fewer letters than `short` are allowed one edit, others two.
    """
    if len(word) > _WORD_MAX:
        return ""
    wanted = word.lower() if fold else word
    best, distance = "", min(len(word), 2 if len(word) < short else 3)
    for option in sorted(options):
        candidate = option.lower() if fold else option
        if candidate == wanted:
            return ""
        edits = _edits(wanted, candidate, distance)
        if edits < distance:
            best, distance = option, edits
    return _cased_as(best, word) if fold else best


def quote(text: str) -> str:
    """Go's `%q`, which BuildKit's texts and history have."""
    return '"' + "".join(_QUOTED.get(char) or _printable(char) for char in text) + '"'


_QUOTED = {'"': '\\"', "\\": "\\\\", "\a": "\\a", "\b": "\\b", "\f": "\\f", "\n": "\\n", "\r": "\\r", "\t": "\\t"}
_QUOTED |= {"\v": "\\v"}


def _printable(char: str) -> str:
    if char.isprintable():
        return char
    code = ord(char)
    if code < 0x80:
        return f"\\x{code:02x}"
    return f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}"


def _cased_as(match: str, word: str) -> str:
    return match.lower() if word == word.lower() else match.upper() if word == word.upper() else match


def _edits(a: str, b: str, limit: int) -> int:
    """Insertions, deletions, replacements and swaps of neighbours, or `limit` when there are at least as many."""
    if abs(len(a) - len(b)) >= limit:
        return limit
    before: list[int] = []
    row = list(range(len(b) + 1))
    for i, left in enumerate(a, 1):
        current = [i]
        for j, right in enumerate(b, 1):
            cost = min(row[j - 1] + (left != right), row[j] + 1, current[j - 1] + 1)
            if i > 1 and j > 1 and left == b[j - 2] and a[i - 2] == right:
                cost = min(cost, before[j - 2] + 1)
            current.append(cost)
        before, row = row, current
    return min(row[-1], limit)


def _row_of(word: str, lines: Sequence[str]) -> int:
    return next((row for row, line in enumerate(lines) if word and word in line), 0)


def _excerpt(word: str, lines: Sequence[str], first: int) -> str:
    """The faulty lines with their numbers, and a caret below the word (or below the whole first line)."""
    if not lines:
        return ""
    row = _row_of(word, lines)
    start = max(0, row - _EXCERPT_LINES + 1)
    shown = [f"{first + i:4} | {_clean(lines[i])}" for i in range(start, row + 1)]
    text = lines[row]
    column = text.find(word) if word else len(text) - len(text.lstrip())
    width = len(word) if word and column >= 0 else len(text.strip())
    column, width = max(column, 0), max(1, width)
    if column < _EXCERPT_WIDTH:
        shown.append("     | " + " " * column + "^" * min(width, _EXCERPT_WIDTH - column))
    return "\n".join(shown)


def _clean(line: str) -> str:
    """One printable character for each of the line's, so that a caret below stays in its column."""
    shown = "".join(char if char.isprintable() else " " for char in line[:_EXCERPT_WIDTH])
    return shown if len(line) <= _EXCERPT_WIDTH else shown + "…"
