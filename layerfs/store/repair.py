"""Putting right what fsck found: only what is bad is written, from copies in the store, then from a layer's source.

Packs are mended in place: a copy with the right bytes takes the pack's name, so trees and rows stay as they are.
"""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO, NamedTuple

from layerfs.digest import Digest
from layerfs.errors import Corrupt, NoSpace, StoreReadOnly
from layerfs.native import sha256, xxh64
from layerfs.store.durable import writing
from layerfs.store.format import (
    BLOCK,
    KIND_OBJECT,
    KIND_PACK,
    PACK_MAX,
    NewContent,
    new_contents,
    pack_key,
)
from layerfs.store.links import key_text
from layerfs.store.problems import Findings
from layerfs.store.rebuild import Rebuild, layer_reader
from layerfs.store.treefile import TreeFile
from layerfs.store.verify import Replay, layer_needs, tar_problem

if TYPE_CHECKING:
    from layerfs.store.leases import Lease
    from layerfs.store.root import StoreRoot
    from layerfs.store.writer import ContentWriter

Sources = Callable[[bytes], Iterable[BinaryIO]]  # diff ID or blob digest → streams of its bytes, best first
CHUNK = 1 << 20


@contextlib.contextmanager
def _tolerant() -> Iterator[None]:
    """What does not work is left as it is, unless nothing at all can be written."""
    try:
        yield
    except (NoSpace, StoreReadOnly):
        raise
    except OSError:
        pass


class Good(NamedTuple):
    """A recovered content: a file below the lease's tmp, and what it is."""

    path: Path
    content: NewContent


class Repairer:
    """Repairs one store by the findings of one check; `sources` gives tars of layers by diff ID."""

    def __init__(self, root: StoreRoot, found: Findings, lease: Lease, sources: Sources, replay: Replay | None) -> None:
        self.root, self.found, self.lease = root, found, lease
        self.sources, self.replay = sources, replay
        self._good: dict[bytes, Good] = {}
        self._dir = lease.tmp / "good"
        self._dir.mkdir(0o700)

    def run(self) -> None:
        """Contents first, then records and trees that are made from them, then blobs and rows."""
        wanted = self.found.objects | self.found.rowless | {identity for identity, _ in self.found.places.values()}
        self._recover_from_store(wanted)
        for key in self._layers_with(wanted):
            if wanted <= self._good.keys():
                break
            self._read_sources(key, wanted)
        self._mend_objects()
        self._mend_packs()
        self._mend_rows()
        self._try_records()
        for key in sorted(self.found.trees | self.found.splits):
            self._mend_layer(key)
        self._mend_blobs()
        self._drop_rows()

    # finding good bytes

    def _recover_from_store(self, wanted: set[bytes]) -> None:
        """A content may lie in several packs, when two imports brought it at once."""
        for key in self._layer_keys() if wanted else ():
            with contextlib.suppress(Corrupt):
                for file in TreeFile(self.root.tree_path("layer", key.hex())).packed_files():
                    if file.identity in wanted and (file.pack, file.block) not in self.found.places:
                        self._recover_packed(file.identity, file.pack, file.block, file.size)
        for identity in wanted - self._good.keys():
            with _tolerant():
                value = self.root.contents.stat(identity)
                if value.kind == KIND_PACK:
                    self._recover_packed(identity, value.pack, value.block, value.size)

    def _recover_packed(self, identity: bytes, pack: int, block: int, size: int) -> None:
        with contextlib.suppress(OSError):
            fd = self.root.contents.open_pack(pack)
            try:
                data = os.pread(fd, min(size, PACK_MAX), block * BLOCK)
            finally:
                os.close(fd)
            if sha256(data) == identity:
                path = self._dir / identity.hex()
                path.write_bytes(data)
                self._good[identity] = Good(path, NewContent(identity, size, xxh64(data), 0, KIND_PACK, 0))

    def _layer_keys(self) -> list[bytes]:
        with self.root.index.view() as txn:
            return txn.keys("layers")

    def _layers_with(self, wanted: set[bytes]) -> Iterator[bytes]:
        """Layers that may have a wanted content; those whose tree cannot be read may have any."""
        for key in self._layer_keys() if wanted else ():
            try:
                if not wanted.isdisjoint(TreeFile(self.root.tree_path("layer", key.hex())).identities()):
                    yield key
            except Corrupt:
                yield key

    def _read_sources(self, key: bytes, wanted: set[bytes]) -> None:
        for stream in self._streams(key):
            with _tolerant():
                self._extract(stream, wanted)
            if wanted <= self._good.keys():
                return

    def _streams(self, key: bytes) -> Iterator[BinaryIO]:
        """The source's streams, each closed after its use; a source that fails is one that has no more."""
        with _tolerant():
            for stream in self.sources(key):
                try:
                    yield stream
                finally:
                    getattr(stream, "close", lambda: None)()

    def _extract(self, stream: BinaryIO, wanted: set[bytes]) -> None:
        """Reads a layer tar and keeps the wanted contents; they are known by identity, so any tar may give them."""
        with self.root.contents.writer(self.lease) as writer:
            reader = layer_reader(writer, lambda identity: identity in wanted and identity not in self._good)
            with contextlib.closing(reader):
                while data := stream.read(CHUNK):
                    reader.feed(data)
                    reader.take_split()
                result = reader.finish(str(self._scratch("tree")))
            for content in new_contents(result.contents):
                if content.identity in wanted and content.identity not in self._good:
                    self._take(writer, content)

    def _take(self, writer: ContentWriter, content: NewContent) -> None:
        target = self._dir / content.identity.hex()
        if content.kind == KIND_PACK:
            target.write_bytes(os.pread(writer.pack_fd, content.size, content.block * BLOCK))
        else:
            os.rename(content.identity.hex(), target, src_dir_fd=writer.objects_fd)
        self._good[content.identity] = Good(target, content)

    def _scratch(self, name: str) -> Path:
        path = self.lease.tmp / f"{name}-{os.urandom(8).hex()}"
        path.unlink(missing_ok=True)
        return path

    # putting them in place

    def _mend_objects(self) -> None:
        for identity in self.found.objects & self._good.keys():
            good, target = self._good.pop(identity), self.root.contents.object_path(identity)
            if good.content.kind != KIND_OBJECT:
                continue
            good.path.chmod(0o400)
            self.root.place(good.path, target)
            self.root.durable([target])
            with self.root.index.update() as txn:
                txn.put("contents", identity, good.content.value(0).encode())
                txn.delete("deltas", identity)
            self.found.repaired("content", identity.hex())

    def _mend_packs(self) -> None:
        packs = {pack for pack, _ in self.found.places} | self.found.packs.keys()
        for pack in sorted(packs):
            places = {block: what for (of, block), what in self.found.places.items() if of == pack}
            if pack in self.found.packs or any(self._fits(*what) for what in places.values()):
                self._mend_pack(pack, places)

    def _fits(self, identity: bytes, size: int) -> bool:
        return identity in self._good and self._good[identity].content.size == size

    def _mend_pack(self, pack: int, places: dict[int, tuple[bytes, int]]) -> None:
        target, copy = self.root.contents.pack_path(pack), self._scratch("pack")
        fitting = {block: identity for block, (identity, size) in places.items() if self._fits(identity, size)}
        with writing("a pack"):
            end = _copy_pack(target, copy)
            with copy.open("r+b") as out:
                for block, identity in fitting.items():
                    data = self._good[identity].path.read_bytes()
                    out.seek(block * BLOCK)
                    out.write(data)
                    end = max(end, (block + -(-len(data) // BLOCK)) * BLOCK)
                out.truncate(max(end, self.found.packs.get(pack, 0) * BLOCK))
                os.fchmod(out.fileno(), 0o400)
            self.root.place(copy, target)
            self.root.durable([target])
        self.root.contents.forget_packs()
        for identity in fitting.values():
            self.found.repaired("content", identity.hex())
        if len(fitting) == len(places):
            self._know_pack(pack, target)

    def _know_pack(self, pack: int, target: Path) -> None:
        with self.root.index.update() as txn:
            row = {"blocks": target.stat().st_size // BLOCK, "created": time.time_ns()}
            txn.put_json("packs", pack_key(pack), row, overwrite=pack in self.found.packs)
        self.found.repaired("pack", f"{pack:016x}")

    def _mend_rows(self) -> None:
        """Contents that the index does not have are published as a layer's are; wrong checksums are replaced."""
        for identity in self.found.bad_rows:
            self._mend_checksum(identity)
        missing = sorted(self.found.rowless & self._good.keys())
        if not missing:
            return
        with self.root.contents.writer(self.lease) as writer:
            records, block = [], 0
            for identity in missing:
                record = self._hand_over(writer, self._good.pop(identity), block)
                records.append(record.encode())
                block += -(-record.size // BLOCK) if record.kind == KIND_PACK else 0
            writer.stage(b"".join(records), block)
            with self.root.index.update() as txn:
                writer.publish(txn)
        for identity in missing:
            self.found.repaired("content", identity.hex())

    def _hand_over(self, writer: ContentWriter, good: Good, block: int) -> NewContent:
        if good.content.kind == KIND_OBJECT:
            writer.add_object(good.path, good.content.identity)
            return good.content
        os.pwrite(writer.pack_fd, good.path.read_bytes(), block * BLOCK)
        return good.content._replace(block=block)

    def _mend_checksum(self, identity: bytes) -> None:
        value = self.root.contents.stat(identity)
        if value.kind == KIND_PACK:
            checksum = xxh64(self.root.contents.read(identity))
        else:
            with self.root.contents.open(identity) as reader:
                checksum = reader.hash()[1]
        with self.root.index.update() as txn:
            txn.put("contents", identity, value._replace(xxh64=checksum).encode())
        self.found.repaired("content", identity.hex())

    # trees and records

    def _try_records(self) -> None:
        """Those that the check could not try, because of contents that are right now."""
        lost = {bytes.fromhex(each.key) for each in self.found.problems if each.kind == "content" and not each.repaired}
        for key in sorted(self.found.unplayed - self.found.splits):
            if self.replay is None or layer_needs(self.root, key, lost):
                continue
            if message := tar_problem(self.replay, key):
                self.found.splits.add(key)
                self.found.error("split", key.hex(), message, repairable=True)

    def _mend_layer(self, key: bytes) -> None:
        """Makes tree and tar-split record anew: from the record when that is whole, else from the source."""
        replay = self.replay
        if key not in self.found.splits and replay is not None and self._rebuild(key, lambda out: replay(key, out)):
            return
        for stream in self._streams(key):
            if self._rebuild(key, lambda out: _pour(stream, out)):  # noqa: B023  # called at once
                return

    def _rebuild(self, key: bytes, fill: Callable[[Rebuild], object]) -> bool:
        with _tolerant(), Rebuild(self.root, self.lease, key) as rebuild:
            fill(rebuild)
            rebuild.finish(tree=key in self.found.trees, split=key in self.found.splits)
            for kind, keys in (("tree", self.found.trees), ("split", self.found.splits)):
                if key in keys:
                    self.found.repaired(kind, key.hex())  # type: ignore[arg-type]
            return True
        return False

    def _mend_blobs(self) -> None:
        for key in sorted(self.found.blobs):
            digest = Digest.from_raw(key)
            for stream in self._streams(key):
                with _tolerant():
                    with self.root.blobs.writer(self.lease) as writer:
                        while data := stream.read(CHUNK):
                            writer.write(data)
                        writer.commit(digest)
                    self.found.repaired("blob", key.hex())
                    break

    def _drop_rows(self) -> None:
        """Merged trees are a cache; a reference to nothing says nothing."""
        with self.root.index.update() as txn:
            for key in self.found.merged:
                txn.delete("trees", key)
                self.root.tree_path("merged", key.hex()).unlink(missing_ok=True)
                self.found.repaired("merged", key.hex())
            for table, key in self.found.rows:
                txn.delete(table, key)
        for table, key in self.found.rows:
            self.found.repaired("reference" if table == "references" else "name", key_text(key))


def _pour(stream: BinaryIO, out: Rebuild) -> None:
    while data := stream.read(CHUNK):
        out.write(data)


def _copy_pack(source: Path, target: Path) -> int:
    """Copies what can be read of a pack (unreadable blocks become zeros); its length in bytes."""
    with target.open("xb") as out:
        try:
            fd = os.open(source, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
        except FileNotFoundError:
            return 0
        with os.fdopen(fd, "rb", buffering=0) as file:
            size = os.fstat(fd).st_size
            for offset in range(0, size, CHUNK):
                out.write(_readable(file.fileno(), offset, min(CHUNK, size - offset)))
        return size


def _readable(fd: int, offset: int, count: int) -> bytes:
    """Bytes of a file; where the medium fails, zeros for the 4 KiB blocks that cannot be read."""
    try:
        return os.pread(fd, count, offset)
    except OSError:
        if count <= BLOCK:
            return bytes(count)
        parts = (_readable(fd, offset + at, min(BLOCK, count - at)) for at in range(0, count, BLOCK))
        return b"".join(parts)
