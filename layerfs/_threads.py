"""Jobs in threads, and a main thread that hears interrupts while it waits for them.

`concurrent.futures` is not used where commands should start fast: it brings `logging` with it, and takes longer to load
(11 ms) than a small push to do.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Iterable, Sequence

from layerfs._lazy import TYPE_CHECKING

if TYPE_CHECKING:
    from typing import Any, TypeVar

    T = TypeVar("T")

__all__ = ["LISTEN", "PARALLEL", "begin", "in_parallel", "join"]

PARALLEL = 5
LISTEN = 0.2  # seconds after which an interrupt is heard that came just before the main thread began to wait


def join(threads: Iterable[threading.Thread]) -> None:
    """Waits for the end of all that were started."""
    for thread in threads:
        while thread.ident is not None and thread.is_alive():
            thread.join(LISTEN)


def begin(action: Callable[[], T]) -> Callable[[], T]:
    """Starts something that mostly waits for the kernel; what is returned waits for its end, and returns or raises as
    it does."""
    results: list[T] = []
    errors: list[BaseException] = []

    def body() -> None:
        try:
            results.append(action())
        except BaseException as error:
            errors.append(error)

    thread = threading.Thread(target=body, daemon=True)
    thread.start()

    def wait() -> T:
        join([thread])
        if errors:
            raise errors[0]
        return results[0]

    return wait


def in_parallel(jobs: Sequence[Callable[[], T]], cancel: Callable[[], object], at_once: int = PARALLEL) -> list[T]:
    """The results in order. The first failure, or a signal's exception, ends it: `cancel` stops what goes on."""
    return _Crew(jobs, cancel).run(at_once) if jobs else []


class _Crew:
    """Threads, the caller's among them, that share a list of jobs."""

    def __init__(self, jobs: Sequence[Callable[[], object]], cancel: Callable[[], object]) -> None:
        self._waiting, self._cancel = deque(enumerate(jobs)), cancel
        self._results: dict[int, Any] = {}
        self._error: BaseException | None = None
        self._lock = threading.Lock()

    def run(self, at_once: int) -> list[Any]:
        count = min(at_once, len(self._waiting)) - 1
        threads = [threading.Thread(target=self._serve, name=f"job_{number}", daemon=True) for number in range(count)]
        try:  # around the starting too: a signal may come as soon as the first job runs
            for thread in threads:
                thread.start()
            self._serve()
            join(threads)
        except BaseException as error:
            self._fail(error)
            join(threads)
        if self._error is not None:
            raise self._error
        return [self._results[number] for number in sorted(self._results)]

    def _serve(self) -> None:
        while self._waiting and self._error is None:
            try:
                number, job = self._waiting.popleft()
            except IndexError:  # another thread was faster
                return
            try:
                self._results[number] = job()
            except BaseException as error:
                self._fail(error)

    def _fail(self, error: BaseException) -> None:
        with self._lock:
            self._error = self._error or error
        self._cancel()
