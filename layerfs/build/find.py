"""Names in a source: links followed as they would be inside it, `..` stopping at its root, and wildcards."""

from __future__ import annotations

import re
from collections.abc import Iterator
from functools import lru_cache

from layerfs.build.files import Files, Item
from layerfs.errors import InvalidInput

_LINKS_MAX = 255
_WILD = re.compile(rb"(?<!\\)(?:\\\\)*[*?\[]")


def find(files: Files, path: bytes, *, start: Item | None = None) -> Item | None:
    """What is at a path, all links followed. None: nothing, or a link that leads to nothing."""
    stack = [files.root]
    parts = [*reversed(path.split(b"/")), *reversed(start.path.split(b"/") if start else [])]
    links = 0
    while parts:
        name = parts.pop()
        if name in (b"", b"."):
            continue
        if name == b"..":
            if len(stack) > 1:
                stack.pop()
            continue
        if not stack[-1].is_dir:
            return None
        item = files.child(stack[-1], name)
        if item is None:
            return None
        if not item.is_link:
            stack.append(item)
            continue
        links += 1
        if links > _LINKS_MAX:
            raise InvalidInput("too many levels of symbolic links", path=b"/" + path)
        target = files.readlink(item)
        if target.startswith(b"/"):
            del stack[1:]
        parts += reversed(target.split(b"/"))
    return stack[-1]


def is_wild(path: bytes) -> bool:
    return _WILD.search(path) is not None


def matches(files: Files, pattern: bytes) -> list[tuple[bytes, Item]]:
    """What a pattern names: the path as it was found, and the file (a link there is followed). In byte order."""
    parts = [part for part in pattern.split(b"/") if part not in (b"", b".")]
    first = next((index for index, part in enumerate(parts) if is_wild(part)), len(parts))
    head = [unescaped(part) for part in parts[:first]]
    base = find(files, b"/".join(head))
    if base is None:
        return []
    if first == len(parts):
        return [(b"/".join(head), base)]
    found = []
    for path, item in _match(files, base, parts[first:]):
        place = b"/".join([*head, path])
        if item.is_link:
            followed = find(files, item.path)
            if followed is None:
                raise InvalidInput("the link leads to nothing in its source", path=b"/" + place)
            item = followed
        found.append((place, item))
    return sorted(dict(found).items())


def _match(files: Files, directory: Item, parts: list[bytes]) -> Iterator[tuple[bytes, Item]]:
    if not directory.is_dir:
        return
    part, rest = parts[0], parts[1:]
    if part == b"**":
        yield from _match(files, directory, rest) if rest else ()
    for item in files.children(directory):
        name = item.name
        if part == b"**":
            if not rest:
                yield name, item
            elif item.is_dir:
                yield from ((name + b"/" + path, found) for path, found in _match(files, item, parts))
        elif component(part).fullmatch(name):
            if not rest:
                yield name, item
            else:
                yield from ((name + b"/" + path, found) for path, found in _match(files, item, rest))


def unescaped(part: bytes) -> bytes:
    return re.sub(rb"\\(.)", rb"\1", part, flags=re.DOTALL)


@lru_cache(256)
def component(pattern: bytes) -> re.Pattern[bytes]:
    """One component of a Go pattern: `*` and `?` within it, `[…]`, `\\`. Raises InvalidInput for one that is none."""
    result, at = b"", 0
    while at < len(pattern):
        char = pattern[at : at + 1]
        at += 1
        if char == b"*":
            result += b"[^/]*"
        elif char == b"?":
            result += b"(?:[\xc0-\xff][\x80-\xbf]+|[^/])"  # a character may be several bytes
        elif char == b"[":
            text, at = _class(pattern, at)
            result += text
        elif char == b"\\":
            if at == len(pattern):
                raise _bad(pattern)
            result += re.escape(pattern[at : at + 1])
            at += 1
        else:
            result += re.escape(char)
    return re.compile(result, re.DOTALL)


def _class(pattern: bytes, at: int) -> tuple[bytes, int]:
    negated = pattern[at : at + 1] == b"^"
    at += negated
    result, first = b"", True
    while True:
        char = pattern[at : at + 1]
        if not char:
            raise _bad(pattern)
        at += 1
        if char == b"]" and not first:
            break
        if char == b"\\":
            char = re.escape(pattern[at : at + 1])
            at += 1
            if not char:
                raise _bad(pattern)
            result += char
        elif char == b"-" and first:
            raise _bad(pattern)
        else:
            result += char if char == b"-" else re.escape(char)
        first = False
    try:
        text = b"[" + (b"^/" if negated else b"") + result + b"]"
        re.compile(text)
    except re.error:
        raise _bad(pattern) from None
    return text, at


def _bad(pattern: bytes) -> InvalidInput:
    return InvalidInput(f"syntax error in pattern: {pattern.decode(errors='replace')}")
