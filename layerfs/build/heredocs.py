"""Which heredocs an instruction's line opens: `<<EOF`, `<<-"EOF"`, `3<<EOF`."""

from __future__ import annotations

import re
from collections.abc import Mapping

from layerfs.build.expand import Rules, expand
from layerfs.build.instructions import Heredoc
from layerfs.errors import InvalidDockerfile

_FORM = re.compile(r"(\d*)<<(-?)\s*([^<]*)\Z", re.ASCII)
_LINE = Rules(keep_quotes=True, keep_escapes=True, keep_unset=True)
_QUOTED = Rules(keep_quotes=True, keep_unset=True)
_PLAIN = Rules(keep_unset=True)
_NOTHING: Mapping[str, str] = {}


def opened(line: str) -> tuple[Heredoc, ...]:
    """The heredocs of a line, in order, without bodies; a line that is no list of words opens none.

    Raises:
        InvalidDockerfile: a delimiter whose quotes do not close.
    """
    if "<<" not in line:
        return ()
    try:
        words = expand(line, _NOTHING, _LINE).words
    except InvalidDockerfile:
        return ()
    return tuple(found for word in words if (found := parse(word)) is not None)


def parse(word: str) -> Heredoc | None:
    """A word as a heredoc, or None."""
    match = _FORM.match(word)
    if match is None or not match[3]:
        return None
    plain = expand(match[3], _NOTHING, _PLAIN).words
    if len(plain) != 1:
        return None
    raw = expand(match[3], _NOTHING, _QUOTED).words
    quoted = len(raw) == 1 and _quotes(raw[0]) != _quotes(plain[0])
    return Heredoc(plain[0], expand=not quoted, chomp=bool(match[2]), descriptor=int(match[1][:9] or "0"))


def attempt(word: str) -> Heredoc | None:
    """`parse`, for words that may be anything."""
    try:
        return parse(word)
    except InvalidDockerfile:
        return None


def _quotes(text: str) -> int:
    return text.count("'") + text.count('"')
