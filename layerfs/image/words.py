"""Words of Dockerfile instructions: quotes, escapes and variables (reference facts 8.2).

One value is expanded by `expand`; a line is cut by `split`, which leaves quotes and escapes in the words for `expand`
to remove. The values are those from before the line. The forms of `${…}` are those of BuildKit's shell lexer.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

from layerfs.errors import InvalidInput

_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*|[0-9]+|[@*#]")
ESCAPE = "\\"


def split(line: str, *, escape: str = ESCAPE) -> list[str]:
    """Cut at blanks outside quotes; quotes and escapes stay in the words."""
    words: list[str] = []
    word, quote, position = "", "", 0
    while position < len(line):
        char = line[position]
        if char == escape and quote != "'" and position + 1 < len(line):
            word += line[position : position + 2]
            position += 2
            continue
        if quote:
            quote = "" if char == quote else quote
        elif char in "'\"":
            quote = char
        if char.isspace() and not quote:
            words += [word] if word else []
            word = ""
        else:
            word += char
        position += 1
    return [*words, word] if word else words


def expand(text: str, variables: Mapping[str, str], *, escape: str = ESCAPE) -> str:
    """One value with its variables put in and its quotes removed.

    Raises:
        InvalidInput: an unfinished quote or `${`, a bad form, or `${v:?text}` of an unset variable.
    """
    return _Scanner(text, variables, escape).value()


def expand_words(text: str, variables: Mapping[str, str], *, escape: str = ESCAPE) -> list[str]:
    """Like `expand`, but an unquoted variable's value with blanks gives several words (EXPOSE, VOLUME)."""
    words: list[str] = []
    for word in split(text, escape=escape):
        value = expand(word, variables, escape=escape)
        words += [value] if "'" in word or '"' in word else value.split()
    return words


class _Scanner:
    def __init__(self, text: str, variables: Mapping[str, str], escape: str) -> None:
        self.text, self.variables, self.escape, self.position = text, variables, escape, 0

    def value(self, end: str = "") -> str:
        """Up to an unquoted `end` character, which is eaten, or to the end of the text."""
        result = ""
        while self.position < len(self.text):
            char = self.take()
            if end and char == end:
                return result
            if char == "'":
                result += self.until("'")
            elif char == '"':
                result += self.double_quoted()
            elif char == "$":
                result += self.variable()
            elif char == self.escape:
                result += self.take()
            else:
                result += char
        if end:
            raise InvalidInput(f"syntax error: missing '{end}' in {self.text!r}")
        return result

    def take(self) -> str:
        char = self.text[self.position : self.position + 1]
        self.position += 1
        return char

    def until(self, end: str) -> str:
        stop = self.text.find(end, self.position)
        if stop < 0:
            raise InvalidInput(f"unexpected end of statement while looking for matching {end} in {self.text!r}")
        found, self.position = self.text[self.position : stop], stop + 1
        return found

    def double_quoted(self) -> str:
        result = ""
        while self.position < len(self.text):
            char = self.take()
            if char == '"':
                return result
            if char == "$":
                result += self.variable()
            elif char == self.escape:
                following = self.take()
                result += following if following in ('"', "$", self.escape) else char + following
            else:
                result += char
        raise InvalidInput(f"unexpected end of statement while looking for matching double-quote in {self.text!r}")

    def name(self) -> str:
        match = _NAME.match(self.text, self.position)
        if match is None:
            return ""
        self.position = match.end()
        return match.group()

    def variable(self) -> str:
        if self.text[self.position : self.position + 1] != "{":
            name = self.name()
            return self.variables.get(name, "") if name else "$"
        self.position += 1
        name, operator = self.name(), self.take()
        if not name or not operator:
            raise InvalidInput(f"syntax error: bad substitution in {self.text!r}")
        if operator == "}":
            return self.variables.get(name, "")
        if operator in "#%/":
            return self.pattern(name, operator)
        return self.default(name, operator)

    def default(self, name: str, operator: str) -> str:
        """`${v:-w} ${v-w} ${v:+w} ${v+w} ${v:?w} ${v?w}`: with a colon, an empty value counts as unset."""
        colon = operator == ":"
        operator = self.take() if colon else operator
        if operator not in ("-", "+", "?"):
            raise InvalidInput(
                f"unsupported modifier ({':' if colon else ''}{operator}) in substitution: {self.text!r}"
            )
        word = self.value("}")
        current = self.variables.get(name)
        is_set = bool(current) if colon else current is not None
        if operator == "+":
            return word if is_set else ""
        if operator == "?" and not is_set:
            raise InvalidInput(f"{name}: {word or ('not allowed to be empty' if colon else 'not allowed to be unset')}")
        return (current or "") if is_set else (word if operator == "-" else "")

    def pattern(self, name: str, operator: str) -> str:
        """`${v#p} ${v##p} ${v%p} ${v%%p} ${v/p/r} ${v//p/r}`, patterns with `*`, `?` and `\\`."""
        twice = self.text[self.position : self.position + 1] == operator
        self.position += twice
        value = self.variables.get(name, "")
        if operator == "/":
            wanted, replacement = self.value("/"), self.value("}")
            return re.sub(_regex(wanted), lambda _: replacement, value, count=0 if twice else 1)
        wanted = self.value("}")
        cuts = range(len(value) + 1)
        if operator == "#":
            matcher = re.compile(_regex(wanted))
            fitting = [cut for cut in cuts if matcher.fullmatch(value[:cut])]
            return value[(fitting[-1] if twice else fitting[0]) :] if fitting else value
        matcher = re.compile(_regex(wanted))
        fitting = [cut for cut in cuts if matcher.fullmatch(value[cut:])]
        return value[: (fitting[0] if twice else fitting[-1])] if fitting else value


def _regex(pattern: str) -> str:
    """A shell pattern of `*` and `?` as a regular expression that is not anchored."""
    parts = re.split(r"([*?])", pattern)
    return "(?s:" + "".join({"*": ".*", "?": "."}.get(part, re.escape(part)) for part in parts) + ")"
