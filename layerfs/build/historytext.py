"""`created_by` of history entries: as BuildKit writes them, and as the classic builder did.

All functions take instructions that `Scope.step` has expanded. `buildkit` and `classic` answer None for what makes no
entry.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from layerfs.build.instructions import (
    DEFAULT_SHELL,
    Add,
    Arg,
    ArgPair,
    Cmd,
    Copy,
    Entrypoint,
    Env,
    Expose,
    Healthcheck,
    InlineFile,
    Instruction,
    Label,
    Maintainer,
    OnBuild,
    Run,
    Shell,
    StopSignal,
    User,
    Volume,
    Workdir,
)
from layerfs.build.problems import quote
from layerfs.build.scope import Scope
from layerfs.oci import Healthcheck as HealthConfig

COMMENT = "buildkit.dockerfile.v0"
_SUFFIX = " # buildkit"
_UNITS = ((3600 * 10**9, "h"), (60 * 10**9, "m"))


def buildkit(instruction: Instruction, scope: Scope, shell: Sequence[str], workdir: str = "") -> str | None:
    """BuildKit's text.

    Args:
        instruction: Expanded.
        scope: The one before the instruction.
        shell: `config.Shell` before the instruction (empty: the default).
        workdir: The working directory behind a WORKDIR, absolute.
    """
    match instruction:
        case Run():
            argv, _ = instruction.program(shell)
            return f"RUN {_with_args(argv, scope)}{_SUFFIX}"
        case Copy(sources=sources, files=files, destination=destination):
            flags = " --parents" * instruction.parents + _owner_flags(instruction)
            return f"COPY{flags}{_transferred(sources, files)} {destination}{_SUFFIX}"
        case Add(sources=sources, files=files, destination=destination):
            return f"ADD{_owner_flags(instruction)}{_transferred(sources, files)} {destination}{_SUFFIX}"
        case Workdir():
            return f"WORKDIR {workdir}"
        case Expose(ports=ports):
            return f"EXPOSE map[{' '.join(f'{port}:{{}}' for port in sorted(set(ports)))}]"
        case Healthcheck(health=health):
            return f"HEALTHCHECK &{{{_health(health)}}}"
        case OnBuild():
            return None
    return _plain(instruction, shell)


def classic(
    instruction: Instruction, scope: Scope, shell: Sequence[str], *, digest: str = "", workdir: str = ""
) -> str | None:
    """The classic builder's text; `digest` is `file:HEX`, `dir:HEX` or `multi:HEX` of what ADD and COPY took."""
    match instruction:
        case Run():
            argv, _ = instruction.program(shell)
            return _with_args(argv, scope, in_order=False)
        case Shell(words=words):
            return _nop(words, " " + (_plain(instruction, shell) or ""))
        case Copy(destination=destination):
            return _nop(shell, f"COPY {digest} in {destination} ")
        case Add(destination=destination):
            return _nop(shell, f"ADD {digest} in {destination} ")
        case Workdir():
            return _nop(shell, f"WORKDIR {workdir}")
        case Expose(ports=ports):
            return _nop(shell, " EXPOSE " + " ".join(sorted(port.removesuffix("/tcp") for port in set(ports))))
        case Healthcheck(health=health):
            return _nop(shell, f" HEALTHCHECK &{{{_health(health)}}}")
        case OnBuild(expression=expression):
            return _nop(shell, f" ONBUILD {expression}")
    text = _plain(instruction, shell)
    return None if text is None else _nop(shell, f" {text}")


def _nop(shell: Sequence[str], text: str) -> str:
    return f"{' '.join(shell or DEFAULT_SHELL)} #(nop) {text}"


def _plain(instruction: Instruction, shell: Sequence[str]) -> str | None:
    """The texts that both builders have."""
    match instruction:
        case Env(pairs=pairs):
            return "ENV" + "".join(f" {pair.key}={pair.value}" for pair in pairs)
        case Label(pairs=pairs):
            return "LABEL" + "".join(f" {pair.key}={pair.value}" for pair in pairs)
        case Arg(pairs=pairs):
            return "ARG " + " ".join(_arg(pair) for pair in pairs)
        case Cmd(command=command):
            return f"CMD {_quoted(command.argv(shell))}"
        case Entrypoint(command=command):
            return f"ENTRYPOINT {_quoted(command.argv(shell))}"
        case User(user=user):
            return f"USER {user}"
        case Volume(paths=paths):
            return f"VOLUME [{' '.join(paths)}]"
        case StopSignal(signal=signal):
            return f"STOPSIGNAL {signal}"
        case Shell(words=words):
            return f"SHELL [{' '.join(words)}]"
        case Maintainer(author=author):
            return f"MAINTAINER {author}"
    return None


def _arg(pair: ArgPair) -> str:
    return pair.name if pair.default is None else f"{pair.name}={pair.default}"


def _with_args(argv: Sequence[str], scope: Scope, *, in_order: bool = True) -> str:
    """A command line behind `|n K=V ...`, the ARGs in scope with the values they have now."""
    values = _arg_values(scope.args, scope.values)
    if not values:
        return " ".join(argv)
    names = list(values) if in_order else sorted(values)
    return " ".join((f"|{len(values)}", *(f"{name}={values[name]}" for name in names), *argv))


def _arg_values(args: Sequence[ArgPair], values: Mapping[str, str]) -> dict[str, str]:
    return {pair.name: values.get(pair.name, pair.default or "") for pair in args}


def _owner_flags(instruction: Copy | Add) -> str:
    chown = f" --chown={instruction.chown}" if instruction.chown else ""
    return chown + (f" --chmod={instruction.chmod}" if instruction.chmod else "")


def _transferred(sources: Sequence[str], files: Sequence[InlineFile]) -> str:
    return "".join(f" {source}" for source in sources) + "".join(f" <<{file.name}" for file in files)


def _quoted(words: Sequence[str]) -> str:
    return f"[{' '.join(quote(word) for word in words)}]"


def _health(health: HealthConfig) -> str:
    """Go's `%q` of the structure: strings quoted, durations too, the number of retries as a character."""
    times = (health.interval, health.timeout, health.start_period, health.start_interval)
    return f"{_quoted(health.test)} {' '.join(quote(duration(time)) for time in times)} {_character(health.retries)}"


def _character(number: int) -> str:
    if number > 0x10FFFF or 0xD800 <= number < 0xE000:
        return "'\ufffd'"
    inner = quote(chr(number))[1:-1]
    if number == ord("'"):
        return "'\\''"
    return "'\"'" if number == ord('"') else f"'{inner}'"


def duration(nanoseconds: int) -> str:
    """Go's text of a duration: `1h30m0s`, `1.5s`, `100ms`, `0s`."""
    sign, rest = ("-" if nanoseconds < 0 else ""), abs(nanoseconds)
    for size, unit in ((10**3, "ns"), (10**6, "µs"), (10**9, "ms")):
        if 0 < rest < size:
            return f"{sign}{_decimal(rest, size // 10**3)}{unit}"
    text = ""
    for size, unit in _UNITS:
        if rest >= size or text:
            text += f"{rest // size}{unit}"
            rest %= size
    return f"{sign}{text}{_decimal(rest, 10**9)}s"


def _decimal(value: int, scale: int) -> str:
    whole, part = divmod(value, scale)
    digits = f"{part:0{len(str(scale)) - 1}d}".rstrip("0") if part else ""
    return f"{whole}.{digits}" if digits else str(whole)
