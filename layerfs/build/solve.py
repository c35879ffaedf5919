"""A build as a graph: each stage that is needed is a task, which waits for others only at the step that needs them."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import CancelledError, Future, ThreadPoolExecutor, wait
from typing import Literal

import layerfs.build.instructions as i
from layerfs._record import dataclass, field, replace
from layerfs._threads import LISTEN
from layerfs.build.cachekeys import step_key
from layerfs.build.config import State, changed
from layerfs.build.events import BuildEvent, Clock, Report
from layerfs.build.execute import Done, Executor
from layerfs.build.scope import Scope, proxies
from layerfs.build.sources import Context, TreeContext, source_name
from layerfs.build.stages import Plan, Planned, Root, Roots
from layerfs.build.steps import StepFailed, World
from layerfs.build.texts import Texts
from layerfs.digest import DiffID
from layerfs.errors import InvalidDockerfile, LayerfsError
from layerfs.oci import ImageConfig, Platform

_LAYERED = (i.Run, i.Copy, i.Add, i.Workdir)


@dataclass(frozen=True, slots=True)
class Request:
    """How it is built. `legacy`: one step after the other, each an image of its own."""

    platform: Platform
    build_args: Mapping[str, str] = field(default_factory=dict)
    no_cache: bool = False
    no_cache_stages: frozenset[str] = frozenset()
    pull: bool = False
    legacy: bool = False


@dataclass(frozen=True, slots=True)
class Built:
    """A stage at its end."""

    state: State
    scope: Scope


@dataclass(frozen=True, slots=True)
class _Where:
    """A step's place: its stage, `number` of `total` there (of those that make layers)."""

    stage: i.Stage
    label: str
    number: int
    total: int
    at: i.Source


Keep = Callable[[State], str]  # makes an image of a state; its ID


def _until_done(task: Future[Built]) -> None:
    while not task.done():
        wait([task], LISTEN)


class Solver:
    """Of one build. `named` are the contexts of --build-context, `keep` is for builds that keep every step."""

    def __init__(
        self, plan: Plan, request: Request, world: World, named: Mapping[str, Context], report: Report, keep: Keep
    ) -> None:
        self._plan, self._request, self._world = plan, request, world
        self._named, self._report, self._keep = named, report, keep
        self.executor: Executor  # set by who wires it: it asks `layers_of` here
        self._file = plan.dockerfile
        self._texts = Texts(legacy=request.legacy)
        self._lock = threading.Lock()
        self._tasks: dict[int, Future[Built]] = {}
        self._images: dict[tuple[str, str], ImageConfig] = {}
        self._steps = 0
        self._stopped = threading.Event()
        self._total = sum(1 + len(plan.stages[number].instructions) for number in plan.order)

    # running it

    def solve(self) -> State:
        """Builds the target. At the first failure, or at an interrupt, everything else stops."""
        wanted = self._plan.order
        with ThreadPoolExecutor(len(wanted), thread_name_prefix="build") as pool:
            try:
                with self._lock:  # a stage that starts at once finds the tasks of all others
                    for number in wanted if not self._request.legacy else ():
                        self._tasks[number] = pool.submit(self._guarded, number)
                for number in wanted if self._request.legacy else ():
                    self._tasks[number] = pool.submit(self._guarded, number)
                    _until_done(self._tasks[number])
                return self._result()
            except BaseException:
                self.stop()
                raise

    def _result(self) -> State:
        """The first failure that is nobody else's consequence, if there is one."""
        failed: BaseException | None = None
        for number in self._plan.order:
            _until_done(self._tasks[number])
            try:
                self._tasks[number].result()
            except (_Stopped, CancelledError) as error:
                failed = failed or error
            except BaseException as error:
                if failed is None or isinstance(failed, _Stopped | CancelledError):
                    failed = error
        if failed is not None:
            raise failed
        return self._tasks[self._plan.target].result().state

    def stop(self) -> None:
        self._stopped.set()
        self._world.stop()

    def _guarded(self, number: int) -> Built:
        try:
            return self._stage(number)
        except BaseException:
            self.stop()
            raise

    def _check(self) -> None:
        if self._stopped.is_set():
            raise _Stopped("the build was stopped")

    def layers_of(self, name: str) -> tuple[DiffID, ...]:
        """Of a stage, which is waited for, or an image: for sources."""
        if name.startswith("stage "):
            return self._built(name).state.layers
        return self._image(name.removeprefix("image ")).diff_ids if name != "scratch " else ()

    def _built(self, name: str) -> Built:
        number = int(name.removeprefix("stage "))
        with self._lock:
            unknown = number not in self._tasks
            task = self._tasks.setdefault(number, Future())
        if unknown:  # only a trigger of a base image needs it; the threads may all be busy waiting
            self._make_now(number, task)
        try:
            return task.result()
        except BaseException:
            self._check()
            raise

    def _make_now(self, number: int, task: Future[Built]) -> None:
        try:
            task.set_result(self._stage(number))
        except BaseException as error:
            task.set_exception(error)

    def _image(self, name: str, platform: Platform | None = None) -> ImageConfig:
        wanted = platform or self._request.platform
        key = (name, str(wanted))
        with self._lock:
            known = self._images.get(key)
        if known is None:
            known = self._fetched(name, wanted)
            with self._lock:
                self._images[key] = known
        return known

    def _fetched(self, name: str, platform: Platform) -> ImageConfig:
        try:
            return self._world.image(name, platform, pull=self._request.pull)
        except LayerfsError as error:
            meant = self._plan.suggestion(name)
            if meant:
                error.message += f" (did you mean {meant}?)"
            raise

    # a stage

    def _stage(self, number: int) -> Built:
        plan = self._plan
        planned = plan.stages[number]
        stage, at = planned.stage, planned.stage.base.at
        label = stage.label if len(plan.order) > 1 or stage.name else ""
        where = _Where(stage, label, 1, 1 + _layered(planned.instructions), at)
        self._await([planned.base])
        self._check()
        with self._told(where, at.text) as told, self._file.place(at):
            state, scope = self._base(planned)
            told.image = state.parent
        if planned.base.kind in ("image", "context") and state.config.on_build:
            planned = plan.with_triggers(number, state.config.on_build).stages[number]
            where = replace(where, total=1 + _layered(planned.instructions))
        state = state.next_stage() if self._request.legacy else state.next_stage().with_path()
        for instruction, roots in zip(planned.instructions, planned.roots, strict=True):
            self._await(roots)
            self._check()
            done = where.number + isinstance(instruction, _LAYERED)
            where = replace(where, number=done, at=instruction.at)
            with self._file.place(instruction.at):
                state, scope = self._step(instruction, roots, state, scope, where)
        return Built(state, scope)

    def _await(self, roots: Iterable[Root | None]) -> None:
        """The stages that a step needs, before it is told of."""
        for root in roots:
            if root is not None and root.kind == "stage":
                self._built(source_name(root))

    def _base(self, planned: Planned) -> tuple[State, Scope]:
        base, enter = planned.base, self._plan.globals.enter
        platform = planned.platform or self._request.platform
        if base.kind == "stage":
            built = self._built(source_name(base))
            return built.state, enter(built.state.config.env, built.scope)
        context = self._named[base.name] if base.kind == "context" else None
        if base.kind == "scratch":
            state = State.scratch(platform)
        elif isinstance(context, TreeContext):
            state = context.state or replace(State.scratch(platform), layers=context.layers)
        elif context is not None:
            state = replace(State.scratch(platform), layers=self.executor.whole(source_name(base)))
        else:
            state = State.of(self._image(base.name, platform))
        return state, enter(state.config.env)

    def _step(
        self, written: i.Instruction, roots: Roots, before: State, scope: Scope, where: _Where
    ) -> tuple[State, Scope]:
        instruction, after = scope.step(written)
        state = changed(before, instruction)
        named = {where.label, where.stage.label, str(where.stage.number)}
        use = not self._request.no_cache and not (named & self._request.no_cache_stages)
        with self._told(where, written.at.text, meta=not isinstance(instruction, _LAYERED)) as told:
            done = self._layer(_sourced(instruction, roots), before, state, scope, told, use=use)
            row = self._texts.row(instruction, before, state, scope, done.source if done else "")
            state = self._after(state, done, row)
            told.done = done
            if self._request.legacy:
                told.image = self._keep(state)
                state = replace(state, parent=told.image)
        return state, after

    def _layer(
        self, step: i.Instruction, before: State, state: State, scope: Scope, told: _Told, *, use: bool
    ) -> Done | None:
        told.before, told.env = before, scope.environment
        match step:
            case i.Run():
                extra = [f"{name}={value}" for name, value in proxies(self._request.build_args)]
                return self.executor.run(before, step, scope.environment, extra, told.output, use_cache=use)
            case i.Copy() | i.Add():
                return self.executor.copy(before, step, use_cache=use)
            case i.Workdir() if state.config.working_dir != "/":
                return self.executor.workdir(state, use_cache=use)
        if not self._request.legacy:
            return None
        key = step_key("meta", before.layers, before.parent, step.at.text)
        return self.executor.cached(key, "meta", step.at.text, lambda: None, use=use)

    def _after(self, state: State, done: Done | None, text: str | None) -> State:
        """With its row of the history, if it has one."""
        epoch = self.executor.wishes.epoch_ns
        created = done.created_ns if done is not None else (epoch if epoch is not None else state.created_ns)
        layer = done.layer if done is not None else None
        if text is None:
            return state
        return state.step(layer, text, created, comment=self._texts.comment)

    # telling

    @contextlib.contextmanager
    def _told(self, where: _Where, text: str, *, meta: bool = False) -> Iterator[_Told]:
        with self._lock:
            self._steps += 1
            number = self._steps
        stage = f"{where.label} " if where.label else ""
        name = f"[{stage}{where.number:{len(str(where.total))}}/{where.total}] {text}"
        told = _Told(self._report, number, Clock())
        self._report(BuildEvent("start", number, name, text, where.label, number, self._total, meta=meta))
        try:
            yield told
        except OSError as error:
            if self._stopped.is_set():  # another one's failure has ended this one
                raise _Stopped("the build was stopped") from None
            if isinstance(error, LayerfsError) and not isinstance(error, InvalidDockerfile | _Stopped):
                error.message = f"{self._file.file}:{where.at.first}: {error.message}"
                if isinstance(error, StepFailed):
                    error.state, error.env = told.before, told.env
            self._report(BuildEvent("failed", number, text=str(error), seconds=told.clock()))
            raise
        cached = told.done is not None and told.done.cached
        layer = str(told.done.layer) if told.done is not None and told.done.layer is not None else ""
        kind: Literal["cached", "done"] = "cached" if cached else "done"
        self._report(BuildEvent(kind, number, layer=layer, image=told.image, seconds=told.clock(), meta=meta))


@dataclass
class _Told:
    """A step that is told of."""

    report: Report
    number: int
    clock: Clock
    image: str = ""
    done: Done | None = None
    before: State | None = None
    env: tuple[str, ...] = ()

    def output(self, stream: int, data: bytes) -> None:
        self.report(BuildEvent("output", self.number, stream=stream, data=data, seconds=self.clock()))


def _layered(instructions: tuple[i.Instruction, ...]) -> int:
    return sum(isinstance(each, _LAYERED) for each in instructions)


def _sourced(instruction: i.Instruction, roots: Roots) -> i.Instruction:
    """With the names that `Sources` knows."""
    names = [source_name(root) for root in roots]
    if isinstance(instruction, i.Copy) and names:
        return replace(instruction, source_from=names[0])
    if isinstance(instruction, i.Run):
        pairs = zip(instruction.mounts, names, strict=True)
        return replace(instruction, mounts=tuple(replace(mount, source_from=name) for mount, name in pairs))
    return instruction


class _Stopped(LayerfsError):
    """Another step failed first."""
