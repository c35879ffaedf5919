"""start, stop, restart, kill, wait, attach, logs, exec, cp, top, events."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from layerfs.cli.follow import DETACH, follow
from layerfs.cli.options import container_argument, filter_option, format_option
from layerfs.cli.output import fail, for_each, out, reason
from layerfs.cli.session import Session
from layerfs.cli.terminal import (
    Detached,
    GaveUp,
    Master,
    carry,
    check_input_terminal,
    parse_keys,
    size_of,
    write_all,
)
from layerfs.cli.times import parse_moment
from layerfs.cli.verbs import verb, with_flags
from layerfs.errors import LayerfsError, RunError

if TYPE_CHECKING:
    from layerfs.engine import Container

_REMAINDER = {"allow_interspersed_args": False}
_PRECISE = {"ignore_unknown_options": True}


detach_option = with_flags([DETACH])


def failed(error: OSError) -> int:
    """docker's codes for what could not be run."""
    code = error.exit_code if isinstance(error, RunError) else 1
    return fail(str(error) if isinstance(error, LayerfsError) else reason(error), code)


@verb("start")
@container_argument("names", nargs=-1, metavar="CONTAINER...")
@click.option("-a", "--attach", is_flag=True, help="Show its output, pass signals on; its exit code is ours.")
@click.option("-i", "--interactive", is_flag=True, help="Pass our standard input on.")
@click.option(
    "--restart-policy", "by_policy", is_flag=True, help="All whose restart policy says so, as after a reboot."
)
@click.option("--sig-proxy/--no-sig-proxy", default=True, help="Pass signals on (the default, with -a).")
@detach_option
@click.pass_obj
def start_command(
    session: Session,
    names: tuple[str, ...],
    attach: bool,
    interactive: bool,
    by_policy: bool,
    sig_proxy: bool,
    detach_keys: str,
) -> int:
    """Start containers that do not run."""
    if by_policy:
        return for_each([box.name for box in session.store.containers() if _due(box)], lambda n: _start(session, n))
    if not names:
        raise click.UsageError("requires at least 1 argument, or --restart-policy", click.get_current_context())
    if attach or interactive:
        if len(names) > 1:
            return fail("you cannot start and attach multiple containers at once")
        return _start_attached(session, names[0], interactive, sig_proxy, detach_keys)
    return for_each(names, lambda name: _start(session, name))


def _due(box: Container) -> bool:
    """docker's rule at its own start: `unless-stopped` ones were not stopped, `on-failure` ones had failed."""
    kind = box.settings.restart.partition(":")[0]
    state = box.state
    if state.running or state.status == "created":
        return False
    return (
        kind == "always"
        or (kind == "unless-stopped" and not state.life.stopped)
        or (kind == "on-failure" and state.code != 0 and not state.life.stopped)
    )


def _start(session: Session, name: str) -> None:
    session.store.container(name).start()
    out(name)


def _start_attached(session: Session, name: str, interactive: bool, proxy: bool, keys: str) -> int:
    from layerfs.engine.attaching import Attach
    from layerfs.engine.life import start

    box = session.store.container(name)
    parse_keys(keys)
    what = Attach.STDOUT | Attach.STDERR | Attach.CLEANS | (Attach.STDIN if interactive else Attach(0))
    try:
        connection = start(box, attach=what, size=size_of(1))
    except OSError as error:
        return failed(error)
    if connection is None:
        connection = box.attach(stdin=interactive)
    return follow(box, connection, stdin=interactive, keys=keys, proxy=proxy) or 0


@verb("stop")
@container_argument("names", nargs=-1, required=True, metavar="CONTAINER...")
@click.option("-t", "--timeout", "--time", type=int, help="Seconds before it is killed; -1 for never.")
@click.option("-s", "--signal", metavar="SIGNAL", help="The signal, instead of the container's own.")
@click.pass_obj
def stop_command(session: Session, names: tuple[str, ...], timeout: int | None, signal: str | None) -> int:
    """Stop containers: their stop signal, after ten seconds SIGKILL."""

    def stop(name: str) -> None:
        session.store.container(name).stop(_seconds(timeout), signal=signal)
        out(name)

    return for_each(names, stop)


def _seconds(timeout: int | None) -> float | None:
    return -1.0 if timeout is None else None if timeout < 0 else float(timeout)


@verb("restart")
@container_argument("names", nargs=-1, required=True, metavar="CONTAINER...")
@click.option("-t", "--timeout", "--time", type=int, help="Seconds before it is killed; -1 for never.")
@click.option("-s", "--signal", metavar="SIGNAL", help="The signal, instead of the container's own.")
@click.pass_obj
def restart_command(session: Session, names: tuple[str, ...], timeout: int | None, signal: str | None) -> int:
    """Stop containers and start them again."""

    def restart(name: str) -> None:
        session.store.container(name).restart(_seconds(timeout), signal=signal)
        out(name)

    return for_each(names, restart)


@verb("kill")
@container_argument("names", nargs=-1, required=True, metavar="CONTAINER...")
@click.option("-s", "--signal", default="KILL", metavar="SIGNAL", help="KILL unless given.")
@click.pass_obj
def kill_command(session: Session, names: tuple[str, ...], signal: str) -> int:
    """Send a signal to the programs of containers."""

    def kill(name: str) -> None:
        session.store.container(name).kill(signal)
        out(name)

    return for_each(names, kill)


@verb("wait")
@container_argument("names", nargs=-1, required=True, metavar="CONTAINER...")
@click.pass_obj
def wait_command(session: Session, names: tuple[str, ...]) -> int:
    """Wait until containers have ended, and print their exit codes."""
    return for_each(names, lambda name: out(str(session.store.container(name).wait())))


@verb("attach")
@container_argument()
@click.option("--no-stdin", is_flag=True, help="Do not pass our standard input on.")
@click.option("--sig-proxy/--no-sig-proxy", default=True, help="Pass signals on (the default).")
@detach_option
@click.pass_obj
def attach_command(session: Session, container: str, no_stdin: bool, sig_proxy: bool, detach_keys: str) -> int:
    """Join the streams of a container that runs; its exit code is ours."""
    box = session.store.container(container)
    parse_keys(detach_keys)
    stdin = box.settings.interactive and not no_stdin
    check_input_terminal(stdin, box.settings.tty)
    return follow(box, box.attach(stdin=stdin), stdin=stdin, keys=detach_keys, proxy=sig_proxy) or 0


@verb("logs")
@container_argument()
@click.option("-f", "--follow", is_flag=True, help="Go on as it writes.")
@click.option("-t", "--timestamps", is_flag=True, help="When each line was written.")
@click.option("-n", "--tail", default="all", metavar="N", help="Only the last N lines.")
@click.option("--since", metavar="TIME", help="Since a time (2026-01-02T13:23:37Z) or a while ago (42m).")
@click.option("--until", metavar="TIME", help="Up to a time.")
@click.option("--details", is_flag=True, help="Nothing more is kept of a line; for docker's sake.")
@click.pass_obj
def logs_command(
    session: Session,
    container: str,
    follow: bool,
    timestamps: bool,
    tail: str,
    since: str | None,
    until: str | None,
    details: bool,
) -> None:
    """What a container has written."""
    entries = session.store.container(container).logs(
        follow=follow,
        tail=int(tail) if tail.isdigit() else None,
        since_ns=parse_moment(since) if since else None,
        until_ns=parse_moment(until) if until else None,
    )
    pieces: dict[int, list[bytes]] = {1: [], 2: []}
    size, last = 0, 0
    for entry in entries:
        stream = 2 if entry.stream == "stderr" else 1
        if stream != last or size > 1 << 16 or follow:
            _flush(pieces)
            size, last = 0, stream
        text = f"{entry.time} ".encode() + entry.data if timestamps else entry.data
        pieces[stream].append(text)
        size += len(text)
        if follow:
            _flush(pieces)
    _flush(pieces)


def _flush(pieces: dict[int, list[bytes]]) -> None:
    """The bytes as they were written: what is in a log is data, also when it looks like a terminal's commands."""
    for stream, texts in pieces.items():
        if texts:
            write_all(stream, b"".join(texts))
            texts.clear()


@verb("exec", context_settings=_REMAINDER)
@click.option("-i", "--interactive", is_flag=True, help="Pass our standard input on.")
@click.option("-t", "--tty", is_flag=True, help="On a terminal of its own.")
@click.option("-d", "--detach", is_flag=True, help="In the background; its output is thrown away.")
@click.option("-u", "--user", metavar="NAME|UID[:GROUP|GID]", help="Who it runs as.")
@click.option("-w", "--workdir", metavar="DIR", help="Working directory in the container.")
@click.option("-e", "--env", multiple=True, metavar="NAME[=VALUE]", help="Set an environment variable.")
@click.option("--env-file", multiple=True, metavar="FILE", help="Read environment variables from a file.")
@click.option("--privileged", is_flag=True, help="With all capabilities.")
@detach_option
@container_argument()
@click.argument("command", nargs=-1, required=True, type=click.UNPROCESSED, metavar="COMMAND [ARG...]")
@click.pass_obj
def exec_command(
    session: Session,
    container: str,
    command: tuple[str, ...],
    interactive: bool,
    tty: bool,
    detach: bool,
    user: str | None,
    workdir: str | None,
    env: tuple[str, ...],
    env_file: tuple[str, ...],
    privileged: bool,
    detach_keys: str,
) -> int:
    """Run a program in a container that runs; its exit code is ours."""
    from layerfs.cli.launch import environment

    box = session.store.container(container)
    how: dict[str, Any] = {
        "user": user,
        "workdir": workdir,
        "env": environment(env, env_file),
        "privileged": privileged,
    }
    check_input_terminal(interactive and not detach, tty)
    parse_keys(detach_keys)
    try:
        if detach:
            box.exec_detached(command, tty=tty, **how)
            return 0
        if tty:
            return _exec_terminal(box, command, interactive, detach_keys, how)
        stdin = 0 if interactive else None
        how |= {"stdin": stdin, "stdout": None, "stderr": None}
        return box.exec(command, forward_signals=True, linger=True, **how).returncode
    except OSError as error:
        return failed(error)


def _exec_terminal(box: Container, command: tuple[str, ...], interactive: bool, keys: str, how: dict[str, Any]) -> int:
    with box.exec_terminal(command, size=size_of(1), linger=True, **how) as process:
        far = Master(process.terminal, process.send_signal)
        try:
            carry(far, stdin=interactive, terminal=True, keys=keys, hangup=False)
        except Detached:
            process.let_go()
            return 0
        except SystemExit:  # a hangup
            process.let_go()
            raise
        except GaveUp:
            return 0
        return process.wait()


@verb("cp")
@click.argument("source", metavar="CONTAINER:SRC_PATH|SRC_PATH|-")
@click.argument("target", metavar="CONTAINER:DEST_PATH|DEST_PATH|-")
@click.option("-a", "--archive", is_flag=True, help="Keep owners (and set-id bits).")
@click.option("-L", "--follow-link", is_flag=True, help="Copy what a symbolic link at the source leads to.")
@click.option("-q", "--quiet", is_flag=True, help="Say nothing; nothing is said in any case.")
@click.pass_obj
def cp_command(session: Session, source: str, target: str, archive: bool, follow_link: bool, quiet: bool) -> int:
    """Copy files between a container and the host; `-` is a tar on standard input or output."""
    import sys

    (from_box, from_path), (to_box, to_path) = _side(source), _side(target)
    if from_box and to_box:
        return fail("copying between containers is not supported")
    if from_box:
        to: Any = sys.stdout.buffer if target == "-" else to_path
        session.store.container(from_box).copy_out(from_path, to, archive=archive, follow=follow_link)
    elif to_box:
        whence: Any = sys.stdin.buffer if source == "-" else from_path
        session.store.container(to_box).copy_in(whence, to_path, archive=archive, follow=follow_link)
    else:
        return fail("must specify at least one container source")
    return 0


def _side(text: str) -> tuple[str, str]:
    """`CONTAINER:PATH`, or a path of the host, which a leading `/` or `.` makes of a name with a colon."""
    name, colon, path = text.partition(":")
    if not colon or text.startswith(("/", ".")):
        return "", text
    return name, path


@verb("top", context_settings=_PRECISE)
@container_argument()
@click.argument("options", nargs=-1, type=click.UNPROCESSED, metavar="[PS OPTIONS]")
@click.pass_obj
def top_command(session: Session, container: str, options: tuple[str, ...]) -> None:
    """The processes of a container, as the host sees them."""
    from layerfs.cli.table import aligned
    from layerfs.engine.processes import list_processes

    found = list_processes(session.store.container(container), options)
    out(aligned(found.titles, found.rows))


@verb("events")
@click.option("--since", metavar="TIME", help="Since a time (2026-01-02T13:23:37Z) or a while ago (42m).")
@click.option("--until", metavar="TIME", help="Up to a time; for ever else.")
@filter_option("container, event, image, label, type")
@format_option("json, or a Go template.")
@click.pass_obj
def events_command(
    session: Session, since: str | None, until: str | None, filters: dict[str, list[str]], format_: str | None
) -> None:
    """What happens in the store, as it happens."""
    import sys

    from layerfs.cli.rows import event_row, event_text
    from layerfs.cli.table import unescape
    from layerfs.cli.template import Template, to_json
    from layerfs.engine.events import read_events, select_events

    until_ns = parse_moment(until) if until else None
    found = read_events(session.store, parse_moment(since) if since else None, until_ns)
    template = Template(unescape(format_)) if format_ and format_ != "json" else None
    for event in select_events(session.store, found, filters):
        row = event_row(event)
        out(template(row) if template else to_json(row) if format_ else event_text(event))
        sys.stdout.flush()


__all__ = ["detach_option", "failed", "follow"]
