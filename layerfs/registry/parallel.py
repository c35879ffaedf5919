"""A few things at once: jobs shared by threads; and tasks of one thread, which take turns.

A task is a generator that yields when it has sent a request (the file descriptor by which the answer comes, where that
is known), so that the registry is never waited for while there is something to do. A small push is made of these:
threads would wait for Python's lock longer than for the registry. And `concurrent.futures` brings `logging` with it,
and takes longer to load than a small push to do.
"""

from __future__ import annotations

import select
import threading
from collections import deque
from collections.abc import Callable, Generator, Iterable, Sequence
from typing import Generic, TypeVar

PARALLEL = 5
LISTEN = 0.2  # seconds after which an interrupt is heard that came just before the main thread began to wait
_PATIENCE = 1000  # ms for which several answers are waited for together
T = TypeVar("T")
Task = Generator[int | None, None, T]


def finished(task: Task[T]) -> T:
    """The result of one task."""
    while True:
        try:
            next(task)
        except StopIteration as end:
            value: T = end.value
            return value


def in_turns(tasks: Iterable[Task[T]], at_once: int = PARALLEL) -> list[T]:
    """The results in order. A failure ends all."""
    waiting = deque(enumerate(tasks))
    active: list[tuple[int, Task[T], int | None]] = []
    results: dict[int, T] = {}
    while waiting or active:
        if waiting and len(active) < at_once:
            number, task = waiting.popleft()
        else:
            number, task, _ = active.pop(_ready([fd for *_, fd in active]))
        try:
            active.append((number, task, next(task)))
        except StopIteration as end:
            results[number] = end.value
    return [results[number] for number in sorted(results)]


def _ready(waited: Sequence[int | None]) -> int:
    """Which of them to go on with: the first that has something to read, or the one that knows how long to wait."""
    known = [fd for fd in waited if fd is not None]
    if len(waited) == 1 or len(known) < len(waited):
        return 0
    poll = select.poll()
    for fd in known:
        poll.register(fd, select.POLLIN)
    found = {fd for fd, _ in poll.poll(_PATIENCE)}
    return next((at for at, fd in enumerate(known) if fd in found), 0)


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
        while thread.ident is not None and thread.is_alive():
            thread.join(LISTEN)


class Begun(Generic[T]):
    """A task whose first request is on its way; `rest` is what there is left to do."""

    def __init__(self, task: Task[T]) -> None:
        self._task = task
        self._ended: list[T] = []
        self._waits_for: int | None = None
        try:
            self._waits_for = next(task)
        except StopIteration as end:
            self._ended.append(end.value)

    def rest(self) -> Task[T]:
        if self._ended:
            return self._ended[0]
        yield self._waits_for
        return (yield from self._task)
