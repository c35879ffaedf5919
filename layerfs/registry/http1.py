"""Answers of HTTP/1 servers (RFC 9112), read from a socket. What is not clear is an error, never a guess.

The standard library's reader loads `email`, takes three times as long for a header, and believes in lengths such as
`+5` and `1_0`, in codings that it does not know, and in chunks whose end is elsewhere.
"""

from __future__ import annotations

import socket
import time
from collections.abc import Iterable

from layerfs._lazy import TYPE_CHECKING, pattern
from layerfs.registry.pace import Pace

if TYPE_CHECKING:
    from typing import Any

LINE_MAX = 1 << 16  # of what follows the last chunk; a whole header is measured by `Pace`
FIELDS_MAX = 100
CHUNK_LINE_MAX = 1 << 10
_PIECE = 1 << 13
_STATUS = pattern(r"HTTP/1\.([0-9]) ([1-9][0-9]{2})(?: .*)?\Z")
_NAME = pattern(r"[!#$%&'*+\-.^_`|~0-9A-Za-z]+\Z")
_LENGTH = pattern(r"[0-9]{1,18}\Z")
_EMPTY_LINE = pattern(rb"\n\r?\n")  # which may be bare LFs (2.2)
_CHUNK = pattern(rb"([0-9A-Fa-f]{1,15})[ \t]*(?:;[^\r]*)?\r\n\Z")


class ProtocolError(OSError):
    """What came is not HTTP, or may mean more than one thing."""


class CutOff(ProtocolError):
    """The connection ended before the answer did."""


class Headers:
    """An answer's headers; names in any case."""

    def __init__(self, pairs: Iterable[tuple[str, str]]) -> None:
        self._values: dict[str, list[str]] = {}
        for name, value in pairs:
            self._values.setdefault(name.lower(), []).append(value)

    def get(self, name: str, default: Any = None) -> Any:
        """The value; several are one, with commas."""
        values = self._values.get(name.lower())
        return ", ".join(values) if values else default

    def getlist(self, name: str) -> list[str]:
        return self._values.get(name.lower(), [])

    def words(self, name: str) -> list[str]:
        """The members of a list, in small letters."""
        return [word.strip(" \t").lower() for value in self.getlist(name) for word in value.split(",")]


class Message:
    """An answer, of which the header is read here and the body by `read1`. What is sent before it (1xx) is skipped.

    Raises (as `read1` does):
        ProtocolError, TooSlow, HeadTooLong; OSError.
    """

    def __init__(self, sock: socket.socket, method: str) -> None:
        self._stream = _Stream(sock)
        self.status = 0
        while self.status < 200:
            first, *rest = self._stream.head()
            minor, self.status = _status(first)
            self.headers = _fields(rest)
            if self.status == 101:
                raise ProtocolError("another protocol, for which nobody asked")
        self._stream.pace.body()
        self._in_chunk = False
        self._chunked, self._left = _framing(self.headers)
        if method == "HEAD" or self.status in (204, 304):
            self._chunked, self._left = False, 0
        self._persists = self._left is not None and _persists(self.headers, minor)

    @property
    def is_empty(self) -> bool:
        """There is no body, or it is over."""
        return self._left == 0 and not self._chunked

    @property
    def is_reusable(self) -> bool:
        """All is read, nothing came after it, and another request may follow."""
        return self._persists and self.is_empty and self._stream.is_empty

    def read1(self, count: int) -> bytes:
        """The next bytes of the body that have come, at most so many; none at its end."""
        if self._chunked and not self._left:
            self._next_chunk()
        data = self._stream.some(count if self._left is None else min(count, self._left))
        if self._left is not None:
            if not data and count and self._left:
                raise CutOff(f"the connection ended {self._left} bytes too early")
            self._left -= len(data)
        return data

    def _next_chunk(self) -> None:
        if self._in_chunk and self._stream.line(CHUNK_LINE_MAX) != b"\r\n":
            raise ProtocolError("a chunk that is longer than it said")
        self._in_chunk = True
        match = _CHUNK.match(line := self._stream.line(CHUNK_LINE_MAX))
        if match is None:
            raise ProtocolError(f"no size of a chunk: {_shown(line)}")
        self._left = int(match[1], 16)
        if not self._left:
            _fields(self._stream.trailers())
            self._chunked = False


def _framing(headers: Headers) -> tuple[bool, int | None]:
    """Whether the body comes in chunks, and how many bytes are left of it, or of the first chunk; None: until the end
    of the connection.
    """
    codings, lengths = headers.words("Transfer-Encoding"), set(headers.words("Content-Length"))
    if codings:
        if codings != ["chunked"]:
            raise ProtocolError(f"a coding that is not known: {_shown(', '.join(codings))}")
        return True, 0
    if not lengths:
        return False, None
    if len(lengths) > 1:
        raise ProtocolError("several lengths of one answer")
    length = lengths.pop()
    if not _LENGTH.match(length):
        raise ProtocolError(f"no length: {_shown(length)}")
    return False, int(length)


def _persists(headers: Headers, minor: int) -> bool:
    """With both a length and chunks somebody on the way may have seen another end (RFC 9112, 6.3)."""
    said = headers.words("Connection")
    both = headers.getlist("Transfer-Encoding") and (minor == 0 or headers.getlist("Content-Length"))
    return not both and "close" not in said and (minor > 0 or "keep-alive" in said)


def _lines(data: bytes | bytearray) -> list[str]:
    text = str(data, "latin-1").replace("\r\n", "\n").removesuffix("\r")
    if "\r" in text or "\0" in text:
        raise ProtocolError(f"malformed header {_shown(text)}")
    return text.split("\n")


def _status(line: str) -> tuple[int, int]:
    """The minor version, and the status."""
    match = _STATUS.match(line)
    if match is None:
        raise ProtocolError(f"malformed HTTP response {_shown(line)}")
    return int(match[1]), int(match[2])


def _fields(lines: list[str]) -> Headers:
    if len(lines) > FIELDS_MAX:
        raise ProtocolError(f"more than {FIELDS_MAX} headers")
    pairs: list[tuple[str, str]] = []
    for line in lines:
        name, colon, value = line.partition(":")
        if line[:1] in (" ", "\t") and pairs:  # a value of several lines, as there were once (5.2)
            name, value = pairs.pop()
            value += " " + line.strip(" \t")
        elif not colon or not _NAME.match(name):
            raise ProtocolError(f"malformed header {_shown(line)}")
        pairs.append((name, value.strip(" \t")))
    return Headers(pairs)


class _Stream:
    """What comes by a socket, by lines and pieces, and no slower than `pace` says."""

    def __init__(self, sock: socket.socket) -> None:
        self._sock = sock
        self.pace = Pace(sock.gettimeout())
        self._buffer, self._at = bytearray(), 0

    @property
    def is_empty(self) -> bool:
        return self._at == len(self._buffer)

    def head(self) -> list[str]:
        """The lines up to an empty one, without their ends."""
        end, start = None, self._at
        while end is None:
            end = _EMPTY_LINE.search(self._buffer, start)
            if end is None:
                start = max(0, len(self._buffer) - self._at - 2)
                self._fill()
        head = self._buffer[self._at : end.start()]
        self._at = end.end()
        return _lines(head)

    def trailers(self) -> list[str]:
        """What follows the last chunk, as `head`."""
        found: list[str] = []
        while (line := self.line(LINE_MAX)) not in (b"\r\n", b"\n"):
            if len(found) == FIELDS_MAX:
                raise ProtocolError(f"more than {FIELDS_MAX} headers")
            found += _lines(line[:-1])
        return found

    def line(self, limit: int) -> bytes:
        """Up to LF, and with it."""
        end = self._buffer.find(b"\n", self._at)
        while end < 0:
            if (length := len(self._buffer) - self._at) >= limit:
                break
            self._fill()
            end = self._buffer.find(b"\n", length)
        if end < 0 or end - self._at >= limit:
            raise ProtocolError(f"a line of more than {limit} bytes")
        line = bytes(self._buffer[self._at : end + 1])
        self._at = end + 1
        return line

    def _fill(self) -> None:
        """More into the buffer, from which what was read goes first."""
        del self._buffer[: self._at]
        self._at = 0
        data = self._receive(_PIECE)
        if not data:
            raise CutOff("the connection ended in a header" if self._buffer else "the connection ended")
        self._buffer += data

    def some(self, count: int) -> bytes:
        """The next bytes, at most so many; none at the end of the connection."""
        if self.is_empty:
            return self._receive(count) if count else b""
        data = bytes(self._buffer[self._at : self._at + count])
        self._at += len(data)
        return data

    def _receive(self, count: int) -> bytes:
        began = time.monotonic()
        data = self._sock.recv(count)
        self.pace.count(len(data), time.monotonic() - began)
        return data


def _shown(what: str | bytes) -> str:
    """For an error, which is one line."""
    return repr(what[:100])
