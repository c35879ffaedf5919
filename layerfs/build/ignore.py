"""`.dockerignore`, and the patterns of `--exclude`: what docker's pattern matcher takes, decision for decision.

`*` and `?` stay within a component, `**` crosses them, `[...]` is a class, `\\` takes the next character as it is, `!`
lets in again what a line before shut out; the last line that matches decides, and a directory that is shut out takes
what is below with it. Paths are `/`-separated, relative, with undecodable bytes as surrogates (`os.fsdecode`).
"""

from __future__ import annotations

import posixpath
import re
from collections.abc import Callable, Iterable

from layerfs._record import dataclass
from layerfs.build.problems import locate, problem
from layerfs.build.words import SPACES

FILE_MAX = 1 << 20
_BACKTRACKING_MAX = 3  # stars that `re` may try against each other; more go the slow, bounded way
_ANY, _STAR, _DEEP, _REST = "any", "star", "deep", "rest"


def parse_ignore(data: bytes, file: str = ".dockerignore") -> tuple[str, ...]:
    """The patterns of a file: no comments, trimmed, cleaned, without the leading slash.

    Raises:
        InvalidDockerfile: a file that is too large.
    """
    if len(data) > FILE_MAX:
        raise locate(problem(f"file is larger than {FILE_MAX} bytes"), file, (), 1, 1)
    text = data.removeprefix(b"\xef\xbb\xbf").decode("utf-8", "surrogateescape")
    patterns: list[str] = []
    for line in text.split("\n"):
        pattern = line.strip(SPACES)
        if line.startswith("#") or not pattern:
            continue
        inverted = pattern.startswith("!")
        if inverted:
            pattern = pattern[1:].strip(SPACES)
        if pattern:
            pattern = clean(pattern)
            pattern = pattern[1:] if len(pattern) > 1 and pattern.startswith("/") else pattern
        patterns.append("!" + pattern if inverted else pattern)
    return tuple(patterns)


def clean(path: str) -> str:
    """Go's filepath.Clean."""
    cleaned = posixpath.normpath(path) if path else "."
    return cleaned[1:] if cleaned.startswith("//") else cleaned


@dataclass(frozen=True, slots=True)
class Pattern:
    """One line; `keeps` is `!`."""

    text: str
    keeps: bool
    matches: Callable[[str], bool]


@dataclass(frozen=True, slots=True)
class Found:
    """The decision about a path, with what each pattern said: hand it on when asking about what is below."""

    excluded: bool
    by_pattern: tuple[bool, ...] = ()


class Matcher:
    """Patterns, in the order of the file.

    `excluded(path)` looks at one path. A walk goes from the top with `below(path, parent)`, where `parent` is what it
    got for the directory (None at the top), and need not enter an excluded directory unless `may_keep_below` says so.
    """

    def __init__(self, patterns: Iterable[str]) -> None:
        """Compile patterns.

        Raises:
            InvalidDockerfile: a pattern with a bad class or escape, or `!` alone.
        """
        self.patterns = tuple(_pattern(text) for line in patterns if (text := line.strip(SPACES)))
        self.has_exceptions = any(pattern.keeps for pattern in self.patterns)

    def excluded(self, path: str) -> bool:
        """Whether a path is shut out, by itself or by a directory above it: what a walk to it would find."""
        parts = path.split("/")
        found: Found | None = None
        for count in range(1, len(parts) + 1):
            found = self.below("/".join(parts[:count]), found)
        return found is not None and found.excluded

    def below(self, path: str, parent: Found | None) -> Found:
        """The decision about `path`, given that about its directory.

        What matched the directory matches all below. As docker's: an exception is asked only about what is excluded by
        then, so one that names a directory which was not excluded does not count for what is excluded in it.
        """
        above = (False,) * len(self.patterns) if parent is None else parent.by_pattern
        excluded = False
        said: list[bool] = []
        for pattern, matched in zip(self.patterns, above, strict=True):
            if not matched and pattern.keeps == excluded:
                matched = pattern.matches(path)
            said.append(matched)
            if matched:
                excluded = not pattern.keeps
        return Found(excluded, tuple(said))

    def may_keep_below(self, directory: str) -> bool:
        """Whether an exception might match something inside an excluded directory."""
        return self.has_exceptions and any(
            pattern.keeps and _may_match_below(pattern.text, directory) for pattern in self.patterns
        )


def _may_match_below(pattern: str, directory: str) -> bool:
    """By the components before the first with a wildcard; wrong only towards yes."""
    plain: list[str] = []
    for part in pattern.split("/"):
        if any(char in part for char in "*?[\\"):
            break
        plain.append(part)
    wanted = directory.split("/")
    shared = min(len(plain), len(wanted))
    whole = len(plain) == len(pattern.split("/"))
    if plain[:shared] != wanted[:shared]:
        return False
    return not whole or len(plain) > len(wanted)


def _pattern(text: str) -> Pattern:
    text = clean(text)
    keeps = text.startswith("!")
    if text == "!":
        raise problem('illegal exclusion pattern: "!"', word=text)
    text = text[1:] if keeps else text
    _check(text)
    return Pattern(text, keeps, _compiled(text))


def _check(text: str) -> None:
    """What Go's filepath.Match refuses as a pattern."""
    position = 0
    while position < len(text):
        char = text[position]
        position += 1
        if char == "\\":
            if position == len(text):
                raise problem(f"syntax error in pattern: {text}", word=text)
            position += 1
        elif char == "[":
            position = _class_end(text, position)


def _class_end(text: str, position: int) -> int:
    """Behind the `]` of a class whose `[` stands just before `position`."""
    position += text.startswith("^", position)
    first = True
    while first or not text.startswith("]", position):
        position = _class_char(text, position)
        if text.startswith("-", position):
            position = _class_char(text, position + 1)
        first = False
    return position + 1


def _class_char(text: str, position: int) -> int:
    char = text[position : position + 1]
    escaped = char == "\\"
    end = position + 1 + escaped
    if not char or char in "-]" or end > len(text) or end == len(text):
        raise problem(f"syntax error in pattern: {text}", word=text)
    return end


def _compiled(text: str) -> Callable[[str], bool]:
    if not any(char in text for char in "*?[]\\"):
        return lambda path: path == text
    if text.startswith("**") and not any(char in text[2:] for char in "*?[]\\") and len(text) > 2:
        return _suffix(text[2:])
    if text.endswith("**") and not any(char in text[:-2] for char in "*?[]\\"):
        return lambda path: path.startswith(text[:-2])
    tokens = _tokens(text)
    if sum(token in (_STAR, _DEEP, _REST) for token in tokens) > _BACKTRACKING_MAX:
        return _Automaton(tokens).matches
    try:
        expression = re.compile("".join(_expression(token) for token in tokens) + r"\Z")
    except re.error:
        raise problem(f"syntax error in pattern: {text}", word=text) from None
    return lambda path: expression.match(path) is not None


def _suffix(suffix: str) -> Callable[[str], bool]:
    """`**x` and `**/x`: whatever ends so; `**/foo` is `foo` too."""
    return lambda path: path.endswith(suffix) or (suffix.startswith("/") and path == suffix[1:])


def _tokens(text: str) -> list[str]:
    """Names of wildcards, and regular expressions of one character each."""
    tokens: list[str] = []
    position = 0
    while position < len(text):
        char = text[position]
        position += 1
        if char == "*" and text.startswith("*", position):
            position += 1
            position += text.startswith("/", position)
            tokens.append(_REST if position == len(text) else _DEEP)
        elif char == "*":
            tokens.append(_STAR)
        elif char == "?":
            tokens.append(_ANY)
        elif char == "[":
            end = _class_end(text, position)
            tokens.append(_class(text[position : end - 1]))
            position = end
        else:
            if char == "\\":
                char = text[position]
                position += 1
            tokens.append(re.escape(char))
    return tokens


def _class(inner: str) -> str:
    """A class of Go as one of Python; it may take a slash, as docker's does."""
    inverted = inner.startswith("^")
    result: list[str] = []
    position = int(inverted)
    while position < len(inner):
        char = inner[position]
        position += 1
        if char == "\\":
            char = inner[position]
            position += 1
            result.append(re.escape(char))
        else:
            result.append("-" if char == "-" else re.escape(char))
    return f"[{'^' * inverted}{''.join(result)}]"


def _expression(token: str) -> str:
    return {_ANY: "[^/]", _STAR: "[^/]*", _DEEP: "(?:.*/)?", _REST: ".*"}.get(token, token)


class _Automaton:
    """All ways through a pattern at once: time is the product of both lengths, however many stars there are.

    A state is a position in the tokens. `deep` (any directories, or none) is two: inside it every character is taken,
    and behind each slash it may be left.
    """

    def __init__(self, tokens: list[str]) -> None:
        self.tokens = tokens
        try:
            self.tests = [re.compile(_ONE.get(token, token)).match for token in tokens]
        except re.error:
            raise problem("syntax error in pattern") from None

    def matches(self, path: str) -> bool:
        states = self._close({0})
        for char in path:
            following: set[int] = set()
            for state in states:
                self._advance(state, char, following)
            if not following:
                return False
            states = self._close(following)
        return len(self.tokens) in states

    def _advance(self, state: int, char: str, following: set[int]) -> None:
        inside, number = state < 0, -state - 1 if state < 0 else state
        if number >= len(self.tokens):
            return
        token = self.tokens[number]
        if token in (_DEEP, _REST):
            if char != "\n":  # as Go's `.`
                following.add(-number - 1)
                following |= {number + 1} if token == _REST or char == "/" else set()
        elif not inside and self.tests[number](char):
            following.add(number if token == _STAR else number + 1)

    def _close(self, states: set[int]) -> set[int]:
        """With what is reached without a character: wildcards may take nothing."""
        todo = list(states)
        while todo:
            state = todo.pop()
            if (
                0 <= state < len(self.tokens)
                and self.tokens[state] in (_STAR, _DEEP, _REST)
                and state + 1 not in states
            ):
                states.add(state + 1)
                todo.append(state + 1)
        return states


_ONE = {_ANY: "[^/]", _STAR: "[^/]", _DEEP: ".", _REST: "."}
