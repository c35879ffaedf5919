"""Running programs from asyncio: the call goes on in a thread of its own, so that many waits do not share a pool; a
cancelled await ends the program, and waits for that end.
"""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import Callable
from typing import Any, TypeVar

T = TypeVar("T")


async def in_thread(call: Callable[[], T], cancel: Callable[[], object]) -> T:
    """What `call` gives. `cancel` is called, from the loop's thread, when the await is cancelled."""
    loop = asyncio.get_running_loop()
    future: asyncio.Future[T] = loop.create_future()

    def settle(set_it: Callable[[Any], None], value: Any) -> None:
        if not future.done():
            set_it(value)

    def work() -> None:
        try:
            result = call()
        except BaseException as error:
            answer: tuple[Callable[[Any], None], Any] = (future.set_exception, error)
        else:
            answer = (future.set_result, result)
        with contextlib.suppress(RuntimeError):  # the loop was closed meanwhile
            loop.call_soon_threadsafe(settle, *answer)

    threading.Thread(target=work, name="layerfs-await", daemon=True).start()
    try:
        return await asyncio.shield(future)
    except asyncio.CancelledError:
        cancel()
        with contextlib.suppress(BaseException):
            await future
        raise


class Canceller:
    """Kills the program of a call in another thread, also when it has not been started yet."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._process: Any = None
        self._wanted = False

    def before(self, on_started: Callable[[Any], object] | None) -> Callable[[Any], None]:
        """For `on_started`: what the caller wants done then comes after us."""

        def started(process: Any) -> None:
            self.started(process)
            if on_started is not None:
                on_started(process)

        return started

    def started(self, process: Any) -> None:
        with self._lock:
            self._process = process
            if self._wanted:
                process.kill()

    def __call__(self) -> None:
        with self._lock:
            self._wanted = True
            if self._process is not None:
                self._process.kill()
