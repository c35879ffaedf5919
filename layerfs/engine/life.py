"""The life of a container's own program under its monitor: start, stop, kill, wait, and what follows its end.

docs/architecture.md, "The life of a container", says which file is whose.
"""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import time
from collections.abc import Iterator
from pathlib import Path

from layerfs._lazy import TYPE_CHECKING
from layerfs._record import replace
from layerfs.engine.events import attributes_of, events_path, record_event
from layerfs.engine.lifesettings import probe_of
from layerfs.engine.running import borrowed_place, release
from layerfs.engine.state import State, send_signal
from layerfs.engine.status import read_status, starting, write_failure
from layerfs.engine.surroundings import cgroups, enter
from layerfs.errors import ContainerNotFound, InUse, LayerfsError, RunError
from layerfs.runtime.monitor import NOTHING, Attach, Connection, Ended, start_monitored

if TYPE_CHECKING:
    from layerfs.engine.container import Container
    from layerfs.engine.settings import Settings
    from layerfs.engine.store import Store
    from layerfs.runtime import RunOptions
    from layerfs.runtime.spec import Life

_PACKAGE = Path(__file__).resolve().parents[2]
_AFTER = "import sys; sys.path.insert(0, sys.argv[1]); from layerfs.engine.aftermath import main; main()"
STOP_SECONDS = 10.0


def start(
    box: Container, *, attach: Attach = NOTHING, size: tuple[int, int] = (0, 0), engine: str | None = None
) -> Connection | None:
    """Start its program under a monitor; the connection to it, or None when the container runs already.

    Raises:
        RunError, CommandNotFound, CommandNotExecutable: it could not be started. What mounting raises.
    """
    directory = box.store.container_table.home(box.id)
    with starting(directory) as lock:
        if lock is None:
            if box.status == "paused":
                raise InUse("cannot start a paused container, try unpause instead")
            return None
        before = read_status(directory)
        State(life=before).kill()  # one that outlived its monitor
        try:
            return _start_locked(box, lock, attach, size, engine)
        except RunError as error:
            with contextlib.suppress(OSError):
                write_failure(directory, before, error)
            raise


def _start_locked(box: Container, lock: int, attach: Attach, size: tuple[int, int], engine: str | None) -> Connection:
    from layerfs.runtime.files import write_files
    from layerfs.runtime.plan import default_hostname, plan

    wanted = box.settings
    with borrowed_place(box, engine) as (place, place_lock), surroundings_of(box, wanted, place.root) as options:
        options = replace(options, terminal=size if wanted.tty else None)
        files = place.files
        hostname = default_hostname(options)
        written = write_files(files, hostname, options)
        spec = plan(place.root, box.image.config.config.document(), options, written, hostname)
        if wanted.runtime:
            from layerfs.engine.oci import runtime_words

            spec = replace(spec, runtime=runtime_words(box, wanted, options, spec, files))
        return start_monitored(spec, life_of(box, wanted), box.directory, (lock, place_lock), attach=attach)


@contextlib.contextmanager
def surroundings_of(box: Container, wanted: Settings, root: Path) -> Iterator[RunOptions]:
    """With control groups that stay until the container is cleaned up, unless something goes wrong."""
    around = enter(box, wanted, root, everything=True)
    try:
        yield around.options
    except BaseException:
        around.leave()
        raise


def life_of(box: Container, wanted: Settings) -> Life:
    """What its monitor is to do, from its settings."""
    from layerfs.runtime.spec import Life

    after = [sys.executable, "-c", _AFTER, str(_PACKAGE), str(box.store.path), box.id] if sys.executable else []
    kind, most = wanted.restart_policy()
    log_size, log_files = wanted.log_limits()
    return Life(
        stdin=wanted.interactive,
        stdin_once=wanted.stdin_once,
        log=wanted.log_driver != "none",
        log_size=log_size,
        log_files=log_files,
        restart=kind,
        restart_max=most,
        stop_milliseconds=milliseconds(stop_seconds(wanted)),
        after=tuple(os.fsencode(word) for word in after),
        events=os.fsencode(events_path(box.store)),
        event_attributes=attributes_of(box),
        probe=probe_of(box.config()),
    )


def milliseconds(seconds: float | None) -> int:
    return -1 if seconds is None else int(seconds * 1000)


def stop_seconds(wanted: Settings) -> float | None:
    """docker's: ten seconds, or what the container was made with; -1 for ever."""
    if wanted.stop_timeout is None:
        return STOP_SECONDS
    return None if wanted.stop_timeout < 0 else float(wanted.stop_timeout)


def stop_signal(box: Container) -> int:
    from layerfs.runtime.plan import parse_signal

    return parse_signal(box.config().stop_signal or signal.SIGTERM)


def stop(box: Container, *, seconds: float | None, number: int) -> None:
    """The signal, then SIGKILL, and no restart. Returns when it has ended and is unmounted; nothing when it does not
    run."""
    was = box.state.running
    if was:
        record_event(box, "kill", signal=str(number))
    with _connected(box) as connection:
        if connection is not None:
            connection.stop(number, seconds)
            _thaw(box)
            _await_end(connection)
    _stop_orphan(box, number, seconds)
    finish(box)
    if connection is not None:
        connection.done()
        connection.close()
    if was:
        record_event(box, "stop")


@contextlib.contextmanager
def _connected(box: Container) -> Iterator[Connection | None]:
    """A connection that cleans up afterwards; it stays open, unless something goes wrong."""
    connection = Connection.open(box.directory)
    try:
        if connection is not None:
            connection.attach(Attach.CLEANS)
        yield connection
    except BaseException:
        if connection is not None:
            connection.close()
        raise


def _thaw(box: Container) -> None:
    """A paused container is let go, so that the signal reaches it, as docker does."""
    for cgroup in cgroups(box):
        if cgroup.frozen:
            cgroup.freeze(False)


def _await_end(connection: Connection) -> None:
    for _ in connection.messages():
        pass


def _stop_orphan(box: Container, number: int, seconds: float | None) -> None:
    """A program whose monitor was killed, or that never had one."""
    state = box.state
    for process in [*([state.init] if state.init and not state.monitored else []), *state.living()]:
        send_signal(process, number)
    deadline = None if seconds is None else time.monotonic() + seconds
    while (state.init and not state.monitored) or state.living():
        if deadline is not None and time.monotonic() > deadline:
            state.kill()
        time.sleep(0.01)


def kill(box: Container, number: int) -> None:
    """A signal to PID 1. One that ends it (SIGKILL, the stop signal, any without one of its own) ends its restarts.

    Raises:
        InUse: it does not run.
    """
    state = box.state
    if not state.running:
        raise InUse(f"cannot kill container: {box.name}: container {box.id} is not running")
    record_event(box, "kill", signal=str(number))
    own = box.config().stop_signal
    last = not own or number in (signal.SIGKILL, stop_signal(box))
    connection = Connection.open(box.directory) if state.monitored else None
    if connection is not None:
        with connection:
            connection.signal(number, last=last)
    else:
        for process in [*([state.init] if state.init else []), *state.living()]:
            send_signal(process, number)
    if last:
        _thaw(box)


def set_restart(box: Container, policy: str) -> None:
    """For what runs, and in its record. Raises InvalidInput."""
    kind, most = box.settings.changed({"restart": policy}).restart_policy()
    box.store.container_table.update(
        box.id, lambda record: replace(record, config={**record.config, "restart": policy})
    )
    connection = Connection.open(box.directory)
    if connection is not None:
        with connection:
            connection.restart_policy(kind, most)


def finish_abandoned(store: Store) -> None:
    """Containers to be removed at their end whose end nobody was left to see: the monitor was killed."""
    for record in store.container_table.list():
        if record.config.get("auto_remove"):
            box = store.container(record.id)
            if box.state.started_at and not box.state.running:
                finish(box)


def wait(box: Container, timeout: float | None = None) -> int:
    """The exit code once it does not run (any more). Raises TimeoutError."""
    deadline = None if timeout is None else time.monotonic() + timeout
    connection = Connection.open(box.directory)
    if connection is not None:
        with connection:
            left = None if deadline is None else deadline - time.monotonic()
            last = [message for message in connection.messages(left) if isinstance(message, Ended)]
            if last and not last[0].lost:
                return last[0].code
    while box.state.running:  # the end of a monitor, or a program without one
        if deadline is not None and time.monotonic() > deadline:
            raise TimeoutError(f"container {box.name} still runs")
        time.sleep(0.01)
    return box.state.code


def finish(box: Container) -> None:
    """After the end of a program: unmounted; removed where that was asked for. Any number may do it at once."""
    with contextlib.suppress(ContainerNotFound, FileNotFoundError):
        state = box.state
        if state.running or state.monitored:
            return
        release(box)
        if box.settings.auto_remove:
            with contextlib.suppress(InUse):
                box.remove(volumes=True)


def again(box: Container) -> None:
    """A restart that needs a new mount."""
    with contextlib.suppress(LayerfsError):
        connection = start(box)
        if connection is not None:
            connection.close()
        return
    finish(box)
