"""Kills work at random moments and looks whether what it left is whole. For any part: give it callables.

    def work(round: int) -> None: ...      # runs in a forked child; opens what it needs itself
    def verify(round: int) -> None: ...    # runs here after each kill; asserts
    crash_rounds(work, verify, rounds=20)

The child is forked, so open nothing (stores, threads, mounts) in the test around it that a child must not inherit.
"""

from __future__ import annotations

import os
import random
import select
import signal
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass


@dataclass
class Outcome:
    """How many rounds were killed in the middle, how many were over before, and the seconds of one whole run."""

    killed: int = 0
    finished: int = 0
    duration: float = 0.0


def start(work: Callable[[int], object], number: int) -> tuple[int, int]:
    """Forks a child that does the work: (pid, descriptor that tells a traceback if it failed)."""
    out, into = os.pipe()
    pid = os.fork()
    if pid == 0:
        code = 1
        try:
            os.close(out)
            work(number)
            code = 0
        except BaseException:
            os.write(into, traceback.format_exc().encode()[-60_000:])
        finally:
            os._exit(code)
    os.close(into)
    return pid, out


def finish(pid: int, out: int) -> int:
    """Waits for a child: 0, or -9 when it was killed. Raises AssertionError with its traceback when it failed."""
    try:
        text = b""
        while piece := os.read(out, 65536):
            text += piece
    finally:
        os.close(out)
        code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    assert code in (0, -signal.SIGKILL), f"the work failed with {code}:\n{text.decode(errors='replace')}"
    return code


def run(work: Callable[[int], object], number: int = 0) -> float:
    """Does the work once in a child, not killed; its seconds."""
    begin = time.monotonic()
    finish(*start(work, number))
    return time.monotonic() - begin


def crash_rounds(
    work: Callable[[int], object],
    verify: Callable[[int], object],
    *,
    rounds: int = 20,
    seed: int = 0,
    prepare: Callable[[int], object] = lambda number: None,
) -> Outcome:
    """Runs the work once in full, then `rounds` times with a SIGKILL at a random moment of it, and verifies each time.

    `prepare` runs before each round, here. The rounds are numbered from 1; the whole run is round 0.
    """
    chance, outcome = random.Random(seed), Outcome()
    prepare(0)
    outcome.duration = run(work)
    verify(0)
    for number in range(1, rounds + 1):
        prepare(number)
        pid, out = start(work, number)
        begin, patience = time.monotonic(), chance.uniform(0, outcome.duration * 1.1)
        select.select([out], [], [], patience)  # until then, or until it is over
        took = time.monotonic() - begin
        os.kill(pid, signal.SIGKILL)
        if finish(pid, out) == 0:
            outcome.finished += 1
            outcome.duration = min(outcome.duration, took)  # the first run was a slow one: kill earlier
        else:
            outcome.killed += 1
        verify(number)
    return outcome
