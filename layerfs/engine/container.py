"""A container in a store: an image, a writable layer, a record."""

from __future__ import annotations

import contextlib
import os
import signal
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from layerfs._lazy import TYPE_CHECKING
from layerfs.engine.mounts import mount_container, mounted_at
from layerfs.engine.programs import Programs
from layerfs.errors import ContainerNotFound, InUse, InvalidInput, LayerfsError

if TYPE_CHECKING:
    from typing import Any, BinaryIO

    from layerfs.engine.image import Image
    from layerfs.engine.records import Changes
    from layerfs.engine.settings import Settings
    from layerfs.engine.snapshots import Snapshot
    from layerfs.engine.space import Usage
    from layerfs.engine.state import State
    from layerfs.engine.stats import Stats
    from layerfs.engine.store import Store
    from layerfs.engine.upkeep import Sizes
    from layerfs.layer.progress import Report
    from layerfs.layer.tree import Tree
    from layerfs.oci import ContainerConfig
    from layerfs.snapshot import ContainerRecord, MountHandle
    from layerfs.snapshot.options import Options


_CLEARING_SECONDS = 30.0  # what clears up after a container may take on a busy machine


class Container(Programs):
    """A container; its state is read from the store at each call. Safe from threads."""

    def __init__(
        self, store: Store, record: ContainerRecord, image: Image | None = None, *, made_here: bool = False
    ) -> None:
        self.store, self._id, self._name, self._made_here = store, record.id, record.name, made_here
        self._image, self._directory = image, store.root.container_path(record.id)
        self._settings: tuple[dict[str, Any], Settings] | None = None  # with the row's part that they were read from
        self.given_tree: Tree | None = None  # what it stands on, by who made that for it alone

    def __enter__(self) -> Container:
        """`with store.create(image) as box:` (or `box.fork()`) a container for the block alone."""
        return self

    def __exit__(self, *_: object) -> None:
        """Kills and removes what this object has made, with its unnamed volumes; one that has removed itself is no
        error. A container that was there (`store.container(name)`) stays as it is."""
        if self._made_here:
            with contextlib.suppress(ContainerNotFound):
                self.remove(force=True, volumes=True)

    def __repr__(self) -> str:
        return f"<layerfs.Container {self._id[:12]} {self._name}>"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Container) and (self._id, self.store.path) == (other._id, other.store.path)

    def __hash__(self) -> int:
        return hash(self._id)

    @property
    def record(self) -> ContainerRecord:
        """Its row now. Raises ContainerNotFound when it was removed."""
        return self.store.container_table.get(self._id)

    @property
    def id(self) -> str:
        """64 hex digits."""
        return self._id

    @property
    def short_id(self) -> str:
        """Twelve hex digits, as docker prints them."""
        return self._id[:12]

    @property
    def name(self) -> str:
        """Its name now. Raises ContainerNotFound."""
        return self.record.name

    @property
    def image(self) -> Image:
        """What it stands on; kept for it even when the image was removed by force."""
        return self.image_by(self.record)

    def image_by(self, record: ContainerRecord) -> Image:
        """`image`, for who has read its row already."""
        from layerfs.engine.image import Image

        if self._image is None or self._image.record.id.hex != record.image:
            self._image = Image(self.store, self.store.image_of(record))
        return self._image

    @property
    def image_name(self) -> str:
        """What its maker called the image, as long as that name means it still; else the ID, `sha256:…`."""
        return self.image_name_by(self.record)

    def image_name_by(self, record: ContainerRecord) -> str:
        """See `image_by`."""
        name = str(record.config.get("image_name", ""))
        try:
            if name and self.store.image(name).record.id.hex == record.image:
                return name
        except LayerfsError:
            pass
        return f"sha256:{record.image}"

    @property
    def settings(self) -> Settings:
        """What its creator asked for."""
        return self.settings_by(self.record)

    def settings_by(self, record: ContainerRecord) -> Settings:
        """See `image_by`."""
        from layerfs.engine.settings import Settings

        row, known = record.config, self._settings
        if known is None or known[0] is not row:
            self._settings = known = row, Settings.of(row)
        return known[1]

    @property
    def state(self) -> State:
        """What it does now, from the processes that there are: `.status` created, running, restarting or exited,
        `.code`, `.pid`, `.started_at`, `.finished_at`."""
        return self.state_by(self.record)

    def state_by(self, record: ContainerRecord) -> State:
        """See `image_by`."""
        from layerfs.engine.state import State

        return State.read(record.state, self.directory)

    @property
    def status(self) -> str:
        """docker's word: created, running, paused, restarting, exited."""
        from layerfs.engine.surroundings import paused

        status = self.state.status
        return "paused" if status == "running" and paused(self) else status

    @property
    def directory(self) -> Path:
        """Where the container's files are."""
        return self._directory

    @property
    def health(self) -> dict[str, Any] | None:
        """Of its health check, as docker's `inspect` has it (Status, FailingStreak, Log); None without one."""
        import json

        if not self.state.life.started_ns or not self._has_probe():
            return None
        try:
            health: dict[str, Any] = json.loads((self.directory / "monitor/health").read_bytes())
        except (OSError, ValueError):
            return None
        return health

    def _has_probe(self) -> bool:
        from layerfs.engine.lifesettings import probe_of

        return probe_of(self.config()) is not None

    @property
    def upper(self) -> Path:
        """The directory of its changes, in overlayfs's format."""
        return self.store.container_table.upper(self._id)

    def config(self) -> ContainerConfig:
        """The image's config with the container's settings over it."""
        return self.settings.config(self.image.config.config)

    @property
    def labels(self) -> dict[str, str]:
        """The image's, with its own over them, sorted by name."""
        return self.labels_by(self.record)

    def labels_by(self, record: ContainerRecord) -> dict[str, str]:
        """See `image_by`."""
        return self.settings_by(record).labels_over(self.image_by(record).config.config)

    def inspect(self, *, size: bool = False) -> dict[str, Any]:
        """All there is to know of it now, in the form of docker's `inspect`; with `size` also `SizeRw`, `SizeRootFs`,
        in bytes. Raises ContainerNotFound."""
        from layerfs.engine.inspection import inspect_container

        return inspect_container(self, size=size)

    def rename(self, name: str) -> None:
        """Another name, from now on; the containers of its networks find it by that. Raises AlreadyExists,
        InvalidInput, in docker's words."""
        if name.removeprefix("/") == self.name:
            raise InvalidInput("Renaming a container with the same name as its current name")
        from layerfs.engine.events import record_event

        old = self.name
        self._name = self.store.container_table.rename(self._id, name).name
        record_event(self, "rename", oldName=f"/{old}")
        if self.settings.has_interfaces:
            from layerfs.engine.connections import tell_new_name

            tell_new_name(self)

    def remove(self, *, force: bool = False, volumes: bool = False) -> None:
        """Remove it and its writable layer; with `volumes` also those that have no name of their own.

        Raises:
            InUse: it runs or is mounted; `force` kills and unmounts. ContainerNotFound.
        """
        going = force and self.settings.auto_remove and self.state.running  # whoever sees its end removes it (--rm)
        with contextlib.suppress(*([ContainerNotFound] if going else [])):
            self._remove(force, volumes)

    def _remove(self, force: bool, volumes: bool) -> None:
        from layerfs.engine.events import record_event
        from layerfs.engine.running import no_runs
        from layerfs.engine.volumes import remove_unnamed
        from layerfs.store.reserve import with_reserve

        deadline, settings, table = time.monotonic() + _CLEARING_SECONDS, self.settings, self.store.container_table
        while True:  # one that is being started runs a moment later
            self._end_for_removal(force)
            with no_runs(self, patience=1.0) as alone:
                if alone or (time.monotonic() > deadline and not self.state.monitored):
                    record_event(self, "destroy")
                    with_reserve(self.store.root.path, lambda: table.remove(self._id, force=force))
                    break
            if time.monotonic() > deadline:
                raise InUse(f'cannot remove container "{self.name}": it is being started or stopped by another command')
        if volumes:
            remove_unnamed(self.store, settings)

    def _end_for_removal(self, force: bool) -> None:
        record = self.record
        state = self.state_by(record)
        if not state.running:
            return
        if not force:
            reason = "container is running: stop the container before removing or force remove"
            raise InUse(f'cannot remove container "{record.name}": {reason}')
        self._kill_for_removal(state)

    def _kill_for_removal(self, state: State) -> None:
        from layerfs.engine.life import stop

        if state.monitored or state.init:
            stop(self, seconds=0.0, number=signal.SIGKILL)
        with contextlib.suppress(ContainerNotFound):  # --rm
            self.state.kill()

    def sizes(self) -> Sizes:
        """Bytes of its own files (with what snapshots have frozen of them) and of its image's."""
        from layerfs.engine.snapshots import steady
        from layerfs.engine.space import state_size
        from layerfs.engine.upkeep import Sizes, upper_size

        def counted(record: ContainerRecord) -> Sizes:
            upper = self.store.container_table.made_upper(record)
            own, frozen = upper_size(upper) if upper else 0, state_size(self.store, record.base) if record.base else 0
            return Sizes(own + frozen, self.image.size)

        return steady(self, counted)

    def usage(self) -> Usage:
        """What its upper directory takes on the disk: `.bytes`, `.entries`, and the limits that it was made with
        (`.bytes_limit`, `.entries_limit`; None: none). What snapshots have frozen does not count, as for the limits.
        """
        from layerfs.engine.space import usage_of

        return usage_of(self)

    # the file system

    def tree(self) -> Tree:
        """What is below the writable layer: the image's merged tree, with what snapshots have frozen since."""
        from layerfs.engine.snapshots import stack_of
        from layerfs.layer import merged_tree

        if self.given_tree is not None:
            return self.given_tree
        return merged_tree(self.store.root, stack_of(self.store, self.record))

    def mount(
        self,
        target: str | os.PathLike[str] | None = None,
        *,
        engine: str | None = None,
        read_only: bool = False,
        options: Options = (),
    ) -> MountHandle:
        """Mount it, at `target` (an empty directory, made when missing) or at its own place in the store.

        Use it with `with`: that gives a pathlib.Path and unmounts at the end; or keep it: it has `.path` and
        `.unmount(lazy=False)`.

        Args:
            engine: one of `layerfs debug mounts`' names, None for the one it was made with or the best one here.
            options: `"size=1g,noatime"`, a list of such texts, or a mapping `{"size": "1g", "noatime": True}`:
                nosuid, nodev, noexec, noatime, volatile (nothing is synced), and for the engine native size, inodes
                (limits of the writable layer), uidmap, gidmap (`INSIDE:OUTSIDE:COUNT,…`), cache (always, none,
                seconds), coherence=strict, access=private (only for who mounts). docs/architecture.md says more.

        Raises:
            InUse: it is mounted writable already. MountError, Unsupported, InvalidInput.
        """
        from layerfs.engine.running import release

        release(self)
        place = None if target is None else Path(target)
        return mount_container(self.store, self.record, place, engine, read_only, options)

    def bundle(self, directory: str | os.PathLike[str], *, mount: bool = True) -> None:
        """Write it as an OCI runtime bundle: `config.json`, and its files mounted at `rootfs` (`umount` that place at
        the end), or an empty directory there without `mount`. A network of its own has a loopback only, until somebody
        connects it.

        Raises:
            AlreadyExists: the directory has something in it. InUse: it is mounted already. Unsupported: `--init`.
        """
        from layerfs.engine.oci import write_bundle

        write_bundle(self, Path(directory), mount=mount)

    def diff(self) -> Changes:
        """What it changed of its image, in docker's order and words; also while it is mounted or runs."""
        from layerfs.engine.points import made_points
        from layerfs.engine.records import Change, Changes
        from layerfs.engine.running import release_root
        from layerfs.engine.snapshots import diff_from_image, steady
        from layerfs.layer.changes import changes

        def found(record: ContainerRecord) -> Changes:
            table = self.store.container_table
            if record.base:
                return diff_from_image(self, record)
            upper = table.made_upper(record)
            if upper is None:
                return Changes()
            index, hidden = table.work(record) / "index", made_points(self.directory)
            objects = self.store.root.path / "objects"
            each = changes(upper, self.tree(), index=index, objects=objects, hidden=hidden)
            return Changes(Change(change.kind, os.fsdecode(change.path)) for change in each)

        release_root(self)
        return steady(self, found)

    def export(self, target: str | os.PathLike[str] | BinaryIO) -> None:
        """Write its whole file system as one tar. Raises AlreadyExists, NoSpace, MountError."""
        from layerfs.engine.events import record_event
        from layerfs.image.export import export
        from layerfs.layer import directory_entries

        place = mounted_at(self.store, self._id)
        if place is not None:
            export(directory_entries(place), target)
        else:
            with self.mount(self.store.mount_point(), read_only=True) as place:
                export(directory_entries(place), target)
        record_event(self, "export")

    def commit(
        self,
        tag: str | None = None,
        *,
        message: str = "",
        author: str = "",
        changes: Sequence[str] = (),
        pause: bool = True,
        progress: Report | None = None,
    ) -> Image:
        """An image of what it changed; only that is read.

        Args:
            pause: its programs stand still meanwhile, where they can be paused (those that `start` began).
            tag: a name for it; moves when another image has it.
            changes: Dockerfile instructions for the config (CMD ENTRYPOINT ENV EXPOSE LABEL ONBUILD USER VOLUME
                WORKDIR HEALTHCHECK STOPSIGNAL).
            progress: called with records `.kind .id .current .total` (bytes).

        Raises:
            InvalidInput: a bad tag or change, or a name that no layer can hold. InUse: it changed while it was read.
        """
        from layerfs.engine.committing import commit
        from layerfs.engine.events import record_event
        from layerfs.engine.running import release_root
        from layerfs.engine.snapshots import held

        release_root(self)
        with held(self) if pause else contextlib.nullcontext():
            image = commit(self, tag, message=message, author=author, changes=changes, progress=progress)
            record_event(self, "commit", imageID=image.id, comment=message)
        return image

    # snapshots

    def snapshot(self, name: str | None = None, *, absorb: bool = False, sync: bool = False) -> Snapshot:
        """Keep what it holds now under a name (None: `snapshot-1`, …); takes no time and no space at rest.

        While it is mounted by the engine native, or runs, it goes on: requests wait for under a millisecond, and all
        that was written before the call is in it (docs/limits.md). `absorb`: a process in the background makes layers
        of what is frozen (Store.absorb). `sync`: it, and all that is in it, survives a power cut (Store.sync), which
        otherwise may take files that were not synced, and the snapshot as if it had not been taken.

        Raises:
            AlreadyExists, InvalidInput: the name. InUse: it is mounted by another engine, or never at rest.
        """
        from layerfs.engine.running import release_root
        from layerfs.engine.snapshots import Snapshot, held
        from layerfs.snapshot.freezing import take_snapshot

        release_root(self)
        taken = Snapshot(self.store, take_snapshot(self.store.root, self.record, name, lambda: held(self)))
        if sync:
            self.store.sync()
        if absorb:
            self.store.absorb(background=True)
        return taken

    def snapshots(self) -> list[Snapshot]:
        """Oldest first."""
        from layerfs.engine.snapshots import snapshots_of

        return snapshots_of(self)

    def find_snapshot(self, name: str) -> Snapshot:
        """By name, or a unique start of its ID. Raises NotFound."""
        from layerfs.engine.snapshots import find_snapshot

        return find_snapshot(self, name)

    def rollback(self, snapshot: str | Snapshot) -> None:
        """Hold again what a snapshot of it does; what it changed since is lost. The snapshots stay, later ones too.

        Raises:
            NotFound: no such snapshot. InUse: it is mounted or runs.
        """
        from layerfs.engine.running import inherit_points, release_root
        from layerfs.engine.snapshots import drop_later
        from layerfs.snapshot.freezing import rollback

        release_root(self)
        which = snapshot if isinstance(snapshot, str) else snapshot.record
        place, points = rollback(self.store.root, self.record, which, lambda: self.image.tree())
        inherit_points(self, points)
        drop_later(self.store.root, place)

    def fork(self, name: str | None = None, *, snapshot: str | Snapshot | None = None) -> Container:
        """A new container with the same settings that holds what this one does now, or what a snapshot of it does; they
        share it, and each goes on by itself. Unnamed volumes are new ones.

        Raises:
            AlreadyExists, InvalidInput: the name. NotFound: no such snapshot. InUse: as for `snapshot`, when none was
            given.
        """
        from layerfs.engine.running import inherit_points, release_root
        from layerfs.engine.snapshots import find_snapshot, forked_config, held
        from layerfs.snapshot.freezing import fork
        from layerfs.snapshot.names import check_name

        release_root(self)
        state = find_snapshot(self, snapshot).record.state if snapshot is not None else None
        wanted, record = check_name(name) if name is not None else None, self.record
        with self.store.root.lock("userns") if record.config.get("auto_ids") else contextlib.nullcontext():
            child, points = fork(
                self.store.root,
                record,
                wanted,
                forked_config(self.store, record.config),
                lambda: self.image.tree(),
                state,
                lambda: held(self),
            )
        made = Container(self.store, child, made_here=True)
        inherit_points(made, points)
        return made

    def update(self, **limits: Any) -> None:
        """Other limits (memory, cpus, pids, cpu_shares, …), for what runs and for later runs.

        Raises:
            InvalidInput: an impossible one. Unsupported, RunError: it cannot be set; everything stays as it was.
        """
        from layerfs.engine.surroundings import update

        update(self, limits)

    def pause(self) -> None:
        """Stop every process of it until `unpause`. Raises InUse: it does not run, or is paused."""
        from layerfs.engine.surroundings import freeze

        freeze(self, True)

    def unpause(self) -> None:
        """Raises InUse: it is not paused."""
        from layerfs.engine.surroundings import freeze

        freeze(self, False)

    def stats(self) -> Stats:
        """What it uses now; `.cpu_percent(before)` needs an earlier one."""
        from layerfs.engine.stats import stats_of

        return stats_of(self)

    def ports(self) -> list[tuple[str, str, int]]:
        """What is published now: (`80/tcp`, the host's address, the host's port)."""
        from layerfs.engine.connections import bindings

        return bindings(self)

    def connect(
        self,
        network: str,
        *,
        aliases: Sequence[str] = (),
        ip: str | None = None,
        mac_address: str | None = None,
        links: Sequence[str] = (),
        priority: int = 0,
    ) -> None:
        """Connect it to one more network, now and from the next start on.

        Args:
            network: a name, an ID or a start of one.
            aliases: more names by which the others there find it.
            ip: its IPv4 address there; None is the lowest free one.
            mac_address: its Ethernet address there.
            links: `CONTAINER[:ALIAS]`, names that it alone has for others.
            priority: the network with the highest one is its way out; of equal ones the first.

        Raises:
            InUse: it is there already. InvalidInput, NotFound, RunError.
        """
        from layerfs.engine.attachments import Attachment, check_address, check_priority
        from layerfs.engine.connections import connect

        address = check_address(ip) if ip else None
        priority = check_priority(priority)
        connect(self, Attachment(network, tuple(aliases), address, mac_address, tuple(links), priority))

    def disconnect(self, network: str) -> None:
        """Take it from a network. Raises NotFound."""
        from layerfs.engine.connections import disconnect

        disconnect(self, network)

    def change_state(self, change: Callable[[State], State]) -> None:
        """Replace the state by what `change` makes of it. Raises ContainerNotFound."""
        from layerfs.engine.state import change_state
        from layerfs.store.reserve import with_reserve

        def row() -> dict[str, Any]:
            return self.record.state

        home = self.store.container_table.home(self._id)
        with_reserve(self.store.root.path, lambda: change_state(home, row, change))
