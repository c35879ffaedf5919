"""The mounts of a RUN: from what the Dockerfile says to what the engine mounts.

A part of a context is known by its digest until it is needed: only a step that is not cached makes a layer of it.
"""

from __future__ import annotations

import os
import posixpath
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import cast

from layerfs._record import dataclass, replace
from layerfs.build.instructions import Mount
from layerfs.build.sources import Sources
from layerfs.build.steps import MountKind, Sharing, StepMount
from layerfs.build.transfer import Below, Rules, Transfer, check_same, choose
from layerfs.digest import DiffID
from layerfs.errors import InvalidInput, NotFound
from layerfs.layer.entry import Entry

_SECRETS, _AGENT = "/run/secrets/", "/run/buildkit/ssh_agent."


@dataclass(frozen=True, slots=True)
class Offers:
    """What the builder's caller gives to mounts."""

    secrets: Mapping[str, bytes]
    agents: Mapping[str, str]


def plan_mounts(
    mounts: Sequence[Mount], workdir: str, sources: Sources, offers: Offers
) -> tuple[tuple[StepMount, ...], tuple[str, ...]]:
    """The mounts, and variables that come with them.

    Raises:
        NotFound: a required secret or agent that was not given, or a source that is not there.
    """
    planned: list[StepMount] = []
    env: list[str] = []
    for mount in mounts:
        target = posixpath.normpath(posixpath.join("/", workdir, mount.target)) if mount.target else ""
        if mount.kind == "secret":
            planned += _secret(mount, target, offers)
        elif mount.kind == "ssh":
            agents = sum(each.kind == "ssh" for each in planned)
            found = _agent(mount, target or f"{_AGENT}{agents}", offers)
            planned += found
            env += [f"SSH_AUTH_SOCK={os.fsdecode(each.target)}" for each in found]
        elif mount.kind == "tmpfs":
            planned.append(StepMount("tmpfs", _path(target, mount), size=mount.size or None, writable=True))
        else:
            planned.append(_files(mount, target, sources))
    return tuple(planned), tuple(env)


def _path(target: str, mount: Mount) -> bytes:
    if target in ("", "/"):
        raise InvalidInput(f"invalid mount target {mount.target!r} of a {mount.kind} mount")
    return os.fsencode("/" + target.strip("/"))


def _secret(mount: Mount, target: str, offers: Offers) -> list[StepMount]:
    name = mount.id or posixpath.basename(target)
    if name not in offers.secrets:
        if mount.required:
            raise NotFound(f"secret {name}: not found")
        return []
    env = (mount.env or name) if mount.env is not None else ""
    place = target or ("" if mount.env is not None else _SECRETS + posixpath.basename(name))
    data, mode = offers.secrets[name], 0o400 if mount.mode is None else mount.mode
    where = os.fsencode(place)
    owner = (mount.uid or 0, mount.gid or 0)
    return [StepMount("secret", where, id=name, data=data, env=env, mode=mode, uid=owner[0], gid=owner[1])]


def _agent(mount: Mount, target: str, offers: Offers) -> list[StepMount]:
    name = mount.id or "default"
    if name not in offers.agents:
        if mount.required:
            raise NotFound(f"unset ssh forward key {name}")
        return []
    return [StepMount("ssh", os.fsencode(target), id=name, socket=offers.agents[name], writable=True)]


def _files(mount: Mount, target: str, sources: Sources) -> StepMount:
    kind = cast(MountKind, mount.kind)
    place, source = _path(target, mount), os.fsencode(mount.source or "/")
    name = (mount.id or target) if kind == "cache" else ""
    planned = StepMount(
        kind,
        place,
        source=b"/" + source.strip(b"/"),
        writable=not mount.read_only,
        id=name,
        sharing=cast(Sharing, mount.sharing or "shared"),
        mode=mount.mode,
        uid=mount.uid or 0,
        gid=mount.gid or 0,
    )
    if kind == "cache" and not mount.source_from:
        return planned
    if sources.is_tree(mount.source_from):
        return replace(planned, layers=sources.layers(mount.source_from))
    with sources.open(mount.source_from) as files:
        key = b"".join(job.key() for job in choose(files, source)).hex()
    return replace(planned, context=mount.source_from, digest=key, is_context=True)


def made_ready(mount: StepMount, sources: Sources, store: Callable[[Iterator[Entry]], DiffID | None]) -> StepMount:
    """With the layer of its part of a context."""
    if not mount.is_context:
        return mount
    with sources.open(mount.context) as files:
        (job,) = choose(files, mount.source)
        source = b"/" if job.item.is_dir else b"/file"
        layer = store(Transfer(Below(None), Rules(source, job.item.mtime_ns)).entries([job]))
        check_same(job, bytes.fromhex(mount.digest))
    return replace(mount, layers=(layer,) if layer else (), source=source)
