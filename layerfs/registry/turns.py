"""Tasks of one thread, which take turns.

A task is a generator that yields when it has sent a request (the file descriptor by which the answer comes, where that
is known), so that the registry is never waited for while there is something to do. A small push is made of these:
threads would wait for Python's lock longer than for the registry.
"""

from __future__ import annotations

import select
from collections import deque
from collections.abc import Generator, Iterable, Sequence

from layerfs._lazy import TYPE_CHECKING, Generic
from layerfs._threads import PARALLEL

if TYPE_CHECKING:
    from typing import TypeVar

    T = TypeVar("T")
    Task = Generator[int | None, None, T]
else:
    Task, T = Generator, None

_PATIENCE = 1000  # ms for which several answers are waited for together


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
