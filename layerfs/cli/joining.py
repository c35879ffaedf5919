"""start and exec: their options as data, and what they do."""

from __future__ import annotations

from collections.abc import Sequence

from layerfs._lazy import TYPE_CHECKING
from layerfs.cli.flags import Plain, option
from layerfs.cli.follow import DETACH, follow
from layerfs.cli.output import fail, for_each, out, reason
from layerfs.cli.session import Session
from layerfs.cli.terminal import Detached, GaveUp, Master, carry, check_input_terminal, parse_keys, size_of
from layerfs.errors import LayerfsError, RunError

if TYPE_CHECKING:
    from typing import Any

    from layerfs.engine import Container


_NOT_RUN, _NOT_EXECUTED = 125, 126


def failed(error: OSError, otherwise: int | None = None) -> int:
    """docker's codes for what could not be run; `otherwise` for what kept a program from running but itself."""
    code = error.exit_code if isinstance(error, RunError) else 1
    code = otherwise if otherwise and code == _NOT_RUN else code
    return fail(str(error) if isinstance(error, LayerfsError) else reason(error), code)


def start_all(session: Session, names: Sequence[str], options: dict[str, Any]) -> int:
    attach, interactive = options["attach"], options["interactive"]
    if options["by_policy"]:
        return for_each([box.name for box in session.store.containers() if _due(box)], lambda n: _start(session, n))
    if attach or interactive:
        if len(names) > 1:
            return fail("you cannot start and attach multiple containers at once")
        return _start_attached(session, names[0], interactive, options["sig_proxy"], options["detach_keys"])
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


def execute(session: Session, words: Sequence[str], options: dict[str, Any]) -> int:
    from layerfs.cli.launch import environment

    box, command = session.store.container(words[0]), words[1:]
    interactive, tty, detach = options["interactive"], options["tty"], options["detach"]
    how: dict[str, Any] = {name: options[name] for name in ("user", "workdir", "privileged")}
    how["env"] = environment(options["env"], options["env_file"])
    check_input_terminal(interactive and not detach, tty)
    parse_keys(options["detach_keys"])
    try:
        if detach:
            box.exec_detached(command, tty=tty, **how)
            return 0
        if tty:
            return _exec_terminal(box, command, interactive, options["detach_keys"], how)
        stdin = 0 if interactive else None
        how |= {"stdin": stdin, "stdout": None, "stderr": None}
        return box.exec(command, forward_signals=True, linger=True, **how).returncode
    except OSError as error:
        return failed(error, _NOT_EXECUTED)


def _exec_terminal(box: Container, command: Sequence[str], interactive: bool, keys: str, how: dict[str, Any]) -> int:
    from layerfs.engine.executing import hangups_held

    with (
        hangups_held(True) as release,
        box.exec_terminal(command, size=size_of(1), linger=True, **how) as process,
    ):
        far = Master(process.terminal, process.send_signal)
        try:
            release()
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


START = Plain(
    [
        option("-a", "--attach", is_flag=True, help="Show its output, pass signals on; its exit code is ours."),
        option("-i", "--interactive", is_flag=True, help="Pass our standard input on."),
        option(
            "--restart-policy", "by_policy", is_flag=True, help="All whose restart policy says so, as after a reboot."
        ),
        option("--sig-proxy/--no-sig-proxy", default=True, help="Pass signals on (the default, with -a)."),
        DETACH,
    ],
    start_all,
)
EXEC = Plain(
    [
        option("-i", "--interactive", is_flag=True, help="Pass our standard input on."),
        option("-t", "--tty", is_flag=True, help="On a terminal of its own."),
        option("-d", "--detach", is_flag=True, help="In the background; its output is thrown away."),
        option("-u", "--user", metavar="NAME|UID[:GROUP|GID]", help="Who it runs as."),
        option("-w", "--workdir", metavar="DIR", help="Working directory in the container."),
        option("-e", "--env", multiple=True, metavar="NAME[=VALUE]", help="Set an environment variable."),
        option("--env-file", multiple=True, metavar="FILE", help="Read environment variables from a file."),
        option("--privileged", is_flag=True, help="With all capabilities."),
        DETACH,
    ],
    execute,
    least=2,
    mixed=False,
)
