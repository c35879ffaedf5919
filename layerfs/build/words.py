"""How BuildKit splits an instruction's line: words, flags, exec form.

Nothing is expanded here and quotes stay in the words (`expand` takes them away), only flags lose theirs.
"""

from __future__ import annotations

import json
import re
from typing import NoReturn

from layerfs.build.problems import problem

# Go's unicode.IsSpace; Python's isspace() has four control characters more.
SPACES = "\t\n\v\f\r \x85\xa0\u1680\u2000\u2001\u2002\u2003\u2004\u2005\u2006\u2007\u2008\u2009\u200a"
SPACES += "\u2028\u2029\u202f\u205f\u3000"
_BLANKS = re.compile(r"[\t\v\f\r ]+")
_SURROGATE = re.compile("[\ud800-\udfff]")


def split_blanks(text: str, limit: int = 0) -> list[str]:
    """Split at runs of blanks, as FROM, EXPOSE, COPY and the old form of ENV have it (quotes mean nothing)."""
    return _BLANKS.split(text, limit)


def split_words(text: str, escape: str = "\\") -> list[str]:
    """Words as ENV, LABEL and ARG have them: quotes and escapes keep blanks together, and stay in the word."""
    words: list[str] = []
    word: list[str] = []
    quote = ""
    position = 0
    while position < len(text):
        char = text[position]
        if not quote and char in SPACES:
            if word:
                words.append("".join(word))
                word = []
        else:
            if char == escape and quote != "'":
                position += 1
                if position == len(text):
                    break  # an escape at the very end is dropped
                word.append(char)
                char = text[position]
            elif quote:
                quote = "" if char == quote else quote
            elif char in "'\"":
                quote = char
            word.append(char)
        position += 1
    return [*words, "".join(word)] if word else words


def split_flags(text: str, escape: str = "\\") -> tuple[list[str], str]:
    """The leading `--flags` (without quotes and escapes), and the rest; a bare `--` ends the flags."""
    flags: list[str] = []
    position = 0
    while True:
        while position < len(text) and text[position] in SPACES:
            position += 1
        if not text.startswith("--", position):
            return flags, text[position:].strip(SPACES)
        word, position = _flag(text, position, escape)
        if word == "--":
            return flags, text[position:].strip(SPACES)
        flags.append(word)


def _flag(text: str, position: int, escape: str) -> tuple[str, int]:
    word: list[str] = []
    quote = ""
    while position < len(text):
        char = text[position]
        if not quote and char in SPACES:
            break
        position += 1
        if char == quote:
            quote = ""
        elif not quote and char in "'\"":
            quote = char
        elif char == escape:
            word.append(text[position : position + 1])
            position += 1
        else:
            word.append(char)
    return "".join(word), min(position, len(text))


def exec_form(text: str) -> tuple[str, ...] | None:
    """The words of a JSON array of strings, or None when the text is no JSON array (shell form then).

    Raises:
        InvalidDockerfile: an array with something else than strings.
    """
    text = text.lstrip(SPACES)
    if not text.startswith("["):
        return None
    try:
        values = json.loads(text, parse_constant=_no_constant)
    except (ValueError, RecursionError):
        return None
    if not all(isinstance(value, str) for value in values):
        raise problem("when using JSON array syntax, arrays must be comprised of strings only", word=text)
    return tuple(_SURROGATE.sub("\ufffd", value) for value in values)


def _no_constant(name: str) -> NoReturn:
    raise ValueError(name)
