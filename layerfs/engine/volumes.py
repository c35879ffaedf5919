"""Named volumes of a store: `volumes/<name>/_data` and a record beside it. They live until somebody removes them; an
unnamed one gets a random name and goes with its container where `rm -v` or `--rm` asks for that.
"""

from __future__ import annotations

import contextlib
import json
import os
import stat
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from layerfs._lazy import TYPE_CHECKING
from layerfs._record import dataclass, field, replace
from layerfs.errors import InUse, InvalidInput, LayerfsError, NotFound, RunError
from layerfs.runtime.options import Bind, container_path
from layerfs.runtime.rootpath import open_in_root
from layerfs.store.durable import replacing

if TYPE_CHECKING:
    from layerfs.engine.container import Container
    from layerfs.engine.pruning import PruneFilter
    from layerfs.engine.settings import Settings
    from layerfs.engine.store import Store
    from layerfs.runtime.mountflags import Wanted


@dataclass(frozen=True, slots=True)
class Volume:
    """`path` is what a container sees at the target."""

    name: str
    path: Path
    labels: Mapping[str, str] = field(default_factory=dict)
    created_ns: int = 0

    @property
    def created(self) -> str:
        from layerfs.oci.fields import format_time

        return format_time(self.created_ns)


class Volumes:
    """Those of one store."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._path = store.path / "volumes"

    def lock(self) -> contextlib.AbstractContextManager[None]:
        return self._store.root.lock("volumes")

    def _record(self, name: str) -> Volume | None:
        place = self._path / name
        try:
            row = json.loads((place / "volume.json").read_text())
        except (OSError, ValueError):
            return None
        return Volume(name, place / "_data", row.get("labels", {}), row.get("created_ns", 0))

    def all(self) -> list[Volume]:
        """By name."""
        try:
            names = sorted(os.listdir(self._path))  # noqa: PTH208
        except FileNotFoundError:
            return []
        return [volume for name in names if (volume := self._record(name))]

    def get(self, name: str) -> Volume:
        """Raises NotFound in docker's words."""
        from layerfs.runtime.mountflags import NAME

        volume = self._record(name) if NAME.match(name) else None
        if volume is None:
            raise NotFound(f"get {name}: no such volume")
        return volume

    def create(self, name: str | None = None, labels: Mapping[str, str] | None = None) -> Volume:
        """The one of that name when there is one. Raises InvalidInput."""
        from layerfs.runtime.mountflags import NAME

        name = name or os.urandom(32).hex()
        if not NAME.match(name) or len(name) > 255:
            raise InvalidInput(f'"{name}" includes invalid characters for a local volume name')
        with self.lock():
            if known := self._record(name):
                return known
            place = self._path / name
            (place / "_data").mkdir(mode=0o755, parents=True, exist_ok=True)
            (place / "_data").chmod(0o755)
            with replacing(place / "volume.json") as file:
                file.write(json.dumps({"labels": dict(labels or {}), "created_ns": time.time_ns()}).encode())
        return self.get(name)

    def users(self, name: str) -> list[Container]:
        return [box for box in self._store.containers() if name in names_of(box.settings)]

    def remove(self, name: str) -> None:
        """Raises InUse, NotFound."""
        import shutil

        self.get(name)
        if users := self.users(name):
            raise InUse(f"remove {name}: volume is in use - [{', '.join(box.id for box in users)}]")
        with self.lock():
            doomed = self._store.root.path / "tmp" / f"volume-{os.urandom(8).hex()}"
            with contextlib.suppress(FileNotFoundError):
                (self._path / name).rename(doomed)
                shutil.rmtree(doomed, ignore_errors=True)

    def usage(self) -> dict[str, tuple[int, bool]]:
        """By name: bytes, and whether a container uses it."""
        used = self._used()
        return {volume.name: (_size(volume.path), volume.name in used) for volume in self.all()}

    def _used(self) -> set[str]:
        return {name for box in self._store.containers() for name in names_of(box.settings)}

    def prune(self, *, everything: bool = False, wanted: PruneFilter | None = None) -> list[tuple[str, int]]:
        """Removes those that no container uses: the unnamed ones, or `everything`. Names and bytes."""
        used, gone = self._used(), []
        for volume in self.all():
            if wanted and not wanted.allows(volume.labels, volume.created_ns):
                continue
            if volume.name not in used and (everything or _unnamed(volume.name)):
                size = _size(volume.path)
                with contextlib.suppress(InUse, NotFound):
                    self.remove(volume.name)
                    gone.append((volume.name, size))
        return gone


def _unnamed(name: str) -> bool:
    return len(name) == 64 and all(c in "0123456789abcdef" for c in name)


def _size(path: Path) -> int:
    total = 0
    for directory, _, files in os.walk(path):
        for name in files:
            with contextlib.suppress(OSError):
                total += os.lstat(os.path.join(directory, name)).st_size  # noqa: PTH118
    return total


def wanted_of(settings: Settings) -> list[Wanted]:
    """All mounts of a container, by its settings; the last one for a place counts."""
    if not settings.volumes and not settings.mounts:
        return []  # nearly always
    from layerfs.runtime.mountflags import parse_mount, parse_volume

    found = [*map(parse_volume, settings.volumes), *map(parse_mount, settings.mounts)]
    return list({each.target: each for each in found}.values())


def names_of(settings: Settings) -> list[str]:
    return [each.source for each in wanted_of(settings) if each.kind == "volume" and each.source]


def with_names(settings: Settings, image_volumes: Sequence[str]) -> Settings:
    """Every volume without a name gets one, also those that the image asks for."""
    if not settings.volumes and not settings.mounts and not image_volumes:
        return settings
    from layerfs.runtime.mountflags import parse_mount, parse_volume

    taken = {each.target for each in wanted_of(settings)}
    taken |= {os.fsencode(text.partition(":")[0].rstrip("/")) for text in settings.tmpfs}
    volumes, mounts, unnamed = list(settings.volumes), list(settings.mounts), []
    for place, text in enumerate(volumes):
        if not (each := parse_volume(text)).source:
            unnamed.append(os.urandom(32).hex())
            volumes[place] = f"{unnamed[-1]}:{os.fsdecode(each.target)}"
    for place, text in enumerate(mounts):
        each = parse_mount(text)
        if each.kind == "volume" and not each.source:
            unnamed.append(os.urandom(32).hex())
            mounts[place] = f"{text},source={unnamed[-1]}"
    for text in image_volumes:
        if (target := container_path(text, "a volume's target")) not in taken:
            unnamed.append(os.urandom(32).hex())
            volumes.append(f"{unnamed[-1]}:{os.fsdecode(target)}")
    return replace(settings, volumes=tuple(volumes), mounts=tuple(mounts), unnamed_volumes=tuple(unnamed))


def renewed(settings: Settings) -> Settings:
    """With other names for the volumes that have none of their own: those of a fork."""
    names = {name: os.urandom(32).hex() for name in settings.unnamed_volumes}

    def renamed(texts: Sequence[str]) -> tuple[str, ...]:
        found = []
        for text in texts:
            for old, new in names.items():
                text = text.replace(old, new)
            found.append(text)
        return tuple(found)

    return replace(
        settings,
        volumes=renamed(settings.volumes),
        mounts=renamed(settings.mounts),
        unnamed_volumes=tuple(names.values()),
    )


def volume_binds(box: Container, settings: Settings, root: Path) -> list[Bind]:
    """The container's volumes as binds; made, and filled from the mounted `root`, where they are new."""
    return [_bind(box.store, each, root) for each in wanted_of(settings) if each.kind == "volume"]


def _bind(store: Store, each: Wanted, root: Path) -> Bind:
    volumes = Volumes(store)
    volume = volumes.create(each.source or None)
    if each.copy and not each.subpath:
        with volumes.lock():
            _fill(volume, root, each.target)
    source = volume.path
    if each.subpath:
        descriptor = open_in_root(volume.path, os.fsencode(each.subpath))
        if descriptor is None:
            raise RunError(f"cannot access path {each.subpath} in volume {each.source}: no such file or directory")
        source = Path(os.readlink(f"/proc/self/fd/{descriptor}"))  # noqa: PTH115
        os.close(descriptor)
    return each.bind(str(source))


def _fill(volume: Volume, root: Path, target: bytes) -> None:
    """An empty volume gets what the image has at its place, with the directory's owner and mode; all or nothing. Read
    by descriptors: a program that runs there already cannot lead it elsewhere by a link."""
    import shutil

    if any(volume.path.iterdir()):
        return
    descriptor = open_in_root(root, target)
    if descriptor is None:
        return
    new = volume.path.with_name(f".new-{os.urandom(4).hex()}")
    try:
        if stat.S_ISDIR(os.fstat(descriptor).st_mode):
            new.mkdir(0o700)
            _copy_tree(f"/proc/self/fd/{descriptor}", new)
            new.replace(volume.path)
    except LayerfsError as error:
        raise RunError(f"filling the volume {volume.name}: {error}") from error
    finally:
        os.close(descriptor)
        shutil.rmtree(new, ignore_errors=True)


def _copy_tree(source: str, place: Path) -> None:
    from layerfs.engine.copying import copy_directory
    from layerfs.layer.unpack import Rules

    fds = [os.open(each, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC) for each in (source, place)]
    try:
        copy_directory(fds[0], fds[1], Rules(owners=True, set_id=True, devices=True, xattrs=True))
        found = os.fstat(fds[0])
        os.fchown(fds[1], found.st_uid, found.st_gid)
        os.fchmod(fds[1], stat.S_IMODE(found.st_mode))
        os.utime(fds[1], ns=(found.st_atime_ns, found.st_mtime_ns))
    finally:
        for fd in fds:
            os.close(fd)


def remove_unnamed(store: Store, settings: Settings) -> None:
    """Of a container that was removed, with the wish that they go, too."""
    for name in settings.unnamed_volumes:
        with contextlib.suppress(InUse, NotFound):
            Volumes(store).remove(name)


def mount_points(store: Store, settings: Settings) -> Iterator[dict[str, object]]:
    """docker's Mounts."""
    for each in wanted_of(settings):
        target = os.fsdecode(each.target)
        if each.kind == "tmpfs":
            yield {"Type": "tmpfs", "Source": "", "Destination": target, "Mode": "", "RW": True, "Propagation": ""}
            continue
        volume = each.kind == "volume"
        source = str(store.path / "volumes" / each.source / "_data") if volume else each.source
        yield {
            "Type": each.kind,
            **({"Name": each.source} if volume else {}),
            "Source": source,
            "Destination": target,
            **({"Driver": "local"} if volume else {}),
            "Mode": "ro" if each.read_only else "",
            "RW": not each.read_only,
            "Propagation": "" if volume else each.propagation or "rprivate",
        }
