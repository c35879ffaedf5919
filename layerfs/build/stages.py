"""Which stages a build needs, what each stands on, and where COPY and mounts take files from.

`plan` is a pure function of the file and the command line. What only the base images know, their ONBUILD triggers, is
added with `Plan.with_triggers` when they have been looked at.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from typing import Literal, TypeAlias

from layerfs._record import dataclass, replace
from layerfs.build.instructions import Copy, Dockerfile, From, Instruction, OnBuild, Run, Source, Stage
from layerfs.build.parse import parse_trigger
from layerfs.build.problems import nearest, problem, quote
from layerfs.build.scope import Globals
from layerfs.errors import InvalidInput
from layerfs.oci import Platform
from layerfs.reference import Reference

SCRATCH = "scratch"
_RESERVED = (SCRATCH, "context")  # never the names of build contexts
_COMMON_IMAGES = ("alpine", "busybox", "centos", "debian", "fedora", "golang", "ubuntu")
_NUMBER_MAX = 9  # digits


@dataclass(frozen=True, slots=True)
class Root:
    """A tree to stand on or to copy from. `name` is the image as written, or the build context's name as given."""

    kind: Literal["scratch", "stage", "image", "context"]
    name: str = ""
    stage: int = -1


Roots: TypeAlias = tuple[Root | None, ...]


@dataclass(frozen=True, slots=True)
class Planned:
    """A stage with its names resolved.

    `instructions` begin with `triggers` many ONBUILD triggers of what it stands on. `roots` has an entry for each: that
    of `--from` for COPY, one per mount for RUN; None means no `from` was given. `platform` is what FROM (its own, or
    that of the stage below) asks for, None for the target's. A stage that a build context replaces has no instructions.
    """

    stage: Stage
    base: Root
    instructions: tuple[Instruction, ...]
    roots: tuple[Roots, ...]
    platform: Platform | None = None
    triggers: int = 0

    @property
    def needs(self) -> frozenset[int]:
        """The numbers of the stages that must be there first."""
        roots = (self.base, *(root for each in self.roots for root in each))
        return frozenset(root.stage for root in roots if root is not None and root.kind == "stage")


@dataclass(frozen=True, slots=True)
class Plan:
    """All stages in the file's order; `target` is the one to build, `order` those it needs, each after its needs."""

    dockerfile: Dockerfile
    globals: Globals
    stages: tuple[Planned, ...]
    target: int
    contexts: frozenset[str] = frozenset()

    @property
    def order(self) -> tuple[int, ...]:
        reached = {self.target}
        for number in range(self.target, -1, -1):  # needs always have smaller numbers
            if number in reached:
                reached |= self.stages[number].needs
        return tuple(sorted(reached))

    def with_triggers(self, number: int, expressions: Iterable[str]) -> Plan:
        """The plan with the OnBuild of a stage's base image in front of its instructions.

        Raises:
            InvalidDockerfile: a trigger that cannot be read, or that copies from a later stage.
        """
        planned = self.stages[number]
        at = planned.stage.base.at
        with self.dockerfile.place(at):
            triggers = tuple(_moved(parse_trigger(expression), at) for expression in expressions)
            roots = tuple(_roots(each, _Names(self.dockerfile.stages, self.contexts)) for each in triggers)
        planned = replace(
            planned,
            instructions=triggers + planned.instructions,
            roots=roots + planned.roots,
            triggers=planned.triggers + len(triggers),
        )
        plan = replace(self, stages=(*self.stages[:number], planned, *self.stages[number + 1 :]))
        _check_order(plan)
        return plan

    def suggestion(self, image: str) -> str:
        """What was likely meant when an image is not found: a stage, or an image everybody has; or ""."""
        names = [stage.name for stage in self.dockerfile.stages if stage.name]
        return nearest(image, names) or nearest(image, _COMMON_IMAGES)


def plan(
    dockerfile: Dockerfile,
    *,
    platform: Platform | None = None,
    build_platform: Platform | None = None,
    build_args: Mapping[str, str] | None = None,
    target: str = "",
    contexts: Collection[str] = (),
) -> Plan:
    """Resolve the names of a Dockerfile.

    Args:
        dockerfile: What `parse` gave.
        platform: To build for; this machine's by default.
        build_platform: To build on; this machine's by default.
        build_args: Of `--build-arg`.
        target: The name (in any case) or number of the stage to build; the last one by default.
        contexts: The names of `--build-context`, which replace stages and images of these names.

    Raises:
        InvalidDockerfile: a FROM that does not expand or is no reference, a stage that does not exist, a circle.
    """
    host = build_platform or Platform.host()
    number = _target(dockerfile, target)
    name = target if target else dockerfile.stages[number].name
    values = Globals.of(dockerfile, build_args or {}, target=platform or host, build=host, stage=name)
    stages: list[Planned] = []
    for stage in dockerfile.stages:
        with dockerfile.place(stage.base.at):
            stages.append(_stage(stage, values, frozenset(contexts), stages))
    names = _Names(dockerfile.stages, frozenset(contexts))
    resolved = [replace(planned, roots=_all_roots(planned, names, dockerfile)) for planned in stages]
    result = Plan(dockerfile, values, tuple(resolved), number, frozenset(contexts))
    _check_order(result)
    return result


def context_named(name: str, contexts: Collection[str]) -> str:
    """The build context that stands for a stage or an image, as it was given, or ""."""
    if name.lower() in _RESERVED:
        return ""
    wanted = _context_key(name)
    return next((context for context in sorted(contexts) if _context_key(context) == wanted), "")


def _context_key(name: str) -> str:
    try:
        return Reference.parse(name.lower()).familiar.removesuffix(":latest")
    except InvalidInput:
        return name.lower()


def _target(dockerfile: Dockerfile, target: str) -> int:
    stages = dockerfile.stages
    if not target:
        return len(stages) - 1
    found = _find(target, stages)
    if found is None:
        suggestion = nearest(target, [stage.label for stage in stages])
        raise problem(f"target stage {quote(target)} could not be found", suggestion=suggestion)
    return found


def _find(name: str, stages: tuple[Stage, ...]) -> int | None:
    """By name (of several the last), or by number."""
    if name.isdecimal() and name.isascii():
        number = int(name[: _NUMBER_MAX + 1])
        return number if number < len(stages) else None
    return next((stage.number for stage in reversed(stages) if stage.name and stage.name == name.lower()), None)


def _stage(stage: Stage, values: Globals, contexts: frozenset[str], before: list[Planned]) -> Planned:
    image, platform = _from(stage.base, values)
    replaced = context_named(stage.name, contexts) if stage.name else ""
    if replaced:
        return Planned(stage, Root("context", replaced), (), (), platform)
    below = next((each for each in reversed(before) if each.stage.name and each.stage.name == image), None)
    if below is not None:
        triggers = tuple(_moved(each.inner, stage.base.at) for each in below.instructions if isinstance(each, OnBuild))
        base = Root("stage", image, below.stage.number)
        return Planned(stage, base, triggers + stage.instructions, (), below.platform, len(triggers))
    return Planned(stage, _outside(image, contexts), stage.instructions, (), platform)


def _from(base: From, values: Globals) -> tuple[str, Platform | None]:
    """Image and platform of a FROM, expanded."""
    image = values.expand(base.image).text
    if not image:
        raise problem(f"base name ({base.image}) should not be blank", word=base.image)
    if not base.platform:
        return image, None
    text = values.expand(base.platform)
    if not text.text:
        names = [name for missing in sorted(text.missing) if (name := nearest(missing, values.values))]
        reason = f"empty platform value from expression {base.platform}"
        raise problem(reason, word=base.platform, suggestion=names[0] if names else "")
    try:
        return image, Platform.parse(text.text)
    except InvalidInput as error:
        raise problem(f"failed to parse platform {base.platform}: {error}", word=base.platform) from None


def _outside(image: str, contexts: frozenset[str]) -> Root:
    """An image, unless a build context replaces it; `scratch` is nothing at all."""
    if image == SCRATCH:
        return Root("scratch")
    try:
        Reference.parse(image)
    except InvalidInput as error:
        raise problem(f"failed to parse stage name {quote(image)}: {error}", word=image) from None
    context = context_named(image, contexts)
    return Root("context", context) if context else Root("image", image)


def _moved(trigger: Instruction, at: Source) -> Instruction:
    """A trigger runs because of a FROM, and errors in it are told there."""
    return replace(trigger, at=replace(trigger.at, first=at.first, last=at.last))


@dataclass(frozen=True, slots=True)
class _Names:
    stages: tuple[Stage, ...]
    contexts: frozenset[str]

    def root(self, name: str, *, numbers: bool) -> Root:
        """What `from` names: a stage, by number only where COPY asks; else a context or an image."""
        is_number = name.isdecimal() and name.isascii()
        found = _find(name, self.stages) if numbers or not is_number else None
        if found is not None:
            return Root("stage", name, found)
        if is_number and numbers:
            raise problem(f"invalid stage index {name}", word=name)
        return _outside(name, self.contexts)


def _all_roots(planned: Planned, names: _Names, dockerfile: Dockerfile) -> tuple[Roots, ...]:
    result: list[Roots] = []
    for instruction in planned.instructions:
        with dockerfile.place(instruction.at):
            result.append(_roots(instruction, names))
    return tuple(result)


def _roots(instruction: Instruction, names: _Names) -> Roots:
    if isinstance(instruction, Copy):
        name = instruction.source_from
        if "$" in name[:-1]:
            reason = (
                "variable expansion is not supported for --from, define a new stage with FROM using ARG from global "
            )
            raise problem(reason + "scope as a workaround", word=name)
        return (names.root(name, numbers=True) if name else None,)
    if isinstance(instruction, Run):
        return tuple(names.root(name, numbers=False) if name else None for name in instruction.mount_sources)
    return ()


def _check_order(plan: Plan) -> None:
    """Files come from earlier stages only; a stage nobody needs may break this, a circle is always told."""
    used = set(plan.order)
    for planned in plan.stages:
        for instruction, roots in zip(planned.instructions, planned.roots, strict=True):
            for root in roots:
                if root is not None and root.stage >= planned.stage.number:
                    with plan.dockerfile.place(instruction.at):
                        _refuse(plan, planned, instruction, root, used=planned.stage.number in used)


def _refuse(plan: Plan, planned: Planned, instruction: Instruction, root: Root, *, used: bool) -> None:
    number = planned.stage.number
    if _reaches(plan, root.stage, number):
        raise problem(f"circular dependency detected on stage: {planned.stage.label}", word=root.name)
    if used and isinstance(instruction, Copy):
        reason = f"cannot copy from stage {quote(root.name)}, it needs to be defined before current stage "
        raise problem(reason + quote(planned.stage.label), word=root.name)
    if used:
        reason = f"cannot mount from stage {quote(root.name)}, stage needs to be defined before current command"
        raise problem(reason, word=root.name)


def _reaches(plan: Plan, start: int, goal: int) -> bool:
    seen: set[int] = set()
    todo = [start]
    while todo:
        number = todo.pop()
        if number == goal:
            return True
        if number not in seen:
            seen.add(number)
            todo.extend(plan.stages[number].needs)
    return False
