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
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from layerfs._lazy import pattern
from layerfs._record import replace
from layerfs.engine.filters import rules_of
from layerfs.engine.mounts import mounted_at
from layerfs.engine.surroundings import RUNTIME_STATE, cgroup_parent, shared_namespaces
from layerfs.engine.userns import maps_of
from layerfs.engine.volumes import mounted
from layerfs.errors import AlreadyExists, InvalidInput
from layerfs.runtime.layout import CGROUP_ROOT

if TYPE_CHECKING:
    from layerfs.engine.container import Container
    from layerfs.engine.settings import Settings
    from layerfs.runtime import RunOptions
    from layerfs.runtime.spec import RunSpec

OURS = "layerfs"
_NAME = pattern(r"[A-Za-z0-9][A-Za-z0-9._-]*\Z", re.ASCII)
_PATIENCE = 60  # seconds that a runtime may take to clear up


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
    if maps_of(settings) is not None:
        raise InvalidInput(f"--userns does not go with --runtime {settings.runtime}")
    if settings.init:
        raise InvalidInput(f"--init does not go with --runtime {settings.runtime}: that process is layerfs's own")


def _write_config(
    box: Container, settings: Settings, options: RunOptions, spec: RunSpec, place: Path, root: str
) -> None:
    from layerfs.runtime import bundle
    from layerfs.runtime.capabilities import available

    rules = [*settings.resources.device_cgroup_rules, *(rule for device in options.devices for rule in device.rules())]
    document = bundle.document(
        spec,
        rootfs=root,
        seccomp=rules_of(settings),
        resources=settings.resources,
        devices=None if settings.privileged else rules,
        cgroup=f"/{cgroup_parent(settings)}/{box.id}",
        available=available(),
    )
    (place / "config.json").write_text(json.dumps(document, indent=1))


def runtime_words(
    box: Container, settings: Settings, options: RunOptions, spec: RunSpec, place: Path
) -> tuple[bytes, ...]:
    """What the monitor needs to start it through the runtime of its settings; () for layerfs's own. The bundle is made
    in `place`, the run's directory."""
    program = find_runtime(settings.runtime)
    if program is None:
        return ()
    _write_config(box, settings, options, spec, place, os.fsdecode(spec.rootfs))
    state = place.parent / RUNTIME_STATE
    state.mkdir(0o700, exist_ok=True)
    return tuple(os.fsencode(word) for word in (program, place, state, box.id))


def forget(box: Container) -> None:
    """By who is alone with the container: what its runtime keeps, and the groups that it made in trees of its own."""
    state = box.directory / "run" / RUNTIME_STATE
    if not (state / box.id).exists():
        return
    import shutil

    program = shutil.which(box.settings.runtime or "")
    if program:
        command = [program, "--root", str(state), "delete", "--force", box.id]
        subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, check=False, timeout=_PATIENCE)
    for parent in CGROUP_ROOT.glob(f"*/{cgroup_parent(box.settings)}"):
        for place in (parent / box.id, parent):
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
        options = mounted(box, settings, options, shown)
        hostname = default_hostname(options)
        files = write_files(directory.absolute(), hostname, options)
        spec = plan(shown, box.image.config.config.document(), options, files, hostname)
        _write_config(box, settings, options, spec, directory, "rootfs")
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
