"""Options of commands as data, and a parser for command lines that are as they should be.

`run` has nearly a hundred options; making click's objects of them, and loading click, takes longer than starting a
container. So a line that this parser understands is run at once. Any other goes to click, which has the same table: for
help, for completion, and to say what is wrong.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping, Sequence

from layerfs._lazy import TYPE_CHECKING
from layerfs._record import dataclass

if TYPE_CHECKING:
    from typing import Any

    from layerfs.cli.session import Session

_TRUE, _FALSE = {"1", "t", "true"}, {"0", "f", "false"}


@dataclass(frozen=True, slots=True)
class Flag:
    """`words`: how it is written; `name`: of its value; `attributes`: as click.option takes them."""

    words: tuple[str, ...]
    name: str
    attributes: Mapping[str, Any]

    @property
    def default(self) -> Any:
        if self.attributes.get("multiple"):
            variable = os.environ.get(self.attributes.get("envvar", ""), "")
            return tuple(variable.split())
        return self.attributes.get("default", False if self.attributes.get("is_flag") else None)


def option(*words: str, **attributes: Any) -> Flag:
    """`click.option` for the table: `-e`, `--env`, and a name without dashes when its value has another one."""
    own = [word for word in words if not word.startswith("-")]
    long = max(words, key=len).partition("/")[0]
    name = own[0] if own else long.lstrip("-").replace("-", "_")
    return Flag(tuple(word for word in words if word.startswith("-")), name, attributes)


@dataclass(frozen=True, slots=True)
class Plain:
    """A verb that needs no click. `do` gets the words that are no options, `least` to `most` of them; `mixed`: options
    may stand behind them."""

    flags: Sequence[Flag]
    do: Callable[[Session, Sequence[str], dict[str, Any]], int | None]
    least: int = 1
    most: int | None = None
    mixed: bool = True


class Unclear(Exception):
    """For click to say what it is."""


def pairs_of(values: Iterable[str]) -> dict[str, list[str]]:
    """`NAME=VALUE` texts as a dict of lists. Raises ValueError with the text that is none."""
    result: dict[str, list[str]] = {}
    for value in values:
        name, equals, rest = value.partition("=")
        if not equals:
            raise ValueError(value)
        result.setdefault(name.strip().lower(), []).append(rest.strip())
    return result


def parse(arguments: Sequence[str], flags: Sequence[Flag], *, mixed: bool = False) -> tuple[dict[str, Any], list[str]]:
    """The values of all options by name, and the other words: from the first one on all of them are, unless `mixed`.

    Raises:
        Unclear: the line is wrong, or asks for help.
    """
    known: dict[str, tuple[Flag, bool]] = {}
    values: dict[str, Any] = {}
    for flag in flags:
        values[flag.name] = flag.default
        for word in flag.words:
            yes, _, no = word.partition("/")
            known[yes] = (flag, True)
            if no:
                known[no] = (flag, False)
    given: dict[str, list[str]] = {}
    words: list[str] = []
    rest = list(arguments)
    while rest and (mixed or _is_option(rest[0])):
        word = rest.pop(0)
        if word == "--":
            break
        if not _is_option(word):
            words.append(word)
            continue
        if word.startswith("--"):
            name, equals, value = word.partition("=")
            _take(known, values, given, name, value if equals else None, rest)
        else:
            _take_short(known, values, given, word[1:], rest)
    values |= {name: tuple(each) for name, each in given.items()}
    for flag in flags:
        if flag.attributes.get("pairs"):
            try:
                values[flag.name] = pairs_of(values[flag.name])
            except ValueError:
                raise Unclear from None
    return values, words + rest


def _is_option(word: str) -> bool:
    return word.startswith("-") and word != "-"


def _take_short(
    known: Mapping[str, tuple[Flag, bool]],
    values: dict[str, Any],
    given: dict[str, list[str]],
    letters: str,
    rest: list[str],
) -> None:
    """`-it`, `-eA=1`: several flags in one word, of which the last may have a value."""
    while letters:
        name, letters = f"-{letters[0]}", letters[1:]
        if name in known and known[name][0].attributes.get("is_flag"):
            _take(known, values, given, name, None, rest)
            continue
        if letters.startswith("="):
            raise Unclear
        _take(known, values, given, name, letters or None, rest)
        return


def _take(
    known: Mapping[str, tuple[Flag, bool]],
    values: dict[str, Any],
    given: dict[str, list[str]],
    word: str,
    value: str | None,
    rest: list[str],
) -> None:
    if word not in known:
        raise Unclear
    flag, positive = known[word]
    if flag.attributes.get("is_flag") or "/" in flag.words[0]:
        if value is not None and value.lower() not in _TRUE | _FALSE:
            raise Unclear
        values[flag.name] = (value is None or value.lower() in _TRUE) == positive
        return
    if value is None:
        if not rest:
            raise Unclear
        value = rest.pop(0)
    if flag.attributes.get("multiple"):
        given.setdefault(flag.name, []).append(value)
    else:
        values[flag.name] = _converted(flag, value)


def _converted(flag: Flag, value: str) -> Any:
    kind: Any = flag.attributes.get("type")
    if kind is int:
        try:
            return int(value)
        except ValueError:
            raise Unclear from None
    choices: Callable[[], Sequence[str]] | None = flag.attributes.get("choices")
    if choices is not None and value not in choices():
        raise Unclear
    return value
