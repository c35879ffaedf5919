"""Images of one layer from a root file system: a tar in any compression, or a directory."""

from __future__ import annotations

import contextlib
import functools
import hashlib
import io
import os
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import BinaryIO, cast

from layerfs.digest import DiffID, Digest
from layerfs.errors import InvalidArchive, InvalidInput
from layerfs.image.archive import DirectoryArchive, TarArchive
from layerfs.image.changes import apply_changes
from layerfs.image.images import Images
from layerfs.image.load import load_opened
from layerfs.image.record import ImageRecord
from layerfs.image.source import PEEK, Peekable, kind_of, looks_like_archive, open_archive, open_file
from layerfs.layer.codec import Decompressed
from layerfs.layer.commit import import_directory
from layerfs.layer.layers import Layer, Source, has_layer
from layerfs.layer.merged import merged_tree
from layerfs.layer.progress import Report
from layerfs.layer.read import read_layer
from layerfs.oci import ContainerConfig, History, Platform, build_config
from layerfs.reference import Reference
from layerfs.store.leases import Lease
from layerfs.store.root import StoreRoot


def import_rootfs(
    root: StoreRoot,
    source: str | os.PathLike[str] | BinaryIO,
    *,
    message: str = "",
    changes: Iterable[str] = (),
    platform: Platform | None = None,
    references: Iterable[Reference] = (),
    created_ns: int | None = None,
    progress: Report | None = None,
) -> ImageRecord:
    """`docker import`: one layer from a tar, a stream of one, or a directory; `changes` make its config.

    The history has one entry without `created_by`; its comment is the message, or docker's `Imported from -`.

    Raises:
        InvalidInput: a bad change (before anything is read); NotFound, InvalidArchive, NoSpace.
    """
    config = apply_changes(ContainerConfig(), changes)
    with root.leases.acquire("import") as lease:
        layer = _read_source(root, source, lease, progress)
        if not layer.tar_size:
            raise InvalidArchive("the archive is empty")
        merged_tree(root, [layer.diff_id])
        now = time.time_ns() if created_ns is None else created_ns
        image = build_config(
            platform=platform or Platform.host(),
            config=config,
            diff_ids=(layer.diff_id,),
            history=(History(now, comment=message or "Imported from -"),),
            created_ns=now,
        )
        return Images(root).add(image, references=references)


def import_any(
    root: StoreRoot,
    source: str | os.PathLike[str] | BinaryIO,
    *,
    reference: Reference | None = None,
    select: str | None = None,
    message: str = "",
    changes: Iterable[str] = (),
    platform: Platform | None = None,
    created_ns: int | None = None,
    progress: Report | None = None,
) -> ImageRecord:
    """One image from whatever `source` is: a root file system, a docker archive, an OCI layout.

    Raises:
        InvalidInput: an archive with several images (choose with `select`), or changes to an image that has a config.
    """
    changes = tuple(changes)
    as_rootfs = functools.partial(
        import_rootfs,
        root,
        message=message,
        changes=changes,
        platform=platform,
        references=(reference,) if reference else (),
        created_ns=created_ns,
        progress=progress,
    )
    with _looked_at(source) as (source, may_be_archive):
        if not may_be_archive:
            return as_rootfs(source)
        with root.leases.acquire("import") as lease, open_archive(source, lease) as archive:
            if kind_of(archive) == "rootfs" and isinstance(archive, TarArchive):  # it only looked like one
                return as_rootfs(source if isinstance(source, str | os.PathLike) else archive.stream())
            if message or changes:
                raise InvalidInput(
                    "a message and changes are for root file systems; this is an image with its own config"
                )
            loaded = load_opened(
                root, archive, lease, platform=platform, select=select, name=reference, single=True, progress=progress
            )
            return next(iter(loaded)).image


@contextlib.contextmanager
def _looked_at(
    source: str | os.PathLike[str] | BinaryIO,
) -> Iterator[tuple[str | os.PathLike[str] | BinaryIO, bool]]:
    """The source, still at its start, and whether it may be an image archive. A pipe's path is opened once."""
    if not isinstance(source, str | os.PathLike):
        yield _look_at_stream(source)
    elif Path(source).is_dir():
        with DirectoryArchive(Path(source)) as directory:
            is_archive = kind_of(directory) != "rootfs"
        yield source, is_archive
    else:
        with open_file(Path(source)) as file:
            yield (source, looks_like_archive(file.read(PEEK))) if Path(source).is_file() else _look_at_stream(file)


def _look_at_stream(source: BinaryIO) -> tuple[BinaryIO, bool]:
    """Anything with a `read` that gives bytes will do; what cannot be sought is read ahead."""
    if not hasattr(source, "read") or isinstance(source, io.TextIOBase):
        raise TypeError(f"a source is a path or a binary stream, not {type(source).__name__}")
    if hasattr(source, "seekable") and source.seekable():
        start = source.tell()
        head = source.read(PEEK)
        source.seek(start)
        return source, looks_like_archive(head)
    stream = Peekable(source)
    return cast(BinaryIO, stream), looks_like_archive(stream.peek(PEEK))


def _read_source(
    root: StoreRoot, source: str | os.PathLike[str] | BinaryIO, lease: Lease, progress: Report | None
) -> Layer:
    if not isinstance(source, str | os.PathLike):
        return read_layer(root, source, lease=lease, keep_blob="never", progress=progress)
    path = Path(source).absolute()
    if path.is_dir():
        return import_directory(root, path, lease=lease, source=Source("directory", str(path)), progress=progress)
    here = Source("tar", str(path))
    with open_file(path) as file:
        known = _known_layer(root, file, here, lease)
        if known is not None:
            return known
        file.seek(0)
        return read_layer(root, file, lease=lease, keep_blob="never", source=here, progress=progress)


def _known_layer(root: StoreRoot, file: BinaryIO, here: Source, lease: Lease) -> Layer | None:
    """The layer that this file gave before, when it still has the same bytes: hashing is all a second import costs."""
    with root.index.view() as txn:
        seen = [DiffID(Digest.from_raw(key)) for key, rows in txn.scan_json("sources") if here.row() in rows]
    if not seen or not file.seekable():
        return None
    lease.pin(b"".join(diff_id.raw for diff_id in seen))
    layers = {diff_id: layer for diff_id in seen if (layer := has_layer(root, diff_id))}
    if not layers:
        return None
    sha = hashlib.sha256()
    for piece in Decompressed(file).pieces():
        sha.update(piece)
    return layers.get(DiffID(Digest(sha.hexdigest())))
