"""Makes contents the way the layer reader does."""

from __future__ import annotations

import hashlib
import os
from dataclasses import dataclass, field
from pathlib import Path

from layerfs.native import xxh64
from layerfs.store import ContentWriter, Lease, NewContent, StoreRoot
from layerfs.store.format import BLOCK, KIND_OBJECT, KIND_PACK, PACK_MAX


def identity_of(data: bytes) -> bytes:
    return hashlib.sha256(data).digest()


@dataclass
class Filler:
    """Writes contents through a ContentWriter; `records` and `blocks` are what `stage` takes."""

    writer: ContentWriter
    records: list[NewContent] = field(default_factory=list)
    blocks: int = 0

    def add(self, data: bytes) -> bytes:
        identity = identity_of(data)
        if len(data) <= PACK_MAX:
            os.pwrite(self.writer.pack_fd, data, self.blocks * BLOCK)
            self.records.append(NewContent(identity, len(data), xxh64(data), self.blocks, KIND_PACK, 0))
            self.blocks += -(-len(data) // BLOCK)
        else:
            fd = os.open(identity.hex(), os.O_WRONLY | os.O_CREAT, 0o400, dir_fd=self.writer.objects_fd)
            os.write(fd, data)
            os.close(fd)
            self.records.append(NewContent(identity, len(data), xxh64(data), 0, KIND_OBJECT, 0))
        return identity

    def stage(self) -> list[Path]:
        return self.writer.stage(b"".join(record.encode() for record in self.records), self.blocks)


def store(root: StoreRoot, *contents: bytes, lease: Lease | None = None) -> list[bytes]:
    """Publishes contents without a layer; their identities."""
    own = lease or root.leases.acquire("test")
    with root.contents.writer(own) as writer:
        filler = Filler(writer)
        identities = [filler.add(data) for data in contents]
        filler.stage()
        with root.index.update() as txn:
            writer.publish(txn)
    if lease is None:
        own.release()
    return identities
