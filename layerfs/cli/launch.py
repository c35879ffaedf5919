"""create and run: how a container is to run, from docker's options."""

from __future__ import annotations

import contextlib
import io
import os
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from layerfs._lazy import TYPE_CHECKING
from layerfs.cli.flags import Flag, Plain, option
from layerfs.cli.follow import DETACH, follow
from layerfs.cli.launch_limits import CONFINEMENT, network_settings, take
from layerfs.cli.output import fail, out, reason
from layerfs.cli.session import Session
from layerfs.cli.terminal import check_input_terminal, parse_keys, size_of
from layerfs.engine.attaching import CHUNK, NOTHING, Attach
from layerfs.engine.life import start
from layerfs.errors import ContainerNotFound, ImageNotFound, InvalidInput, LayerfsError

if TYPE_CHECKING:
    from typing import IO, Any

    from layerfs.engine import Container
    from layerfs.engine.attaching import Connection

_FAILED = 125  # docker's code for what is wrong before the program runs


def _engines() -> list[str]:
    from layerfs.cli.mounts import ENGINES

    return ENGINES


def _complete_networks(*about: Any) -> list[str]:
    from layerfs.cli.options import complete_networks

    return complete_networks(*about)


OPTIONS: list[Flag] = [
    option("--name", help="Name of the container."),
    option("--replace", is_flag=True, help="Remove the container that has that name first (podman's)."),
    option("-e", "--env", multiple=True, metavar="NAME[=VALUE]", help="Set an environment variable."),
    option("--env-file", multiple=True, metavar="FILE", help="Read environment variables from a file."),
    option("-w", "--workdir", metavar="DIR", help="Working directory in the container."),
    option("-u", "--user", metavar="NAME|UID[:GROUP|GID]", help="Who the program runs as."),
    option("-h", "--hostname", help="Host name in the container."),
    option("--domainname", metavar="DOMAIN", help="Its domain name."),
    option(
        "--network",
        "--net",
        "networks",
        multiple=True,
        metavar="NETWORK",
        envvar="LAYERFS_NETWORK",
        shell_complete=_complete_networks,
        help="bridge (or $LAYERFS_NETWORK); none: loopback only; host; container:NAME; a network's name.",
    ),
    option("--entrypoint", help="Replace the image's ENTRYPOINT."),
    option("-l", "--label", multiple=True, metavar="NAME[=VALUE]", help="Set a label."),
    option("--label-file", multiple=True, metavar="FILE", help="Read labels from a file."),
    option("-v", "--volume", multiple=True, metavar="[SRC:]DST[:ro]", help="A volume, or a path of the host."),
    option("--mount", "mounts", multiple=True, metavar="type=…,src=…,dst=…", help="bind, volume or tmpfs."),
    option("--volumes-from", multiple=True, metavar="CONTAINER[:ro]", help="The mounts of another."),
    option("--volume-driver", default="local", metavar="NAME", help="Of unnamed volumes; there is local only."),
    option("--tmpfs", multiple=True, metavar="DST[:OPTIONS]", help="Mount a tmpfs."),
    option("--read-only", is_flag=True, help="Mount the root file system read-only."),
    option("--privileged", is_flag=True, help="All capabilities, no masks."),
    option("--cap-add", multiple=True, help="Add a capability."),
    option("--cap-drop", multiple=True, help="Drop a capability."),
    option(
        "--security-opt",
        multiple=True,
        metavar="OPTION",
        help="no-new-privileges, seccomp=FILE; seccomp, systempaths=unconfined.",
    ),
    option("--stop-signal", metavar="SIGNAL", help="Signal that stops the container."),
    option(
        "--storage-opt", multiple=True, metavar="NAME=VALUE", help="A mount option of every mount; size=10G limits it."
    ),
    option("--stop-timeout", type=int, metavar="SECONDS", help="Time to stop in, before it is killed."),
    option("-i", "--interactive", is_flag=True, help="Keep standard input open."),
    option("-a", "--attach", multiple=True, metavar="STREAM", help="Only stdin, stdout, stderr; else all that go."),
    option("-t", "--tty", is_flag=True, help="Run it on a terminal."),
    option("--rm", "auto_remove", is_flag=True, help="Remove the container when its program ends."),
    option("--runtime", metavar="NAME|PATH", help="Another OCI runtime: crun, runc."),
    option("--restart", default="no", metavar="POLICY", help="no, on-failure[:N], always, unless-stopped."),
    option("--init", is_flag=True, help="PID 1 passes signals on and reaps processes."),
    option("--log-driver", default="json-file", metavar="NAME", help="json-file (default), none."),
    option("--log-opt", multiple=True, metavar="NAME=VALUE", help="max-size, max-file."),
    option("--health-cmd", metavar="COMMAND", help="A health check."),
    option("--health-interval", metavar="DURATION", help="Time between two checks (30s)."),
    option("--health-timeout", metavar="DURATION", help="Time that a check may take (30s)."),
    option("--health-start-period", metavar="DURATION", help="Time in which failures do not count (0s)."),
    option("--health-start-interval", metavar="DURATION", help="Time between checks in that period (5s)."),
    option("--health-retries", type=int, metavar="N", help="Failures in a row that make it unhealthy (3)."),
    option("--no-healthcheck", is_flag=True, help="Without the image's health check."),
    option("--pull", default="missing", metavar="POLICY", help="Pull it: always, missing (default), never."),
    option("--platform", metavar="OS/ARCH[/VARIANT]", help="Platform of the image that is pulled."),
    option("--disable-content-trust", is_flag=True, help="So it is; for docker's sake."),
    option("-q", "--quiet", is_flag=True, help="Say nothing of a pull."),
    option("--cidfile", metavar="FILE", help="Write the container's ID to a file."),
    *CONFINEMENT,
    option("--engine", choices=_engines, help="Mount engine; default: the best one here."),
]
RUN_OPTIONS: list[Flag] = [
    *OPTIONS,
    option("-d", "--detach", is_flag=True, help="In the background; print its ID."),
    option("--sig-proxy/--no-sig-proxy", default=True, help="Pass signals on to the program (the default)."),
    DETACH,
]
_DURATIONS = ("health_interval", "health_timeout", "health_start_period", "health_start_interval")


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


def security_settings(values: Iterable[str]) -> dict[str, Any]:
    """`--security-opt`: no-new-privileges, seccomp=FILE|unconfined, systempaths=unconfined; what asks for what is so
    anyway is taken, too.

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
        elif (name, setting) == ("systempaths", "unconfined"):
            wanted["unmasked"] = True
        elif (name, setting) not in (("apparmor", "unconfined"), ("label", "disable")):
            raise InvalidInput(f"--security-opt {value} is not supported")
    return wanted


def environment(env: Iterable[str], files: Iterable[str]) -> list[str]:
    """`-e` and `--env-file` as NAME=VALUE texts. Raises InvalidInput."""
    return _with_ours([*(line for path in files for line in _pairs(path, "env")), *env])


def _seconds(text: str) -> float:
    from layerfs.cli.times import parse_duration

    return parse_duration(text)


def _settings(options: dict[str, Any], command: Sequence[str]) -> dict[str, Any]:
    """What `Store.create` takes, from the command line's options."""
    labels = [line for path in options.pop("label_file") for line in _pairs(path, "label")]
    limits = take(options, CONFINEMENT)
    for name in _DURATIONS:
        options[name] = None if options[name] is None else _seconds(options[name])
    return options | {
        "command": list(command) or None,
        "env": environment(options.pop("env"), options.pop("env_file")),
        "log_opts": options.pop("log_opt"),
        "labels": [*labels, *options.pop("label")],
        "volumes": [_volume(text) for text in options.pop("volume")],
        "mounts": list(options.pop("mounts")),
        **security_settings(options.pop("security_opt")),
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


def _have(session: Session, image: str, policy: str, settings: dict[str, Any], how: dict[str, Any]) -> None:
    """Has the image at hand: nearly always it is. Pulled only when nothing else is wrong."""
    if policy == "missing" and how["platform"] is None:
        with contextlib.suppress(ImageNotFound):
            session.store.image(image)
            return
    from layerfs.cli.transfers import image_at_hand
    from layerfs.engine.settings import Settings

    Settings().changed({name: value for name, value in settings.items() if name not in ("name", "engine")})
    image_at_hand(session, image, policy, **how)


def _create(session: Session, image: str, command: Sequence[str], options: dict[str, Any]) -> Container:
    with _id_file(options.pop("cidfile")) as cidfile:
        box = _made(session, image, command, options)
        cidfile.write(box.id)
    return box


@contextlib.contextmanager
def _id_file(path: str | None) -> Iterator[IO[str]]:
    """`--cidfile`: made before there is a container; it goes again when there will be none."""
    try:
        file = Path(path).open("x") if path else io.StringIO()  # noqa: SIM115 (closed below)
    except FileExistsError:
        why = f"container ID file found, make sure the other container isn't running or delete {path}"
        raise InvalidInput(why) from None
    except OSError as error:
        raise InvalidInput(f"failed to create the container ID file: open {reason(error)}") from None
    try:
        with file:
            yield file
    except BaseException:
        if path:
            Path(path).unlink(missing_ok=True)
        raise


def _made(session: Session, image: str, command: Sequence[str], options: dict[str, Any]) -> Container:
    others, driver, replaced = options.pop("volumes_from"), options.pop("volume_driver"), options.pop("replace")
    del options["disable_content_trust"]
    if driver != "local":
        raise InvalidInput(f'error looking up volume plugin {driver}: plugin "{driver}" not found')
    attached(options.pop("attach"))
    how = {name: options.pop(name) for name in ("platform", "quiet")}
    policy = options.pop("pull")
    settings = _settings(options, command)
    for text in others:
        _take_volumes(session, settings, text)
    _have(session, image, policy, settings, how)
    if replaced:
        _clear(session, settings["name"])
    return session.store.create(image, **settings)


def _clear(session: Session, name: str | None) -> None:
    """`--replace`: whatever has the name goes. Raises InvalidInput when there is none."""
    if not name:
        raise InvalidInput("cannot replace container without --name being set")
    with contextlib.suppress(ContainerNotFound):
        before = session.store.container(name)
        if before.name == name:  # and not only an ID that begins so
            before.remove(force=True)


def attached(names: Iterable[str]) -> Attach:
    """`-a`: the outputs that we see; both when nobody says. Raises InvalidInput in docker's words."""
    found = NOTHING
    words = {"stdin": NOTHING, "stdout": Attach.STDOUT, "stderr": Attach.STDERR}
    for name in names:
        if name.lower() not in words:
            text = f'invalid argument "{name}" for "-a, --attach" flag'
            raise InvalidInput(f"{text}: valid streams are STDIN, STDOUT and STDERR")
        found |= words[name.lower()]
    return found if names else Attach.STDOUT | Attach.STDERR


def _feed(box: Container, connection: Connection, stdin: bool) -> int:
    """Nobody wants its output: it gets all our input, and goes on without us."""
    out(box.id)
    with connection:
        while stdin and (data := os.read(0, CHUNK)):
            stdin = connection.write(data)
        connection.end_input()
    return 0


def create(session: Session, image: str, command: Sequence[str], options: dict[str, Any]) -> int:
    """Prints the new container's ID."""
    try:
        out(_create(session, image, command, options).id)
    except OSError as error:
        return fail(reason(error), _FAILED)
    return 0


def run(session: Session, image: str, command: Sequence[str], options: dict[str, Any]) -> int:
    """The exit code of the program, or of what kept it from running."""
    detach, keys, proxy = options.pop("detach"), options.pop("detach_keys"), options.pop("sig_proxy")
    stdin = options["interactive"] and not detach
    try:
        parse_keys(keys)
        outputs = attached(options["attach"])
        if options["attach"] and detach:
            raise InvalidInput("conflicting options: cannot specify both --attach and --detach")
        check_input_terminal(stdin, options["tty"])
        box = _create(session, image, command, options | {"stdin_once": stdin, "detached": detach})
    except OSError as error:
        return fail(reason(error), _FAILED)
    what = NOTHING if detach else outputs | (Attach.CLEANS if outputs else NOTHING)
    what |= Attach.STDIN if stdin else NOTHING
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
        if not outputs:
            return _feed(box, connection, stdin)
        return follow(box, connection, stdin=stdin, keys=keys, proxy=proxy) or 0
    except LayerfsError as error:
        return fail(str(error), error.exit_code if error.exit_code in (126, 127) else _FAILED)
    except BrokenPipeError:  # who read our output has gone; the container goes on, as docker's
        raise
    except OSError as error:
        return fail(reason(error), _FAILED)
    finally:
        if not started and options["auto_remove"]:
            with contextlib.suppress(ContainerNotFound):
                box.remove(force=True)


CREATE = Plain(OPTIONS, lambda session, words, options: create(session, words[0], words[1:], options), mixed=False)
RUN = Plain(RUN_OPTIONS, lambda session, words, options: run(session, words[0], words[1:], options), mixed=False)
