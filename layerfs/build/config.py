"""What the instructions do to an image's config: pure functions from records (expanded) to records."""

from __future__ import annotations

import posixpath
from collections.abc import Mapping

import layerfs.build.instructions as i
from layerfs._record import dataclass, field, replace
from layerfs.digest import DiffID
from layerfs.image.changes import set_env
from layerfs.image.values import check_signal
from layerfs.oci import ContainerConfig, History, ImageConfig, Platform, build_config

PATH = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
COMMENT = "buildkit.dockerfile.v0"


@dataclass(frozen=True, slots=True)
class State:
    """An image on its way. `cmd_set`: by a CMD of this stage, which a later ENTRYPOINT leaves alone."""

    platform: Platform
    config: ContainerConfig
    layers: tuple[DiffID, ...] = ()
    history: tuple[History, ...] = ()
    created_ns: int | None = None
    author: str = ""
    cmd_set: bool = False
    parent: str = field(default="", compare=False)  # the ID of the image it stands on
    base: tuple[DiffID, ...] = ()  # the layers of that

    @classmethod
    def scratch(cls, platform: Platform) -> State:
        return cls(platform, ContainerConfig(env=(PATH,), working_dir="/"))

    @classmethod
    def of(cls, image: ImageConfig) -> State:
        return cls(
            image.platform,
            image.config,
            image.diff_ids,
            image.history,
            image.created_ns,
            image.author,
            parent=str(image.id),
            base=image.diff_ids,
        )

    def next_stage(self) -> State:
        """As the base of another stage: its triggers are not that one's."""
        return replace(self, config=replace(self.config, on_build=()), cmd_set=False)

    def with_path(self) -> State:
        """BuildKit sees to it that every image has a `PATH`."""
        if any(pair.startswith("PATH=") for pair in self.config.env):
            return self
        return replace(self, config=replace(self.config, env=(*self.config.env, PATH)))

    def step(self, layer: DiffID | None, text: str, created_ns: int | None, *, comment: str = COMMENT) -> State:
        """One instruction later, with its row of the history."""
        row = History(created_ns, text, "", comment, layer is None)
        layers = self.layers if layer is None else (*self.layers, layer)
        return replace(self, layers=layers, history=(*self.history, row), created_ns=created_ns or self.created_ns)

    def image(self, labels: Mapping[str, str], created_ns: int) -> ImageConfig:
        """The finished image, with labels of the command line."""
        given = tuple(sorted((dict(self.config.labels) | dict(labels)).items()))
        return build_config(
            platform=self.platform,
            config=replace(self.config, labels=given),
            diff_ids=self.layers,
            history=self.history,
            created_ns=created_ns,
            author=self.author,
        )


def changed(state: State, instruction: i.Instruction) -> State:
    """What an instruction says about the config; those that only make a layer change nothing here.

    Raises:
        InvalidInput: no signal.
    """
    config = state.config
    match instruction:
        case i.Env(pairs=pairs):
            config = replace(config, env=set_env(config.env, [(pair.key, pair.value) for pair in pairs]))
        case i.Label(pairs=pairs):
            labels = dict(config.labels) | {pair.key: pair.value for pair in pairs}
            config = replace(config, labels=tuple(sorted(labels.items())))
        case i.Workdir(path=path):
            config = replace(config, working_dir=workdir(config.working_dir, path))
        case i.User(user=user):
            config = replace(config, user=user)
        case i.Cmd(command=command):
            config = replace(config, cmd=command.argv(config.shell), args_escaped=True)
            return replace(state, config=config, cmd_set=True)
        case i.Entrypoint(command=command):
            cmd = config.cmd if state.cmd_set else None
            config = replace(config, entrypoint=command.argv(config.shell), cmd=cmd)
        case i.Expose(ports=ports):
            config = replace(config, exposed_ports=tuple(sorted({*config.exposed_ports, *ports})))
        case i.Volume(paths=paths):
            config = replace(config, volumes=tuple(sorted({*config.volumes, *paths})))
        case i.StopSignal(signal=signal):
            check_signal(signal)
            config = replace(config, stop_signal=signal)
        case i.Shell(words=words):
            config = replace(config, shell=words)
        case i.Healthcheck(health=health):
            config = replace(config, healthcheck=health)
        case i.OnBuild(expression=expression):
            config = replace(config, on_build=(*config.on_build, expression))
        case i.Maintainer(author=author):
            return replace(state, author=author)
    return replace(state, config=config)


def workdir(current: str, path: str) -> str:
    """Absolute and clean."""
    return "/" + posixpath.normpath(posixpath.join("/", current, path)).strip("/")
