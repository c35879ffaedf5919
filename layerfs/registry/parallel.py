"""A few things at once: jobs shared by threads, and a call that runs ahead.

`concurrent.futures` brings `logging` with it, and takes longer to load than a small push to do.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Sequence
from typing import Generic, TypeVar

PARALLEL = 5
T = TypeVar("T")


def in_parallel(jobs: Sequence[Callable[[], T]], cancel: Callable[[], object]) -> list[T]:
    """The results in order. The first failure, or a signal's exception, ends it: `cancel` stops what goes on."""
    return _Crew(jobs, cancel).run()


class _Crew(Generic[T]):
    """Threads, the caller's among them, that share a list of jobs."""

    def __init__(self, jobs: Sequence[Callable[[], T]], cancel: Callable[[], object]) -> None:
        self._waiting, self._cancel = deque(enumerate(jobs)), cancel
        self._results: dict[int, T] = {}
        self._error: BaseException | None = None
        self._lock = threading.Lock()

    def run(self) -> list[T]:
        count = min(PARALLEL, len(self._waiting)) - 1
        threads = [threading.Thread(target=self._serve, name=f"push_{number}", daemon=True) for number in range(count)]
        try:  # around the starting too: a signal may come as soon as the first job runs
            for thread in threads:
                thread.start()
            self._serve()
            _join(threads)
        except BaseException as error:
            self._fail(error)
            _join(threads)
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


def _join(threads: Sequence[threading.Thread]) -> None:
    for thread in threads:
        if thread.ident is not None:
            thread.join()


class Ahead(Generic[T]):
    """A call that is made in a thread of its own, from now on; `result` waits for it, as often as it is asked."""

    def __init__(self, call: Callable[[], T]) -> None:
        self._call = call
        self._results: list[T] = []
        self._error: BaseException | None = None
        self._thread = threading.Thread(target=self._run, name="push_ahead", daemon=True)
        self._thread.start()

    def _run(self) -> None:
        try:
            self._results.append(self._call())
        except BaseException as error:
            self._error = error

    def result(self) -> T:
        """What it returned, or raised."""
        self._thread.join()
        if self._error is not None:
            raise self._error
        return self._results[0]
