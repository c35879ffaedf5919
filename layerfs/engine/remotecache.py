"""Build caches that are elsewhere: in a registry, in an OCI layout, in the config of an image.

Reading one fetches its list of records; a layer is brought when a step of this build needs it. Writing one sends the
layers that are missing there, then the records, then the manifest that names them all.
"""

from __future__ import annotations

import contextlib
import shutil
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

from layerfs._record import dataclass, field, replace
from layerfs.build.cacheplaces import (
    MEDIA_TYPE,
    SIZE_MAX,
    CachePlace,
    chosen,
    document,
    layers_of,
    parse_document,
    parse_inline,
)
from layerfs.digest import DiffID, Digest
from layerfs.errors import InvalidArchive, LayerfsError, NotFound
from layerfs.image.forms import Form, layer_form
from layerfs.layer.layers import Source, get_layer, has_layer
from layerfs.layer.read import read_layer
from layerfs.oci import Descriptor, ImageConfig, Index, Manifest, Platform, build_index, build_manifest, layout, media
from layerfs.oci.descriptor import REF_NAME
from layerfs.reference import Reference
from layerfs.store.durable import replacing, writing

if TYPE_CHECKING:
    from layerfs.build.cachekeys import Made
    from layerfs.registry.connect import Registries
    from layerfs.registry.origins import Origin
    from layerfs.store.leases import Lease
    from layerfs.store.root import StoreRoot

_PIECE = 1 << 20
Say = Callable[[str], object]


@dataclass
class _Cache:
    """One that was read: what it has, and where from."""

    place: CachePlace
    origin: Origin
    records: Mapping[bytes, Made]
    blobs: Mapping[DiffID, Descriptor]
    lost: bool = field(default=False)  # it failed once; nobody waits for it again


class Elsewhere:
    """The caches of a build's `--cache-from`, in their order. A context manager; safe from threads.

    Args:
        warn: is told what does not work: a build goes on without a cache.
    """

    def __init__(self, root: StoreRoot, lease: Lease, platform: Platform, warn: Say) -> None:
        self._root, self._lease, self._platform, self._warn = root, lease, platform, warn
        self._stack = contextlib.ExitStack()
        self._registries: Registries | None = None
        self._caches: list[_Cache] = []
        self._lock = threading.Lock()

    def __enter__(self) -> Elsewhere:
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def registries(self) -> Registries:
        if self._registries is None:
            from layerfs.engine.registries import registry_settings
            from layerfs.registry.connect import Registries

            self._registries = self._stack.enter_context(Registries(registry_settings()))
        return self._registries

    # reading

    def add(self, place: CachePlace) -> None:
        """What cannot be read is a warning."""
        try:
            self._caches.append(self._open(place))
        except (LayerfsError, OSError) as error:
            self._warn(f"the cache {place} is not used: {error}")

    def _open(self, place: CachePlace) -> _Cache:
        origin = self._origin(place)
        manifest = self._manifest(origin)
        kind, what = manifest.config.media_type, f"cache {place}"
        if kind == MEDIA_TYPE:
            records, diff_ids = parse_document(_small(origin, manifest.config), what)
        elif kind in media.CONFIGS:
            raw = _small(origin, manifest.config)
            records, diff_ids = parse_inline(raw, what), ImageConfig.parse(raw, what=what).diff_ids
        else:
            raise InvalidArchive(f"{what}: neither a build cache of layerfs nor an image ({kind})")
        if len(diff_ids) != len(manifest.layers):
            raise InvalidArchive(f"{what}: {len(manifest.layers)} layers, but {len(diff_ids)} diff IDs")
        blobs = dict(zip(diff_ids, manifest.layers, strict=True))
        usable = {made.key: made for made in records if made.layer is None or made.layer in blobs}
        return _Cache(place, origin, usable, blobs)

    def _origin(self, place: CachePlace) -> Origin:
        from layerfs.image.source import open_archive
        from layerfs.registry.download import Upstream
        from layerfs.registry.origins import LayoutOrigin, RegistryOrigin

        if place.kind == "local":
            if not Path(place.place, layout.INDEX).is_file():
                raise NotFound(f"no cache there: {Path(place.place, layout.INDEX)} does not exist")
            return LayoutOrigin(self._stack.enter_context(open_archive(place.place, self._lease)), place.name)
        reference = Reference.parse(place.place)
        own = self.registries().client(reference.domain, reference.path)  # a mirror may have an older cache
        return RegistryOrigin(Upstream([own], reference.path, self.registries().stop), reference)

    def _manifest(self, origin: Origin) -> Manifest:
        """Of an index that of the platform: an image with its cache in it may be one of many."""
        top = origin.top()
        while isinstance(top, Index):
            entry = top.choose(self._platform)
            if entry is None:
                raise NotFound(f"nothing there for {self._platform}")
            top = origin.document(entry)
        return top

    def find(self, key: bytes) -> Made | None:
        """See BuildCache."""
        for cache in self._caches:
            made = cache.records.get(key)
            if made is not None and not cache.lost and self._bring(cache, made):
                return replace(made, used_ns=time.time_ns())
        return None

    def _bring(self, cache: _Cache, made: Made) -> bool:
        if made.layer is None:
            return True
        blob = cache.blobs[made.layer]
        self._lease.pin(made.layer.raw + blob.digest.raw)
        try:
            if has_layer(self._root, made.layer) is None:
                with cache.origin.open(blob) as stream:
                    source = _source(cache.place, blob)
                    read_layer(
                        self._root, stream, lease=self._lease, expected=made.layer, descriptor=blob, source=source
                    )
        except LayerfsError as error:
            with self._lock:
                told, cache.lost = cache.lost, True
            if not told:
                self._warn(f"the cache {cache.place} is not used any more: {error}")
            return False
        return True

    # writing

    def write(self, place: CachePlace, steps: Mapping[bytes, Made], layers: Sequence[DiffID]) -> None:
        """Raises RegistryError, NoSpace, OSError; with `ignore-error` that is a warning."""
        records = [made for made in chosen(steps.values(), layers, place.mode) if self._has(made)]
        try:
            self._send(place, records)
        except (LayerfsError, OSError) as error:
            if not place.ignore_error:
                raise
            self._warn(f"the cache {place} was not written: {error}")

    def _has(self, made: Made) -> bool:
        return made.layer is None or has_layer(self._root, made.layer) is not None

    def _send(self, place: CachePlace, records: Sequence[Made]) -> None:
        raw = document(records)
        config = Descriptor(MEDIA_TYPE, Digest.of(raw), len(raw))
        forms = [
            layer_form(self._root, get_layer(self._root, layer), place.compression, self._lease)
            for layer in layers_of(records)
        ]
        manifest = build_manifest(config, tuple(form.descriptor for form in forms))
        if place.kind == "local":
            _write_layout(Path(place.place), place.name, manifest, raw, forms)
        else:
            self._push(Reference.parse(place.place).tagged(), manifest, raw, forms)
        for form in forms:
            if form.file is not None:
                form.file.unlink(missing_ok=True)

    def _push(self, reference: Reference, manifest: Manifest, raw: bytes, forms: Sequence[Form]) -> None:
        import io

        from layerfs._threads import in_parallel
        from layerfs.registry.upload import Uploads

        registries = self.registries()
        uploads = Uploads(registries.client(reference.domain, reference.path))
        jobs = [partial(uploads.blob, reference.path, form.descriptor, form.open) for form in forms]
        jobs.append(partial(uploads.blob, reference.path, manifest.config, partial(io.BytesIO, raw)))
        in_parallel(jobs, registries.cancel)
        uploads.manifest(reference.path, reference.tag or "latest", manifest)


def _small(origin: Origin, descriptor: Descriptor) -> bytes:
    if descriptor.size > SIZE_MAX:
        raise InvalidArchive(f"a list of records has {descriptor.size} bytes, more than the {SIZE_MAX} allowed")
    with origin.open(descriptor) as stream:
        return b"".join(iter(lambda: stream.read(_PIECE), b""))


def _source(place: CachePlace, blob: Descriptor) -> Source:
    if place.kind == "local":
        where = str(Path(place.place).absolute())
        return Source("layout", where, str(blob.digest), layout.blob_path(blob.digest))
    return Source("registry", Reference.parse(place.place).name, str(blob.digest))


# a layout


def _write_layout(top: Path, name: str, manifest: Manifest, raw: bytes, forms: Sequence[Form]) -> None:
    """Adds to what is there; the index comes last, at once."""
    import io

    with writing("a build cache"):
        (top / "blobs" / "sha256").mkdir(parents=True, exist_ok=True)
        for form in forms:
            _put(top, form.descriptor.digest, form.open)
        _put(top, manifest.config.digest, partial(io.BytesIO, raw))
        _put(top, manifest.digest, partial(io.BytesIO, manifest.raw))
        entry = Descriptor(manifest.media_type, manifest.digest, len(manifest.raw), annotations=((REF_NAME, name),))
        _replace(top / layout.HEADER, layout.HEADER_BYTES)
        _replace(top / layout.INDEX, build_index((*_others(top, name), entry)).raw)


def _others(top: Path, name: str) -> Iterator[Descriptor]:
    """What else the layout has."""
    with contextlib.suppress(FileNotFoundError):
        index = Index.parse((top / layout.INDEX).read_bytes(), what=str(top / layout.INDEX))
        yield from (entry for entry in index.manifests if entry.annotation(REF_NAME) != name)


def _put(top: Path, digest: Digest, open: Callable[[], BinaryIO]) -> None:
    place = top / layout.blob_path(digest)
    if not place.exists():
        with open() as stream, replacing(place) as file:
            shutil.copyfileobj(stream, file, _PIECE)


def _replace(place: Path, data: bytes) -> None:
    with replacing(place) as file:
        file.write(data)
