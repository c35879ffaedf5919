"""The build cache as users see it: how much it takes, and pruning it."""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from layerfs._record import dataclass
from layerfs.build.cachekeys import TABLE, Made, scan
from layerfs.engine.buildrun import cache_home
from layerfs.image.images import layer_sizes
from layerfs.image.record import scan_images
from layerfs.runtime.resources import parse_size

if TYPE_CHECKING:
    from layerfs.engine.store import Store


@dataclass(frozen=True, slots=True)
class CacheRecord:
    """A step's layer, the directory of a `--mount=type=cache` (`kind` mount), or the digests of a context's files
    (`kind` hashes). `in_use`: an image has the layer too, so pruning frees nothing. Times are nanoseconds."""

    id: str
    kind: str
    text: str
    size: int
    created_ns: int
    used_ns: int
    in_use: bool


def cache_records(store: Store) -> list[CacheRecord]:
    """Newest use first."""
    with store.root.index.view() as txn:
        rows = scan(txn)
        sizes = layer_sizes(txn, {made.layer for made in rows if made.layer is not None})
        used = {diff_id for record in scan_images(txn) for diff_id in record.diff_ids}
    found = [_record(made, sizes[made.layer] if made.layer else 0, made.layer in used) for made in rows]
    found += [*_mounts(store), *_hashes(store)]
    return sorted(found, key=lambda record: (-record.used_ns, record.id))


def _record(made: Made, size: int, in_use: bool) -> CacheRecord:
    return CacheRecord(made.key.hex(), made.kind, made.text, size, made.created_ns, made.used_ns, in_use)


def _mounts(store: Store) -> Iterator[CacheRecord]:
    for home in _listed(cache_home(store)):
        try:
            status = (home / "data").stat()
            text = (home / "id").read_text(errors="replace")
        except OSError:
            continue
        yield CacheRecord(home.name, "mount", text, _bytes_below(home), status.st_ctime_ns, status.st_mtime_ns, False)


def _hashes(store: Store) -> Iterator[CacheRecord]:
    for file in _listed(store.path / "cache" / "contexts"):
        try:
            status = file.stat()
        except FileNotFoundError:  # forgotten, or written anew, meanwhile
            continue
        yield CacheRecord(file.name, "hashes", "", status.st_size, status.st_mtime_ns, status.st_mtime_ns, False)


def _listed(place: Path) -> list[Path]:
    try:
        return sorted(path for path in place.iterdir() if not path.name.startswith("."))
    except FileNotFoundError:
        return []


def _bytes_below(place: Path) -> int:
    total = 0
    for where, _, names in os.walk(place):
        for name in names:
            try:
                total += Path(where, name).lstat().st_size
            except OSError:
                continue
    return total


def prune_cache(
    store: Store, *, everything: bool = False, older_ns: int | None = None, keep: int | str | None = None
) -> list[CacheRecord]:
    """Forgets what no image has (with `everything` all), not used for `older_ns`, least recently used first until only
    `keep` (bytes, or `10g`) is left; then collects. What was forgotten."""
    gone = forget_cache(store, everything=everything, older_ns=older_ns, keep=keep)
    store.gc()
    return gone


def forget_cache(
    store: Store, *, everything: bool = False, older_ns: int | None = None, keep: int | str | None = None
) -> list[CacheRecord]:
    """As prune_cache, without collecting."""
    keep_bytes = parse_size(keep) if keep is not None else None
    records = cache_records(store)
    limit = time.time_ns() - older_ns if older_ns is not None else None
    kept = sum(record.size for record in records)
    gone: list[CacheRecord] = []
    for record in reversed(records):
        if (limit is not None and record.used_ns > limit) or (record.in_use and not everything):
            continue
        if keep_bytes is not None and kept <= keep_bytes:
            break
        if _forget(store, record):
            kept -= record.size
            gone.append(record)
    return gone


def _forget(store: Store, record: CacheRecord) -> bool:
    if record.kind == "hashes":
        (store.path / "cache" / "contexts" / record.id).unlink(missing_ok=True)
        return True
    if record.kind == "mount":
        return _forget_mount(cache_home(store) / record.id)
    with store.root.index.update() as txn:
        return txn.delete(TABLE, bytes.fromhex(record.id))


def _forget_mount(home: Path) -> bool:
    """Not while a build has it."""
    import fcntl

    try:
        fd = os.open(home / "lock", os.O_RDWR | os.O_CLOEXEC)
    except FileNotFoundError:
        return False
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        (home / "lock").unlink()
        shutil.rmtree(home, ignore_errors=True)
        return True
    except BlockingIOError:
        return False
    finally:
        os.close(fd)
