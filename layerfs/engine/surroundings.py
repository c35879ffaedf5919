"""What a program of a container runs in: its control groups (and, with them, all that is made for a run and taken away
after it). Made before the helper is started; found again by the container's ID, so that what a killed run left goes
with the next one, or with `rm`.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator, Mapping
from pathlib import Path

from layerfs._lazy import TYPE_CHECKING
from layerfs._record import replace
from layerfs.engine.events import record_event
from layerfs.engine.filters import filter_of
from layerfs.engine.volumes import volume_binds
from layerfs.errors import InUse, LayerfsError, RunError
from layerfs.runtime.cgroup import PARENT, Cgroup, existing, parse_parent
from layerfs.runtime.resources import NAMES

if TYPE_CHECKING:
    from typing import Any

    from layerfs.engine.container import Container
    from layerfs.engine.running import Place
    from layerfs.engine.settings import Settings
    from layerfs.runtime import RunOptions
    from layerfs.runtime.idmaps import IdMaps

RUNTIME_STATE = "oci"  # below a container's `run/`: what another runtime keeps about it
_OOM = "oom"  # the file in the container's directory that says the last run met the memory limit


def cgroup_parent(settings: Settings) -> str:
    return parse_parent(settings.cgroup_parent) if settings.cgroup_parent else PARENT


class Surroundings:
    """Of one run. `options` are the settings' with what was made."""

    def __init__(self, box: Container, settings: Settings, options: RunOptions, cgroup: Cgroup) -> None:
        self._box, self._settings, self._cgroup = box, settings, cgroup
        self.options = options

    @property
    def oom_killed(self) -> bool:
        """Whether the kernel has killed something in it for want of memory."""
        return bool(self.options.cgroup_procs) and self._cgroup.oom_kills() > 0

    def leave(self) -> None:
        if not self.options.cgroup_procs:
            return  # it has no groups
        if self.oom_killed:
            with contextlib.suppress(OSError):
                _oom_file(self._box).touch()
        self._cgroup.remove()


def enter(box: Container, settings: Settings, root: Path, *, token: str = "", everything: bool = False) -> Surroundings:
    """Makes what a run needs. `root` is its mounted root, `token` is another run's than the container's own
    program's; `everything` makes every group there is (to be frozen and counted), else only those that limit something.

    Raises:
        InvalidInput, Unsupported, RunError: a setting, a controller that is missing, a limit that is refused.
    """
    options = settings.run_options(box.id)
    options = replace(
        options,
        seccomp=filter_of(box.store.root, settings),
        shared=shared_namespaces(box, settings),
        id_maps=_maps_of(settings),
        binds=[*options.binds, *volume_binds(box, settings, root)],
    )
    everything = everything or "pid" in options.shared  # else nobody would know which processes were its own
    cgroup = Cgroup(f"{box.id}.{token}" if token else box.id, cgroup_parent(settings))
    _oom_file(box).unlink(missing_ok=True)
    controls = not settings.privileged and (everything or bool(settings.devices or _rules(settings)))
    rules = [*_rules(settings), *(rule for device in options.devices for rule in device.rules())]
    procs = cgroup.create(
        settings.resources,
        everything=everything,
        devices=rules if controls else None,
        before=lambda: _groups_file(box).touch(),
    )
    if procs:
        options = replace(options, cgroup_procs=procs, device_cgroup=controls)
    try:
        if settings.has_interfaces:
            options = _connected(box, settings, options)
    except BaseException:
        cgroup.remove()
        raise
    return Surroundings(box, settings, options, cgroup)


def _maps_of(settings: Settings) -> IdMaps | None:
    if not settings.has_user_namespace:
        return None  # nearly always
    from layerfs.engine.userns import maps_of

    return maps_of(settings)


def _connected(box: Container, settings: Settings, options: RunOptions) -> RunOptions:
    from layerfs.engine.connections import connect_all, linked, names_block, names_for
    from layerfs.engine.networks import Networks

    ends = connect_all(box, settings)
    networks = Networks(box.store)
    gateway = next((network.gateway for network, _ in ends), "")
    given = [(name, gateway if address == "host-gateway" else address) for name, address in options.extra_hosts]
    shared = {**options.shared, "network": str(networks.namespace(box.id))}
    return replace(
        options,
        shared=shared,
        addresses=tuple(end.address for _, end in ends),
        extra_hosts=[*given, *linked(box, settings)],
        others=names_block(names_for(networks, box.id)),
    )


def shared_namespaces(box: Container, settings: Settings) -> dict[Any, str | None]:
    """Those it has with the host (None) or with another container (a file). Raises RunError in docker's words."""
    wanted = {"network": settings.network, "ipc": settings.ipc, "pid": settings.pid}
    shared: dict[Any, str | None] = {}
    for kind, value in wanted.items():
        if value and value.startswith("container:"):
            other = box.store.container(value.removeprefix("container:"))
            if not (pid := other.state.pid):
                raise RunError(f"cannot join {kind} namespace of a non running container: {other.id}")
            if kind == "ipc" and other.settings.ipc == "none":
                hint = "(hint: use IpcMode:shareable for the donor container)"
                raise RunError(f"can't join IPC of container {other.id}: non-shareable IPC {hint}")
            shared[kind] = f"/proc/{pid}/ns/{'net' if kind == 'network' else kind}"
        elif value == "host" and kind != "network":
            shared[kind] = None
    if settings.uts == "host":
        shared["uts"] = None
    if settings.cgroupns == "host":
        shared["cgroup"] = None
    return shared


def _rules(settings: Settings) -> tuple[Any, ...]:
    return settings.resources.device_cgroup_rules


@contextlib.contextmanager
def surrounded(box: Container, settings: Settings, place: Place) -> Iterator[Surroundings]:
    """For a run that this process waits for."""
    around = enter(box, settings, place.root, token=place.files.name)
    try:
        yield around
    finally:
        around.leave()


def clear(box: Container) -> None:
    """By who is alone with the container: takes away whatever its runs have left."""
    if _groups_file(box).exists():
        for cgroup in cgroups(box):
            if cgroup.oom_kills():
                with contextlib.suppress(OSError):
                    _oom_file(box).touch()
            cgroup.remove()
        _groups_file(box).unlink(missing_ok=True)
    if os.path.exists(f"{box.directory}/run/{RUNTIME_STATE}"):
        from layerfs.engine.oci import forget

        forget(box)
    if _was_connected(box):
        from layerfs.engine.connections import disconnect_all

        disconnect_all(box)


def _was_connected(box: Container) -> bool:
    """Whether there is anything of it in a network: the modules of those are not loaded for a mere look."""
    if os.path.exists(f"{box.directory}/run/net"):
        return True
    place = f"{box.store.path}/networks"
    try:
        names = os.listdir(place)
    except FileNotFoundError:
        return False
    return any(os.path.exists(f"{place}/{name}/endpoints/{box.id}.json") for name in names)


def leftovers(box: Container) -> bool:
    """Whether there is something that `clear` would take away, or that is in use."""
    return _groups_file(box).exists() or (box.directory / "run" / "net").exists()


def cgroups(box: Container) -> list[Cgroup]:
    """Those that there are now: its own program's first."""
    return existing(box.id, cgroup_parent(box.settings))


def oom_killed(box: Container) -> bool:
    """Docker's State.OOMKilled: of the last run, or of one that goes on."""
    return _oom_file(box).exists() or any(cgroup.oom_kills() for cgroup in cgroups(box))


def _oom_file(box: Container) -> Path:
    return box.directory / _OOM


def _groups_file(box: Container) -> Path:
    """There from before its first group is made until all are gone: who has none is not looked for in every tree."""
    return box.directory / "run/groups"


def paused(box: Container) -> bool:
    return any(cgroup.frozen for cgroup in cgroups(box))


def freeze(box: Container, wanted: bool) -> None:
    """`pause` and `unpause`. Raises InUse in docker's words when there is nothing to do, Unsupported, RunError."""
    found = cgroups(box)
    if not box.state.running or (wanted and not found):
        raise InUse(f"Container {box.id} is not running")
    if wanted == any(cgroup.frozen for cgroup in found):
        raise InUse(f"Container {box.id} is {'already' if wanted else 'not'} paused")
    for cgroup in found:
        cgroup.freeze(wanted)
    record_event(box, "pause" if wanted else "unpause")


def update(box: Container, values: Mapping[str, Any]) -> None:
    """New limits, for what runs now and from the next start on. Raises InvalidInput, Unsupported, RunError.

    What runs is limited first: when that is refused, the record stays as it was."""
    settings = box.settings.changed(values)
    names = {_FIELD.get(name, name) for name in values if name in NAMES}
    try:
        for cgroup in cgroups(box):
            cgroup.update(settings.resources, names)
    except LayerfsError:
        old = box.settings.resources
        with contextlib.suppress(LayerfsError):
            for cgroup in cgroups(box):
                cgroup.update(old, names)
        raise
    box.store.container_table.update(
        box.id, lambda record: replace(record, config={**record.config, "resources": settings.resources.row()})
    )
    record_event(box, "update")


_FIELD = {"cpus": "nano_cpus", "pids": "pids_limit"}
