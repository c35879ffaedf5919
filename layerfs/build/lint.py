"""BuildKit's checks of a Dockerfile, with its rule names and texts: `build --check`.

`check` is pure: what base images say (their environment and SHELL) comes through a function. The directive
`# check=skip=RULE,...;error=true;experimental=RULE` at the top, and `# check=skip=RULE` above an instruction, count.
"""

from __future__ import annotations

import posixpath
import re
from collections.abc import Callable, Collection, Iterable, Mapping

from layerfs._record import dataclass, field, replace
from layerfs.build.ignore import Matcher, clean
from layerfs.build.instructions import (
    Add,
    Arg,
    Cmd,
    Copy,
    Dockerfile,
    Entrypoint,
    Env,
    Expose,
    From,
    Healthcheck,
    Instruction,
    Label,
    Maintainer,
    Shell,
    Source,
    Workdir,
)
from layerfs.build.parse import parse
from layerfs.build.ports import expose
from layerfs.build.problems import nearest, problem, quote
from layerfs.build.scope import Globals, Scope
from layerfs.build.stages import SCRATCH, Plan, Planned, plan
from layerfs.errors import InvalidDockerfile, InvalidInput
from layerfs.oci import ContainerConfig, Platform
from layerfs.reference import Reference

_DOCS = "https://docs.docker.com/go/dockerfile/rule/"
_SECRET = re.compile(
    "(?:_|^)(?:apikey|auth|credential|credentials|key|password|pword|passwd|secret|token)(?:_|$)", re.IGNORECASE
)
_NO_SECRET = re.compile("(?:_|^)(?:public|file|version)(?:_|$)", re.IGNORECASE)
_RESERVED = ("context", SCRATCH)
_REMOTE = re.compile(r"(https?|git|ssh)://|git@")
_EVERYTHING = ("*", "**", "**/*")


@dataclass(frozen=True, slots=True)
class Rule:
    """`experimental` rules are silent unless they are asked for."""

    name: str
    description: str
    experimental: bool = False

    @property
    def url(self) -> str:
        return _DOCS + re.sub(r"(?<=[a-z])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])", "-", self.name).lower() + "/"


RULES = {
    rule.name: rule
    for rule in (
        Rule("StageNameCasing", "Stage names should be lowercase"),
        Rule("FromAsCasing", "The 'as' keyword should match the case of the 'from' keyword"),
        Rule("NoEmptyContinuation", "Empty continuation lines will become errors in a future release"),
        Rule(
            "ConsistentInstructionCasing",
            "All commands within the Dockerfile should use the same casing (either upper or lower)",
        ),
        Rule("DuplicateStageName", "Stage names should be unique"),
        Rule("ReservedStageName", "Reserved words should not be used as stage names"),
        Rule(
            "JSONArgsRecommended",
            "JSON arguments recommended for ENTRYPOINT/CMD to prevent unintended behavior related to OS signals",
        ),
        Rule(
            "MaintainerDeprecated",
            "The MAINTAINER instruction is deprecated, use a label instead to define an image author",
        ),
        Rule("UndefinedArgInFrom", "FROM command must use declared ARGs"),
        Rule(
            "WorkdirRelativePath",
            "Relative workdir without an absolute workdir declared within the build can have unexpected results if the "
            "base image changes",
        ),
        Rule("UndefinedVar", "Variables should be defined before their use"),
        Rule(
            "MultipleInstructionsDisallowed",
            "Multiple instructions of the same type should not be used in the same stage",
        ),
        Rule("LegacyKeyValueFormat", "Legacy key/value format with whitespace separator should not be used"),
        # never told here, where an image of another platform is refused; but it may be named after `skip`
        Rule("InvalidBaseImagePlatform", "Base image platform does not match expected target platform"),
        Rule(
            "RedundantTargetPlatform",
            "Setting platform to predefined $TARGETPLATFORM in FROM is redundant as this is the default behavior",
        ),
        Rule("SecretsUsedInArgOrEnv", "Sensitive data should not be used in the ARG or ENV commands"),
        Rule("InvalidDefaultArgInFrom", "Default value for global ARG results in an empty or invalid base image name"),
        Rule("FromPlatformFlagConstDisallowed", "FROM --platform flag should not use a constant value"),
        Rule("CopyIgnoredFile", "Attempting to Copy file that is excluded by .dockerignore"),
        Rule(
            "InvalidDefinitionDescription",
            "Comment for build stage or argument should follow the format: `# <arg/stage name> <description>`. If this "
            "is not intended to be a description comment, add an empty line or comment between the instruction and the "
            "comment.",
            experimental=True,
        ),
        Rule("ExposeProtoCasing", "Protocol in EXPOSE instruction should be lowercase"),
        Rule(
            "ExposeInvalidFormat",
            "IP address and host-port mapping should not be used in EXPOSE instruction. This will become an error in a "
            "future release",
        ),
    )
}


@dataclass(frozen=True, slots=True)
class Warning:
    """A finding, about the lines from `first` to `last`."""

    rule: Rule
    message: str
    first: int
    last: int

    def __str__(self) -> str:
        return f"{self.rule.name}: {self.message} (line {self.first})"


@dataclass(frozen=True, slots=True)
class Report:
    """What `check` found, in the order of lines; `error` is why the file cannot be built. `fails`: `error=true`."""

    warnings: tuple[Warning, ...]
    error: InvalidDockerfile | None = None
    fails: bool = False


@dataclass(frozen=True, slots=True)
class Options:
    """Of the directive `check`."""

    skip: frozenset[str] = frozenset()
    skip_all: bool = False
    experimental: frozenset[str] = frozenset()
    experimental_all: bool = False
    error: bool = False

    @classmethod
    def parse(cls, text: str) -> Options:
        """Parse `skip=A,B;error=true;experimental=all`.

        Raises:
            InvalidDockerfile: another option, or `error` that is no boolean.
        """
        options = cls()
        for part in text.strip().split(";", 2) if text.strip() else ():
            key, equals, value = (piece.strip() for piece in part.partition("="))
            wrong = key if equals else part.strip()
            names = frozenset(name.strip() for name in value.split(","))
            if key == "skip" and equals:
                options = replace(options, skip_all=True) if value == "all" else replace(options, skip=names)
            elif key == "experimental" and equals:
                asked = {"experimental_all": True} if value == "all" else {"experimental": names}
                options = replace(options, **asked)
            elif key == "error" and value.lower() in ("1", "t", "true", "0", "f", "false"):
                options = replace(options, error=value.lower() in ("1", "t", "true"))
            else:
                raise problem(f"failed to parse check options: invalid check option {quote(wrong)}", word=wrong)
        return options

    def wants(self, rule: Rule) -> bool:
        if rule.experimental:
            return self.experimental_all or rule.name in self.experimental
        return not self.skip_all and rule.name not in self.skip

    def with_comments(self, comments: Iterable[str]) -> Options:
        """With what a comment `check=...` right above an instruction adds."""
        for comment in comments:
            match = re.match(r"check[ \t]*=[ \t]*(\S+)", comment, re.IGNORECASE)
            if match:
                try:
                    more = Options.parse(match[1])
                except InvalidDockerfile:
                    return self
                return Options(
                    self.skip | more.skip,
                    self.skip_all or more.skip_all,
                    self.experimental | more.experimental,
                    self.experimental_all or more.experimental_all,
                    self.error,
                )
        return self


BaseConfig = Callable[[str, Platform | None], ContainerConfig | None]


def check(
    made: Plan,
    *,
    base_config: BaseConfig = lambda image, platform: None,
    ignore: Matcher | None = None,
    all_stages: bool = True,
) -> Report:
    """Run all checks.

    Args:
        made: The plan of the file, for the target that is to be checked.
        base_config: The config of a base image, None when it is not known (its variables then count as undefined).
        ignore: The context's `.dockerignore`.
        all_stages: Also the stages the target does not need.
    """
    try:
        run = _Run(made.dockerfile, made.globals, base_config, ignore)
    except InvalidDockerfile as error:
        return Report((), error)
    run.whole_file()
    run.base_images()
    return run.report(run.all_of(made, range(len(made.stages)) if all_stages else made.order))


def check_text(
    data: bytes,
    file: str = "Dockerfile",
    *,
    platform: Platform | None = None,
    build_args: Mapping[str, str] | None = None,
    target: str = "",
    contexts: Collection[str] = (),
    base_config: BaseConfig = lambda image, platform: None,
    ignore: Matcher | None = None,
) -> Report:
    """`check` of a file that may not even parse or plan: the error comes with the warnings about what is before it."""
    try:
        dockerfile = parse(data, file)
    except InvalidDockerfile as error:
        return Report(_before(data, file, error), error)
    try:
        made = plan(dockerfile, platform=platform, build_args=build_args, target=target, contexts=contexts)
    except InvalidDockerfile as error:
        return _unplanned(dockerfile, platform or Platform.host(), build_args or {}, error)
    return check(made, base_config=base_config, ignore=ignore, all_stages=not target)


def _before(data: bytes, file: str, error: InvalidDockerfile) -> tuple[Warning, ...]:
    """About the lines before the one that does not parse."""
    head = b"\n".join(data.split(b"\n")[: max(error.first_line - 1, 0)])
    try:
        run = _Run(parse(head, file), None, lambda image, platform: None, None)
    except InvalidDockerfile:
        return ()
    run.whole_file()
    return run.report(None).warnings


def _unplanned(
    dockerfile: Dockerfile, platform: Platform, build_args: Mapping[str, str], error: InvalidDockerfile
) -> Report:
    try:
        values = Globals.of(dockerfile, build_args, target=platform)
        run = _Run(dockerfile, values, lambda image, platform: None, None)
        run.whole_file()
        run.base_images()
    except InvalidDockerfile:
        return Report((), error)
    return run.report(error)


def _options(dockerfile: Dockerfile) -> Options:
    for directive in dockerfile.directives:
        if directive.name == "check":
            with dockerfile.place(Source("", "", directive.line, directive.line)):
                return Options.parse(directive.value.partition(" ")[0])
    return Options()


@dataclass(slots=True)
class _StageState:
    """What a stage leaves to those that stand on it."""

    scope: Scope
    env: tuple[str, ...] = ()
    shell: bool = False
    workdir: bool = False
    seen: dict[str, Source] = field(default_factory=dict)


class _Run:
    """Collects warnings; `values` is None for a file that is not whole."""

    def __init__(
        self, dockerfile: Dockerfile, values: Globals | None, base_config: BaseConfig, ignore: Matcher | None
    ) -> None:
        self.dockerfile = dockerfile
        self.values = values
        self.options = _options(dockerfile)
        self.base_config = base_config
        self.ignore = ignore
        self.found: list[Warning] = []
        self.states: dict[int, _StageState] = {}

    def report(self, error: InvalidDockerfile | None) -> Report:
        found = tuple(sorted(self.found, key=lambda warning: warning.first))
        return Report(found, error, self.options.error and bool(found))

    def base_images(self) -> None:
        for stage in self.dockerfile.stages:
            if self.values is not None:
                with self.dockerfile.place(stage.base.at):
                    self._from(stage.base, self.values)

    def all_of(self, made: Plan, numbers: Iterable[int]) -> InvalidDockerfile | None:
        for number in numbers:
            try:
                self._stage(made.stages[number], made.globals)
            except InvalidDockerfile as error:
                return error
        return None

    def _tell(self, name: str, message: str, at: Source, *, comments: Iterable[str] | None = None) -> None:
        options = self.options.with_comments(at.comments if comments is None else comments)
        if options.wants(RULES[name]):
            self.found.append(Warning(RULES[name], message, at.first, at.last))

    def whole_file(self) -> None:
        """What needs no variables."""
        dockerfile = self.dockerfile
        for line in dockerfile.empty_continuations:
            self._tell("NoEmptyContinuation", "Empty continuation line", Source("", "", line, line))
        for arg in dockerfile.global_args:
            self._described("ARG", [pair.name for pair in arg.pairs], arg.at)
        for stage in dockerfile.stages:
            self._casing(stage.base)
            if stage.name:
                self._described("FROM", [stage.name], stage.base.at)
            for instruction in stage.instructions:
                self._alone(instruction)
        self._stage_names(dockerfile)
        self._consistent(dockerfile)
        if self.values is not None:
            self._defaults(dockerfile, self.values)

    def _alone(self, instruction: Instruction) -> None:
        if isinstance(instruction, Maintainer):
            message = "Maintainer instruction is deprecated in favor of using label"
            self._tell("MaintainerDeprecated", message, instruction.at)
        elif isinstance(instruction, Arg):
            self._described("ARG", [pair.name for pair in instruction.pairs], instruction.at)

    def _described(self, what: str, names: list[str], at: Source) -> None:
        if at.comments and at.comments[-1].split(" ")[0] not in names:
            example = names[0] if len(names) == 1 else "<arg_key>"
            message = f"Comment for {what} should follow the format: `# {example} <description>`"
            self._tell("InvalidDefinitionDescription", message, at)

    def _casing(self, base: From) -> None:
        keyword = base.at.keyword
        if base.name_word != base.name_word.lower():
            self._tell("StageNameCasing", f"Stage name '{base.name_word}' should be lowercase", base.at)
        same = base.as_word.lower() if keyword == keyword.lower() else base.as_word.upper()
        if keyword in (keyword.lower(), keyword.upper()) and base.as_word != same:
            message = f"'{base.as_word}' and '{keyword}' keywords' casing do not match"
            self._tell("FromAsCasing", message, base.at)

    def _stage_names(self, dockerfile: Dockerfile) -> None:
        names: set[str] = set()
        for stage in dockerfile.stages:
            at = stage.base.at
            if stage.name in _RESERVED:
                message = f"Stage name should not use the same name as reserved stage {quote(stage.name)}"
                self._tell("ReservedStageName", message, at, comments=())
            if stage.name and stage.name in names:
                message = f"Duplicate stage name {quote(stage.name)}, stage names should be unique"
                self._tell("DuplicateStageName", message, at, comments=())
            names.add(stage.name)

    def _consistent(self, dockerfile: Dockerfile) -> None:
        places = [at for stage in dockerfile.stages for at in (stage.base.at, *(i.at for i in stage.instructions))]
        lower = sum(at.keyword == at.keyword.lower() for at in places)
        upper = sum(at.keyword == at.keyword.upper() != at.keyword.lower() for at in places)
        wanted, name = (str.lower, "lowercase") if lower > upper else (str.upper, "uppercase")
        for at in places:
            if at.keyword != wanted(at.keyword):
                message = f"Command '{at.keyword}' should match the case of the command majority ({name})"
                self._tell("ConsistentInstructionCasing", message, at, comments=())

    def _defaults(self, dockerfile: Dockerfile, given: Globals) -> None:
        """Base images have to be names also when no build argument is given."""
        predefined = {name: value for name, value in given.values.items() if name not in given.declared}
        platform = Platform.host()
        try:
            bare = Globals.of(dockerfile, {}, target=platform)
            values: Mapping[str, str] = {**bare.values, **predefined}
            for stage in dockerfile.stages:
                image = replace(bare, values=values).expand(stage.base.image).text
                if not _is_reference(image):
                    message = f"Default value for ARG {stage.base.image} results in empty or invalid base image name"
                    self._tell("InvalidDefaultArgInFrom", message, stage.base.at, comments=())
        except InvalidDockerfile:
            return  # it is told when the stage is planned

    def _from(self, base: From, values: Globals) -> None:
        known = {*values.values, *values.declared}
        words = [base.image, base.platform] if base.platform else [base.image]
        for found in map(values.expand, words):
            for name in sorted(found.missing - known):
                message = f"FROM argument '{name}' is not declared"
                self._tell("UndefinedArgInFrom", _with(message, nearest(name, known)), base.at)
        if base.platform:
            self._platform(base, values)

    def _platform(self, base: From, values: Globals) -> None:
        found = values.expand(base.platform)
        if found.used == {"TARGETPLATFORM"} and not found.missing and found.text == values.values["TARGETPLATFORM"]:
            message = (
                f"Setting platform to predefined {base.platform} in FROM is redundant as this is the default behavior"
            )
            self._tell("RedundantTargetPlatform", message, base.at)
        if found.used or found.missing:
            return
        try:
            platform = Platform.parse(found.text)
        except InvalidInput:
            return  # it is told when the stage is planned
        if platform.os not in base.name and platform.architecture not in base.name:
            message = f"FROM --platform flag should not use constant value {quote(found.text)}"
            self._tell("FromPlatformFlagConstDisallowed", message, base.at)

    def _stage(self, planned: Planned, values: Globals) -> None:
        state = self._enter(planned, values)
        self.states[planned.stage.number] = state
        for instruction in planned.instructions:
            with self.dockerfile.place(instruction.at):
                self._instruction(instruction, state)

    def _enter(self, planned: Planned, values: Globals) -> _StageState:
        below = self.states.get(planned.base.stage)
        if below is not None:
            scope = values.enter(below.env, below.scope)
            return _StageState(scope, below.env, below.shell, below.workdir)
        config = self.base_config(planned.base.name, planned.platform) if planned.base.kind == "image" else None
        config = config or ContainerConfig()
        return _StageState(values.enter(config.env), config.env, bool(config.shell))

    def _instruction(self, instruction: Instruction, state: _StageState) -> None:
        before = state.scope
        expanded, state.scope = before.step(instruction)
        for name in sorted(state.scope.missing):
            message = f"Usage of undefined variable '${name}'"
            suggestion = nearest(name, before.values)
            self._tell("UndefinedVar", _with(message, suggestion and f"${suggestion}"), instruction.at)
        match expanded:
            case Env() | Label():
                self._pairs(expanded, state)
            case Arg(pairs=names):
                for pair in names:
                    self._secret("ARG", pair.name, expanded.at)
            case Workdir(path=path):
                if not state.workdir and not posixpath.isabs(path):
                    message = f"Relative workdir {quote(path)} can have unexpected results if the base image changes"
                    self._tell("WorkdirRelativePath", message, expanded.at)
                state.workdir = True
            case Cmd() | Entrypoint() | Healthcheck():
                self._once(expanded, state)
            case Shell():
                state.shell = True
            case Copy(source_from=source) if not source:
                self._ignored("Copy", expanded)
            case Add():
                self._ignored("Add", expanded)
            case Expose():
                assert isinstance(instruction, Expose)
                self._ports(instruction, before)

    def _pairs(self, instruction: Env | Label, state: _StageState) -> None:
        keyword = instruction.at.keyword
        for pair in instruction.pairs:
            if pair.legacy:
                message = f'"{keyword} key=value" should be used instead of legacy "{keyword} key value" format'
                self._tell("LegacyKeyValueFormat", message, instruction.at)
            if isinstance(instruction, Env):
                self._secret("ENV", pair.key, instruction.at)
                state.env = (*state.env, f"{pair.key}={pair.value}")

    def _secret(self, what: str, name: str, at: Source) -> None:
        if _SECRET.search(name) and not _NO_SECRET.search(name):
            message = f"Do not use ARG or ENV instructions for sensitive data ({what} {quote(name)})"
            self._tell("SecretsUsedInArgOrEnv", message, at)

    def _once(self, instruction: Cmd | Entrypoint | Healthcheck, state: _StageState) -> None:
        at = instruction.at
        before = state.seen.get(at.name)
        if before is not None:
            message = (
                f"Multiple {at.keyword} instructions should not be used in the same stage because only the last one "
            )
            place = replace(before, comments=at.comments)
            self._tell("MultipleInstructionsDisallowed", message + "will be used", place)
        state.seen[at.name] = at
        if not isinstance(instruction, Healthcheck) and instruction.command.shell and not state.shell:
            message = (
                f"JSON arguments recommended for {at.keyword} to prevent unintended behavior related to OS signals"
            )
            self._tell("JSONArgsRecommended", message, at)

    def _ignored(self, verb: str, instruction: Copy | Add) -> None:
        """Only without exceptions in the file: with them it cannot be told from the name alone."""
        if self.ignore is None or self.ignore.has_exceptions:
            return
        for source in instruction.sources:
            path = clean(source)
            whole = path in (".", "/")
            if _REMOTE.match(source) or (whole and not any(p.text in _EVERYTHING for p in self.ignore.patterns)):
                continue
            if self.ignore.excluded(path):
                message = f"Attempting to {verb} file {quote(path)} that is excluded by .dockerignore"
                self._tell("CopyIgnoredFile", message, instruction.at)

    def _ports(self, instruction: Expose, scope: Scope) -> None:
        for word in instruction.ports:
            for port in scope.words(word):
                exposed = expose(port)
                if exposed.odd_protocol:
                    message = f"Defined protocol '{port}' in EXPOSE instruction should be lowercase"
                    self._tell("ExposeProtoCasing", message, instruction.at)
                if exposed.mapped:
                    message = f"EXPOSE instruction should not define an IP address or host-port mapping, found '{port}'"
                    self._tell("ExposeInvalidFormat", message, instruction.at)


def _with(message: str, suggestion: str) -> str:
    return f"{message} (did you mean {suggestion}?)" if suggestion else message


def _is_reference(image: str) -> bool:
    try:
        Reference.parse(image)
    except InvalidInput:
        return False
    return True
