"""Something that a thread does beside what comes next. Nobody waits for its start, which takes as long as all else that
a rollback does in Python; but the end of the interpreter waits for its end."""

from __future__ import annotations

import _thread
import atexit
import os
from collections.abc import Callable

from layerfs._threads import LISTEN

__all__ = ["Beside"]

_going: set[Beside] = set()


class Beside:
    """One such thread. Where none is to be had, the action is over when this returns."""

    def __init__(self, action: Callable[[], object]) -> None:
        self._action, self._process = action, os.getpid()
        self._over = _thread.allocate_lock()
        self._over.acquire()
        _going.add(self)
        try:
            _thread.start_new_thread(self._run, ())
        except RuntimeError:
            self._run()

    def _run(self) -> None:
        try:
            self._action()
        finally:
            self._over.release()
            _going.discard(self)

    @property
    def going(self) -> bool:
        """Not in a forked child, which has no such thread."""
        return self._over.locked() and self._process == os.getpid()

    def wait(self) -> None:
        while self.going:
            if self._over.acquire(timeout=LISTEN):
                self._over.release()


@atexit.register
def _wait_for_all() -> None:
    for each in list(_going):
        each.wait()
