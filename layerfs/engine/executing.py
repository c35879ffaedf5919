"""Programs that join a container that runs."""

from __future__ import annotations

import contextlib
import os
import signal
from collections.abc import Callable, Iterator, Sequence

from layerfs._lazy import TYPE_CHECKING
from layerfs._record import replace
from layerfs.engine.events import record_event
from layerfs.engine.filters import filter_of
from layerfs.engine.surroundings import cgroups
from layerfs.errors import InUse

if TYPE_CHECKING:
    from typing import Any

    from layerfs.engine.container import Container
    from layerfs.runtime import Process, RunResult
    from layerfs.runtime.communicate import OnOutput
    from layerfs.runtime.helper import Stream


def start_exec(
    box: Container,
    command: Sequence[str],
    *,
    stdin: Stream,
    stdout: Stream,
    stderr: Stream,
    user: str | None = None,
    workdir: str | None = None,
    env: Any = (),
    privileged: bool = False,
    size: tuple[int, int] | None = None,
    detached: bool = False,
) -> Process:
    """A program in the namespaces of the container, which runs when this returns. `size`: on a terminal of its own.

    Raises:
        InUse: the container does not run (docker's words). RunError, CommandNotFound, CommandNotExecutable.
    """
    from layerfs.engine.settings import Settings
    from layerfs.runtime.plan import default_hostname, plan_exec
    from layerfs.runtime.process import start

    state = box.state
    process = state.init or (state.living() or (None,))[0]
    if process is None:
        raise InUse(f"container {box.id} is not running")
    groups = cgroups(box)
    if any(cgroup.frozen for cgroup in groups):
        raise InUse(f"Container {box.id} is paused, unpause the container before exec")
    mine = Settings().changed({"command": command, "user": user, "workdir": workdir, "env": env})
    wanted = box.settings
    names = {pair.partition("=")[0] for pair in mine.env}
    kept = tuple(pair for pair in wanted.env if pair.partition("=")[0] not in names)
    changes: dict[str, Any] = {"command": mine.command, "env": (*kept, *mine.env)}
    changes |= {name: value for name, value in (("user", mine.user), ("workdir", mine.workdir)) if value is not None}
    merged = wanted.changed(changes)
    procs = tuple(place / "cgroup.procs" for found in groups[:1] for place in found.directories.values())
    seccomp = b"" if privileged else filter_of(box.store.root, wanted)
    options = replace(merged.run_options(box.id, terminal=size), cgroup_procs=procs, seccomp=seccomp)
    config = box.image.config.config.document()
    spec = plan_exec(*process, config, options, default_hostname(options), privileged=privileged)
    return start(spec, stdin=stdin, stdout=stdout, stderr=stderr, detached=detached)


class ExecEvents:
    """docker's three events of an exec."""

    def __init__(self, box: Container, command: Sequence[str]) -> None:
        self._box, self._id, self._words = box, os.urandom(32).hex(), " ".join(map(os.fsdecode, command))

    def created(self) -> None:
        record_event(self._box, f"exec_create: {self._words}", execID=self._id)

    def started(self) -> None:
        record_event(self._box, f"exec_start: {self._words}", execID=self._id)

    def ended(self, code: int) -> None:
        record_event(self._box, "exec_die", execID=self._id, exitCode=str(code))


@contextlib.contextmanager
def hangups_held(wanted: bool) -> Iterator[Callable[[], object]]:
    """A hangup in the block comes when what it gives is called, or at the end of the block."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGHUP] if wanted else [])

    def release() -> None:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)

    try:
        yield release
    finally:
        release()


def execute(
    box: Container,
    command: Sequence[str],
    *,
    stdin: Stream | bytes,
    stdout: Stream,
    stderr: Stream,
    timeout: float | None = None,
    output_limit: int | None = None,
    on_output: OnOutput | None = None,
    on_started: Callable[[Process], object] | None = None,
    forward_signals: bool = False,
    linger: bool = False,
    **how: Any,
) -> RunResult:
    """`start_exec`, then its streams until its end."""
    from layerfs.runtime import PIPE
    from layerfs.runtime.communicate import communicate
    from layerfs.runtime.foreground import forwarded

    events = ExecEvents(box, command)
    data = stdin if isinstance(stdin, bytes) else None
    source: Stream = PIPE if isinstance(stdin, bytes) else stdin
    events.created()
    with (
        hangups_held(linger) as release,
        forwarded(forward_signals, hangup=not linger) as forward,
        start_exec(box, command, stdin=source, stdout=stdout, stderr=stderr, detached=linger, **how) as process,
    ):
        forward.attach(process)
        events.started()
        if on_started is not None:
            on_started(process)
        try:
            release()
            result = communicate(process, data, timeout=timeout, limit=output_limit, on_output=on_output)
        except SystemExit:  # a hangup
            process.let_go()
            raise
    events.ended(result.returncode)
    if forward.gave_up:
        raise KeyboardInterrupt
    return result
