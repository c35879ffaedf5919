"""Running a program in a mounted root, start to end."""

from __future__ import annotations

import contextlib
import signal
import subprocess
import threading
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from types import FrameType

from layerfs._lazy import TYPE_CHECKING
from layerfs.runtime.communicate import OnOutput, communicate
from layerfs.runtime.files import write_files
from layerfs.runtime.options import RunOptions
from layerfs.runtime.plan import default_hostname, plan
from layerfs.runtime.process import Process, RunResult, start
from layerfs.runtime.spec import RunSpec

if TYPE_CHECKING:
    from typing import Any

    from layerfs.runtime.helper import Stream

_INTERRUPTS_MAX = 3
_FORWARDED = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT, signal.SIGUSR1, signal.SIGUSR2)


class _Forwarder:
    """Passes signals of this process to the container, Ctrl-C too; the third one kills it, as docker's client gives up
    then. What comes before the program runs is kept until it does; a second signal then ends this process, in order."""

    def __init__(self) -> None:
        self.target: Process | None = None
        self.early: list[int] = []
        self.interrupts = 0

    def __call__(self, number: int, frame: FrameType | None) -> None:
        self.interrupts += number == signal.SIGINT
        if self.target is not None:
            self.target.send_signal(signal.SIGKILL if self.gave_up else number)
        elif self.early:
            raise SystemExit(128 + number)
        else:
            self.early.append(number)

    @property
    def gave_up(self) -> bool:
        return self.interrupts >= _INTERRUPTS_MAX

    def attach(self, process: Process) -> None:
        self.target = process
        for number in self.early:
            process.send_signal(number)


@contextlib.contextmanager
def forwarded(wanted: bool, *, hangup: bool = True) -> Iterator[_Forwarder]:
    """While inside, the signals (HUP too when `hangup` says so) go to the container that is attached; in the main
    thread only, since Python handles them nowhere else."""
    forward = _Forwarder()
    wanted = wanted and threading.current_thread() is threading.main_thread()
    numbers = [number for number in _FORWARDED if hangup or number != signal.SIGHUP] if wanted else []
    previous = {number: signal.signal(number, forward) for number in numbers}
    try:
        yield forward
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)


@contextlib.contextmanager
def prepared(
    rootfs: Path,
    config: Mapping[str, Any],
    options: RunOptions,
    state: Path | None,
    streams: tuple[Stream, Stream, Stream],
    timeout: float | None = None,
    change: Callable[[RunSpec], RunSpec] | None = None,
) -> Iterator[Process]:
    """A started container, killed at the end of the block. Its /etc files are kept in `state`, a directory of the
    container's, or else in a temporary one that is gone as soon as they are mounted."""
    hostname = default_hostname(options)
    directory = state if state is not None else _temporary()
    try:
        files = write_files(directory, hostname, options)
        spec = plan(rootfs, config, options, files, hostname)
        spec = change(spec) if change else spec
        process = start(spec, stdin=streams[0], stdout=streams[1], stderr=streams[2], timeout=timeout)
    finally:
        if state is None:
            _remove(directory)
    with process:
        yield process


def _temporary() -> Path:
    import tempfile

    return Path(tempfile.mkdtemp(prefix="layerfs-run-"))


def _remove(directory: Path) -> None:
    import shutil

    shutil.rmtree(directory, ignore_errors=True)


def run(
    rootfs: Path,
    config: Mapping[str, Any],
    options: RunOptions = RunOptions(),  # noqa: B008 (frozen)
    *,
    state: Path | None = None,
    stdin: Stream | bytes = subprocess.DEVNULL,
    stdout: Stream = subprocess.PIPE,
    stderr: Stream = subprocess.PIPE,
    timeout: float | None = None,
    output_limit: int | None = None,
    forward_signals: bool = False,
    on_output: OnOutput | None = None,
    on_started: Callable[[Process], None] | None = None,
    change: Callable[[RunSpec], RunSpec] | None = None,
) -> RunResult:
    """Runs one program in new namespaces on the mounted `rootfs` and waits for its end.

    `config` is the image's `config` object, `options` what the caller changes about it. Streams are as for
    subprocess: None inherits, PIPE captures, DEVNULL, a descriptor or a file; bytes as `stdin` are fed to the program.
    `timeout` is in seconds, `output_limit` in bytes for each captured stream. `on_started` is called once the program
    runs, `change` has the last word about the spec. With `forward_signals` (for command lines) INT, TERM, HUP, QUIT,
    USR1 and USR2 of this process become the container's; without it a Ctrl-C ends the container and raises
    KeyboardInterrupt.

    Raises RunError (125), CommandNotExecutable (126), CommandNotFound (127), RunTimeout.
    """
    data = stdin if isinstance(stdin, bytes) else None
    source: Stream = subprocess.PIPE if isinstance(stdin, bytes) else stdin
    with (
        forwarded(forward_signals) as forward,
        prepared(rootfs, config, options, state, (source, stdout, stderr), timeout, change) as process,
    ):
        forward.attach(process)
        if on_started is not None:
            on_started(process)
        result = communicate(process, data, timeout=timeout, limit=output_limit, on_output=on_output)
    if forward.gave_up:
        raise KeyboardInterrupt
    return result
