r"""Variables in words: `$v ${v} ${v:-w} ${v-w} ${v:+w} ${v+w} ${v:?w} ${v?w} ${v#p} ${v##p} ${v%p} ${v%%p} ${v/p/r}
${v//p/r}`, quotes and escapes, as BuildKit's shell lexer has them.

The result of one word is bounded, and so is the depth of `${a:-${b:-...}}`: a hostile file ends in an error, not in
memory. In the replacement of `${v//p/r}` a `$` stands for itself (Go's regexp templates are not imitated).
"""

from __future__ import annotations

import functools
import re
from collections.abc import Callable, Mapping

from layerfs._record import dataclass
from layerfs.build.patterns import substitute, trim_prefix, trim_suffix
from layerfs.build.problems import problem, quote
from layerfs.build.words import SPACES
from layerfs.errors import InvalidDockerfile

EXPANSION_MAX = 1 << 20  # characters of one expanded word; the kernel takes 128 KiB for a variable
_DEPTH_MAX = 64
_SPECIAL = "@*#?-$!0"  # one-character parameters of a shell; never set here
_BAD_START = "{}:"
_SHOWN_MAX = 200
_BLANKS = re.compile(f"[{SPACES}]+")
_NONE: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True)
class Expansion:
    """A word after expansion; `words` is the same, split at blanks outside of quotes."""

    text: str
    words: tuple[str, ...]
    used: frozenset[str]  # variables that were there
    missing: frozenset[str]  # variables that were not


@dataclass(frozen=True, slots=True)
class Rules:
    """How to read a word; the defaults are those of ENV, LABEL, COPY and the rest."""

    escape: str = "\\"
    quotes: bool = True  # quotes are syntax (False: in bodies of heredocs they are text)
    keep_quotes: bool = False
    keep_escapes: bool = False
    keep_unset: bool = False  # an unset variable stays as it is written


def expand(word: str, variables: Mapping[str, str], rules: Rules = Rules()) -> Expansion:  # noqa: B008 (frozen)
    """Expand one word.

    Raises:
        InvalidDockerfile: quotes or braces that do not close, a bad modifier, `${v:?}` of an unset variable, or a
            result larger than `EXPANSION_MAX`.
    """
    if not any(char in word for char in ("$", "'", '"', "<", rules.escape)):
        return Expansion(word, tuple(_BLANKS.split(word.strip(SPACES))) if word.strip(SPACES) else (), _NONE, _NONE)
    lexer = _Lexer(word, variables, rules)
    words = _Words()
    try:
        text = lexer.until("", raw=rules.keep_escapes, words=words)
    except InvalidDockerfile as error:
        shown = word if len(word) <= _SHOWN_MAX else word[:_SHOWN_MAX] + "…"
        raise problem(f"failed to process {quote(shown)}: {error.message}", word=error.word) from None
    return Expansion(text, words.finished(), frozenset(lexer.used), frozenset(lexer.missing))


@functools.cache
def _plain_run(ends: str) -> re.Pattern[str]:
    return re.compile(f"[^$<'\"{re.escape(ends)}]+")


class _Words:
    """Collects text into words; blanks outside of quotes end one."""

    def __init__(self) -> None:
        self.words: list[str] = []
        self.word: list[str] = []

    def add(self, text: str) -> None:
        first, *rest = _BLANKS.split(text)
        self.word.append(first)
        for piece in rest:
            self._end()
            self.word.append(piece)

    def add_raw(self, text: str) -> None:
        self.word.append(text)

    def finished(self) -> tuple[str, ...]:
        self._end()
        return tuple(self.words)

    def _end(self) -> None:
        if any(self.word):
            self.words.append("".join(self.word))
        self.word.clear()


class _Lexer:
    def __init__(self, text: str, variables: Mapping[str, str], rules: Rules) -> None:
        self.text = text
        self.variables = variables
        self.rules = rules
        self.position = 0
        self.raw = rules.keep_escapes
        self.size = 0
        self.depth = 0
        self.used: set[str] = set()
        self.missing: set[str] = set()

    def peek(self) -> str:
        return self.text[self.position : self.position + 1]

    def next(self) -> str:
        char = self.peek()
        self.position += 1
        return char

    def fail(self, reason: str) -> Exception:
        return problem(reason, word=self.text)

    def grow(self, count: int) -> None:
        self.size += count
        if self.size > EXPANSION_MAX:
            raise problem(f"expansion is larger than {EXPANSION_MAX} characters", word=self.text[:40])

    def lookup(self, name: str) -> str | None:
        value = self.variables.get(name)
        (self.missing if value is None else self.used).add(name)
        return value

    def until(self, stop: str, *, raw: bool, words: _Words) -> str:
        """Read to the character `stop` (which is taken), or to the end when it is empty."""
        before, self.raw = self.raw, raw
        result: list[str] = []
        plain = _plain_run(self.rules.escape + stop)
        while char := self.peek():
            if char == stop:
                break
            special = self._special(char)
            if special is not None:
                text = special()
                self.grow(len(text))
                add = words.add if char == "$" else words.add_raw
                add(text)
                result.append(text)
            elif char == self.rules.escape:
                result.append(self._escaped(words))
            else:
                text = self._run_of(plain)
                words.add(text)
                result.append(text)
        if stop and not self.peek():
            raise self.fail(f"syntax error: missing '{stop}'" + " in ${}" * (stop == "/"))
        self.position += 1
        self.raw = before
        return "".join(result)

    def _run_of(self, plain: re.Pattern[str]) -> str:
        """Characters that mean nothing, at least one (which quotes are where they do not count)."""
        found = plain.match(self.text, self.position + 1)
        start, self.position = self.position, found.end() if found else self.position + 1
        return self.text[start : self.position]

    def _special(self, char: str) -> Callable[[], str] | None:
        if char == "$":
            return self._dollar
        if char == "<":
            return self._less
        if self.rules.quotes and char == "'":
            return self._single_quotes
        if self.rules.quotes and char == '"':
            return self._double_quotes
        return None

    def _escaped(self, words: _Words) -> str:
        self.position += 1
        text = self.rules.escape * self.raw + self.next()
        words.add_raw(text)
        return text

    def _single_quotes(self) -> str:
        end = self.text.find("'", self.position + 1)
        if end < 0:
            raise self.fail("unexpected end of statement while looking for matching single-quote")
        quoted = self.text[self.position : end + 1]
        self.position = end + 1
        return quoted if self.rules.keep_quotes else quoted[1:-1]

    def _double_quotes(self) -> str:
        quote = '"' if self.rules.keep_quotes else ""
        self.position += 1
        result = [quote]
        while (char := self.peek()) != '"':
            if not char:
                raise self.fail("unexpected end of statement while looking for matching double-quote")
            if char == "$":
                result.append(self._dollar())
                self.grow(len(result[-1]))
                continue
            self.position += 1
            if char == self.rules.escape:
                if self.raw:
                    result.append(char)
                if not self.peek():
                    continue
                if self.peek() in ('"', "$", self.rules.escape):
                    char = self.next()
            result.append(char)
        self.position += 1
        return "".join(result) + quote

    def _less(self) -> str:
        """`<<  EOF` is one word; any other `<` is a character."""
        self.position += 1
        if self.peek() != "<":
            return "<"
        start = self.position
        self.position += 1
        while self.peek() and self.peek() in "\t\r ":
            self.position += 1
        return "<" + self.text[start : self.position]

    def _name(self) -> str:
        start = self.position
        first = self.peek()
        if first.isdecimal():
            while self.peek().isdecimal():
                self.position += 1
        elif first and first in _SPECIAL:
            self.position += 1
        else:
            while (char := self.peek()) and (char.isalpha() or char.isdecimal() or char == "_"):
                self.position += 1
        return self.text[start : self.position]

    def _dollar(self) -> str:
        self.position += 1
        if self.peek() != "{":
            name = self._name()
            if not name:
                return "$"
            value = self.lookup(name)
            return value if value is not None else f"${name}" if self.rules.keep_unset else ""
        self.position += 1
        if not self.peek():
            raise self.fail("syntax error: missing '}'")
        if self.peek() in _BAD_START:
            raise self.fail("syntax error: bad substitution")
        self.depth += 1
        if self.depth > _DEPTH_MAX:
            raise problem(f"substitutions are nested deeper than {_DEPTH_MAX}", word=self.text[:40])
        value = self._braces(self._name())
        self.depth -= 1
        return value

    def _braces(self, name: str) -> str:
        modifier = self.next()
        if modifier == "}":
            value = self.lookup(name)
            return value if value is not None else "${" + name + "}" if self.rules.keep_unset else ""
        if modifier == "/":
            return self._replace(name)
        colon = modifier == ":"
        if colon:
            modifier = self.next()
        written = ":" * colon + modifier
        if not modifier:
            raise self.fail("syntax error: missing '}'")
        if modifier not in "+-?#%" or (colon and modifier in "#%"):
            raise self.fail(f"unsupported modifier ({written}) in substitution")
        word = self.until("}", raw=modifier in "#%", words=_Words())
        value = self.lookup(name)
        if value is None and self.rules.keep_unset:
            return "${" + name + written + word + "}"
        if modifier in "#%":
            return self._trim(modifier, word, value or "")
        return self._choose(name, modifier, word, value, colon=colon)

    def _choose(self, name: str, modifier: str, word: str, value: str | None, *, colon: bool) -> str:
        absent = value is None or (colon and value == "")
        if modifier == "-":
            return word if absent else value or ""
        if modifier == "+":
            return "" if absent else word
        if absent:
            state = "unset" if value is None else "empty"
            raise self.fail(f"{name}: {word or f'is not allowed to be {state}'}")
        return value or ""

    def _trim(self, modifier: str, pattern: str, value: str) -> str:
        longest = pattern.startswith(modifier)
        pattern = pattern[1:] if longest else pattern
        trim = trim_suffix if modifier == "%" else trim_prefix
        return trim(pattern, value, longest=longest)

    def _replace(self, name: str) -> str:
        everywhere = self.peek() == "/"
        self.position += everywhere
        pattern = self.until("/", raw=True, words=_Words())
        replacement = self.until("}", raw=True, words=_Words())
        value = self.lookup(name)
        if value is None and self.rules.keep_unset:
            return "${" + f"{name}/{pattern}/{replacement}" + "}"
        return substitute(pattern, replacement, value or "", everywhere=everywhere, check=self._fits)

    def _fits(self, size: int) -> None:
        if self.size + size > EXPANSION_MAX:
            self.grow(size)
