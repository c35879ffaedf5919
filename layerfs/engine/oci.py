"""Other OCI runtimes: a container as a bundle, and its program started through crun, runc or another one like these.

The monitor has the runtime make the container (`create`, `start`) and is the parent of its program from then on:
signals, `exec`, `stats` and the end work on that process and its namespaces as they do for layerfs's own.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from layerfs._lazy import pattern
from layerfs._record import replace
from layerfs.engine.filters import rules_of
from layerfs.engine.mounts import mounted_at
from layerfs.engine.surroundings import RUNTIME_STATE, cgroup_parent, shared_namespaces
from layerfs.engine.userns import maps_of
from layerfs.engine.volumes import volume_binds
from layerfs.errors import AlreadyExists, InvalidInput, Unsupported
from layerfs.runtime.layout import CGROUP_ROOT

if TYPE_CHECKING:
    from layerfs.engine.container import Container
    from layerfs.engine.settings import Settings
    from layerfs.runtime import RunOptions
    from layerfs.runtime.spec import RunSpec

OURS = "layerfs"
_NAME = pattern(r"[A-Za-z0-9][A-Za-z0-9._-]*\Z", re.ASCII)
_INITS = ("catatonit", "docker-init", "tini-static", "tini")
_INIT_PLACES = ("/usr/libexec/podman", "/usr/libexec/docker", "/usr/lib/podman")
_INIT_PLACE = b"/dev/init"
_PATIENCE = 60  # seconds that a runtime may take to clear up
_BY = "by-"  # a file there for each name: whose it is


def find_runtime(name: str | None) -> str | None:
    """The program of `--runtime`; None for layerfs's own. Raises InvalidInput in docker's words."""
    if not name or name == OURS:
        return None
    import shutil

    found = shutil.which(name) if name.startswith("/") or _NAME.match(name) else None
    if found is None:
        raise InvalidInput(f"unknown or invalid runtime name: {name}")
    return found


def check_runtime(settings: Settings) -> None:
    """What another runtime cannot do for us. Raises InvalidInput."""
    if find_runtime(settings.runtime) is None:
        return
    if settings.init:
        find_init()


def find_init() -> str:
    """What is PID 1 for `--init` in a bundle, where ours cannot be. Raises Unsupported."""
    import shutil

    path = os.pathsep.join((os.environ.get("PATH", os.defpath), *_INIT_PLACES))
    found = next(filter(None, (shutil.which(name, path=path) for name in _INITS)), None)
    if found is None:
        raise Unsupported(f"--init needs {', '.join(_INITS[:-1])} or {_INITS[-1]} on this machine for another runtime")
    return found


def _with_init(spec: RunSpec) -> RunSpec:
    """In /dev, which is the container's own, so that no file of its root is made for it (podman's place)."""
    if not spec.init:
        return spec
    from layerfs.runtime.spec import NODEV, NOSUID, READ_ONLY, Step, StepKind

    attributes = NOSUID | NODEV | READ_ONLY
    step = Step(StepKind.BIND, _INIT_PLACE, os.fsencode(find_init()), attributes=attributes)
    return replace(spec, init=False, argv=(_INIT_PLACE, b"--", *spec.argv), steps=(*spec.steps, step))


def _write_config(
    box: Container, settings: Settings, options: RunOptions, spec: RunSpec, place: Path, root: str, name: str
) -> None:
    from layerfs.runtime import bundle
    from layerfs.runtime.capabilities import available

    rules = [*settings.resources.device_cgroup_rules, *(rule for device in options.devices for rule in device.rules())]
    document = bundle.document(
        _with_init(spec),
        rootfs=root,
        seccomp=rules_of(settings),
        resources=settings.resources,
        devices=None if settings.privileged else rules,
        cgroup=f"/{cgroup_parent(settings)}/{name}",
        users=str(place / "users"),
        available=available(),
    )
    (place / "config.json").write_text(json.dumps(document, indent=1))


def runtime_words(
    box: Container, settings: Settings, options: RunOptions, spec: RunSpec, place: Path, name: str = ""
) -> tuple[bytes, ...]:
    """What the monitor needs to start it through the runtime of its settings; () for layerfs's own. The bundle is made
    in `place`, the run's directory; `name` is another than the container's for a run that is not its own program's."""
    program = find_runtime(settings.runtime)
    if program is None:
        return ()
    name, shown = name or box.id, os.fsdecode(spec.rootfs)
    if options.id_maps:  # the store may be closed to them
        shown = f"/run/layerfs-{name}"
        bare = replace(spec, steps=tuple(step._replace(mapped=False) for step in spec.steps))
        _write_config(box, settings, options, bare, place, shown, name)
    else:
        _write_config(box, settings, options, spec, place, shown, name)
    state = place.parent / RUNTIME_STATE
    state.mkdir(0o700, exist_ok=True)
    (state / f"{_BY}{name}").write_bytes(os.fsencode(program))
    words: list[str | Path] = [program, place, state, name, *([shown] if options.id_maps else [])]
    return tuple(map(os.fsencode, words))


def forget(box: Container, name: str = "") -> None:
    """By who is alone with the container: what runtimes keep, and the groups that they made in trees of their own.
    Only of one run, by its `name`, when that is over."""
    state = box.directory / "run" / RUNTIME_STATE
    found = list(state.glob(_BY + (name or f"{box.id}*")))
    names = [each.name.removeprefix(_BY) for each in found]
    for file, each in zip(found, names, strict=True):
        if (state / each).exists():
            command = [os.fsdecode(file.read_bytes()), "--root", str(state), "delete", "--force", each]
            with contextlib.suppress(OSError):  # it was uninstalled
                subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, check=False, timeout=_PATIENCE)
        file.unlink(missing_ok=True)
    if not names:
        return
    for parent in CGROUP_ROOT.glob(f"*/{cgroup_parent(box.settings)}"):
        for place in (*(parent / each for each in names), parent):
            with contextlib.suppress(OSError):  # somebody else's is in it
                place.rmdir()


def write_bundle(box: Container, directory: Path, *, mount: bool = True) -> None:
    """See Container.bundle."""
    from layerfs.runtime.files import write_files
    from layerfs.runtime.plan import default_hostname, plan

    settings = box.settings
    directory.mkdir(0o755, parents=True, exist_ok=True)
    if any(directory.iterdir()):
        raise AlreadyExists(f"the bundle's directory is not empty: {directory}")
    (directory / "rootfs").mkdir(0o755)
    options = replace(settings.run_options(box.id), shared=shared_namespaces(box, settings), id_maps=maps_of(settings))
    if options.network == "bridge":
        options = replace(options, network="none")
    options = replace(options, terminal=(0, 0) if settings.tty else None)
    with _root(box) as shown:
        options = replace(options, binds=[*options.binds, *volume_binds(box, settings, shown)])
        hostname = default_hostname(options)
        files = write_files(directory.absolute(), hostname, options)
        spec = plan(shown, box.image.config.config.document(), options, files, hostname)
        _write_config(box, settings, options, spec, directory, "rootfs", box.id)
    if mount:
        maps = options.id_maps
        shift = {} if maps is None else dict(zip(("uidmap", "gidmap"), map(",".join, maps.texts()), strict=True))
        box.mount(directory / "rootfs", options=shift)


@contextlib.contextmanager
def _root(box: Container) -> Iterator[Path]:
    """Its files, to look at."""
    place = mounted_at(box.store, box.id)
    if place is not None:
        yield place
        return
    with box.mount(box.store.mount_point(), read_only=True) as shown:
        yield shown


@contextlib.contextmanager
def by_other(
    box: Container, settings: Settings, options: RunOptions, place: Path
) -> Iterator[Callable[[RunSpec], RunSpec]]:
    """For a run in the foreground: what makes its spec one for the runtime, which forgets it afterwards."""
    name = f"{box.id}.{place.name}"

    def change(spec: RunSpec) -> RunSpec:
        return replace(spec, runtime=runtime_words(box, settings, options, spec, place, name))

    try:
        yield change
    finally:
        forget(box, name)
