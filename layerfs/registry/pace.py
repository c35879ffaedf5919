"""Reading from a server that may take its time, but not for ever: neither in silence nor a byte at a time."""

from __future__ import annotations

SLOWEST = 16 << 10  # bytes that must come in the time in which a silent connection is given up
_HEAD_MAX = 1 << 20  # bytes of a header, and of all the interim ones before it


class TooSlow(TimeoutError):
    """Next to nothing came for as long as nothing at all is waited for."""


class HeadTooLong(OSError):
    """A header that has no end."""


class Pace:
    """Of an answer: first its header, which has to be whole in time, then, after `body`, what follows.

    Only the time in which we wait counts: who reads slowly is not the server's fault.

    Args:
        seconds: after which a silent connection is given up; None: never.
    """

    def __init__(self, seconds: float | None) -> None:
        self._seconds = seconds
        self._in_head, self._got, self._waited = True, 0, 0.0

    def body(self) -> None:
        """The header is over."""
        self._in_head, self._got, self._waited = False, 0, 0.0

    def count(self, got: int, waited: float) -> None:
        """So many bytes came, after so many seconds. Raises TooSlow, HeadTooLong; not at the end."""
        self._waited += waited
        self._got += got
        if not got:
            return
        if self._in_head and self._got > _HEAD_MAX:
            raise HeadTooLong(f"a header of more than {_HEAD_MAX} bytes")
        if self._seconds is None or self._waited < self._seconds:
            return
        if self._in_head or self._got < SLOWEST:
            raise TooSlow(f"too slow: {self._got} bytes in {self._waited:.0f} seconds")
        self._got, self._waited = 0, 0.0
