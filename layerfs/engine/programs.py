"""What a container can do with programs: run some in the foreground, and its own in the background."""

from __future__ import annotations

import contextlib
import functools
import os
import signal
from collections.abc import Callable, Iterator, Sequence

from layerfs._lazy import TYPE_CHECKING
from layerfs._record import replace
from layerfs.errors import InvalidInput

if TYPE_CHECKING:
    from pathlib import Path
    from typing import IO, Any, BinaryIO

    from layerfs.engine.container import Container
    from layerfs.engine.logs import LogEntry
    from layerfs.engine.records import TopTable
    from layerfs.engine.settings import Settings
    from layerfs.runtime import Process, RunOptions, RunResult
    from layerfs.runtime.communicate import OnOutput
    from layerfs.runtime.monitor import Connection
    from layerfs.runtime.spec import RunSpec

    Stream = int | IO[Any] | None

PIPE, DEVNULL = -1, -3  # subprocess's numbers


def _by_runtime(
    box: Container, wanted: Settings, options: RunOptions, files: Path
) -> contextlib.AbstractContextManager[Callable[[RunSpec], RunSpec] | None]:
    """What makes a spec one for another OCI runtime, where one is wanted."""
    if not wanted.runtime:
        return contextlib.nullcontext()
    from layerfs.engine.oci import by_other

    return by_other(box, wanted, options, files)


def _place(where: Any) -> Any:
    """A path as a text; streams as they are."""
    return os.fsdecode(where) if isinstance(where, str | bytes | os.PathLike) else where


class Programs:
    """A part of Container."""

    @property
    def _box(self) -> Container:
        return self  # type: ignore[return-value]

    def run(
        self,
        command: Sequence[str] | None = None,
        *,
        stdin: Stream | bytes | str = None,
        stdout: Stream = PIPE,
        stderr: Stream = PIPE,
        timeout: float | None = None,
        output_limit: int | None = None,
        engine: str | None = None,
        forward_signals: bool = False,
        on_output: OnOutput | None = None,
        on_started: Callable[[Process], object] | None = None,
        **settings: Any,
    ) -> RunResult:
        """Run a program in it and wait: in new namespaces, with the mounted union as root, without a monitor. Several
        may run at once, each beside the others.

        Args:
            command: replaces the container's own.
            stdin, stdout, stderr: as for subprocess: -1 (PIPE) captures, -2 (STDOUT, for `stderr`), -3 (DEVNULL), a
                descriptor, any file object (io.BytesIO too: a thread carries its bytes; text ones get UTF-8); None
                inherits for outputs and means /dev/null for `stdin`; bytes and texts for `stdin` are fed.
            timeout: seconds; the container is killed then.
            output_limit: bytes of each captured stream; what is beyond is dropped.
            on_output: called with (1 or 2, bytes) for each piece of a captured stream; nothing is kept then.
            on_started: called with the running process (`.pid`, `.send_signal`, `.kill`).
            forward_signals: our INT, TERM, HUP, QUIT, USR1, USR2 become the container's (for command lines).
            settings: those of Store.create (env, user, workdir, network, …), for this run.

        Returns:
            a record with returncode (128+n for a signal n), stdout, stderr (bytes), truncated, oom_killed.

        Raises:
            RunError, CommandNotFound, CommandNotExecutable: it could not be started (exit codes 125, 127, 126).
            RunTimeout: `.result` has what it wrote by then.
            Unsupported: a limit that this machine cannot set.
        """
        from layerfs.engine.running import place_of, recorded
        from layerfs.engine.streams import carried
        from layerfs.engine.surroundings import surrounded
        from layerfs.runtime import run

        box = self._box
        if "storage_opt" in settings:
            raise InvalidInput("storage_opt belongs to the container: give it to create")
        row = box.record
        wanted = box.settings_by(row).changed(settings if command is None else {**settings, "command": command})
        image = box.image_by(row).config.config

        def started(process: Process) -> None:
            record.started(process)
            if on_started is not None:
                on_started(process)

        with (
            carried(stdin, stdout, stderr) as (source, out, err),
            place_of(box, engine) as place,
            recorded(box) as record,
            surrounded(box, wanted, place) as around,
            _by_runtime(box, wanted, around.options, place.files) as change,
        ):
            result = run(
                place.root,
                image.document(),
                around.options,
                state=place.files,
                stdin=DEVNULL if source is None else source,
                stdout=out,
                stderr=err,
                timeout=timeout,
                output_limit=output_limit,
                forward_signals=forward_signals,
                on_output=on_output,
                on_started=started,
                change=change,
            )
            record.ended(result.returncode)
            return replace(result, oom_killed=around.oom_killed)

    async def arun(self, command: Sequence[str] | None = None, **how: Any) -> RunResult:
        """`run` for asyncio, in a thread of its own. Cancelling the await kills the program and waits for its end."""
        from layerfs.engine.aio import Canceller, in_thread

        cancel = Canceller()
        how["on_started"] = cancel.before(how.get("on_started"))
        return await in_thread(functools.partial(self.run, command, **how), cancel)

    # its own program, in the background

    def start(self, *, engine: str | None = None) -> None:
        """Start its own program under a monitor, which outlives this process; nothing when it runs already.

        Raises:
            RunError, CommandNotFound, CommandNotExecutable: it could not be started. What mounting raises.
        """
        from layerfs.engine.life import start

        connection = start(self._box, engine=engine)
        if connection is not None:
            connection.close()

    def stop(self, timeout: float | None = -1.0, *, signal: int | str | None = None) -> None:
        """End it: its stop signal, then SIGKILL after `timeout` seconds (None: never; -1: as it was made, 10). It is
        not restarted. Returns when it has ended and is unmounted; nothing when it does not run.
        """
        from layerfs.engine.life import stop, stop_seconds, stop_signal
        from layerfs.runtime.plan import parse_signal

        seconds = stop_seconds(self._box.settings) if timeout == -1.0 else timeout
        stop(self._box, seconds=seconds, number=parse_signal(signal) if signal else stop_signal(self._box))

    def restart(self, timeout: float | None = -1.0, *, signal: int | str | None = None) -> None:
        """`stop` and `start`. One that is removed when it ends is stopped only."""
        from layerfs.engine.events import record_event

        if self._box.state.running:
            self.stop(timeout, signal=signal)
        self.start()
        record_event(self._box, "restart")

    def set_restart(self, policy: str) -> None:
        """Another restart policy, from now on: no, on-failure[:N], always, unless-stopped. Raises InvalidInput."""
        from layerfs.engine.life import set_restart

        set_restart(self._box, policy)

    def kill(self, number: int | str = signal.SIGKILL) -> None:
        """Send a signal to its program. Raises InUse when it does not run, InvalidInput for what is no signal."""
        from layerfs.engine.life import kill
        from layerfs.runtime.plan import parse_signal

        kill(self._box, parse_signal(number))

    def wait(self, timeout: float | None = None) -> int:
        """Its exit code, once it does not run any more. TimeoutError after `timeout` seconds."""
        from layerfs.engine.life import wait

        return wait(self._box, timeout)

    async def await_(self) -> int:
        """`wait` for asyncio. Cancelling the await leaves the container alone."""
        from layerfs.engine.aio import in_thread

        stopped = False

        def watch() -> int:
            while not stopped:
                try:
                    return self.wait(0.5)
                except TimeoutError:
                    continue
            return 0

        def cancel() -> None:
            nonlocal stopped
            stopped = True

        return await in_thread(watch, cancel)

    def attach(self, *, stdin: bool = False, stdout: bool = True, stderr: bool = True) -> Connection:
        """To the streams of its program from now on, until it ends: `.messages()` gives records Started, Output
        (`.stream`, `.data`) and Ended (`.code`); `.write(bytes)`, `.end_input()` (the program sees the end of its input
        when it was made with `stdin_once=True`, else others may go on feeding it), `.resize(rows, columns)`. Use it
        with `with`.

        Raises:
            InUse: it does not run.
        """
        from layerfs.errors import InUse
        from layerfs.runtime.monitor import Attach, Connection

        connection = Connection.open(self._box.directory)
        if connection is None:
            raise InUse("You cannot attach to a stopped container, start it first")
        if self._box.status == "paused":
            connection.close()
            raise InUse("You cannot attach to a paused container, unpause it first")
        connection.attach(Attach(stdin * Attach.STDIN | stdout * Attach.STDOUT | stderr * Attach.STDERR))
        return connection

    def logs(
        self,
        *,
        follow: bool = False,
        tail: int | None = None,
        since_ns: int | None = None,
        until_ns: int | None = None,
    ) -> Iterator[LogEntry]:
        """What its program has written, as records with `.data` (bytes, a line with its newline, or a part of a long
        one), `.stream` (`stdout`, `stderr`) and `.time` (RFC 3339).

        Args:
            follow: go on until it has ended.
            tail: only so many of the last lines.
            since_ns, until_ns: nanoseconds since 1970 (time.time_ns()).
        """
        from layerfs.engine.logs import read_logs

        return read_logs(self._box, follow=follow, tail=tail, since_ns=since_ns, until_ns=until_ns)

    # programs that join it

    def exec(
        self,
        command: Sequence[str],
        *,
        stdin: Stream | bytes | str = None,
        stdout: Stream = PIPE,
        stderr: Stream = PIPE,
        timeout: float | None = None,
        output_limit: int | None = None,
        user: str | None = None,
        workdir: str | None = None,
        env: Any = (),
        privileged: bool = False,
        on_output: OnOutput | None = None,
        on_started: Callable[[Process], object] | None = None,
        forward_signals: bool = False,
        linger: bool = False,
    ) -> RunResult:
        """Run a program inside it while it runs, and wait. Streams and limits are as for `run`. One that may `linger`
        goes on when this process dies, as docker's do (a hangup is not forwarded then); else it ends with it.

        Raises:
            InUse: it does not run. RunError, CommandNotFound, CommandNotExecutable, RunTimeout.
        """
        from layerfs.engine.executing import execute
        from layerfs.engine.streams import carried

        with carried(stdin, stdout, stderr) as (source, out, err):
            return execute(
                self._box,
                command,
                stdin=DEVNULL if source is None else source,
                stdout=out,
                stderr=err,
                timeout=timeout,
                output_limit=output_limit,
                user=user,
                workdir=workdir,
                env=env,
                privileged=privileged,
                on_output=on_output,
                on_started=on_started,
                forward_signals=forward_signals,
                linger=linger,
            )

    def exec_detached(
        self,
        command: Sequence[str],
        *,
        user: str | None = None,
        workdir: str | None = None,
        env: Any = (),
        privileged: bool = False,
        tty: bool = False,
    ) -> int:
        """Run a program inside it in the background; its pid on the host. Its output is thrown away; it ends with the
        container at the latest. Raises as `exec`."""
        from layerfs.engine.executing import start_exec

        size = (0, 0) if tty else None
        how: dict[str, Any] = {"user": user, "workdir": workdir, "env": env, "privileged": privileged, "size": size}
        how |= {"stdin": DEVNULL, "stdout": DEVNULL, "stderr": DEVNULL}
        process = start_exec(self._box, command, detached=True, **how)
        pid = process.pid
        process.let_go()
        return pid

    def exec_terminal(
        self,
        command: Sequence[str],
        *,
        size: tuple[int, int] = (0, 0),
        user: str | None = None,
        workdir: str | None = None,
        env: Any = (),
        privileged: bool = False,
        linger: bool = False,
    ) -> Process:
        """A program inside it on a terminal of its own, which runs when this returns: `.terminal` is the master's
        descriptor, `.wait()` gives the exit code. Use it with `with`: what still runs at the end is killed, unless it
        lingers and `.let_go()` was called. `size`: rows and columns. Otherwise as `exec`."""
        from layerfs.engine.executing import start_exec

        how: dict[str, Any] = {"user": user, "workdir": workdir, "env": env, "privileged": privileged, "size": size}
        return start_exec(self._box, command, stdin=DEVNULL, stdout=DEVNULL, stderr=DEVNULL, detached=linger, **how)

    async def aexec(self, command: Sequence[str], **how: Any) -> RunResult:
        """`exec` for asyncio, as `arun`."""
        from layerfs.engine.aio import Canceller, in_thread

        cancel = Canceller()
        how["on_started"] = cancel.before(how.get("on_started"))
        return await in_thread(functools.partial(self.exec, command, **how), cancel)

    # files

    def copy_out(
        self, path: str, target: str | os.PathLike[str] | BinaryIO, *, archive: bool = False, follow: bool = False
    ) -> None:
        """Files from inside it to a path of the host, or as a tar to a binary stream; by the rules of `docker cp`.

        `archive` keeps owners and set-id bits; `follow` copies what a symlink at `path` leads to.

        Raises:
            NotFound, InvalidInput.
        """
        from layerfs.engine.copying import copy_out

        copy_out(self._box, os.fspath(path), _place(target), archive=archive, follow=follow)

    def copy_in(
        self, source: str | os.PathLike[str] | BinaryIO, path: str, *, archive: bool = False, follow: bool = False
    ) -> None:
        """Files from a path of the host, or from a tar on a binary stream, to inside it. Raises as `copy_out`."""
        from layerfs.engine.copying import copy_in

        copy_in(self._box, _place(source), os.fspath(path), archive=archive, follow=follow)

    def top(self, options: Sequence[str] = ()) -> TopTable:
        """The processes in it: `.titles` and `.rows` of texts, pids as the host has them; with `options` what ps(1) of
        the host says with these. Raises InUse, InvalidInput."""
        from layerfs.engine.processes import list_processes

        return list_processes(self._box, options)
