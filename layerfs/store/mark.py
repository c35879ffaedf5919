"""What is alive: from the roots that the caller names, from leases, from what was published while a lease was held."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from layerfs.errors import Corrupt
from layerfs.store.format import pack_key
from layerfs.store.treefile import TreeFile

if TYPE_CHECKING:
    from layerfs.store.index import Txn
    from layerfs.store.root import StoreRoot


@dataclass(frozen=True, slots=True)
class Roots:
    """What images and containers refer to; all keys are the raw 32 bytes.

    images: config digests. layers: diff IDs. chains: chain IDs whose merged trees are worth keeping. blobs: digests of
    manifests, configs and kept layers. mounted: chain IDs whose trees a user-space engine serves now: their packs are
    not moved.
    """

    images: frozenset[bytes] = frozenset()
    layers: frozenset[bytes] = frozenset()
    chains: frozenset[bytes] = frozenset()
    blobs: frozenset[bytes] = frozenset()
    mounted: frozenset[bytes] = frozenset()


RootsOf = Callable[["Txn"], Roots]


@dataclass(frozen=True, slots=True)
class Rows:
    """The rows that a mark decides on."""

    images: frozenset[bytes]
    layers: frozenset[bytes]
    chains: frozenset[bytes]
    blobs: frozenset[bytes]
    sources: frozenset[bytes]


@dataclass
class Mark:
    """The mark over one transaction. `horizon`: nanoseconds; what was published later belongs to a living lease."""

    root: StoreRoot
    roots: Roots
    pins: set[bytes]
    horizon: int
    live: Rows = field(init=False)
    dead: Rows = field(init=False)

    def rows(self, txn: Txn) -> Mark:
        """Sorts images, layers, chains, blobs and sources into `live` and `dead`."""
        layer_rows = dict(txn.scan_json("layers"))
        chain_rows = dict(txn.scan_json("trees"))
        image_keys, source_keys, blob_keys = (frozenset(txn.keys(name)) for name in ("images", "sources", "blobs"))
        layers = {key for key, row in layer_rows.items() if self._young(row)} | self._named(
            layer_rows, self.roots.layers
        )
        chains = {key for key, row in chain_rows.items() if self._young(row)} | self._named(
            chain_rows, self.roots.chains
        )
        for key, row in chain_rows.items():
            below = _raw(row.get("layers"))
            if below and below <= self.pins:
                chains.add(key)  # a prefix that a running merge may start from
            if key in chains:
                layers |= below & layer_rows.keys()
        images = self._named(image_keys, self.roots.images)
        blobs = self._live_blobs(blob_keys, images, [layer_rows[key] for key in layers])
        self.live = Rows(*map(frozenset, (images, layers, chains, blobs, source_keys & layers)))
        self.dead = Rows(
            image_keys - images,
            frozenset(layer_rows) - layers,
            frozenset(chain_rows) - chains,
            blob_keys - blobs,
            source_keys - layers - self.pins,
        )
        return self

    def _named(self, keys: Any, named: frozenset[bytes]) -> set[bytes]:
        return {key for key in keys if key in named or key in self.pins}

    def _young(self, row: Any) -> bool:
        return isinstance(row, dict) and int(row.get("created", 0)) >= self.horizon

    def _live_blobs(self, keys: frozenset[bytes], images: set[bytes], layers: list[Any]) -> set[bytes]:
        from layerfs.digest import Digest

        kept = {digest for row in layers if (digest := _blob_of(row)) is not None}
        live = {key for key in keys if key in self.roots.blobs or key in self.pins or key in images or key in kept}
        for key in keys - live:
            try:
                status = self.root.blobs.blob_path(Digest.from_raw(key)).stat()
            except FileNotFoundError:
                continue
            if status.st_mtime_ns >= self.horizon:
                live.add(key)
        return live


@dataclass
class ContentMark:
    """Identities and packs that the trees of live layers refer to. Grows by layers published later; never shrinks.

    Memory: about 100 bytes for each distinct content.
    """

    root: StoreRoot
    identities: set[bytes] = field(default_factory=set)
    packs: set[int] = field(default_factory=set)
    _layers: set[bytes] = field(default_factory=set)
    _chains: set[bytes] = field(default_factory=set)

    def skip(self, layers: frozenset[bytes], chains: frozenset[bytes]) -> None:
        """Takes layers and chains for dead."""
        self._layers |= layers
        self._chains |= chains

    def refresh(self, txn: Txn) -> ContentMark:
        """Adds the trees of all layers and chains in the index that are not in yet.

        Raises:
            Corrupt: a tree cannot be read, so nothing is known about what it needs.
        """
        for key in txn.keys("layers"):
            if key not in self._layers:
                tree = TreeFile(self.root.tree_path("layer", key.hex()))
                self.identities.update(tree.identities())
                self.packs.update(tree.packs)
                self._layers.add(key)
        for key in txn.keys("trees"):
            if key not in self._chains:
                self._add_packs_of_chain(key)
                self._chains.add(key)
        self.identities |= self.bases(txn, self.identities)
        return self

    def bases(self, txn: Txn, identities: set[bytes]) -> set[bytes]:
        """What the deltas among some contents need. A base is never a delta."""
        return {base for identity, base in txn.scan("deltas") if identity in identities}

    def _add_packs_of_chain(self, key: bytes) -> None:
        try:
            self.packs.update(TreeFile(self.root.tree_path("merged", key.hex())).packs)
        except Corrupt:
            return  # only a cache; fsck reports it, and it is built anew from the layers

    def dead_contents(self, txn: Txn) -> list[bytes]:
        return [key for key in txn.keys("contents") if key not in self.identities]

    def adopt_packs(self, txn: Txn, created: int) -> None:
        """Gives a row to packs that trees use without one (a crash in the middle of a compaction)."""
        for pack_id in self.packs:
            path = self.root.contents.pack_path(pack_id)
            if txn.get("packs", pack_key(pack_id)) is None and path.exists():
                txn.put_json("packs", pack_key(pack_id), {"blocks": path.stat().st_size // 4096, "created": created})


def _raw(hexes: Any) -> set[bytes]:
    try:
        return {bytes.fromhex(text) for text in hexes or ()}
    except (TypeError, ValueError):
        return set()


def _blob_of(row: Any) -> bytes | None:
    """The digest of the compressed blob that a layer keeps."""
    try:
        blob = row["blob"]
        text = blob["digest"] if isinstance(blob, dict) else blob
        return bytes.fromhex(text.removeprefix("sha256:")) if text else None
    except (KeyError, TypeError, ValueError):
        return None
