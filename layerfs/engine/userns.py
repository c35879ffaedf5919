"""The ids of containers that have a user namespace: chosen when a container is made, and kept in its settings."""

from __future__ import annotations

from layerfs._lazy import TYPE_CHECKING
from layerfs._record import replace
from layerfs.errors import InvalidInput
from layerfs.runtime import idmaps
from layerfs.runtime.idmaps import IdMaps, Mode, free, parse_maps, parse_mode, subordinate, whole

if TYPE_CHECKING:
    from layerfs.engine.confinement import Confinement
    from layerfs.engine.settings import Settings
    from layerfs.engine.store import Store
    from layerfs.runtime import RunOptions
    from layerfs.runtime.flags import IdMap


def mode_of(settings: Confinement) -> Mode:
    """Maps without a mode mean `private`, as with podman. Raises InvalidInput."""
    given = settings.uidmap or settings.gidmap or settings.subuidname or settings.subgidname
    mode = parse_mode(settings.userns or ("private" if given else "host"))
    if given and mode.kind != "private":
        raise InvalidInput(f"--userns={mode.kind} goes with no --uidmap, --gidmap, --subuidname or --subgidname")
    return mode


def check(settings: Confinement, options: RunOptions) -> None:
    """What cannot be had together, in docker's words. Raises InvalidInput."""
    if mode_of(settings).kind == "host":
        return
    if options.privileged:
        raise InvalidInput(
            "privileged mode is incompatible with user namespaces. You must run the container in the host namespace "
            "when running privileged mode"
        )
    if options.network == "host":
        raise InvalidInput("cannot share the host's network namespace when user namespaces are enabled")
    for name, value in (("PID", settings.pid), ("IPC", settings.ipc), ("cgroup", settings.cgroupns)):
        if value and value not in ("private", "shareable", "none"):
            whose = "the host" if value == "host" else "another container's"
            raise InvalidInput(f"cannot share {whose} {name} namespace when user namespaces are enabled")
    if settings.uidmap or settings.gidmap:
        maps_of(settings)


def maps_of(settings: Confinement) -> IdMaps | None:
    """Those of a container; None for the host's ids. Raises InvalidInput: `auto` ones are chosen by `chosen` first."""
    mode = mode_of(settings)
    if mode.kind == "host":
        return None
    if mode.kind == "auto":
        if not settings.auto_ids:
            raise InvalidInput("the ids of --userns=auto belong to a container: give it to create")
        uids, gids = (parse_maps(text.split(","), "--userns") for text in settings.auto_ids)
        return IdMaps(uids, gids)
    uids = parse_maps(settings.uidmap, "--uidmap") if settings.uidmap else ()
    gids = parse_maps(settings.gidmap, "--gidmap") if settings.gidmap else ()
    if not uids and not gids:
        return IdMaps(*_whole(settings))
    return IdMaps(uids or gids, gids or uids)


def _names(settings: Confinement) -> tuple[tuple[str, ...], tuple[str, ...]]:
    uid_name, gid_name = settings.subuidname, settings.subgidname
    users = (uid_name or gid_name or "",) if uid_name or gid_name else idmaps.NAMES
    return users, ((gid_name or uid_name or "",) if uid_name or gid_name else idmaps.NAMES)


def _whole(settings: Confinement) -> tuple[tuple[IdMap, ...], tuple[IdMap, ...]]:
    users, groups = _names(settings)
    return whole(subordinate(idmaps.SUBUID, users)), whole(subordinate(idmaps.SUBGID, groups))


def chosen(store: Store, settings: Settings) -> Settings:
    """With the ids of an `auto` one: such that no other container has. Under the lock `userns` until it is stored.

    Raises:
        InvalidInput: there are not enough.
    """
    mode = mode_of(settings)
    if mode.kind != "auto" or settings.auto_ids:
        return settings
    others = [maps for box in store.containers() if (maps := _kept(box.settings))]
    uid = free(subordinate(idmaps.SUBUID, idmaps.NAMES), (m for each in others for m in each.uids), mode.size, "uid")
    gid = free(subordinate(idmaps.SUBGID, idmaps.NAMES), (m for each in others for m in each.gids), mode.size, "gid")
    (uids, gids) = IdMaps((uid,), (gid,)).texts()
    return replace(settings, auto_ids=(",".join(uids), ",".join(gids)))


def _kept(settings: Settings) -> IdMaps | None:
    try:
        return maps_of(settings)
    except InvalidInput:  # its range of /etc/subuid is gone
        return None
