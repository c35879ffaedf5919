"""Go templates as docker's `--format` takes them: fields, pipelines, if, range, with, variables, docker's functions.

A template is parsed into a list of nodes; nodes render themselves against a scope. Source of the rules: Go's
text/template and
docker's templates package (json, split, join, title, lower, upper, pad, truncate, println).
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from layerfs._record import dataclass, field
from layerfs.cli.gotypes import Nil, field_of, show, sprintf, to_json
from layerfs.errors import InvalidInput

_ACTION = re.compile(r"\{\{(- )?((?:\"(?:\\.|[^\"\\])*\"|`[^`]*`|[^\"`])*?)( -)?\}\}", re.S)
_TOKEN = re.compile(
    r"""\s*(?:(?P<string>"(?:\\.|[^"\\])*"|`[^`]*`)|(?P<number>-?\d+(?:\.\d+)?)|(?P<field>(?:\$\w*|\))?(?:\.\w+)+|\$\w*|\.)"""
    r"""|(?P<word>[A-Za-z_]\w*)|(?P<op>:=|[|(),=]))"""
)


class _Missing(Exception):
    """A map has no such key."""


@dataclass
class _Scope:
    dot: Any
    variables: dict[str, Any] = field(default_factory=dict)

    def child(self, dot: Any) -> _Scope:
        return _Scope(dot, dict(self.variables))


_Render = Callable[[_Scope], str]
_Value = Callable[[_Scope], Any]


def _lookup(value: Any, names: Sequence[str]) -> Any:
    for name in names:
        if isinstance(value, Mapping):
            try:
                value = field_of(value, name)
            except KeyError:
                raise _Missing(f'map has no entry for key "{name}"') from None
        elif value is None or isinstance(value, Nil):
            raise _Missing(f"nil pointer evaluating .{name}")
        else:
            raise _Missing(f"can't evaluate field {name} in type {type(value).__name__}")
    return value


def _index(value: Any, *keys: Any) -> Any:
    for key in keys:
        if isinstance(value, Mapping):
            value = value[key] if key in value else _zero(value)
        elif isinstance(value, Nil) and value.text == "map[]":
            value = ""
        elif not isinstance(value, list | tuple | str | Nil):
            raise ValueError(f"can't index item of type {type(value).__name__}")
        elif not isinstance(key, int) or isinstance(key, bool):
            raise ValueError(f"cannot index slice/array with {key!r}")
        elif not 0 <= key < len(value):
            raise ValueError(f"index out of range: {key}")
        else:
            value = value.encode()[key] if isinstance(value, str) else value[key]  # type: ignore[index]
    return value


def _zero(value: Mapping[str, Any]) -> Any:
    """What a map has for a key that it has not: of texts, one without letters."""
    return "" if all(isinstance(each, str) for each in value.values()) else Nil("[]")


def _slice(value: Any, *ends: int) -> Any:
    first, last = (*ends, *(0, len(value))[len(ends) :])[:2] if len(ends) < 2 else ends[:2]
    if isinstance(value, Mapping) or not 0 <= first <= last <= len(value):
        raise ValueError(f"index out of range: {last}")
    return list(value)[first:last] if isinstance(value, Nil) else value[first:last]


def _len(value: Any) -> int:
    return len(value.encode("utf-8", "surrogateescape")) if isinstance(value, str) else len(value)


def _escaped(text: Any) -> str:
    import html

    return html.escape(show(text)).replace("&quot;", "&#34;").replace("&#x27;", "&#39;")


def _query(text: Any) -> str:
    from urllib.parse import quote_plus

    return quote_plus(show(text))


_FUNCTIONS: dict[str, Callable[..., Any]] = {
    "json": to_json,
    "split": lambda text, separator: text.split(separator),
    "join": lambda items, separator: separator.join(show(i) for i in items),
    "title": lambda text: text.title(),
    "lower": lambda text: text.lower(),
    "upper": lambda text: text.upper(),
    "pad": lambda text, left, right: " " * left + text + " " * right if text else text,
    "truncate": lambda text, length: text[:length],
    "print": lambda *v: "".join(map(show, v)),
    "println": lambda *v: " ".join(map(show, v)) + "\n",
    "printf": sprintf,
    "html": _escaped,
    "urlquery": _query,
    "len": _len,
    "index": _index,
    "slice": _slice,
    "eq": lambda a, *b: a in b,
    "ne": lambda a, b: a != b,
    "lt": lambda a, b: a < b,
    "le": lambda a, b: a <= b,
    "gt": lambda a, b: a > b,
    "ge": lambda a, b: a >= b,
    "not": lambda v: not v,
}


def _unquote(text: str) -> str:
    if text.startswith("`"):
        return text[1:-1]
    try:
        return str(json.loads(text.replace("\n", "\\n")))
    except ValueError:
        raise InvalidInput(f"template parsing error: bad string {text}") from None


class _Tokens:
    """The tokens of one action."""

    def __init__(self, text: str) -> None:
        self._items: list[tuple[str, str]] = []
        position, text = 0, text.rstrip()
        while position < len(text):
            match = _TOKEN.match(text, position)
            if match is None or match.end() == position:
                raise InvalidInput(f"template parsing error: unexpected {text[position:].strip()!r}")
            kind = match.lastgroup or ""
            value = match[kind]
            if kind == "field" and value.startswith(")"):  # ")" and the fields behind it
                self._items.append(("op", ")"))
                value = value[1:]
            self._items.append((kind, value))
            position = match.end()
        self._at = 0

    def peek(self) -> tuple[str, str] | None:
        return self._items[self._at] if self._at < len(self._items) else None

    def next(self) -> tuple[str, str] | None:
        item = self.peek()
        self._at += item is not None
        return item

    def take(self, text: str) -> bool:
        if (item := self.peek()) is not None and item[1] == text and item[0] in ("op", "word"):
            self._at += 1
            return True
        return False

    def variables(self) -> list[str]:
        """`$a, $b :=` at the front, if it is there."""
        start, names = self._at, []
        while (item := self.peek()) is not None and item[0] == "field" and re.fullmatch(r"\$\w+", item[1]):
            names.append(self.next()[1])  # type: ignore[index]
            if self.take(":=") or self.take("="):
                return names
            if not self.take(","):
                break
        self._at = start
        return []


def _field(text: str) -> _Value:
    head, *names = text.split(".")
    names = [n for n in names if n]
    if not head:
        return lambda scope: _lookup(scope.dot, names)

    def variable(scope: _Scope) -> Any:
        if head not in scope.variables:
            raise _Missing(f"undefined variable {head!r}")
        return _lookup(scope.variables[head], names)

    return variable


def _operand(tokens: _Tokens) -> tuple[_Value, str | None]:
    """A value, and the function's name when it is one."""
    kind, text = tokens.next() or ("", "")
    if text == "(" and kind == "op":
        inner = _pipeline(tokens)
        if not tokens.take(")"):
            raise InvalidInput("template parsing error: unclosed left parenthesis")
        if (item := tokens.peek()) is not None and item[0] == "field" and item[1].startswith(".") and len(item[1]) > 1:
            names = [n for n in tokens.next()[1].split(".") if n]  # type: ignore[index]
            return (lambda scope: _lookup(inner(scope), names)), None
        return inner, None
    if kind == "string":
        value: Any = _unquote(text)
        return (lambda _: value), None
    if kind == "number":
        number = float(text) if "." in text else int(text)
        return (lambda _: number), None
    if kind == "field":
        return _field(text), None
    if kind == "word" and text in ("true", "false", "nil"):
        constant = {"true": True, "false": False, "nil": None}[text]
        return (lambda _: constant), None
    if kind == "word" and (text in _FUNCTIONS or text in _LAZY):
        return (lambda _: None), text
    raise InvalidInput(
        f'template parsing error: function "{text}" not defined'
        if kind == "word"
        else "template parsing error: missing value"
    )


def _bare(name: str) -> _Value:
    return lambda _: _FUNCTIONS[name]()


def _literal(text: str) -> _Render:
    return lambda _: text


def _command(tokens: _Tokens, piped: _Value | None) -> _Value:
    first, function = _operand(tokens)
    arguments: list[_Value] = []
    while (item := tokens.peek()) is not None and (item[0] != "op" or item[1] == "("):
        value, nested = _operand(tokens)
        arguments.append(value if nested is None else _bare(nested))
    if piped is not None:
        arguments.append(piped)
    if function is None:
        if arguments:
            raise InvalidInput("template parsing error: can't give argument to non-function")
        return first
    if function in _LAZY:
        return _lazily(function, arguments)
    call = _FUNCTIONS[function]

    def invoke(scope: _Scope) -> Any:
        values = [a(scope) for a in arguments]
        try:
            return call(*values)
        except (TypeError, ValueError, AttributeError) as error:
            raise _Missing(f"error calling {function}: {error}") from None

    return invoke


_LAZY = ("and", "or")


def _lazily(function: str, arguments: Sequence[_Value]) -> _Value:
    """`and` and `or` look no further than they have to."""
    if not arguments:
        raise InvalidInput(f"template parsing error: wrong number of args for {function}: want at least 1 got 0")

    def invoke(scope: _Scope) -> Any:
        for argument in arguments[:-1]:
            value = argument(scope)
            if bool(value) == (function == "or"):
                return value
        return arguments[-1](scope)

    return invoke


def _pipeline(tokens: _Tokens) -> _Value:
    value = _command(tokens, None)
    while tokens.take("|"):
        value = _command(tokens, value)
    return value


class _Parser:
    def __init__(self, text: str) -> None:
        self._parts = list(self._split(text))
        self._at = 0

    @staticmethod
    def _split(text: str) -> Iterator[tuple[str, str]]:
        position, trim = 0, False
        for match in _ACTION.finditer(text):
            literal = text[position : match.start()]
            literal = literal.lstrip() if trim else literal
            yield "text", literal.rstrip() if match[1] else literal
            yield "action", match[2].strip()
            position, trim = match.end(), bool(match[3])
        tail = text[position:]
        if "{{" in tail:
            raise InvalidInput("template parsing error: unclosed action")
        yield "text", tail.lstrip() if trim else tail

    def block(self, ends: tuple[str, ...] = ()) -> tuple[list[_Render], str]:
        """Nodes up to one of `ends`, and the action that ended them."""
        nodes: list[_Render] = []
        while self._at < len(self._parts):
            kind, text = self._parts[self._at]
            self._at += 1
            word = text.split(maxsplit=1)[0] if text.split() else ""
            if kind == "text":
                nodes.append(_literal(text))
            elif word in ends:
                return nodes, text
            elif not text.startswith("/*"):
                nodes.append(self._action(word, text))
        if ends:
            raise InvalidInput("template parsing error: unexpected EOF")
        return nodes, ""

    def _action(self, word: str, text: str) -> _Render:
        if word in ("if", "with", "range"):
            return self._control(word, text[len(word) :])
        if text in ("break", "continue"):
            return _leave(text)
        if word in ("end", "else"):
            raise InvalidInput(f"template parsing error: unexpected {{{{{word}}}}}")
        tokens = _Tokens(text)
        names = tokens.variables()
        value = _whole(tokens)
        if not names:
            return lambda scope: show(value(scope))

        def assign(scope: _Scope) -> str:
            scope.variables[names[0]] = value(scope)
            return ""

        return assign

    def _control(self, word: str, condition: str) -> _Render:
        tokens = _Tokens(condition)
        names = tokens.variables()
        value = _whole(tokens)
        body, ended = self.block(("end", "else"))
        otherwise: list[_Render] = []
        if ended.startswith("else"):
            rest = ended[4:].strip()
            if rest:
                otherwise = [self._action(rest.split()[0], rest)]
            else:
                otherwise, _ = self.block(("end",))
        return {"if": _if, "with": _with, "range": _range}[word](value, names, body, otherwise)


def _whole(tokens: _Tokens) -> _Value:
    value = _pipeline(tokens)
    if (item := tokens.peek()) is not None:
        raise InvalidInput(f"template parsing error: unexpected {item[1]!r}")
    return value


class _Leave(Exception):
    """`break` or `continue`, with what its round has written."""

    def __init__(self, word: str) -> None:
        super().__init__(word)
        self.word, self.text = word, ""


def _leave(word: str) -> _Render:
    def render(_: _Scope) -> str:
        raise _Leave(word)

    return render


def _render(nodes: list[_Render], scope: _Scope) -> str:
    texts: list[str] = []
    for node in nodes:
        try:
            texts.append(node(scope))
        except _Leave as leave:
            leave.text = "".join(texts) + leave.text
            raise
    return "".join(texts)


def _if(value: _Value, names: list[str], body: list[_Render], otherwise: list[_Render]) -> _Render:
    return lambda scope: _render(body if value(scope) else otherwise, scope)


def _with(value: _Value, names: list[str], body: list[_Render], otherwise: list[_Render]) -> _Render:
    def render(scope: _Scope) -> str:
        dot = value(scope)
        if not dot:
            return _render(otherwise, scope)
        inner = scope.child(dot)
        inner.variables.update(dict.fromkeys(names, dot))
        return _render(body, inner)

    return render


_ROUNDS = 1_000_000


def _range(value: _Value, names: list[str], body: list[_Render], otherwise: list[_Render]) -> _Render:
    def render(scope: _Scope) -> str:
        items = value(scope)
        if isinstance(items, int) and not isinstance(items, bool):
            items = range(min(items, _ROUNDS))
        if not isinstance(items, Mapping | list | tuple | range | Nil):
            if items:
                raise _Missing(f"range can't iterate over {show(items)}")
            items = ()
        pairs = sorted(items.items()) if isinstance(items, Mapping) else list(enumerate(items))
        out: list[str] = []
        for key, item in pairs:
            inner = scope.child(item)
            if len(names) == 2:
                inner.variables.update({names[0]: key, names[1]: item})
            elif names:
                inner.variables[names[0]] = item
            try:
                out.append(_render(body, inner))
            except _Leave as leave:
                out.append(leave.text)
                if leave.word == "break":
                    break
        return "".join(out) if pairs else _render(otherwise, scope)

    return render


class Template:
    """A parsed template. `Template(text)(value)` renders it.

    Raises:
        InvalidInput: `template parsing error: …` with Go's words, at parsing or when a field does not exist.
    """

    def __init__(self, text: str) -> None:
        try:
            self._nodes, _ = _Parser(text).block()
        except RecursionError:
            raise InvalidInput("template parsing error: too many levels") from None

    def __call__(self, value: Any) -> str:
        try:
            return _render(self._nodes, _Scope(value, {"$": value}))
        except _Missing as error:
            raise InvalidInput(f"template parsing error: {error}") from None
        except _Leave as leave:
            raise InvalidInput(f"template parsing error: {{{{{leave.word}}}}} outside {{{{range}}}}") from None
