"""Reading from a server that may take its time, but not for ever: neither in silence nor a byte at a time."""

from __future__ import annotations

import io
import socket
import time

from layerfs._lazy import TYPE_CHECKING, cast

if TYPE_CHECKING:
    from typing import Any

SLOWEST = 16 << 10  # bytes that must come in the time in which a silent connection is given up
_HEAD_MAX = 1 << 20  # bytes of a header, and of all the interim ones before it


class TooSlow(TimeoutError):
    """Next to nothing came for as long as nothing at all is waited for."""


class HeadTooLong(OSError):
    """A header that has no end."""


class PacedReader(io.RawIOBase):
    """A socket's bytes: first an answer's header, which has to be whole in time, then, after `body`, what follows.

    Only the time in which we wait counts: who reads slowly is not the server's fault.
    """

    def __init__(self, sock: socket.socket) -> None:
        self._raw = cast(io.RawIOBase, sock.makefile("rb", buffering=0))
        self._seconds = sock.gettimeout()
        self._in_head, self._got, self._waited = True, 0, 0.0

    def body(self) -> None:
        """The header is over."""
        self._in_head, self._got, self._waited = False, 0, 0.0

    def makefile(self, mode: str) -> io.BufferedReader:
        """As sockets have it."""
        return io.BufferedReader(self)

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any, /) -> int | None:
        began = time.monotonic()
        count = self._raw.readinto(buffer)
        self._waited += time.monotonic() - began
        self._got += count or 0
        if count:
            self._judge()
        return count

    def _judge(self) -> None:
        if self._in_head and self._got > _HEAD_MAX:
            raise HeadTooLong(f"a header of more than {_HEAD_MAX} bytes")
        if self._seconds is None or self._waited < self._seconds:
            return
        if self._in_head or self._got < SLOWEST:
            raise TooSlow(f"too slow: {self._got} bytes in {self._waited:.0f} seconds")
        self._got, self._waited = 0, 0.0

    def close(self) -> None:
        if not self.closed:
            self._raw.close()
        super().close()
