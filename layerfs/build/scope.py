"""What names mean at a line: global ARGs, those of a stage, ENV, the image's environment, and the predefined ones.

A scope is a value; `enter` makes the one of a stage, `step` expands an instruction and gives the scope behind it. The
rules are BuildKit's: a line sees the values before it; ARG and ENV of one name are one variable whose last writer wins
(an image's own ENV wins again where another stage begins); proxies are known to no expansion.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TypeVar

from layerfs._record import dataclass, field, replace
from layerfs.build.expand import Expansion, Rules, expand
from layerfs.build.instructions import (
    Add,
    Arg,
    ArgPair,
    Copy,
    Dockerfile,
    Env,
    Expose,
    InlineFile,
    Instruction,
    Label,
    Pair,
    Run,
    StopSignal,
    User,
    Volume,
    Workdir,
)
from layerfs.build.mounts import parse_mount
from layerfs.build.ports import expose
from layerfs.build.problems import problem
from layerfs.oci import Platform

DEFAULT_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
PROXIES = ("HTTP_PROXY", "HTTPS_PROXY", "FTP_PROXY", "NO_PROXY", "ALL_PROXY")
_TOTAL_MAX = 8 << 20  # characters of all values of a scope together
_PORTS_MAX = 3 * 65536  # all ports of all protocols
_Transfer = TypeVar("_Transfer", Copy, Add)


def proxies(build_args: Mapping[str, str]) -> tuple[tuple[str, str], ...]:
    """The variables a RUN gets without any ARG, in neither history nor cache keys: each in both casings."""
    found: dict[str, str] = {}
    for name in sorted(build_args):
        if name.upper() in PROXIES:
            found |= {name.upper(): build_args[name], name.lower(): build_args[name]}
    return tuple(sorted(found.items()))


def predefined(target: Platform, build: Platform, stage: str, build_args: Mapping[str, str]) -> dict[str, str]:
    """The platform arguments: known to FROM, and to a stage that declares them."""
    values = {
        "BUILDPLATFORM": str(build),
        "BUILDOS": build.os,
        "BUILDOSVERSION": build.os_version,
        "BUILDARCH": build.architecture,
        "BUILDVARIANT": build.variant,
        "TARGETPLATFORM": str(target),
        "TARGETOS": target.os,
        "TARGETOSVERSION": target.os_version,
        "TARGETARCH": target.architecture,
        "TARGETVARIANT": target.variant,
        "TARGETSTAGE": stage or "default",
    }
    return {name: build_args.get(name, value) for name, value in values.items()}


@dataclass(frozen=True, slots=True)
class Globals:
    """The ARGs before the first FROM, evaluated; what FROM lines expand with, and what a stage's `ARG name` imports.

    `declared` are the names the file declares (the predefined ones come on top, in `values`).
    """

    values: Mapping[str, str]
    build_args: Mapping[str, str]
    declared: frozenset[str]
    rules: Rules

    @classmethod
    def of(
        cls,
        dockerfile: Dockerfile,
        build_args: Mapping[str, str],
        *,
        target: Platform,
        build: Platform | None = None,
        stage: str = "",
    ) -> Globals:
        """Evaluate the global ARGs.

        Args:
            dockerfile: The parsed file.
            build_args: What `--build-arg` gave.
            target: The platform to build for.
            build: The platform to build on; that of this machine by default.
            stage: The name of the target stage (for TARGETSTAGE).

        Raises:
            InvalidDockerfile: a default that does not expand.
        """
        rules = Rules(escape=dockerfile.escape)
        name = stage or dockerfile.stages[-1].name
        values = predefined(target, build or Platform.host(), name, build_args)
        declared: set[str] = set()
        for arg in dockerfile.global_args:
            with dockerfile.place(arg.at):
                for pair in arg.pairs:
                    declared.add(pair.name)
                    if pair.name in build_args:
                        values[pair.name] = build_args[pair.name]
                    elif pair.default is not None:
                        values[pair.name] = expand(pair.default, values, rules).text
                _bounded(values)
        return cls(values, build_args, frozenset(declared), rules)

    def expand(self, word: str) -> Expansion:
        """A word of a FROM line."""
        return expand(word, self.values, self.rules)

    def enter(self, image_env: Iterable[str] = (), base: Scope | None = None) -> Scope:
        """The scope at the beginning of a stage.

        Args:
            image_env: `config.Env` of what the stage stands on.
            base: The scope at the end of the stage it stands on, if that is in the same file.
        """
        values = dict(base.values) if base else {}
        values |= dict(entry.partition("=")[::2] for entry in image_env)
        values.setdefault("PATH", DEFAULT_PATH)
        return Scope(self, values, base.args if base else ())


@dataclass(frozen=True, slots=True)
class Scope:
    """The variables at one line of a stage.

    `values` is what a RUN's environment has (ENV, ARG and the image's), except for `proxies(build_args)`; `args` are
    the ARGs declared so far, in order, as history shows them.
    """

    globals: Globals
    values: Mapping[str, str]
    args: tuple[ArgPair, ...] = ()
    missing: frozenset[str] = field(default=frozenset())  # what the last line used and nobody had defined

    @property
    def environment(self) -> tuple[str, ...]:
        """`values` as `NAME=value`."""
        return tuple(f"{name}={value}" for name, value in self.values.items())

    def words(self, text: str) -> tuple[str, ...]:
        """A text expanded and split into words."""
        return expand(text, self.values, self.globals.rules).words

    def step(self, instruction: Instruction) -> tuple[Instruction, Scope]:
        """The instruction expanded, and the scope behind it (the same one, if it is neither ARG nor ENV).

        Raises:
            InvalidDockerfile: it does not expand, without its place (see `Dockerfile.place`).
        """
        expander = _Expander(self.values, self.globals.rules)
        if isinstance(instruction, Arg):
            return self._declare(instruction, expander)
        expanded = _expanded(instruction, expander)
        missing = frozenset(expander.missing - {pair.name for pair in self.args})
        if not isinstance(expanded, Env):
            return expanded, replace(self, missing=missing) if missing != self.missing else self
        values = {**self.values, **{pair.key: pair.value for pair in expanded.pairs}}
        _bounded(values)
        return expanded, replace(self, values=values, missing=missing)

    def _declare(self, arg: Arg, expander: _Expander) -> tuple[Arg, Scope]:
        """Several names of one line see each other, from left to right."""
        given = self.globals.build_args
        values, args = dict(self.values), list(self.args)
        pairs: list[ArgPair] = []
        missing: set[str] = set()
        for pair in arg.pairs:
            value = pair.default
            if pair.name in given:
                value = given[pair.name]
            elif value is not None:
                found = expand(value, values, self.globals.rules)
                missing |= found.missing - {each.name for each in args}
                value = found.text
            else:
                value = self.globals.values.get(pair.name)
            if value is not None:
                values[pair.name] = value
            pairs.append(ArgPair(pair.name, value))
            args.append(pairs[-1])
        _bounded(values)
        return replace(arg, pairs=tuple(pairs)), Scope(self.globals, values, tuple(args), frozenset(missing))


class _Expander:
    """Expands words and remembers the variables that were not there."""

    def __init__(self, values: Mapping[str, str], rules: Rules) -> None:
        self.values = values
        self.rules = rules
        self.missing: set[str] = set()

    def word(self, text: str) -> str:
        return self._note(expand(text, self.values, self.rules)).text

    def words(self, text: str) -> tuple[str, ...]:
        return self._note(expand(text, self.values, self.rules)).words

    def body(self, text: str) -> str:
        """A heredoc's: quotes are text, and the escape is always a backslash."""
        return self._note(expand(text, self.values, Rules(quotes=False))).text

    def each(self, texts: tuple[str, ...]) -> tuple[str, ...]:
        return tuple(self.word(text) for text in texts)

    def _note(self, found: Expansion) -> Expansion:
        self.missing |= found.missing
        return found


def _expanded(instruction: Instruction, expander: _Expander) -> Instruction:
    match instruction:
        case Env(pairs=pairs) | Label(pairs=pairs):
            return replace(instruction, pairs=tuple(_pair(pair, expander) for pair in pairs))
        case Copy():
            return _transfer(instruction, expander)
        case Add():
            add = replace(instruction, checksum=expander.word(instruction.checksum))
            return _transfer(add, expander)
        case Run(mount_flags=flags) if flags:
            return replace(instruction, mounts=tuple(parse_mount(flag, expander.word) for flag in flags))
        case Workdir(path=path):
            return replace(instruction, path=expander.word(path))
        case User(user=user):
            return replace(instruction, user=expander.word(user))
        case Volume(paths=paths):
            expanded = expander.each(paths)
            if not all(expanded):
                raise problem("VOLUME specified can not be an empty string", word=instruction.at.text)
            return replace(instruction, paths=expanded)
        case StopSignal(signal=signal):
            return replace(instruction, signal=expander.word(signal))
        case Expose(ports=ports):
            return replace(instruction, ports=_ports([word for port in ports for word in expander.words(port)]))
    return instruction


def _ports(words: list[str]) -> tuple[str, ...]:
    """Each port once, in the order of the words."""
    found: dict[str, None] = {}
    work = 0
    for word in words:
        ports = expose(word).ports
        work += len(ports)
        if work > _PORTS_MAX:
            raise problem(f"EXPOSE names more than {_PORTS_MAX} ports", word=word)
        found |= dict.fromkeys(ports)
    return tuple(found)


def _pair(pair: Pair, expander: _Expander) -> Pair:
    return replace(pair, key=expander.word(pair.key), value=expander.word(pair.value))


def _transfer(instruction: _Transfer, expander: _Expander) -> _Transfer:
    return replace(
        instruction,
        chown=expander.word(instruction.chown),
        chmod=expander.word(instruction.chmod),
        sources=expander.each(instruction.sources),
        destination=expander.word(instruction.destination),
        files=tuple(_inline(file, expander) for file in instruction.files),
    )


def _inline(file: InlineFile, expander: _Expander) -> InlineFile:
    return replace(file, text=expander.body(file.text), expand=False) if file.expand else file


def _bounded(values: Mapping[str, str]) -> None:
    if sum(map(len, values.values())) > _TOTAL_MAX:
        raise problem(f"variables are larger than {_TOTAL_MAX} characters together")
