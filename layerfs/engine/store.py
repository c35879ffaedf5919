"""The public face of a store."""

from __future__ import annotations

import contextlib
import functools
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from types import TracebackType

from layerfs._lazy import TYPE_CHECKING
from layerfs.engine.container import Container
from layerfs.engine.image import Image
from layerfs.engine.lookup import container_or_image, image_of, inspect, stack_of, tree_lines, users_of_images
from layerfs.engine.mounts import await_end, check_engine, find_mount, mount_image, mount_statistics, unmount_all
from layerfs.errors import ImageNotFound, InvalidInput, StoreError
from layerfs.image.images import Images
from layerfs.reference import Reference
from layerfs.store.root import StoreRoot

if TYPE_CHECKING:
    from typing import Any, BinaryIO

    from layerfs.build.events import BuildEvent
    from layerfs.build.lint import Report as LintReport
    from layerfs.digest import DiffID
    from layerfs.engine.bench import BenchRow
    from layerfs.engine.networks import Networks
    from layerfs.engine.records import Changes, LoadedImage
    from layerfs.engine.settings import Settings as ContainerSettings
    from layerfs.engine.snapshots import Snapshot
    from layerfs.engine.volumes import Volumes
    from layerfs.image.filters import ImageSummary
    from layerfs.image.record import ImageRecord
    from layerfs.image.removal import Removed
    from layerfs.image.save import Saved
    from layerfs.image.usage import ImagesUsage
    from layerfs.layer.progress import Report
    from layerfs.registry.config import Settings
    from layerfs.registry.connect import Kept
    from layerfs.registry.push import Pushed
    from layerfs.snapshot import ContainerRecord, Containers, MountRecord
    from layerfs.snapshot.options import Options
    from layerfs.store.fsck import Problem
    from layerfs.store.gc import GcResult
    from layerfs.store.index import Txn

    Source = str | os.PathLike[str] | BinaryIO


def default_path() -> Path:
    """Where the store is when nobody says: $LAYERFS_STORE, else /var/lib/layerfs for root, ~/.local/share/layerfs for
    others.

    Raises:
        StoreError: nothing says where the home directory is.
    """
    if wanted := os.environ.get("LAYERFS_STORE"):
        return Path(wanted)
    if os.geteuid() == 0:
        return Path("/var/lib/layerfs")
    try:
        return Path.home() / ".local/share/layerfs"
    except RuntimeError:
        raise StoreError("this user has no home directory for a store: --store or LAYERFS_STORE says where") from None


class Store:
    """Images and containers in one directory. Opens it, or makes it when it is missing or empty.

    Safe from threads and from many processes at once; survives a fork. Close it, or use it with `with`.

    Args:
        path: the directory; `default_path()` when None.
        create: False refuses a directory that is no store yet.

    Raises:
        StoreVersionError: made by a newer layerfs. StoreError: no store, or not usable.
    """

    def __init__(self, path: str | os.PathLike[str] | None = None, *, create: bool = True) -> None:
        if path is not None and not os.fspath(path):
            raise InvalidInput("an empty path is no place for a store")
        self.root = StoreRoot.open(Path(path) if path is not None else default_path(), create=create)

    def __enter__(self) -> Store:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"<layerfs.Store {self.path}>"

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickled (for another process) is the place; images, containers and snapshots take their store along."""
        return functools.partial(Store, str(self.path), create=False), ()

    def close(self) -> None:
        """Mounts stay."""
        if kept := self.__dict__.get("connections"):
            kept.close()
        self.root.close()

    def sync(self) -> None:
        """After return what is in the store, and what was written to its containers, survives a power cut. Images and
        new containers do so anyway; snapshots, forks, rollbacks, and files that no program has synced, only after some
        seconds.

        Raises:
            NoSpace, StoreError: the disk says so.
        """
        self.root.sync()

    @property
    def path(self) -> Path:
        return self.root.path

    # images

    def import_archive(
        self,
        source: Source,
        *,
        tag: str | None = None,
        message: str = "",
        changes: Sequence[str] = (),
        platform: str | None = None,
        created_ns: int | None = None,
        progress: Report | None = None,
    ) -> Image:
        """One image of whatever `source` is: a root file system (tar in any compression, directory, stream), a
        docker archive,
        an OCI layout (directory or tar).

        message, changes, created_ns: for root file systems, as `docker import` takes them.

        Raises:
            InvalidArchive, Corrupt: a bad archive; nothing of it is kept. InvalidInput: several images in one
            archive, a bad change or tag.
            NoSpace: the disk is full.
        """
        from layerfs.image.rootfs import import_any
        from layerfs.oci import Platform

        record = import_any(
            self.root,
            source,
            reference=Reference.parse(tag).tagged() if tag else None,
            message=message,
            changes=changes,
            platform=Platform.parse(platform) if platform else None,
            created_ns=created_ns,
            progress=progress,
        )
        return Image(self, record)

    def load(self, source: Source, *, platform: str | None = None, progress: Report | None = None) -> list[LoadedImage]:
        """All images of a docker archive or an OCI layout, with their names. Each image is there wholly or not at all.

        Raises:
            InvalidArchive, Corrupt, NoSpace.
        """
        from layerfs.engine.records import LoadedImage
        from layerfs.image.load import iterate_archive
        from layerfs.oci import Platform

        wanted = Platform.parse(platform) if platform else None
        found = iterate_archive(self.root, source, platform=wanted, progress=progress)
        return [LoadedImage(Image(self, loaded.image), loaded.tags) for loaded in found]

    def save(
        self,
        images: Iterable[str | Image],
        target: str | os.PathLike[str] | BinaryIO,
        *,
        format: str = "docker",
        compression: str | None = None,
        exact: bool = False,
        progress: Report | None = None,
    ) -> list[Saved]:
        """Write images to an archive, digests kept.

        format: `docker` (an OCI layout and docker's own index in one tar), `oci` (layout as tar), `oci-dir`.
        compression: of an OCI layout's layers: `original` (default: the bytes they came with), `none`, `gzip`, `zstd`.
        exact: never with a new manifest where there is one that an image came with (in a docker archive too).

        Returns:
            What became of each image; `instead_of` is set where bytes it came with are not kept any more.

        Raises:
            NotFound: a blob that an exact archive needs is not to be had; nothing is written.
        """
        from layerfs.image.save import save

        names = [image.id if isinstance(image, Image) else image for image in images]
        if format not in ("docker", "oci", "oci-dir") or compression not in (None, "none", "gzip", "zstd", "original"):
            raise InvalidInput(f"unknown format {format!r} or compression {compression!r}")
        how: dict[str, Any] = {"format": format, "compression": compression}
        return save(self.root, names, target, exact=exact, progress=progress, **how)

    def export(self, what: str | Image | Container, target: str | os.PathLike[str] | BinaryIO) -> None:
        """Write the whole file system of a container or an image as one tar."""
        from layerfs.digest import chain_id
        from layerfs.image.export import export, tree_entries

        if isinstance(what, str):
            what = container_or_image(self, what)
        if isinstance(what, Container):
            what.export(target)
            return
        stack = what.record.diff_ids
        with self.root.leases.reading("export") as lease:
            lease.pin(b"".join(key.raw for key in (*stack, *([chain_id(stack)] if stack else []))))
            export(tree_entries(self.root, what.tree()), target)

    def image(self, name: str) -> Image:
        """By name, `name@digest`, ID or a unique start of one. Raises ImageNotFound, Ambiguous."""
        return Image(self, Images(self.root).resolve(name))

    def images(self, filters: Mapping[str, Sequence[str]] | None = None, *, all: bool = False) -> list[Image]:
        """Newest first. filters: dangling label before since until reference. `all`: untagged parents too."""
        return [Image(self, summary.record) for summary in self.image_summaries(filters, all=all)]

    def image_summaries(
        self, filters: Mapping[str, Sequence[str]] | None = None, *, all: bool = False
    ) -> list[ImageSummary]:
        """`images`, with names and sizes read at once."""
        return Images(self.root).list(filters, show_all=all)

    def tag(self, source: str, target: str) -> None:
        """Give an image one more name. Raises ImageNotFound, InvalidInput."""
        Images(self.root).tag(source, Reference.parse(target).tagged())

    def remove_image(self, name: str, *, force: bool = False, prune: bool = True) -> list[Removed]:
        """Take a name away, and the image with its last one, as `docker rmi`; contents go with the next `gc`.

        Raises:
            InUse: a container stands on it, or it has more names; docker's words.
        """
        from layerfs.store.reserve import with_reserve

        users = users_of_images(self)
        return with_reserve(
            self.root.path, lambda: Images(self.root).remove(name, users=users, force=force, prune=prune)
        )

    def image_of(self, record: ContainerRecord) -> ImageRecord:
        """The image a container stands on, also when it was removed by force."""
        return image_of(self, record)

    # registries

    @functools.cached_property
    def connections(self) -> Kept:
        """Connections to registries that wait a while for the next push or pull; a fork's child has its own."""
        from layerfs.registry.connect import Kept

        return Kept()

    def push(
        self,
        name: str,
        *,
        all_tags: bool = False,
        all_platforms: bool = False,
        compression: str = "gzip",
        exact: bool = False,
        progress: Report | None = None,
        **how: Any,
    ) -> list[Pushed]:
        """Push what a name means to its registry; what the registry has is not sent again.

        An image goes with the manifest it came with, byte for byte, where its blobs can be had; else with a new one,
        and `instead_of` of what is returned names the one it came with.

        Args:
            all_tags: all tags of the repository.
            all_platforms: the index that the name was pulled with, with all that it names; without one, the image.
            compression: of layers that have no compressed form yet: `gzip`, `zstd`, `none`.
            exact: never with a new manifest where there is one that it came with.
            how: `settings`: a layerfs.registry.Settings instead of what files and variables say; `done` and `pushed`
                are told of each layer and each name.

        Raises:
            ImageNotFound; RegistryDenied, RegistryUnreachable, RegistryError: in docker's words. NotFound: a blob that
                an exact push needs is not to be had.
        """
        from layerfs.engine.registries import push

        how |= {"all_tags": all_tags, "all_platforms": all_platforms, "exact": exact}
        return push(self, name, compression=compression, progress=progress, **how)

    def pull(
        self,
        name: str,
        *,
        platform: str | None = None,
        all_platforms: bool = False,
        settings: Settings | None = None,
        progress: Report | None = None,
    ) -> Image:
        """Pull what a name means in its registry: layers are fetched side by side and unpacked while they come, what
        the store has is not fetched, and a pull that broke off goes on where it was.

        Args:
            platform: `os/architecture[/variant]`, of an index; this machine's when None.
            all_platforms: all images of an index, the index itself and what else it has; returned is this machine's.
            settings: a layerfs.registry.Settings instead of what files and variables say.
            progress: told of each blob: `wait`, `exists`, `download`, `downloaded`, `read` (unpacked), `done`; `id`
                is its digest. Called from several threads, one at a time.

        Raises:
            RegistryNotFound, RegistryDenied, RegistryUnreachable, RegistryError: in docker's words.
            Corrupt, InvalidArchive, NoSpace: nothing of the image is seen then.
        """
        from layerfs.engine.pulling import pull

        pulled = pull(self, name, platform=platform, all_platforms=all_platforms, settings=settings, progress=progress)
        return Image(self, pulled.image)

    # containers

    @property
    def container_table(self) -> Containers:
        """The records of containers, and where their directories are."""
        from layerfs.snapshot import Containers

        return Containers(self.root)

    def create(
        self, image: str | Image, *, name: str | None = None, engine: str | None = None, **settings: Any
    ) -> Container:
        """A container: a writable layer and a record.

        Args:
            engine: what mounts it, when it is mounted; None for the best one then.
            settings: what docker's `create` has as flags, by the same words: texts, numbers, flags, and lists of texts
                where docker takes several (mappings too: env, labels, volumes, tmpfs, extra_hosts, sysctls, ulimits …).
                The program: command entrypoint env user group_add workdir hostname domainname init tty interactive
                stdin_once (its input ends with the first who feeds it) stop_signal stop_timeout (seconds) restart
                auto_remove labels log_driver log_opts annotations runtime; no_healthcheck health_cmd health_interval
                health_timeout health_start_period health_start_interval (seconds) health_retries.
                Files: volumes mounts tmpfs devices read_only storage_opt shm_size (`64m`, or bytes).
                Rights: privileged cap_add cap_drop no_new_privileges seccomp (`unconfined`, or JSON) unmasked.
                Networks: network (`none` unless given; the command line's default is `bridge`) and networks, each a
                name or `name=N,alias=A,ip=I,mac-address=M,link=C:A,gw-priority=P`; network_aliases ip mac_address links
                publish publish_all expose dns dns_search dns_options extra_hosts.
                Namespaces: ipc pid uts cgroupns userns uidmap gidmap subuidname subgidname time_offsets.
                Limits: memory memory_swap memory_reservation memory_swappiness oom_kill_disable oom_score_adj cpus
                cpu_shares cpu_period cpu_quota cpuset_cpus cpuset_mems pids blkio_weight blkio_weight_device
                device_read_bps device_write_bps device_read_iops device_write_iops device_cgroup_rules ulimits sysctls
                cgroup_parent.

        Raises:
            AlreadyExists: the name is taken. ImageNotFound, InvalidInput.
        """
        from layerfs.engine.events import record_event
        from layerfs.engine.settings import Settings
        from layerfs.engine.volumes import with_names

        wanted = Settings().changed(settings)
        if engine is not None:
            check_engine(engine)
            wanted.mount_options.check_engine(engine)
        found = self.image(image) if isinstance(image, str) else image
        called = image if isinstance(image, str) else next(iter(found.tags), found.id)
        wanted = with_names(wanted, found.config.config.volumes)
        record = self._add_container(found, called, wanted, name, engine)
        box = Container(self, record, found if found.store is self else None, made_here=True)
        record_event(box, "create")
        return box

    def _add_container(
        self, found: Image, called: str, wanted: ContainerSettings, name: str | None, engine: str | None
    ) -> ContainerRecord:
        """The row, with the user namespace's ids that are its own."""

        def still_there(txn: Txn) -> None:
            if txn.get("images", found.record.id.raw) is None:
                raise ImageNotFound(f"No such image: {called}")

        kept = {"layers": [diff_id.hex for diff_id in found.record.diff_ids], "image_name": called}
        tree = found.tree()
        with contextlib.ExitStack() as stack:
            if wanted.userns:
                from layerfs.engine.userns import chosen

                stack.enter_context(self.root.lock("userns"))
                wanted = chosen(self, wanted)
            return self.container_table.create(
                found.record.id.hex,
                name,
                wanted.row() | kept,
                engine=engine or "",
                tree=tree,
                durable=not wanted.auto_remove,  # else nobody wants it after a power cut
                check=still_there,
            )

    def container(self, name: str) -> Container:
        """By name, ID or a unique start of one. Raises ContainerNotFound, Ambiguous."""
        return Container(self, self.container_table.get(name))

    def containers(self, filters: Mapping[str, Sequence[str]] | None = None, *, all: bool = True) -> list[Container]:
        """Newest first. filters: docker's. `all` False: only running ones."""
        from layerfs.engine.select import select_containers

        records = [record for record in self.container_table.list() if "build" not in record.config]
        boxes = [Container(self, record) for record in records]
        return select_containers(self, boxes, filters or {}, running_only=not all)

    # mounts

    def mount_point(self) -> Path:
        """A new place for a mount in the store; the mount makes and removes it."""
        from layerfs.store.reserve import make_directory

        places = self.root.path / "mounts"
        make_directory(self.root.path, places, "a place for mounts", mode=0o755)
        return places / os.urandom(8).hex()

    def mount(
        self,
        name: str,
        target: str | os.PathLike[str] | None = None,
        *,
        engine: str | None = None,
        read_only: bool = False,
        options: Options = (),
    ) -> Path:
        """Mount a container (writable) or an image (read-only) by name, and leave it mounted; where. `options`: see
        Container.mount.
        """
        what = container_or_image(self, name)
        place = None if target is None else Path(target)
        if isinstance(what, Container):
            return what.mount(place, engine=engine, read_only=read_only, options=options).path
        return mount_image(self, what.record, place, engine, options).path

    def umount(self, where: str, *, lazy: bool = False) -> None:
        """Unmount what is mounted at a path, or all mounts of a container. Raises NotFound, InUse."""
        unmount_all(self, find_mount(self, where), lazy=lazy)

    def await_unmounted(self, where: str) -> bool:
        """Returns when nothing of this store is mounted at a path any more; False when a server had died under it."""
        return await_end(self, where)

    def mounts(self, *, dead: bool = False) -> list[MountRecord]:
        """What is mounted; with `dead` also what is not any more but has a row still."""
        from layerfs.snapshot import MountTable

        table = MountTable(self.root)
        return table.records() if dead else table.live()

    def mount_stats(self, where: str | None = None) -> list[dict[str, Any]]:
        """What the servers of native mounts have counted: of those at a path, of a container, or with a mount's id (or
        a start of it); None: all. `id`, `target`, `pid` and `memory` (bytes) come with it; docs/architecture.md says
        more.

        Raises:
            NotFound: no such mount, or it has no server that counts.
        """
        return mount_statistics(self, where)

    # building

    def build(
        self,
        context: str | os.PathLike[str] | BinaryIO | None,
        dockerfile: str | os.PathLike[str] | BinaryIO | None = None,
        *,
        tag: str | Sequence[str] | None = None,
        build_args: Mapping[str, str] | None = None,
        progress: Callable[[BuildEvent], object] | None = None,
        **how: Any,
    ) -> Image:
        """An image of a Dockerfile, read as BuildKit does; what is cached is not run again.

        Args:
            context: a directory, a tar in any compression (path or binary stream), a stream that is a Dockerfile
                itself, or a URL: of a git repository (`…git#REF:DIR`), a tar, a Dockerfile; None and "-" are standard
                input.
            dockerfile: a path on the host or else in the context, or a stream; None is `Dockerfile` or `Containerfile`
                of the context.
            tag: a name, or several.
            progress: called with layerfs.build.events.BuildEvent records, one after the other.
            how: target (a stage), labels, no_cache, no_cache_filter (stages), pull, platform, secrets (id to bytes, or
                to the path of a file), ssh (id to socket), build_contexts (name to directory, URL,
                `docker-image://NAME`, `oci-layout://PATH`), network, add_hosts (`NAME:IP`), allow (`network.host`,
                `security.insecure`), squash, epoch (seconds: no time in the image is later), debug (keep an image of a
                failed step), legacy (an image of each step), cache_from and cache_to (texts as --cache-from and
                --cache-to have: `type=registry,ref=NAME,mode=max`), confinement (what limits every RUN, as `create`
                takes it: memory, cpus, ulimits, shm_size, cgroup_parent, cap_add, dns …; not asked for in the cache).

        Raises:
            InvalidDockerfile: with its line. StepFailed: a program of a RUN. NotFound, InvalidInput, Unsupported.
        """
        from layerfs.engine.build import SEVERAL, BuildOptions, build

        how = {name: (value,) if name in SEVERAL and isinstance(value, str) else value for name, value in how.items()}
        tags = (tag,) if isinstance(tag, str) else tag or ()
        options = BuildOptions(
            dockerfile, tuple(Reference.parse(name).tagged() for name in tags), build_args, **_known(how, BuildOptions)
        )
        return build(self, context, options, progress)

    def check_dockerfile(
        self,
        context: str | os.PathLike[str] | BinaryIO | None,
        dockerfile: str | os.PathLike[str] | BinaryIO | None = None,
        **how: Any,
    ) -> LintReport:
        """What BuildKit's checks say about a Dockerfile (`.warnings`, `.error`); nothing is built. As `build` for the
        rest."""
        from layerfs.engine.build import BuildOptions, check

        return check(self, context, BuildOptions(dockerfile, **_known(how, BuildOptions)))

    # comparing

    def diff(self, old: str | Image, new: str | Image) -> Changes:
        """What is otherwise in `new`: images by name, layers by diff ID (`sha256:…` or a start of its digits)."""
        from layerfs.engine.records import Change, Changes
        from layerfs.image.compare import diff_stacks

        return Changes(Change.of(d) for d in diff_stacks(self.root, self.stack(old), self.stack(new)))

    def stack(self, what: str | Image) -> tuple[DiffID, ...]:
        """The layers of an image, base first, or one layer alone by its diff ID. Raises ImageNotFound, Ambiguous."""
        return stack_of(self, what)

    def tree_text(self, what: str) -> Iterator[str]:
        """The tree of an image, or of one layer by its diff ID, one line an entry (docs/format.md)."""
        return tree_lines(self, what)

    def inspect(self, name: str, *, kind: str | None = None, size: bool = False) -> dict[str, Any]:
        """All there is to know of a container or an image, in docker's form.

        Args:
            kind: `container` or `image`; None tries both, in this order.
            size: add the sizes of a container's files, in bytes.

        Raises:
            NotFound: docker's words.
        """
        return inspect(self, name, kind, size)

    # what containers share, and what happens to them

    @property
    def volumes(self) -> Volumes:
        """Named volumes: `.all()`, `.get()`, `.create()`, `.users()`, `.remove()`, `.prune()`."""
        from layerfs.engine.volumes import Volumes

        return Volumes(self)

    @property
    def networks(self) -> Networks:
        """Networks: `.all()`, `.get()`, `.create()`, `.endpoints()`, `.remove()`, `.prune()`."""
        from layerfs.engine.networks import Networks

        return Networks(self)

    def events(
        self,
        *,
        since_ns: int | None = None,
        until_ns: int | None = None,
        filters: Mapping[str, Sequence[str]] | None = None,
    ) -> Iterator[dict[str, Any]]:
        """What happens in the store, in docker's form, from a time on (None: from now), as it happens, until a time
        (None: for ever). filters: those of `layerfs events`, as `{"type": ["container"], "event": ["die"]}`.

        Raises:
            InvalidInput: an unknown filter.
        """
        from layerfs.engine.events import read_events, select_events

        return select_events(self, read_events(self, since_ns, until_ns), filters or {})

    # upkeep

    def absorb(self, container: str | Container | None = None, *, background: bool = False) -> int:
        """Make layers of what snapshots and forks have frozen, of a container or all; big files are moved, not copied
        (but for those that a mount stands on). `gc`, `commit` and others do it when they need it; done before, these
        and mounts by other engines take less time.

        Args:
            background: by a process of the lowest priority, which leaves alone what is mounted, gives way to whoever
                wants the same, and may be killed at any moment; the call returns at once.

        Returns:
            How many frozen states have become layers (0 in the background).

        Raises:
            ContainerNotFound, NoSpace; Unsupported: there is no Python program for the background.
        """
        from layerfs.snapshot.absorb import absorb_loose
        from layerfs.snapshot.absorber import start_absorber

        name = container if isinstance(container, str | None) else container.id
        id = self.container_table.get(name).id if name is not None else ""
        if not background:
            return absorb_loose(self.root, container=id)
        start_absorber(self.root)
        return 0

    def gc(self, *, dry_run: bool = False, progress: Report | None = None) -> GcResult:
        """Free what no image, container, mount or running command needs. Safe beside everything else."""
        from layerfs.engine.upkeep import collect_garbage

        return collect_garbage(self, dry_run=dry_run, progress=progress)

    def fsck(self, *, repair: bool = False, quick: bool = False, progress: Report | None = None) -> list[Problem]:
        """Compare every byte with its digest; an empty list means whole. `repair` reads again what a known source
        still has.
        """
        from layerfs.engine.upkeep import check_store

        return check_store(self, repair=repair, quick=quick, progress=progress)

    def prune(
        self,
        *,
        containers: bool = False,
        images: bool = False,
        all_images: bool = False,
        filters: Mapping[str, Sequence[str]] | None = None,
        networks: bool = False,
        volumes: bool = False,
        build_cache: bool = False,
    ) -> list[str]:
        """Remove stopped containers, unused images, networks, unnamed volumes and build cache (with `all_images` all of
        it), then what that frees; the lines docker prints."""
        from layerfs.engine.upkeep import prune

        return prune(
            self,
            containers=containers,
            images=images,
            all_images=all_images,
            filters=filters or {},
            networks=networks,
            volumes=volumes,
            build_cache=build_cache,
        )

    def bench(
        self,
        *,
        engine: str | None = None,
        files: int = 2000,
        size: int | str = "64m",
        rounds: int = 3,
        progress: Report | None = None,
    ) -> list[BenchRow]:
        """What importing, mounting, reading, writing, committing and the like take here: medians of some rounds, in a
        store of its own on this one's disk, which goes at the end.

        Args:
            engine: what mounts; None for the best one here.
            files, size: how many small files, and bytes of a big one (`"64m"`).

        Raises:
            InvalidInput, NoSpace; MountError, Unsupported: the engine.
        """
        from layerfs.engine.bench import bench

        return bench(self, engine=engine, files=files, size=size, rounds=rounds, progress=progress)

    def disk_usage(self) -> ImagesUsage:
        """Bytes by image, shared and unique."""
        from layerfs.image.usage import images_usage

        return images_usage(self.root)


def _known(values: Mapping[str, Any], kind: type) -> Mapping[str, Any]:
    """Raises InvalidInput for a name that is none of the record's."""
    for name in values:
        if name not in kind.__dataclass_fields__:  # type: ignore[attr-defined]
            raise InvalidInput(f"unknown option {name!r}")
    return values


def diff(old: Image | Snapshot, new: Image | Snapshot) -> Changes:
    """What `new` has otherwise than `old`: added, changed, deleted, with sizes. Images or snapshots of one store.

    Raises:
        InvalidInput: they are in two stores.
    """
    from layerfs.engine.snapshots import Snapshot

    if isinstance(old, Snapshot) and isinstance(new, Snapshot):
        return old.diff(new)
    if not isinstance(old, Image) or not isinstance(new, Image):
        kinds = f"{type(old).__name__} and {type(new).__name__}"
        raise TypeError(f"diff compares two images or two snapshots, not {kinds}; Store.diff takes names")
    if old.store.path != new.store.path:
        raise InvalidInput("the images are in two stores")
    return old.store.diff(old, new)
