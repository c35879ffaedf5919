"""Trees for tests: layers described in a few words, as tars, read into a throw-away store directory."""

from __future__ import annotations

import io
import itertools
import os
import tarfile
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from layerfs import native
from layerfs.layer.tree import Tree

_KIND_PACK, _KIND_OBJECT = 1, 2


@dataclass
class Entry:
    """A tar member. `data`: a regular file's bytes, `link`/`target`: a hard link's or symlink's."""

    name: str
    type: bytes = tarfile.REGTYPE
    data: bytes = b""
    target: str = ""
    mode: int = 0o644
    uid: int = 0
    gid: int = 0
    mtime: float = 1_500_000_000
    device: tuple[int, int] = (0, 0)
    xattrs: dict[str, bytes] = field(default_factory=dict)

    def info(self) -> tarfile.TarInfo:
        info = tarfile.TarInfo(self.name)
        info.type, info.mode, info.uid, info.gid = self.type, self.mode, self.uid, self.gid
        info.linkname, info.size = self.target, len(self.data)
        info.mtime = self.mtime  # type: ignore[assignment]
        info.devmajor, info.devminor = self.device
        info.pax_headers = {
            f"SCHILY.xattr.{key}": value.decode("utf-8", "surrogateescape") for key, value in self.xattrs.items()
        }
        return info


def file(name: str, data: bytes = b"", **more: object) -> Entry:
    return Entry(name, data=data, **more)  # type: ignore[arg-type]


def directory(name: str, mode: int = 0o755, **more: object) -> Entry:
    return Entry(name, tarfile.DIRTYPE, mode=mode, **more)  # type: ignore[arg-type]


def symlink(name: str, target: str) -> Entry:
    return Entry(name, tarfile.SYMTYPE, target=target, mode=0o777)


def hardlink(name: str, target: str) -> Entry:
    return Entry(name, tarfile.LNKTYPE, target=target)


def device(name: str, major: int, minor: int, mode: int = 0o666) -> Entry:
    return Entry(name, tarfile.CHRTYPE, device=(major, minor), mode=mode)


def fifo(name: str) -> Entry:
    return Entry(name, tarfile.FIFOTYPE)


def tar(entries: Sequence[Entry]) -> bytes:
    out = io.BytesIO()
    with tarfile.open(
        fileobj=out, mode="w", format=tarfile.PAX_FORMAT, encoding="utf-8", errors="surrogateescape"
    ) as archive:
        for entry in entries:
            archive.addfile(entry.info(), io.BytesIO(entry.data) if entry.data else None)
    return out.getvalue()


class Shelf:
    """A store's directories without its index: packs, objects, trees."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.packs, self.objects, self.trees = path / "packs", path / "objects", path / "trees"
        self._staging = path / "staging"
        for folder in (self.packs, self.objects, self.trees, self._staging):
            folder.mkdir(parents=True, exist_ok=True)
        self._numbers = itertools.count(1)
        self._known: dict[bytes, bytes] = {}

    def pack_path(self, number: int) -> Path:
        return self.packs / f"{number:016x}"

    def pack_paths(self, tree: Tree) -> list[Path]:
        return [self.pack_path(number) for number in tree.packs]

    def layer(self, data: bytes) -> Path:
        """Reads a layer tar; the tree file's path."""
        number = next(self._numbers)
        with self.pack_path(number).open("wb") as pack:
            staging = os.open(self._staging, os.O_RDONLY)
            try:
                reader = native.LayerReader(
                    pack_fd=pack.fileno(), pack_id=number, objects_fd=staging, lookup=self._lookup
                )
                reader.feed(data)
                result = reader.finish(str(self.trees / f"layer-{number}"))
            finally:
                os.close(staging)
        self._publish(result.contents, number)
        return self.trees / f"layer-{number}"

    def _lookup(self, identities: bytes) -> bytes:
        found = (self._known.get(identities[at : at + 32], bytes(32)) for at in range(0, len(identities), 32))
        return b"".join(found)

    def _publish(self, contents: bytes, number: int) -> None:
        for at in range(0, len(contents), 64):
            record = contents[at : at + 64]
            identity, size, checksum = record[:32], record[32:40], record[40:48]
            block, kind, flags = int.from_bytes(record[48:56], "little"), record[56], record[57]
            pack = number if kind == _KIND_PACK else 0
            self._known[identity] = (
                bytes([kind, flags, 0, 0]) + block.to_bytes(4, "little") + pack.to_bytes(8, "little") + size + checksum
            )
            if kind == _KIND_OBJECT:
                name = identity.hex()
                (self.objects / name[:2]).mkdir(exist_ok=True)
                (self._staging / name).rename(self.objects / name[:2] / name[2:])

    def tree(self, *layers: Sequence[Entry]) -> Tree:
        """The merged tree of layers, base first."""
        paths = [str(self.layer(tar(entries))) for entries in layers]
        out = self.trees / f"merged-{next(self._numbers)}"
        native.merge_trees(paths, str(out), os.urandom(32))
        return Tree.open(out)
