"""`--change`: the Dockerfile instructions that change a config without a layer (import, commit; later the builder).

Each instruction is a pure function from a config to a config. Rules and error texts: docker 28's dispatchers.
"""

from __future__ import annotations

import json
import posixpath
import re
from collections.abc import Callable, Iterable, Mapping, Sequence

from layerfs._record import dataclass, replace
from layerfs.errors import InvalidInput
from layerfs.image.values import check_signal, parse_duration, parse_ports
from layerfs.image.words import expand, expand_words, split
from layerfs.oci import ContainerConfig, Healthcheck

DEFAULT_SHELL = ("/bin/sh", "-c")
_MILLISECOND = 10**6
_HEALTH_FLAGS = ("interval", "timeout", "start-period", "start-interval", "retries")


@dataclass(frozen=True, slots=True)
class State:
    """A config on its way through the instructions; `cmd_set` remembers a CMD of this run (ENTRYPOINT drops others)."""

    config: ContainerConfig
    cmd_set: bool = False


def apply_changes(config: ContainerConfig, changes: Iterable[str]) -> ContainerConfig:
    """The config after all changes, in order; a change may hold several lines.

    Raises:
        InvalidInput: an instruction that is not allowed here, or one that is malformed.
    """
    state = State(config)
    for line in logical_lines("\n".join(changes)):
        name, _, rest = line.partition(" ")
        if "\t" in name:
            name, _, rest = line.partition("\t")
        instruction = _INSTRUCTIONS.get(name.upper())
        if instruction is None:
            raise InvalidInput(f"{name.lower()} is not a valid change command")
        if not rest.strip():
            raise InvalidInput(f"{name.upper()} requires at least one argument")
        state = instruction(state, rest.strip())
    return state.config


def logical_lines(text: str) -> list[str]:
    """Lines with `\\`-continuations joined; comments and blank lines dropped."""
    lines: list[str] = []
    pending = ""
    for line in text.split("\n"):
        stripped = line.strip()
        if stripped.startswith("#") or (not stripped and not pending):
            continue
        body = line.rstrip()
        if body.endswith("\\"):
            pending += body[:-1]
            continue
        if (pending + line).strip():
            lines.append((pending + line).strip())
        pending = ""
    return [*lines, pending.strip()] if pending.strip() else lines


def parse_exec(text: str) -> tuple[str, ...] | None:
    """The exec form (a JSON array of strings), or None when the text is shell form."""
    if not text.startswith("["):
        return None
    try:
        values = json.loads(text)
    except (ValueError, RecursionError):
        return None
    return tuple(values) if isinstance(values, list) and all(isinstance(v, str) for v in values) else None


def command(config: ContainerConfig, text: str) -> tuple[str, ...]:
    """The argument of CMD, ENTRYPOINT or RUN as an argument vector."""
    words = parse_exec(text)
    return words if words is not None else (*(config.shell or DEFAULT_SHELL), text)


def environment(config: ContainerConfig) -> dict[str, str]:
    return dict(entry.partition("=")[::2] for entry in config.env)


def parse_pairs(instruction: str, text: str, variables: Mapping[str, str]) -> list[tuple[str, str]]:
    """The arguments of ENV and LABEL: `k=v k2="v 2"`, or the old form `k rest of line`."""
    words = split(text)
    if "=" not in words[0]:
        name, *rest = re.split(r"\s+", text, maxsplit=1)
        if not rest:
            raise InvalidInput(f"{instruction} must have two arguments")
        pairs = [(name, rest[0])]
    else:
        for word in words:
            if "=" not in word:
                raise InvalidInput(
                    f"Syntax error - can't find = in {json.dumps(word)}. Must be of the form: name=value"
                )
        pairs = [(name, value) for name, _, value in (word.partition("=") for word in words)]
    expanded = [(expand(name, variables), expand(value, variables)) for name, value in pairs]
    if not all(name for name, _ in expanded):
        raise InvalidInput(f"{instruction} names can not be blank")
    return expanded


def set_env(env: Sequence[str], pairs: Iterable[tuple[str, str]]) -> tuple[str, ...]:
    """The list with each name replaced in its place, or appended."""
    values = {entry.partition("=")[0]: entry for entry in env}
    return tuple((values | {name: f"{name}={value}" for name, value in pairs}).values())


def _cmd(state: State, text: str) -> State:
    return State(replace(state.config, cmd=command(state.config, text)), cmd_set=True)


def _entrypoint(state: State, text: str) -> State:
    config = replace(state.config, entrypoint=command(state.config, text))
    return replace(state, config=config if state.cmd_set else replace(config, cmd=None))


def _env(state: State, text: str) -> State:
    config = state.config
    pairs = parse_pairs("ENV", text, environment(config))
    return replace(state, config=replace(config, env=set_env(config.env, pairs)))


def _expose(state: State, text: str) -> State:
    config = state.config
    ports = [port for word in expand_words(text, environment(config)) for port in parse_ports(word)]
    return replace(state, config=replace(config, exposed_ports=tuple(sorted({*config.exposed_ports, *ports}))))


def _label(state: State, text: str) -> State:
    config = state.config
    pairs = parse_pairs("LABEL", text, environment(config))
    return replace(state, config=replace(config, labels=tuple(sorted((dict(config.labels) | dict(pairs)).items()))))


def _onbuild(state: State, text: str) -> State:
    trigger = text.split(None, 1)[0].upper()
    if trigger == "ONBUILD":
        raise InvalidInput("Chaining ONBUILD via `ONBUILD ONBUILD` isn't allowed")
    if trigger in ("FROM", "MAINTAINER"):
        raise InvalidInput(f"{trigger} isn't allowed as an ONBUILD trigger")
    return replace(state, config=replace(state.config, on_build=(*state.config.on_build, text)))


def _user(state: State, text: str) -> State:
    if len(split(text)) != 1:
        raise InvalidInput("USER requires exactly one argument")
    return replace(state, config=replace(state.config, user=expand(text, environment(state.config))))


def _volume(state: State, text: str) -> State:
    config, variables = state.config, environment(state.config)
    listed = parse_exec(text)
    paths = expand_words(text, variables) if listed is None else [expand(path, variables) for path in listed]
    if not paths:
        raise InvalidInput("VOLUME requires at least one argument")
    if not all(path.strip() for path in paths):
        raise InvalidInput("VOLUME specified can not be an empty string")
    return replace(state, config=replace(config, volumes=tuple(sorted({*config.volumes, *map(str.strip, paths)}))))


def _workdir(state: State, text: str) -> State:
    path = expand(text, environment(state.config))
    if not path:
        raise InvalidInput("cannot normalize nothing")
    joined = posixpath.join("/", state.config.working_dir, path)
    cleaned = "/" + posixpath.normpath(joined).lstrip("/")
    return replace(state, config=replace(state.config, working_dir=cleaned))


def _stopsignal(state: State, text: str) -> State:
    if len(split(text)) != 1:
        raise InvalidInput("STOPSIGNAL requires exactly one argument")
    signal = expand(text, environment(state.config))
    check_signal(signal)
    return replace(state, config=replace(state.config, stop_signal=signal))


def _healthcheck(state: State, text: str) -> State:
    flags, rest = _health_flags(text)
    kind, _, argument = rest.partition(" ")
    argument = argument.strip()
    if kind.upper() == "NONE":
        if argument or flags:
            raise InvalidInput("HEALTHCHECK NONE takes no arguments")
        health = Healthcheck(("NONE",))
    elif kind.upper() != "CMD":
        raise InvalidInput(f"Unknown type {json.dumps(kind)} in HEALTHCHECK (try CMD)")
    elif not argument:
        raise InvalidInput("Missing command after HEALTHCHECK CMD")
    else:
        words = parse_exec(argument)
        test = ("CMD-SHELL", argument) if words is None else ("CMD", *words)
        values = {name: _health_value(name, value) for name, value in flags.items()}
        health = Healthcheck(test, *(values.get(name, 0) for name in _HEALTH_FLAGS))
    return replace(state, config=replace(state.config, healthcheck=health))


def _health_flags(text: str) -> tuple[dict[str, str], str]:
    flags: dict[str, str] = {}
    while text.startswith("--"):
        word, *rest = text.split(None, 1)
        name, _, value = word[2:].partition("=")
        if name not in _HEALTH_FLAGS:
            raise InvalidInput(f"unknown flag: --{name}")
        if name in flags:
            raise InvalidInput(f"Duplicate flag specified: --{name}")
        flags[name], text = value, rest[0] if rest else ""
    return flags, text


def _health_value(name: str, value: str) -> int:
    if name != "retries":
        duration = parse_duration(value) if value else 0
        if duration < 0 or 0 < duration < _MILLISECOND:
            raise InvalidInput(f"Interval {json.dumps(name)} cannot be less than 1ms")
        return duration
    if value and not re.fullmatch(r"\d{1,9}", value, re.ASCII):
        raise InvalidInput(f"--retries must be at least 0 (not {value})")
    return int(value or "0")


_INSTRUCTIONS: dict[str, Callable[[State, str], State]] = {
    "CMD": _cmd,
    "ENTRYPOINT": _entrypoint,
    "ENV": _env,
    "EXPOSE": _expose,
    "HEALTHCHECK": _healthcheck,
    "LABEL": _label,
    "ONBUILD": _onbuild,
    "STOPSIGNAL": _stopsignal,
    "USER": _user,
    "VOLUME": _volume,
    "WORKDIR": _workdir,
}
