"""create and run: how a container is to run, from docker's options."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from layerfs.cli.app import Session
from layerfs.cli.launch_limits import CONFINEMENT, network_settings, take
from layerfs.cli.life import detach_option, follow
from layerfs.cli.mounts import engine_option
from layerfs.cli.options import complete_networks, image_argument
from layerfs.cli.output import fail, out, reason
from layerfs.cli.pull import image_at_hand
from layerfs.cli.terminal import check_input_terminal, parse_keys, size_of
from layerfs.cli.times import parse_duration
from layerfs.cli.verbs import verb
from layerfs.engine.attaching import NOTHING, Attach
from layerfs.engine.life import start
from layerfs.engine.settings import Settings
from layerfs.errors import ContainerNotFound, InvalidInput, LayerfsError

if TYPE_CHECKING:
    from layerfs.engine import Container

_FAILED = 125  # docker's code for what is wrong before the program runs

_OPTIONS: list[Callable[[Any], Any]] = [
    click.option("--name", help="Name of the container."),
    click.option("-e", "--env", multiple=True, metavar="NAME[=VALUE]", help="Set an environment variable."),
    click.option("--env-file", multiple=True, metavar="FILE", help="Read environment variables from a file."),
    click.option("-w", "--workdir", metavar="DIR", help="Working directory in the container."),
    click.option("-u", "--user", metavar="NAME|UID[:GROUP|GID]", help="Who the program runs as."),
    click.option("-h", "--hostname", help="Host name in the container."),
    click.option(
        "--network",
        "--net",
        "networks",
        multiple=True,
        metavar="NETWORK",
        shell_complete=complete_networks,
        help="none: loopback only; host; bridge; container:NAME; a network's name.",
    ),
    click.option("--entrypoint", help="Replace the image's ENTRYPOINT."),
    click.option("-l", "--label", multiple=True, metavar="NAME[=VALUE]", help="Set a label."),
    click.option("--label-file", multiple=True, metavar="FILE", help="Read labels from a file."),
    click.option("-v", "--volume", multiple=True, metavar="[SRC:]DST[:ro]", help="A volume, or a path of the host."),
    click.option("--mount", "mounts", multiple=True, metavar="type=…,src=…,dst=…", help="bind, volume or tmpfs."),
    click.option("--volumes-from", multiple=True, metavar="CONTAINER[:ro]", help="The mounts of another."),
    click.option("--tmpfs", multiple=True, metavar="DST[:OPTIONS]", help="Mount a tmpfs."),
    click.option("--read-only", is_flag=True, help="Mount the root file system read-only."),
    click.option("--privileged", is_flag=True, help="All capabilities, no masks."),
    click.option("--cap-add", multiple=True, help="Add a capability."),
    click.option("--cap-drop", multiple=True, help="Drop a capability."),
    click.option("--security-opt", multiple=True, metavar="OPTION", help="no-new-privileges, seccomp=FILE|unconfined."),
    click.option("--stop-signal", metavar="SIGNAL", help="Signal that stops the container."),
    click.option(
        "--storage-opt", multiple=True, metavar="NAME=VALUE", help="A mount option of every mount; size=10G limits it."
    ),
    click.option("--stop-timeout", type=int, metavar="SECONDS", help="Time to stop in, before it is killed."),
    click.option("-i", "--interactive", is_flag=True, help="Keep standard input open."),
    click.option("-t", "--tty", is_flag=True, help="Run it on a terminal."),
    click.option("--rm", "auto_remove", is_flag=True, help="Remove the container when its program ends."),
    click.option("--runtime", metavar="NAME|PATH", help="Another OCI runtime: crun, runc."),
    click.option("--restart", default="no", metavar="POLICY", help="no, on-failure[:N], always, unless-stopped."),
    click.option("--init", is_flag=True, help="PID 1 passes signals on and reaps processes."),
    click.option("--log-driver", default="json-file", metavar="NAME", help="json-file (default), none."),
    click.option("--log-opt", multiple=True, metavar="NAME=VALUE", help="max-size, max-file."),
    click.option("--health-cmd", metavar="COMMAND", help="A health check."),
    click.option("--health-interval", metavar="DURATION", help="Time between two checks (30s)."),
    click.option("--health-timeout", metavar="DURATION", help="Time that a check may take (30s)."),
    click.option("--health-start-period", metavar="DURATION", help="Time in which failures do not count (0s)."),
    click.option("--health-start-interval", metavar="DURATION", help="Time between checks in that period (5s)."),
    click.option("--health-retries", type=int, metavar="N", help="Failures in a row that make it unhealthy (3)."),
    click.option("--no-healthcheck", is_flag=True, help="Without the image's health check."),
    click.option("--pull", default="missing", metavar="POLICY", help="Pull it: always, missing (default), never."),
    click.option("--platform", metavar="OS/ARCH[/VARIANT]", help="Platform of the image that is pulled."),
    click.option("-q", "--quiet", is_flag=True, help="Say nothing of a pull."),
    click.option("--cidfile", metavar="FILE", help="Write the container's ID to a file."),
    *CONFINEMENT,
    engine_option,
]
_DURATIONS = ("health_interval", "health_timeout", "health_start_period", "health_start_interval")
_ARGUMENTS = {"allow_interspersed_args": False, "help_option_names": ["--help"]}


def _container_options(function: Any) -> Any:
    for option in reversed(_OPTIONS):
        function = option(function)
    return function


def _pairs(path: str, what: str) -> list[str]:
    """`NAME=VALUE` lines of a file by docker's rules: `#` starts a comment line, values are taken as they are.

    Raises:
        InvalidInput: a name with white space or none at all, bytes that are no UTF-8, a file that cannot be read.
    """
    try:
        lines = Path(path).read_bytes().removeprefix(b"\xef\xbb\xbf").split(b"\n")
    except OSError as error:
        raise InvalidInput(f"open {reason(error)}") from None
    result = []
    for number, raw in enumerate(lines, 1):
        try:
            line = raw.removesuffix(b"\r").decode().lstrip()
        except UnicodeDecodeError:
            raise InvalidInput(f"{what} file {path} contains invalid utf8 bytes at line {number}") from None
        name = line.partition("=")[0]
        if not line or line.startswith("#"):
            continue
        if not name:
            raise InvalidInput(f"no variable name on line '{line}'")
        if any(c.isspace() for c in name):
            raise InvalidInput(f"poorly formatted environment: variable '{name}' contains whitespaces")
        result.append(line)
    return result


def _with_ours(pairs: Iterable[str]) -> list[str]:
    """A name without a value takes the one of our environment, and is left out where we have none."""
    return [p if "=" in p else f"{p}={os.environ[p]}" for p in pairs if "=" in p or p in os.environ]


def _volume(text: str) -> str:
    """`./here:/there` is relative to where we are, as with docker."""
    source, _, rest = text.partition(":")
    return f"{os.path.abspath(source)}:{rest}" if source.startswith(".") else text  # noqa: PTH100


def _security(values: Iterable[str]) -> dict[str, Any]:
    """`--security-opt`: no-new-privileges, seccomp=FILE|unconfined; what asks for what is so anyway is taken, too.

    Raises:
        InvalidInput: any other, or a profile that is none.
    """
    from layerfs.engine.filters import profile_from

    wanted: dict[str, Any] = {}
    for value in values:
        name, _, setting = value.replace("=", ":", 1).partition(":")
        if name == "no-new-privileges" and setting in ("", "true", "false"):
            wanted["no_new_privileges"] = setting != "false"
        elif name == "seccomp" and setting:
            wanted["seccomp"] = profile_from(setting)
        elif (name, setting) not in (("apparmor", "unconfined"), ("label", "disable")):
            raise InvalidInput(f"--security-opt {value} is not supported")
    return wanted


def environment(env: Iterable[str], files: Iterable[str]) -> list[str]:
    """`-e` and `--env-file` as NAME=VALUE texts. Raises InvalidInput."""
    return _with_ours([*(line for path in files for line in _pairs(path, "env")), *env])


def _settings(options: dict[str, Any], command: tuple[str, ...]) -> dict[str, Any]:
    """What `Store.create` takes, from the command line's options."""
    labels = [line for path in options.pop("label_file") for line in _pairs(path, "label")]
    limits = take(options, CONFINEMENT)
    for name in _DURATIONS:
        options[name] = None if options[name] is None else parse_duration(options[name])
    return options | {
        "command": list(command) or None,
        "env": environment(options.pop("env"), options.pop("env_file")),
        "log_opts": options.pop("log_opt"),
        "labels": [*labels, *options.pop("label")],
        "volumes": [_volume(text) for text in options.pop("volume")],
        "mounts": list(options.pop("mounts")),
        **_security(options.pop("security_opt")),
        **limits,
        **network_settings(options.pop("networks"), limits),
    }


def _take_volumes(session: Session, settings: dict[str, Any], text: str) -> None:
    """`--volumes-from`: the mounts of another container, read-only with `:ro`."""
    name, _, mode = text.partition(":")
    if mode not in ("", "ro", "rw"):
        raise InvalidInput(f"invalid mode: {mode}")
    other = session.store.container(name).settings
    add = ",ro" if mode == "ro" else ""
    joined = [each + add if each.count(":") > 1 else each + add.replace(",", ":") for each in other.volumes]
    settings["volumes"] = [*joined, *settings["volumes"]]
    settings["mounts"] = [*(each + add for each in other.mounts), *settings["mounts"]]


def _create(session: Session, image: str, command: tuple[str, ...], options: dict[str, Any]) -> Container:
    cidfile = options.pop("cidfile")
    if cidfile and Path(cidfile).exists():
        raise InvalidInput(f"container ID file found, make sure the other container isn't running or delete {cidfile}")
    others = options.pop("volumes_from")
    how = {name: options.pop(name) for name in ("platform", "quiet")}
    policy = options.pop("pull")
    settings = _settings(options, command)
    for text in others:
        _take_volumes(session, settings, text)
    Settings().changed({name: value for name, value in settings.items() if name not in ("name", "engine")})
    image_at_hand(session, image, policy, **how)  # only when nothing else is wrong
    box = session.store.create(image, **settings)
    if cidfile:
        Path(cidfile).write_text(box.id)
    return box


@verb("create", context_settings=_ARGUMENTS)
@_container_options
@image_argument()
@click.argument("command", nargs=-1, type=click.UNPROCESSED, metavar="[COMMAND] [ARG...]")
@click.pass_obj
def create_command(session: Session, /, image: str, command: tuple[str, ...], **options: Any) -> int:
    """Make a container of an image: a writable layer and a record."""
    try:
        out(_create(session, image, command, options).id)
    except OSError as error:
        return fail(reason(error), _FAILED)
    return 0


@verb("run", context_settings=_ARGUMENTS)
@_container_options
@click.option("-d", "--detach", is_flag=True, help="In the background; print its ID.")
@click.option("--sig-proxy/--no-sig-proxy", default=True, help="Pass signals on to the program (the default).")
@detach_option
@image_argument()
@click.argument("command", nargs=-1, type=click.UNPROCESSED, metavar="[COMMAND] [ARG...]")
@click.pass_obj
def run_command(
    session: Session,
    /,
    image: str,
    command: tuple[str, ...],
    detach: bool,
    sig_proxy: bool,
    detach_keys: str,
    **options: Any,
) -> int:
    """Run a program in a new container; its exit code is ours."""
    stdin = options["interactive"] and not detach
    try:
        parse_keys(detach_keys)
        check_input_terminal(stdin, options["tty"])
        box = _create(session, image, command, options | {"stdin_once": stdin})
    except OSError as error:
        return fail(reason(error), _FAILED)
    what = NOTHING if detach else Attach.STDOUT | Attach.STDERR | Attach.CLEANS | (Attach.STDIN if stdin else NOTHING)
    started = False
    try:
        connection = start(box, attach=what, size=(0, 0) if detach else size_of(1))
        started = True
        if connection is None:  # somebody else was faster
            return fail(f"container {box.name} runs already", _FAILED)
        if detach:
            connection.close()
            out(box.id)
            return 0
        return follow(box, connection, stdin=stdin, keys=detach_keys, proxy=sig_proxy) or 0
    except LayerfsError as error:
        return fail(str(error), error.exit_code if error.exit_code in (126, 127) else _FAILED)
    except OSError as error:
        return fail(reason(error), _FAILED)
    finally:
        if not started and options["auto_remove"]:
            with contextlib.suppress(ContainerNotFound):
                box.remove(force=True)
