"""Jobs shared by threads, and interrupts while they are waited for."""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Callable

import pytest

from layerfs._threads import PARALLEL, begin, in_parallel


def test_jobs_run_side_by_side_and_give_results_in_order() -> None:
    together = threading.Barrier(PARALLEL, timeout=30)

    def job(number: int) -> int:
        together.wait()
        return number

    assert in_parallel([lambda number=number: job(number) for number in range(PARALLEL)], together.abort) == [
        *range(PARALLEL)
    ]  # type: ignore[misc]


def test_the_first_failure_cancels_the_others() -> None:
    cancelled = threading.Event()

    def waits() -> None:
        assert cancelled.wait(30)
        raise ValueError

    def fails() -> None:
        raise LookupError

    with pytest.raises(LookupError):
        in_parallel([waits, fails, waits], cancelled.set)


@pytest.mark.parametrize("wait", [lambda job: in_parallel([job, job], lambda: None), lambda job: begin(job)()])
def test_an_interrupt_that_another_thread_receives_is_heard_while_we_wait(wait: Callable[..., object]) -> None:
    """The main thread's wait is not broken off by it, as when it comes just before the wait begins."""
    heard = threading.Event()
    before = signal.signal(signal.SIGUSR1, lambda *_: heard.set())

    def job() -> bool:
        if threading.current_thread() is threading.main_thread():
            return True
        time.sleep(0.1)  # until the main thread waits
        signal.pthread_kill(threading.get_ident(), signal.SIGUSR1)
        return heard.wait(30)

    try:
        assert wait(job)
    finally:
        signal.signal(signal.SIGUSR1, before)
    assert heard.is_set()
