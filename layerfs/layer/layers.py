"""The record of a layer: a row of the index's `layers` table, and where it came from."""

from __future__ import annotations

from layerfs._lazy import TYPE_CHECKING
from layerfs._record import dataclass
from layerfs.digest import DiffID, Digest
from layerfs.errors import Corrupt, NotFound
from layerfs.native import verify_tree

if TYPE_CHECKING:
    from typing import Any

    from layerfs.oci.descriptor import Descriptor
    from layerfs.store import StoreRoot
    from layerfs.store.index import Txn


@dataclass(frozen=True, slots=True)
class Source:
    """Where a layer can be had again, for `fsck --repair`: a registry's blob, a file on this host."""

    kind: str  # "registry", "archive", "layout", "tar", "directory"
    place: str  # host/repository, or an absolute path
    digest: str = ""  # of the blob there, as `sha256:...`
    member: str = ""  # of an archive

    def row(self) -> dict[str, str]:
        fields = {"kind": self.kind, "place": self.place, "digest": self.digest, "member": self.member}
        return {name: value for name, value in fields.items() if value}

    @classmethod
    def from_row(cls, row: dict[str, Any]) -> Source:
        return cls(*(str(row.get(name, "")) for name in ("kind", "place", "digest", "member")))


@dataclass(frozen=True, slots=True)
class Layer:
    """A layer of the store.

    `tar_size`: bytes of the uncompressed tar. `size`: docker's layer size, the sum of its regular files. `packs`: the
    packs its tree uses, sorted. `blob`: the compressed blob that is kept, if any.
    """

    diff_id: DiffID
    tar_size: int
    size: int
    entries: int
    unresolved_links: int
    created_ns: int
    packs: tuple[int, ...] = ()
    blob: Descriptor | None = None

    def row(self) -> dict[str, Any]:
        return {
            "tar_size": self.tar_size,
            "size": self.size,
            "entries": self.entries,
            "unresolved_links": self.unresolved_links,
            "created": self.created_ns,
            "packs": [f"{pack:016x}" for pack in self.packs],
            "blob": self.blob.document() if self.blob else None,
        }

    @classmethod
    def from_row(cls, diff_id: DiffID, row: Any) -> Layer:
        """Raises Corrupt when the row does not have the fields."""
        try:
            return cls(
                diff_id,
                tar_size=int(row["tar_size"]),
                size=int(row["size"]),
                entries=int(row["entries"]),
                unresolved_links=int(row["unresolved_links"]),
                created_ns=int(row["created"]),
                packs=tuple(int(pack, 16) for pack in row["packs"]),
                blob=_blob(row["blob"]),
            )
        except (KeyError, TypeError, ValueError) as error:
            raise Corrupt(f"the row of layer {diff_id} is not understood") from error


def _blob(row: Any) -> Descriptor | None:
    from layerfs.oci.descriptor import Descriptor

    return Descriptor(str(row["mediaType"]), Digest.parse(row["digest"]), int(row["size"])) if row else None


def has_layer(root: StoreRoot, diff_id: DiffID) -> Layer | None:
    """The layer, when row and files are there, its tree whole; None otherwise: `read_layer` brings or mends it."""
    with root.index.view() as txn:
        row = txn.get_json("layers", diff_id.raw)
    if row is None or not root.split_path(diff_id.hex).exists():
        return None
    try:
        if not verify_tree(str(root.tree_path("layer", diff_id.hex))):
            return None
    except (OSError, Corrupt):
        return None
    return Layer.from_row(diff_id, row)


def get_layer(root: StoreRoot, diff_id: DiffID) -> Layer:
    """The layer's record. Raises NotFound."""
    with root.index.view() as txn:
        layer = layer_row(txn, diff_id)
    if layer is None:
        raise NotFound(f"no layer {diff_id} in the store")
    return layer


def layer_row(txn: Txn, diff_id: DiffID) -> Layer | None:
    row = txn.get_json("layers", diff_id.raw)
    return None if row is None else Layer.from_row(diff_id, row)


def get_sources(root: StoreRoot, diff_id: DiffID) -> list[Source]:
    """Where the layer came from, oldest first."""
    with root.index.view() as txn:
        return [Source.from_row(row) for row in txn.get_json("sources", diff_id.raw) or ()]


def note_source(root: StoreRoot, diff_id: DiffID, source: Source) -> None:
    """Notes where a known layer can be had as well; writes only what is new."""
    if source in get_sources(root, diff_id):
        return
    with root.index.update() as txn:
        add_source(txn, diff_id, source)


def put_layer(txn: Txn, layer: Layer) -> None:
    txn.put_json("layers", layer.diff_id.raw, layer.row())


def add_source(txn: Txn, diff_id: DiffID, source: Source) -> None:
    """Notes one more source; the newest eight are kept."""
    rows = [row for row in txn.get_json("sources", diff_id.raw) or () if row != source.row()]
    txn.put_json("sources", diff_id.raw, [*rows, source.row()][-8:])
