"""A container in a store: an image, a writable layer, a record."""

from __future__ import annotations

import contextlib
import os
import threading
import time
from collections.abc import Collection, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

from layerfs.engine.mounts import mount_container, mounted_at
from layerfs.engine.records import Change
from layerfs.engine.settings import Settings
from layerfs.engine.state import State
from layerfs.engine.upkeep import Sizes, upper_size
from layerfs.errors import InUse, InvalidInput
from layerfs.image.commit import commit_image
from layerfs.image.export import export
from layerfs.image.images import Images
from layerfs.layer.changes import changes
from layerfs.layer.commit import commit_layer
from layerfs.layer.directory import directory_entries
from layerfs.layer.merged import merged_tree
from layerfs.oci import ContainerConfig
from layerfs.reference import Reference

if TYPE_CHECKING:
    from layerfs.engine.image import Image
    from layerfs.engine.store import Store
    from layerfs.layer.progress import Report
    from layerfs.layer.tree import Tree
    from layerfs.runtime import Process, RunResult
    from layerfs.snapshot import ContainerRecord, MountHandle

_users: dict[str, tuple[int, Path, MountHandle | None]] = {}  # container -> runs of this process, where, our mount
_users_lock = threading.Lock()


class Container:
    """A container; its state is read from the store at each call."""

    def __init__(self, store: Store, record: ContainerRecord) -> None:
        self.store, self._id = store, record.id

    def __repr__(self) -> str:
        return f"<layerfs.Container {self._id[:12]}>"

    @property
    def record(self) -> ContainerRecord:
        """Its row now. Raises ContainerNotFound when it was removed."""
        return self.store.container_table.get(self._id)

    @property
    def id(self) -> str:
        """64 hex digits."""
        return self._id

    @property
    def name(self) -> str:
        return self.record.name

    @property
    def image(self) -> Image:
        """What it stands on; kept for it even when the image was removed by force."""
        from layerfs.engine.image import Image

        return Image(self.store, self.store.image_of(self.record))

    @property
    def settings(self) -> Settings:
        return Settings.of(self.record.config)

    @property
    def state(self) -> State:
        """What it does now, from the processes that there are."""
        return State.of(self.record.state)

    @property
    def upper(self) -> Path:
        """The directory of its changes, in overlayfs's format."""
        return self.store.container_table.upper(self._id)

    def config(self) -> ContainerConfig:
        """The image's config with the container's settings over it."""
        return self.settings.config(self.image.config.config)

    def rename(self, name: str) -> None:
        """Raises AlreadyExists, InvalidInput, in docker's words."""
        self.store.container_table.rename(self._id, name)

    def remove(self, *, force: bool = False) -> None:
        """Remove it and its writable layer.

        Raises:
            InUse: it runs or is mounted; `force` kills and unmounts.
        """
        record, state = self.record, self.state
        if state.running:
            if not force:
                reason = "container is running: stop the container before removing or force remove"
                raise InUse(f'cannot remove container "{record.name}": {reason}')
            state.kill()
        self.store.container_table.remove(self._id, force=force)

    def sizes(self) -> Sizes:
        """Bytes of its own files and of its image's."""
        return Sizes(upper_size(self.upper), self.image.size)

    # the file system

    def tree(self) -> Tree:
        """The image's merged tree: what is below the writable layer."""
        return merged_tree(self.store.root, self.store.image_of(self.record).diff_ids)

    def mount(
        self,
        target: str | os.PathLike[str] | None = None,
        *,
        engine: str | None = None,
        read_only: bool = False,
        options: Collection[str] = (),
    ) -> MountHandle:
        """Mount it, at `target` or at its own place in the store.

        Use it with `with`: that gives a pathlib.Path and unmounts at the end. engine: `kernel`, `python`, None for
        the best one here.
        options: nosuid, nodev, noexec, volatile.

        Raises:
            InUse: it is mounted writable already. MountError, Unsupported, InvalidInput.
        """
        return mount_container(
            self.store, self.record, None if target is None else Path(target), engine, read_only, options
        )

    def diff(self) -> list[Change]:
        """What it changed, in docker's order and words."""
        index = self.store.container_table.work(self._id) / "index"
        return [Change(c.kind, os.fsdecode(c.path)) for c in changes(self.upper, self.tree(), index=index)]

    def export(self, target: str | os.PathLike[str] | BinaryIO) -> None:
        """Write its whole file system as one tar."""
        place = mounted_at(self.store, self._id)
        with contextlib.ExitStack() as stack:
            if place is None:
                place = stack.enter_context(self.mount(self.store.mount_point(), read_only=True))
            export(directory_entries(place), target)

    def commit(
        self,
        tag: str | None = None,
        *,
        message: str = "",
        author: str = "",
        changes: Sequence[str] = (),
        progress: Report | None = None,
    ) -> Image:
        """An image of what it changed; only that is read.

        changes: Dockerfile instructions for the config (CMD ENTRYPOINT ENV EXPOSE LABEL ONBUILD USER VOLUME WORKDIR
        HEALTHCHECK STOPSIGNAL).

        Raises:
            InvalidInput: a bad tag or change, or a name that no layer can hold. InUse: it changed while it was read.
        """
        references = [Reference.parse(tag).tagged()] if tag else []
        record, root = self.record, self.store.root
        parent = self.store.image_of(record)
        config = self.settings.config(Images(root).config(parent).config)
        with root.leases.acquire("commit") as lease:
            index = self.store.container_table.work(self._id) / "index"
            layer = commit_layer(root, self.upper, self.tree(), lease=lease, index=index, progress=progress)
            image = commit_image(
                root,
                parent,
                layer.diff_id if layer else None,
                config,
                command=[*(config.entrypoint or ()), *(config.cmd or ())],
                author=author,
                message=message,
                changes=changes,
                references=references,
            )
        return self.store.image(str(image.id))

    # running

    def run(
        self,
        command: Sequence[str] | None = None,
        *,
        stdin: Any = None,
        stdout: Any = -1,
        stderr: Any = -1,
        timeout: float | None = None,
        output_limit: int | None = None,
        engine: str | None = None,
        forward_signals: bool = False,
        **settings: Any,
    ) -> RunResult:
        """Run a program in it and wait: in new namespaces, with the mounted union as root.

        command: replaces the container's; settings: those of Store.create (env, user, workdir, network, …) for this
        run.
        Streams as for subprocess: -1 (PIPE) captures, -3 (DEVNULL), None inherits for outputs; `stdin` None means
        /dev/null, bytes are fed.
        timeout: seconds; the container is killed then. output_limit: bytes of each captured stream.

        Returns:
            a record with returncode (128+n for a signal n), stdout, stderr.

        Raises:
            RunError, CommandNotFound, CommandNotExecutable: it could not be started (exit codes 125, 127, 126).
        """
        from layerfs.runtime import DEVNULL, run

        wanted = self.settings.changed(settings | ({"command": tuple(command)} if command is not None else {}))
        image = self.image.config.config
        if wanted.network not in ("none", "host"):
            raise InvalidInput(f"network {wanted.network!r} is not supported: none or host")
        with self._mounted(engine) as root:
            result = run(
                root,
                image.document(),
                wanted.run_options(self._id),
                stdin=DEVNULL if stdin is None else stdin,
                stdout=stdout,
                stderr=stderr,
                timeout=timeout,
                output_limit=output_limit,
                forward_signals=forward_signals,
                on_started=self._started,
            )
        self._ended(result.returncode)
        return result

    def start_attached(self, *, stdin: bool = False) -> int:
        """Run its own command with our standard streams; returns the exit code."""
        try:
            result = self.run(stdin=0 if stdin else None, stdout=None, stderr=None, forward_signals=True)
        except OSError as error:
            self._ended(getattr(error, "exit_code", 125))
            raise
        return result.returncode

    def _started(self, process: Process) -> None:
        self._set_state(State.started(process.pid, time.time_ns()))

    def _ended(self, code: int) -> None:
        self._set_state(State.of(self.record.state).ended(code, time.time_ns()))

    def _set_state(self, state: State) -> None:
        self.store.container_table.update(self._id, lambda record: replace(record, state=state.row()))

    @contextlib.contextmanager
    def _mounted(self, engine: str | None) -> Iterator[Path]:
        """Its root, mounted for as long as somebody in this process uses it, and not at all when it is mounted
        already.
        """
        with _users_lock:
            count, path, ours = _users.get(self._id, (0, None, None))
            if path is None:
                path = mounted_at(self.store, self._id)
                if path is None:
                    ours = self.mount(engine=engine)
                    path = ours.path
            _users[self._id] = (count + 1, path, ours)
        try:
            yield path
        finally:
            with _users_lock:
                count, path, ours = _users.pop(self._id)
                if count > 1:
                    _users[self._id] = (count - 1, path, ours)
                elif ours is not None:
                    with contextlib.suppress(InUse):  # another process runs in it; the last one unmounts
                        ours.unmount()
