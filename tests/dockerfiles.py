"""The corpus of tests/data/dockerfiles: a `NAME.Dockerfile` and what is expected of it in `NAME.json`.

The JSON has `about`, the options of the command line (`args`, `target`, `contexts`, `ignore`), and either `error` or
`stages` (of all of them, with each instruction's fields after expansion and its history text), `order` and `warnings`.
`builds` is false where building needs what the corpus has not (a network, secrets) or must fail.
"""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

from layerfs.build.historytext import buildkit
from layerfs.build.ignore import Matcher
from layerfs.build.instructions import ArgPair, Command, Env, Instruction, Pair
from layerfs.build.lint import check
from layerfs.build.parse import parse
from layerfs.build.scope import Scope
from layerfs.build.stages import Plan, Planned, Root, plan
from layerfs.errors import InvalidDockerfile
from layerfs.oci import Platform

PLACE = Path(__file__).resolve().parent / "data" / "dockerfiles"
NAMES = sorted(path.stem for path in PLACE.glob("*.Dockerfile"))
Scopes = dict[int, tuple[dict[str, str], Scope]]  # of stages: the image's ENV and the variables at the end
PLATFORM = Platform("linux", "amd64")


def expected(name: str) -> dict[str, Any]:
    return dict(json.loads((PLACE / f"{name}.json").read_text()))


def planned(name: str, options: dict[str, Any]) -> Plan:
    return plan(
        parse((PLACE / f"{name}.Dockerfile").read_bytes()),
        platform=PLATFORM,
        build_platform=PLATFORM,
        build_args=options.get("args", {}),
        target=options.get("target", ""),
        contexts=options.get("contexts", ()),
    )


def described(name: str, options: dict[str, Any]) -> dict[str, Any]:
    """What the language makes of a file, in the form of the JSON."""
    try:
        made = planned(name, options)
        scopes: Scopes = {}
        stages = [_stage(made, each, scopes) for each in made.stages]
        ignore = Matcher(options["ignore"]) if "ignore" in options else None
        report = check(made, ignore=ignore)
    except InvalidDockerfile as error:
        return {"error": str(error)}
    if report.error is not None:
        return {"error": str(report.error)}
    warnings = [f"{each.rule.name} {each.first}: {each.message}" for each in report.warnings]
    return {
        "order": list(made.order),
        "stages": stages,
        "warnings": warnings,
        **({"fails": True} if report.fails else {}),
    }


def _stage(made: Plan, stage: Planned, scopes: Scopes) -> dict[str, Any]:
    env, below = scopes.get(stage.base.stage, ({}, None))
    scope = made.globals.enter([f"{key}={value}" for key, value in env.items()], below)
    env = dict(env)
    steps = []
    shell: tuple[str, ...] = ()
    for instruction, roots in zip(stage.instructions, stage.roots, strict=True):
        with made.dockerfile.place(instruction.at):
            done, after = scope.step(instruction)
        step = {instruction.at.name: fields(done)}
        text = buildkit(done, scope, shell, getattr(done, "path", ""))
        step |= {"history": text} if text is not None else {}
        step |= {"from": [root and _root(root) for root in roots]} if any(roots) else {}
        steps.append(step)
        scope, shell = after, getattr(done, "words", shell)
        env |= {pair.key: pair.value for pair in done.pairs} if isinstance(done, Env) else {}
    scopes[stage.stage.number] = env, scope
    described: dict[str, Any] = {"name": stage.stage.label, "base": _root(stage.base), "steps": steps}
    return described | ({"platform": str(stage.platform)} if stage.platform else {})


def _root(root: Root) -> str:
    return f"{root.kind} {root.stage if root.kind == 'stage' else root.name}".strip()


def fields(instruction: Instruction) -> Any:
    """The fields of a record that say something, in the order of the record."""
    return _plain(instruction)


def _plain(value: Any) -> Any:
    match value:
        case Pair() | ArgPair():
            return [each for each in dataclasses.astuple(value) if each is not False]
        case Command():
            return {"shell": " ".join(value.words)} if value.shell else list(value.words)
        case tuple():
            return [_plain(each) for each in value]
    if not dataclasses.is_dataclass(value):
        return value
    shown = {}
    for field in dataclasses.fields(value):
        each = getattr(value, field.name)
        if field.name != "at" and each != field.default:
            shown[field.name] = {each.at.name: _plain(each)} if hasattr(each, "at") else _plain(each)
    return shown
