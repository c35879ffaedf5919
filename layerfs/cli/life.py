"""start, stop, restart, kill, wait, attach, logs, exec, cp, top, events."""

from __future__ import annotations

from typing import Any

import click

from layerfs.cli.follow import DETACH, follow
from layerfs.cli.joining import EXEC, START
from layerfs.cli.options import container_argument, filter_option, format_option
from layerfs.cli.output import fail, for_each, out
from layerfs.cli.session import Session
from layerfs.cli.terminal import check_input_terminal, parse_keys, write_all
from layerfs.cli.times import parse_moment
from layerfs.cli.verbs import verb, with_flags

_REMAINDER = {"allow_interspersed_args": False}
_PRECISE = {"ignore_unknown_options": True}


detach_option = with_flags([DETACH])


@verb("start")
@container_argument("names", nargs=-1, metavar="CONTAINER...")
@with_flags(START.flags)
@click.pass_obj
def start_command(session: Session, /, names: tuple[str, ...], **options: Any) -> int | None:
    """Start containers that do not run."""
    if not names and not options["by_policy"]:
        raise click.UsageError("requires at least 1 argument, or --restart-policy", click.get_current_context())
    return START.do(session, names, options)


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
    from layerfs.engine.logs import read_text

    box, last_lines = session.store.container(container), int(tail) if tail.isdigit() else None
    if not timestamps and not since and not until:
        for name, text in read_text(box, follow=follow, tail=last_lines):
            write_all(2 if name == "stderr" else 1, text)
        return
    entries = box.logs(
        follow=follow,
        tail=last_lines,
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
@with_flags(EXEC.flags)
@container_argument()
@click.argument("command", nargs=-1, required=True, type=click.UNPROCESSED, metavar="COMMAND [ARG...]")
@click.pass_obj
def exec_command(session: Session, /, container: str, command: tuple[str, ...], **options: Any) -> int | None:
    """Run a program in a container that runs; its exit code is ours."""
    return EXEC.do(session, [container, *command], options)


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

    from layerfs.cli.gotypes import to_json
    from layerfs.cli.rows import event_row, event_text
    from layerfs.cli.table import unescape
    from layerfs.cli.template import Template

    until_ns = parse_moment(until) if until else None
    since_ns = parse_moment(since) if since else None
    template = Template(unescape(format_)) if format_ and format_ != "json" else None
    for event in session.store.events(since_ns=since_ns, until_ns=until_ns, filters=filters):
        row = event_row(event)
        out(template(row) if template else to_json(row) if format_ else event_text(event))
        sys.stdout.flush()
